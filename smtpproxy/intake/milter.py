"""The milter intake: one connection of an MTA that asks what to do with its mail."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from smtpproxy.core.edits import UNSUBSCRIBE
from smtpproxy.core.milter import Advice, MilterTransaction
from smtpproxy.core.streams import permits
from smtpproxy.events import Client, Failed, SenderRefused
from smtpproxy.intake import replies
from smtpproxy.intake.connection import AT_ONCE, EventConnection
from smtpproxy.intake.door import Door
from smtpproxy.intake.milter_message import MilterMessage
from smtpproxy.intake.milter_terms import (
    ACTIONS,
    MACROS,
    STEPS,
    client_address,
    forgets_recipient,
    mails_refused,
    without_smtp,
)
from smtpproxy.mail.address import PathError, for_record, parse_path, qualified
from smtpproxy.mail.reply import Reply
from smtpproxy.relay.deadlines import NEVER
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

T = TypeVar("T")

_PROGRESS = 2.0
"""Seconds between two signs of life while a message is judged; Sendmail waits for 10."""
_TROUBLE = packets.reply_code(Reply.of(451, "4.3.0", "temporary_failure"))
_NO_SPACE = packets.reply_code(replies.NO_SPACE)
_TOO_MANY = Reply.of(452, "4.5.3", "too many recipients")


class MilterSession(EventConnection):
    """One connection. What needs no waiting is done at once; a task takes RCPT and the end."""

    _engine: MilterConnection
    _event: Command | None = None

    def __init__(self, door: Door) -> None:
        super().__init__(door)
        self._engine = MilterConnection(actions=ACTIONS, steps=STEPS, macros=MACROS)
        self._connect = Connect("", "U")
        self._helo = ""
        self._message: MilterMessage | None = None
        self._spool_failed = False  # what it was to keep of the message is not all there
        self._due = False  # whether the MTA waits for the task's answer
        self._within = False  # whether a packet has begun, and a deadline for that

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
        self._failed(error)
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
        to be complete soon: it gets no more time for each octet of it that comes, nor does an
        MTA that leaves our answers unread.
        """
        taken = False
        try:
            for _ in range(AT_ONCE):
                if self._cause or self._write_paused:
                    break
                event = self._engine.next_event()
                if isinstance(event, Signal):
                    break
                taken = True
                take = _AT_ONCE.get(type(event))
                if take is None:
                    self._event = event
                    self._wake()
                    return
                take(self, event)
                if answer := self._engine.answer(event):
                    self._write(answer)
            else:
                self._pause()
        except MilterError as error:
            self._door.services.emit(Failed(self._settings.name, "protocol", str(error)))
            self._end("protocol")
            return
        within = bool(self._engine.buffered) or self._write_paused
        if taken or not (within and self._within) or self._deadline.at == NEVER:
            limit = self._settings
            patience = limit.command_timeout if within else limit.data_timeout
            self._deadline.at = self._door.deadlines.now() + patience
        self._within = within

    def _nothing(self, event: Command) -> None:
        """Only to be answered."""

    def _connected(self, connect: Connect) -> None:
        self._forget_message()
        self._connect = connect
        self._helo = ""

    def _hello(self, hello: Helo) -> None:
        self._forget_message()
        self._helo = hello.name

    def _next_client(self, event: NextConnection) -> None:
        self._forget_message()
        self._connect = Connect("", "U")
        self._helo = ""

    def _aborted(self, event: Abort) -> None:
        self._forget_message()
        if self._door.draining:
            self._end("shutdown")

    def _quit(self, event: Quit) -> None:
        self._end("quit")

    def _mail_from(self, mail: Mail) -> None:
        macro = self._engine.macro
        path, refusal = self._reverse_path(mail.path)
        reverse_path = for_record(path)
        login = (macro("auth_authen") or "") if self._door.believes_logins(self._peer) else ""
        credential = self._door.streams.of_user(login)
        client = Client(
            self._settings.name,
            client_address(macro, self._connect.family, self._connect.address),
            self._helo,
            login,
            macro("i") or "",
        )
        by_smtp = not without_smtp(macro)
        transaction = MilterTransaction(
            self._door.services,
            client,
            reverse_path,
            self._door.streams.choice(self._settings.name, reverse_path, credential),
            refuses_at_rcpt=by_smtp,
            can_delete=by_smtp and Actions.DELETE_RECIPIENTS in self._engine.agreed.actions,
        )
        if reverse_path != path:
            transaction.keep_together()  # its sender could not be told of who is left out
        leading_space = Steps.LEADING_SPACE in self._engine.agreed.steps
        self._forget_message()
        self._message = MilterMessage(
            transaction, self._door.spool, self._door.header_limits, leading_space=leading_space
        )
        if credential is not None and not permits(credential, reverse_path):
            refusal = refusal or replies.SENDER_REFUSED
            self._door.services.emit(SenderRefused(self._settings.name, client.peer))
        self._message.refusal = refusal  # told at RCPT: MTAs are asked not to wait for MAIL

    def _reverse_path(self, path: str) -> tuple[str, Reply | None]:
        """The sender, and the refusal of a path that cannot be taken."""
        try:
            return qualified(parse_path(path), self._settings.origin), None
        except PathError as error:
            return path, replies.bad_sender(error)

    def _header(self, header: Header) -> None:
        if self._message is not None:
            self._kept(self._message.add_field, header)

    def _body(self, body: Body) -> None:
        if self._message is not None:
            self._kept(self._message.add_body, body.data)

    def _kept(self, keep: Callable[[T], None], what: T) -> None:
        """Keep a part of the message; that it cannot be kept is said at the end."""
        if self._spool_failed:
            return
        try:
            keep(what)
        except OSError as error:
            self._spool_failed = True
            self._door.services.emit(Failed(self._settings.name, "spool", str(error)))

    def _forget_message(self) -> None:
        self._spool_failed = False
        if self._message is not None:
            self._message.close()
            self._message = None

    async def _recipient(self, rcpt: Rcpt) -> None:
        message = self._message
        if message is None:
            raise RuntimeError("a recipient without a message")
        self._due = True
        transaction = message.transaction
        if message.refusal is not None and transaction.refuses_at_rcpt:
            self._answer(packets.reply_code(message.refusal))
            return
        if message.refused >= self._settings.max_refused_recipients:
            self._limited("refused_recipients")
            self._answer(packets.reply_code(replies.TOO_MANY_REFUSED))
            return
        refusal = await self._judge(transaction, rcpt.path)
        message.refused += refusal is not None
        self._answer(packets.CONTINUE if refusal is None else packets.reply_code(refusal))

    async def _judge(self, transaction: MilterTransaction, path: str) -> Reply | None:
        """Return the refusal of a recipient, or None."""
        try:
            mailbox = parse_path(path)
            recipient = qualified(mailbox, self._settings.origin)
        except PathError as error:
            at_end = mails_refused(self._engine.macro, path)
            return transaction.unreadable(replies.bad_recipient(error), at_end=at_end)
        if transaction.refuses_at_rcpt and transaction.recipients >= self._settings.max_recipients:
            self._limited("recipients")
            return _TOO_MANY
        if "@" not in mailbox or forgets_recipient(self._engine.macro):
            transaction.keep_together()
        return await self._door.run(transaction.recipient(recipient))

    async def _end_of_message(self, end: EndOfMessage) -> None:
        message = self._message
        if message is None:
            raise RuntimeError("the end of a message that did not begin")
        self._due = True
        self._kept(message.add_body, end.data)
        try:
            self._answer(self._refusal(message) or await self._advice(message))
        finally:
            self._forget_message()

    def _refusal(self, message: MilterMessage) -> bytes | None:
        """The answer to a message that is not to be judged."""
        if self._spool_failed:
            return _NO_SPACE
        problem = message.problem(self._door.server.data_size_limit)
        if problem is not None:
            if problem in replies.LIMITED:
                self._limited(replies.LIMITED[problem])
            limits = self._door.header_limits
            return packets.reply_code(replies.content_problem(problem, limits))
        return None if message.refusal is None else packets.reply_code(message.refusal)

    async def _advice(self, message: MilterMessage) -> bytes:
        """The answer to a message that is judged, its edits before it."""
        queue_id = self._engine.macro("i") or ""
        progress = asyncio.get_running_loop().create_task(self._show_progress())
        try:
            steps = message.transaction.message(
                message.header(), message.size, queue_id, message.text()
            )
            advice = await self._door.run(steps)
        finally:
            progress.cancel()
        if advice.reply is None:
            return self._edits(advice)
        return packets.reply_code(advice.reply)

    async def _show_progress(self) -> None:
        while True:
            await asyncio.sleep(_PROGRESS)
            self._write(packets.PROGRESS)

    def _edits(self, advice: Advice) -> bytes:
        """What is to be changed, and that the MTA is to go on.

        The last field of a name goes first, so that those before it keep their numbers.
        """
        edits = [packets.delete_recipient(f"<{path}>") for path in advice.deleted]
        if Actions.CHANGE_HEADERS in self._engine.agreed.actions:
            name = self._door.services.stream_header
            numbers = range(advice.stream_headers, 0, -1)
            edits += [packets.delete_header(name, number) for number in numbers]
            if advice.unsubscribe is not None:
                space = b" " if Steps.LEADING_SPACE in self._engine.agreed.steps else b""
                value = space + advice.unsubscribe.replace(b"\r\n", b"\n")
                edits.append(packets.change_header(UNSUBSCRIBE, value))
        return b"".join(edits) + packets.CONTINUE

    def _answer(self, data: bytes) -> None:
        self._due = False
        self._write(data)

    def _close(self) -> None:
        self._door.deadlines.forget(self._deadline)
        self._forget_message()
        self._transport.close()
        self._leave()


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
