"""The milter intake: one connection of an MTA that asks what to do with its mail."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, cast

from smtpproxy.events import Client, ConnectionClosed, ConnectionOpened, ConnectionRefused, Failed
from smtpproxy.intake import replies
from smtpproxy.intake.door import Door
from smtpproxy.intake.milter_message import MilterMessage, address
from smtpproxy.intake.milter_terms import (
    ACTIONS,
    MACROS,
    STEPS,
    client_address,
    forgets_recipient,
    without_smtp,
)
from smtpproxy.mail.reply import Reply
from smtpproxy.pipeline.advised import Advice, AdvisedTransaction
from smtpproxy.wire.milter import Actions, MilterConnection, MilterError, Signal, Steps
from smtpproxy.wire.milter import replies as packets
from smtpproxy.wire.milter.commands import (
    Abort,
    Body,
    Command,
    Connect,
    Data,
    EndOfHeaders,
    EndOfMessage,
    Header,
    Helo,
    Mail,
    Negotiation,
    NextConnection,
    Quit,
    Rcpt,
    Unknown,
)

_BACKLOG = 256 * 1024
"""Octets that an MTA may be ahead of us before it is no longer read from."""
_PROGRESS = 2.0
"""Seconds between two signs of life while a message is judged; Sendmail waits for 10."""
_TROUBLE = packets.reply_code(Reply.of(451, "4.3.0", "temporary_failure"))
_NUL = packets.reply_code(replies.NUL)
_TOO_LARGE = packets.reply_code(Reply.of(552, "5.3.4", "message is larger than the limit"))
_TOO_MANY = packets.reply_code(Reply.of(452, "4.5.3", "too many recipients"))


class MilterSession(asyncio.Protocol):
    """One connection. What needs no waiting is done at once; a task takes RCPT and the end."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._settings = door.listener
        self._engine = MilterConnection(actions=ACTIONS, steps=STEPS, macros=MACROS)
        self._deadline = door.deadlines.watch(self._expired)
        self._transport: asyncio.Transport
        self._peer = "unix"
        self._began = 0.0
        self._connect = Connect("", "U")
        self._helo = ""
        self._message: MilterMessage | None = None
        self._cause = ""  # why the connection ends; empty while it goes on
        self._event: Command | None = None  # what the task is to take next
        self._due = False  # whether the MTA waits for the task's answer
        self._waiting: asyncio.Future[None] | None = None  # the task waits for an event
        self._reading = True

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._peer = self._door.peer(transport)
        self._began = self._door.deadlines.now()
        refusal = self._door.admit(self, self._peer)
        if refusal is not None:  # the protocol has no words for it: the MTA defers the mail
            self._cause = "refused"
            self._door.deadlines.forget(self._deadline)
            self._door.parts.emit(ConnectionRefused(self._settings.name, self._peer, refusal))
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
        self._adjust_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("eof" if exc is None else "error")

    def _adjust_reading(self) -> None:
        wanted = self._engine.buffered <= _BACKLOG or self._waiting is not None
        if wanted != self._reading and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # the session

    def drain(self) -> None:
        """Take no further message; end now if none is under way."""
        if self._waiting is not None and self._message is None:
            self._end("shutdown")

    def cut(self) -> None:
        """End now, whatever is under way: the time for draining is over."""
        if self._due:
            self._write(_TROUBLE)
            self._due = False
        self._end("shutdown")
        self._transport.close()

    async def _run(self) -> None:
        """Take the events that have to wait for something, until the connection ends."""
        try:
            while not self._cause:
                self._take_ready()
                if self._event is None:
                    await self._mta()
                event, self._event = self._event, None
                if isinstance(event, Rcpt):
                    await self._recipient(event)
                elif isinstance(event, EndOfMessage):
                    await self._end_of_message(event)
        except Exception as error:  # a fault of ours must not pass mail, nor lose the session
            self._fail(error)
        finally:
            self._close()

    def _fail(self, error: Exception) -> None:
        self._door.parts.emit(
            Failed(self._settings.name, "internal", f"{type(error).__name__}: {error}")
        )
        self._door.unexpected(error)
        if self._due:
            self._write(_TROUBLE)
            self._due = False
        self._end("error")

    async def _mta(self) -> None:
        """Wait for the MTA."""
        if self._cause:
            return
        self._waiting = asyncio.get_running_loop().create_future()
        self._adjust_reading()
        if self._door.draining:
            self.drain()
        await self._waiting
        self._waiting = None
        self._deadline.clear()  # our own time is not the MTA's

    def _take_ready(self) -> None:
        """Take the events that need no waiting; leave the first that does to the task.

        An MTA is silent for as long as its own client is, but a packet that has begun is
        to be complete soon.
        """
        try:
            while not self._cause:
                event = self._engine.next_event()
                if isinstance(event, Signal):
                    break
                take = _AT_ONCE.get(type(event))
                if take is None:
                    self._event = event
                    self._wake()
                    return
                take(self, event)
                if answer := self._engine.answer(event):
                    self._write(answer)
        except MilterError as error:
            self._door.parts.emit(Failed(self._settings.name, "protocol", str(error)))
            self._end("protocol")
            return
        limit = self._settings
        patience = limit.command_timeout if self._engine.buffered else limit.data_timeout
        self._deadline.at = self._door.deadlines.now() + patience

    def _nothing(self, event: Command) -> None:
        """Only to be answered."""

    def _connected(self, connect: Connect) -> None:
        self._message = None
        self._connect = connect
        self._helo = ""

    def _hello(self, hello: Helo) -> None:
        self._message = None
        self._helo = hello.name

    def _next_client(self, event: NextConnection) -> None:
        self._message = None
        self._connect = Connect("", "U")
        self._helo = ""

    def _aborted(self, event: Abort) -> None:
        self._message = None
        if self._door.draining:
            self._end("shutdown")

    def _quit(self, event: Quit) -> None:
        self._end("quit")

    def _mail_from(self, mail: Mail) -> None:
        macro = self._engine.macro
        reverse_path = address(mail.path)
        client = Client(
            self._settings.name,
            client_address(macro, self._connect.family, self._connect.address),
            self._helo,
            macro("auth_authen") or "",
            macro("i") or "",
        )
        transaction = AdvisedTransaction(
            self._door.parts,
            client,
            reverse_path,
            self._door.streams.choice(self._settings.name, reverse_path),
            refuses_at_rcpt=not without_smtp(macro),
            can_delete=Actions.DELETE_RECIPIENTS in self._engine.agreed.actions,
        )
        leading_space = Steps.LEADING_SPACE in self._engine.agreed.steps
        self._message = MilterMessage(transaction, leading_space=leading_space)

    def _header(self, header: Header) -> None:
        if self._message is not None:
            self._message.add_field(header)

    def _body(self, body: Body) -> None:
        if self._message is not None:
            self._message.add_body(body.data)

    async def _recipient(self, rcpt: Rcpt) -> None:
        message = self._message
        if message is None:
            raise RuntimeError("a recipient without a message")
        self._due = True
        transaction = message.transaction
        if transaction.refuses_at_rcpt and transaction.recipients >= self._settings.max_recipients:
            self._answer(_TOO_MANY)
            return
        if forgets_recipient(self._engine.macro):
            transaction.keep_together()
        path = address(rcpt.path)
        message.paths[path] = rcpt.path
        refusal = await transaction.recipient(path)
        self._answer(packets.CONTINUE if refusal is None else packets.reply_code(refusal))

    async def _end_of_message(self, end: EndOfMessage) -> None:
        message, self._message = self._message, None
        if message is None:
            raise RuntimeError("the end of a message that did not begin")
        self._due = True
        message.add_body(end.data)
        if message.size > self._door.server.data_size_limit:
            self._answer(_TOO_LARGE)
        elif message.has_nul:
            self._answer(_NUL)
        else:
            queue_id = self._engine.macro("i") or ""
            progress = asyncio.get_running_loop().create_task(self._show_progress())
            try:
                advice = await message.transaction.message(
                    message.header(), message.size, queue_id, message.text()
                )
            finally:
                progress.cancel()
            if advice.reply is None:
                self._answer(self._edits(advice, message.paths))
            else:
                self._answer(packets.reply_code(advice.reply))

    async def _show_progress(self) -> None:
        while True:
            await asyncio.sleep(_PROGRESS)
            self._write(packets.PROGRESS)

    def _edits(self, advice: Advice, paths: Mapping[str, str]) -> bytes:
        """What is to be changed, and that the MTA is to go on.

        The last field of a name goes first, so that those before it keep their numbers.
        """
        edits = [packets.delete_recipient(paths[path]) for path in advice.deleted]
        if Actions.CHANGE_HEADERS in self._engine.agreed.actions:
            name = self._door.parts.stream_header
            numbers = range(advice.stream_headers, 0, -1)
            edits += [packets.delete_header(name, number) for number in numbers]
        return b"".join(edits) + packets.CONTINUE

    def _answer(self, data: bytes) -> None:
        self._due = False
        self._write(data)

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def _expired(self) -> None:
        self._end("timeout")

    def _end(self, cause: str) -> None:
        """Take no further events; the task cleans up once what it is doing is done."""
        self._cause = self._cause or cause
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _close(self) -> None:
        self._door.deadlines.forget(self._deadline)
        self._message = None
        self._transport.close()
        seconds = self._door.deadlines.now() - self._began
        self._door.leave(self, self._peer)
        self._door.parts.emit(
            ConnectionClosed(self._settings.name, self._peer, seconds, self._cause)
        )


_AT_ONCE: Mapping[type, Callable[[MilterSession, Any], None]] = {
    Negotiation: MilterSession._nothing,
    Connect: MilterSession._connected,
    Helo: MilterSession._hello,
    Mail: MilterSession._mail_from,
    Data: MilterSession._nothing,
    Header: MilterSession._header,
    EndOfHeaders: MilterSession._nothing,
    Body: MilterSession._body,
    Unknown: MilterSession._nothing,
    Abort: MilterSession._aborted,
    NextConnection: MilterSession._next_client,
    Quit: MilterSession._quit,
}
"""How events are taken that need no waiting; Rcpt and EndOfMessage are left to the task."""
