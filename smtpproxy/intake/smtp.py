"""The SMTP intake: one session between a client and the pipeline."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, cast

from smtpproxy.events import Client, ConnectionClosed, ConnectionOpened, ConnectionRefused, Failed
from smtpproxy.intake import replies
from smtpproxy.intake.door import Door
from smtpproxy.mail.reply import Reply
from smtpproxy.pipeline import MailTransaction
from smtpproxy.relay.content import Content
from smtpproxy.relay.deadlines import NEVER
from smtpproxy.relay.transaction import MailParameters
from smtpproxy.wire.commands import Data, Hello, Mail, Quit, Rcpt, Reset
from smtpproxy.wire.events import (
    BLOCKED,
    NEED_DATA,
    Answered,
    Broken,
    ContentChunk,
    EndOfContent,
    Event,
)
from smtpproxy.wire.server import ServerConnection

_BACKLOG = 256 * 1024
"""Octets that a client may be ahead of us before it is no longer read from."""
_LINGER = 2.0
"""Seconds for which a refused client's data is swallowed, so that it can read why."""
_FLUSH = 30.0
"""Seconds that a client has to read the last of its replies."""


class SmtpSession(asyncio.Protocol):
    """One client connection. A task takes events from the engine in turn."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._settings = door.listener
        self._engine = ServerConnection(
            door.parts.hostname,
            size_limit=door.server.data_size_limit,
            bare_newline=door.server.bare_newline,
            max_recipients=door.listener.max_recipients,
        )
        self._deadline = door.deadlines.watch(self._expired)
        self._transport: asyncio.Transport
        self._peer = "unix"
        self._began = 0.0
        self._helo = ""
        self._transaction: MailTransaction | None = None
        self._mail: Mail | None = None
        self._content: Content | None = None
        self._spool_failed = False
        self._errors = 0
        self._cause = ""  # why the connection ends; empty while it goes on
        self._event: Event | None = None  # what the task is to take next
        self._waiting: asyncio.Future[None] | None = None  # the task waits for an event
        self._reading = True
        self._write_paused = False
        self._eof = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        address = transport.get_extra_info("peername")
        self._peer = address[0] if isinstance(address, tuple) else "unix"
        self._began = self._door.deadlines.now()
        refusal = self._door.admit(self, self._peer)
        if refusal is not None:
            text = "the relay is shutting down" if refusal == "draining" else "too many connections"
            self._cause = "refused"
            self._door.deadlines.forget(self._deadline)
            self._door.parts.emit(ConnectionRefused(self._settings.name, self._peer, refusal))
            self._write(Reply.of(421, "4.3.2", f"{text}; try again later").encode())
            self._transport.close()
            return
        self._door.parts.emit(ConnectionOpened(self._settings.name, self._peer))
        self._door.start(self._run())

    def data_received(self, data: bytes) -> None:
        if self._cause:
            return
        self._engine.receive_data(data)
        if self._waiting is not None and self._event is None:
            self._take_ready()
        else:
            self._adjust_reading()

    def eof_received(self) -> bool:
        self._eof = True
        self._wake()
        return True  # what was sent before is still answered

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("eof" if exc is None else "error")

    def pause_writing(self) -> None:
        self._write_paused = True
        self._adjust_reading()

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._waiting is not None and self._event is None:
            self._take_ready()
            if self._eof:
                self._wake()
        self._adjust_reading()

    def _adjust_reading(self) -> None:
        """Read from a client that reads what we write and is not too far ahead of us."""
        wanted = not self._write_paused and (
            self._waiting is not None or self._engine.buffered <= _BACKLOG
        )
        if wanted != self._reading and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # the session

    def drain(self) -> None:
        """Take no further transaction; end now if none is under way."""
        if self._waiting is not None and not self._engine.in_transaction:
            self._write(replies.SHUTDOWN.encode())
            self._end("shutdown")

    def cut(self) -> None:
        """End now, whatever is under way: the time for draining is over."""
        self._write(replies.SHUTDOWN.encode())
        self._end("shutdown")
        self._transport.close()

    async def _run(self) -> None:
        """Take the events that have to wait for something, until the connection ends."""
        try:
            self._write(f"220 {self._door.parts.hostname} ESMTP smtpproxy\r\n".encode())
            while not self._cause:
                self._take_ready()
                if self._event is None:
                    await self._client()
                event, self._event = self._event, None
                if isinstance(event, Rcpt):
                    await self._recipients(event)
                elif isinstance(event, EndOfContent):
                    await self._end_of_content(event)
        except Exception as error:  # a fault of ours must not pass mail, nor lose the session
            self._door.parts.emit(
                Failed(self._settings.name, "internal", f"{type(error).__name__}: {error}")
            )
            self._door.unexpected(error)
            self._write(replies.INTERNAL.encode())
            self._end("error")
        finally:
            await self._close()

    async def _client(self) -> None:
        """Wait for the client."""
        if self._cause:
            return
        if self._eof and not self._write_paused:
            self._end("eof")
            return
        self._waiting = asyncio.get_running_loop().create_future()
        self._adjust_reading()
        if self._door.draining:
            self.drain()
        await self._waiting
        self._waiting = None
        if self._content is None:
            self._deadline.clear()  # our own time is not the client's

    def _take_ready(self) -> None:
        """Take the events that need no waiting; leave the first that does to the task.

        A client that does not read its replies gets no more of them. Its time runs from
        the last command that was taken, whatever trickles in meanwhile.
        """
        next_event = self._engine.next_event
        taken = self._deadline.at == NEVER
        while not self._cause and not self._write_paused:
            event = next_event()
            if event is NEED_DATA or event is BLOCKED:
                break
            take = _AT_ONCE.get(type(event))
            if take is None:
                self._event = cast(Event, event)
                self._wake()
                return
            take(self, event)
            taken = True
        if taken and self._content is None:
            self._deadline.at = self._door.deadlines.now() + self._settings.command_timeout

    def _mail_from(self, mail: Mail) -> None:
        self._mail = mail
        self._answer(replies.SENDER_OK)

    def _data(self, data: Data) -> None:
        self._content = Content(self._door.spool)
        self._spool_failed = False
        self._deadline.at = self._door.deadlines.now() + self._settings.data_timeout
        self._answer(replies.GO_AHEAD)

    def _chunk(self, chunk: ContentChunk) -> None:
        if self._content is None or self._spool_failed:
            return
        try:
            self._content.append(chunk.data)
        except OSError as error:
            self._spool_failed = True
            self._door.parts.emit(Failed(self._settings.name, "spool", str(error)))

    def _hello(self, hello: Hello) -> None:
        self._abort()
        self._helo = hello.domain
        self._answer(self._engine.hello_reply(hello))

    def _reset(self, reset: Reset) -> None:
        self._abort()
        self._answer(replies.OK)

    def _quit(self, quit: Quit) -> None:
        self._answer(replies.BYE)
        self._end("quit")

    def _answered(self, answered: Answered) -> None:
        self._write(answered.data)
        if answered.error:
            self._errors += 1
            if self._errors >= self._settings.max_errors:
                self._write(replies.TOO_MANY_ERRORS.encode())
                self._end("errors")

    def _broken(self, broken: Broken) -> None:
        self._write(broken.data)
        self._end(broken.cause)

    async def _recipients(self, first: Rcpt) -> None:
        """Judge together all the recipients that have come together."""
        paths = [first.forward_path]
        while isinstance(event := self._engine.next_event(), Rcpt):
            paths.append(event.forward_path)
        transaction = self._transaction or self._begin()
        self._transaction = transaction
        answers = await transaction.recipients(paths)
        self._write(b"".join([self._engine.answer(reply) for reply in answers]))

    def _begin(self) -> MailTransaction:
        mail = cast(Mail, self._mail)
        door = self._door
        kind = "UTF8SMTP" if mail.smtputf8 else "ESMTP" if self._engine.extended else "SMTP"
        return MailTransaction(
            door.parts,
            Client(self._settings.name, self._peer, self._helo),
            MailParameters(mail.reverse_path, mail.size, mail.body == "8BITMIME", mail.smtputf8),
            door.streams.choice(self._settings.name, mail.reverse_path),
            kind,
        )

    async def _end_of_content(self, end: EndOfContent) -> None:
        transaction, content = self._transaction, self._content
        self._transaction = self._content = None
        self._deadline.clear()
        if transaction is None or content is None:
            raise RuntimeError("end of content without a transaction")
        try:
            if end.problem is not None or self._spool_failed:
                transaction.abort()
                problem = end.problem
                self._answer(
                    replies.NO_SPACE if problem is None else replies.CONTENT_PROBLEM[problem]
                )
            else:
                self._answer(await transaction.message(content))
        except BaseException:
            transaction.abort()
            raise
        finally:
            content.close()

    def _answer(self, reply: Reply) -> None:
        self._write(self._engine.answer(reply))

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def _abort(self) -> None:
        """End the open transaction, if there is one: nothing of it was mailed."""
        if self._transaction is not None:
            self._transaction.abort()
            self._transaction = None
        self._mail = None

    def _expired(self) -> None:
        self._write(replies.TIMEOUT.encode())
        self._end("timeout")

    def _end(self, cause: str) -> None:
        """Take no further events; the task cleans up once what it is doing is done."""
        self._cause = self._cause or cause
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def _close(self) -> None:
        self._door.deadlines.forget(self._deadline)
        self._abort()
        if self._content is not None:
            self._content.close()
            self._content = None
        if self._cause in _LINGERING and not self._transport.is_closing():
            with contextlib.suppress(OSError, RuntimeError):
                self._transport.write_eof()
                self._transport.resume_reading()
            await asyncio.sleep(_LINGER)
            self._transport.abort()  # whoever has not read its reply by now never will
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(_FLUSH, self._transport.abort)
        self._transport.close()
        seconds = self._door.deadlines.now() - self._began
        self._door.leave(self, self._peer)
        self._door.parts.emit(
            ConnectionClosed(self._settings.name, self._peer, seconds, self._cause)
        )


_LINGERING = {"bare_newline", "line_too_long", "timeout", "errors"}
"""Ends in which the client may still be sending: closing at once would destroy the reply."""

_AT_ONCE: Mapping[type, Callable[[SmtpSession, Any], None]] = {
    Mail: SmtpSession._mail_from,
    Data: SmtpSession._data,
    ContentChunk: SmtpSession._chunk,
    Hello: SmtpSession._hello,
    Reset: SmtpSession._reset,
    Quit: SmtpSession._quit,
    Answered: SmtpSession._answered,
    Broken: SmtpSession._broken,
}
"""How events are taken that need no waiting; Rcpt and EndOfContent are left to the task."""
