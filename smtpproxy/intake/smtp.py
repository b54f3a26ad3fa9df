"""The SMTP intake: one session between a client and the pipeline."""

import asyncio
import contextlib
from typing import cast

from smtpproxy.events import Client, ConnectionClosed, ConnectionOpened, ConnectionRefused, Failed
from smtpproxy.intake.door import Door
from smtpproxy.mail.reply import Reply
from smtpproxy.pipeline import MailTransaction
from smtpproxy.relay.content import Content
from smtpproxy.relay.transaction import MailParameters
from smtpproxy.wire.commands import Data, Hello, Mail, Quit, Rcpt, Reset
from smtpproxy.wire.server import (
    NEED_DATA,
    Answered,
    Broken,
    ContentChunk,
    ContentProblem,
    EndOfContent,
    Event,
    ServerConnection,
)

_BACKLOG = 256 * 1024
"""Octets that a client may be ahead of us before it is no longer read from."""
_LINGER = 2.0
"""Seconds for which a refused client's data is swallowed, so that it can read why."""

_OK = Reply.of(250, "2.0.0", "OK")
_SENDER_OK = Reply.of(250, "2.1.0", "sender noted")
_GO_AHEAD = Reply(354, None, ("end with <CR><LF>.<CR><LF>",))
_BYE = Reply.of(221, "2.0.0", "bye")
_TOO_LARGE = Reply.of(552, "5.3.4", "message is larger than the limit told by SIZE")
_NUL = Reply.of(554, "5.6.0", "content holds a NUL octet")
_NO_SPACE = Reply.of(452, "4.3.1", "no space for the message now; try later")
_TIMEOUT = Reply.of(421, "4.4.2", "timeout; closing the connection")
_TOO_MANY_ERRORS = Reply.of(421, "4.7.0", "too many errors; closing the connection")
_SHUTDOWN = Reply.of(421, "4.3.2", "the relay is shutting down; try again soon")
_CONTENT_PROBLEM = {ContentProblem.TOO_LARGE: _TOO_LARGE, ContentProblem.NUL: _NUL}


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
        self._woken: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._reading = True
        self._eof = False
        self._busy = False

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
        if self._woken is not None:
            self._wake()
        elif self._reading and self._engine.buffered > _BACKLOG:
            self._reading = False
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._eof = True
        self._wake()
        return True  # what was sent before is still answered

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("eof" if exc is None else "error")
        self.resume_writing()

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None

    # the session

    def drain(self) -> None:
        """Take no further transaction; end now if none is under way."""
        if not self._busy and not self._engine.in_transaction:
            self._write(_SHUTDOWN.encode())
            self._end("shutdown")

    def cut(self) -> None:
        """End now, whatever is under way: the time for draining is over."""
        self._write(_SHUTDOWN.encode())
        self._end("shutdown")
        self._transport.close()

    async def _run(self) -> None:
        """Take events until the connection ends; then clean up."""
        try:
            self._write(f"220 {self._door.parts.hostname} ESMTP smtpproxy\r\n".encode())
            self._deadline.at = self._door.deadlines.now() + self._settings.command_timeout
            while not self._cause:
                event = self._engine.next_event()
                if event is NEED_DATA:
                    await self._more()
                else:
                    self._busy = True
                    await self._take(cast(Event, event))
                    self._busy = False
                    if self._writable is not None:
                        await self._writable
        except Exception as error:  # a fault of ours must not pass mail, nor lose the session
            self._door.parts.emit(
                Failed(self._settings.name, "internal", f"{type(error).__name__}: {error}")
            )
            self._door.unexpected(error)
            self._write(Reply.of(421, "4.3.0", "temporary_failure; closing").encode())
            self._end("error")
        finally:
            await self._close()

    async def _more(self) -> None:
        """Wait for the client."""
        now = self._door.deadlines.now()
        if self._eof:
            self._end("eof")
            return
        if self._content is None:
            if self._door.draining and not self._engine.in_transaction:
                self.drain()
                return
            self._deadline.at = now + self._settings.command_timeout
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()
        self._woken = asyncio.get_running_loop().create_future()
        await self._woken
        self._woken = None
        if self._content is None:
            self._deadline.clear()  # our own time is not the client's

    async def _take(self, event: Event) -> None:
        match event:
            case ContentChunk():
                self._spool(event.data)
            case Rcpt():
                await self._recipients(event)
            case Mail():
                self._mail = event
                self._answer(_SENDER_OK)
            case Data():
                self._content = Content(self._door.spool, self._door.server.spool_threshold)
                self._spool_failed = False
                self._deadline.at = self._door.deadlines.now() + self._settings.data_timeout
                self._answer(_GO_AHEAD)
            case EndOfContent():
                self._deadline.clear()
                await self._end_of_content(event)
            case Hello():
                self._abort()
                self._helo = event.domain
                self._answer(self._engine.hello_reply(event))
            case Reset():
                self._abort()
                self._answer(_OK)
            case Quit():
                self._answer(_BYE)
                self._end("quit")
            case Answered():
                self._write(event.data)
                if event.error:
                    self._count_error()
            case Broken():
                self._write(event.data)
                self._end(event.cause)

    async def _recipients(self, first: Rcpt) -> None:
        """Judge together all the recipients that have come together."""
        paths = [first.forward_path]
        while isinstance(event := self._engine.next_event(), Rcpt):
            paths.append(event.forward_path)
        transaction = self._transaction or self._begin()
        self._transaction = transaction
        replies = await transaction.recipients(paths)
        self._write(b"".join([self._engine.answer(reply) for reply in replies]))

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

    def _spool(self, chunk: bytes) -> None:
        if self._content is None or self._spool_failed:
            return
        try:
            self._content.append(chunk)
        except OSError as error:
            self._spool_failed = True
            self._door.parts.emit(Failed(self._settings.name, "spool", str(error)))

    async def _end_of_content(self, end: EndOfContent) -> None:
        transaction, content = self._transaction, self._content
        self._transaction = self._content = None
        if transaction is None or content is None:
            raise RuntimeError("end of content without a transaction")
        try:
            if end.problem is not None or self._spool_failed:
                transaction.abort()
                problem = end.problem
                self._answer(_NO_SPACE if problem is None else _CONTENT_PROBLEM[problem])
            else:
                self._answer(await transaction.message(content))
        finally:
            content.close()

    def _answer(self, reply: Reply) -> None:
        self._write(self._engine.answer(reply))

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def _count_error(self) -> None:
        self._errors += 1
        if self._errors >= self._settings.max_errors:
            self._write(_TOO_MANY_ERRORS.encode())
            self._end("errors")

    def _abort(self) -> None:
        """End the open transaction, if there is one: nothing of it was mailed."""
        if self._transaction is not None:
            self._transaction.abort()
            self._transaction = None
        self._mail = None

    def _expired(self) -> None:
        self._write(_TIMEOUT.encode())
        self._end("timeout")

    def _end(self, cause: str) -> None:
        """Take no further events; the task cleans up once what it is doing is done."""
        self._cause = self._cause or cause
        self._wake()

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

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
        self._transport.close()
        seconds = self._door.deadlines.now() - self._began
        self._door.leave(self, self._peer)
        self._door.parts.emit(
            ConnectionClosed(self._settings.name, self._peer, seconds, self._cause)
        )


_LINGERING = {"bare_newline", "line_too_long", "timeout", "errors"}
"""Ends in which the client may still be sending: closing at once would destroy the reply."""
