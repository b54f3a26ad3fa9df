"""The milter intake: one connection from an MTA that asks what to do with its mail."""

from __future__ import annotations  # those of nested functions would each cost a call

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

from smtpproxy.core.advice import Advice, MilterTransaction
from smtpproxy.core.edits import UNSUBSCRIBE
from smtpproxy.core.services import permits
from smtpproxy.events import Client, Failed, SenderRefused
from smtpproxy.intake import replies
from smtpproxy.intake.listener import Listener
from smtpproxy.intake.milter_message import (
    ACTIONS,
    MACROS,
    STEPS,
    MilterMessage,
    client_address,
    forgets_recipient,
    mails_refused,
    without_smtp,
)
from smtpproxy.intake.session import UNREAD, Session
from smtpproxy.mail.address import PathError, for_record, parse_path, qualified
from smtpproxy.mail.reply import Reply
from smtpproxy.waiting import NEVER, Pending
from smtpproxy.wire import milter_packets as packets
from smtpproxy.wire.milter import MilterConnection, Signal
from smtpproxy.wire.milter_packets import (
    Abort,
    Actions,
    Body,
    Command,
    Connect,
    Data,
    EndOfHeaders,
    EndOfMessage,
    Header,
    Helo,
    Mail,
    MilterError,
    Negotiation,
    NextConnection,
    Quit,
    Rcpt,
    Steps,
    Unknown,
)

T = TypeVar("T")

_PROGRESS = 2.0
"""Seconds between PROGRESS packets while a message is judged; Sendmail waits for 10."""
_TROUBLE = packets.reply_code(Reply.of(451, "4.3.0", "temporary_failure"))
_NO_SPACE = packets.reply_code(replies.NO_SPACE)
_TOO_MANY = Reply.of(452, "4.5.3", "too many recipients")


def _and_answered(take: Callable[[MilterSession, Any], None]) -> Callable[[Any, Any], None]:
    """Wrap a handler so that its event is answered immediately, if the MTA expects an answer."""

    def taken(session: MilterSession, event: Command) -> None:
        take(session, event)
        if answer := session._engine.answer(event):
            session._write(answer)

    return taken


class MilterSession(Session):
    """One connection. Only RCPT and the end of a message may have to wait."""

    __slots__ = (
        *("_connect", "_due", "_helo", "_message", "_progress", "_spool_failed", "_within"),
    )

    breaches = (MilterError,)
    _engine: MilterConnection

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener)
        self._engine = MilterConnection(actions=ACTIONS, steps=STEPS, macros=MACROS)
        self._connect = Connect("", "U")
        self._helo = ""
        self._message: MilterMessage | None = None
        self._spool_failed = False  # a part of the message could not be kept
        self._due = False  # whether the MTA waits for an answer
        self._within = False  # whether a packet has begun, with a deadline
        self._progress: asyncio.TimerHandle | None = None

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._acknowledge()

    # the session

    def _in_message(self) -> bool:
        return self._message is not None

    def _send_internal_failure(self) -> None:
        if self._due:
            self._answer(_TROUBLE)

    def _set_deadline(self, taken: int) -> None:
        """Set the MTA's deadline.

        An MTA is silent for as long as its own client is, but once a packet has begun it must be
        complete soon: further octets do not extend its deadline, nor for an MTA that leaves our
        answers unread.
        """
        within = bool(self._engine.buffered) or bool(self._stops & UNREAD)
        if taken or not (within and self._within) or self.at == NEVER:
            limit = self._settings
            timeout = limit.command_timeout if within else limit.data_timeout
            self.at = self._now() + timeout
        self._within = within

    def _nothing(self, event: Command) -> None:
        """Do nothing but answer."""

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
        if self._listener.draining:
            self._end("shutdown")

    def _quit(self, event: Quit) -> None:
        self._end("quit")

    def _mail_from(self, mail: Mail) -> None:
        macro = self._engine.macro
        path, refusal = self._reverse_path(mail.path)
        reverse_path = for_record(path)
        login = (macro("auth_authen") or "") if self._listener.believes_logins(self._peer) else ""
        credential = self._listener.streams.of_user(login)
        client = Client(
            self._settings.name,
            client_address(macro, self._connect.family, self._connect.address),
            self._helo,
            login,
            macro("i") or "",
        )
        by_smtp = not without_smtp(macro)
        transaction = MilterTransaction(
            self._listener.services,
            client,
            reverse_path,
            self._listener.streams.choice(self._settings.name, reverse_path, credential),
            refuses_at_rcpt=by_smtp,
            can_delete=by_smtp and Actions.DELETE_RECIPIENTS in self._engine.agreed.actions,
        )
        if reverse_path != path:
            transaction.keep_together()  # the sender could not be told who is left out
        leading_space = Steps.LEADING_SPACE in self._engine.agreed.steps
        self._forget_message()
        self._message = MilterMessage(
            transaction,
            self._listener.spool,
            self._listener.header_limits,
            leading_space=leading_space,
        )
        if credential is not None and not permits(credential, reverse_path):
            refusal = refusal or replies.SENDER_REFUSED
            self._listener.services.emit(SenderRefused(self._settings.name, client.peer))
        self._message.refusal = refusal  # given at RCPT: MAIL gets no answer

    def _reverse_path(self, path: str) -> tuple[str, Reply | None]:
        """The sender, and the refusal of an unacceptable path, if any."""
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
        """Keep a part of the message; if that fails, the end of the message is refused."""
        if self._spool_failed:
            return
        try:
            keep(what)
        except OSError as error:
            self._spool_failed = True
            self._listener.services.emit(Failed(self._settings.name, "spool", str(error)))

    def _forget_message(self) -> None:
        self._spool_failed = False
        if self._message is not None:
            self._message.close()
            self._message = None

    def _recipient(self, rcpt: Rcpt) -> None:
        message = self._message
        if message is None:
            raise RuntimeError("a recipient without a message")
        transaction = message.transaction
        self._due = True
        if message.refusal is not None and transaction.refuses_at_rcpt:
            self._answer(packets.reply_code(message.refusal))
            return
        if message.refused >= self._settings.max_refused_recipients:
            self._limited("refused_recipients")
            self._answer(packets.reply_code(replies.TOO_MANY_REFUSED))
            return

        def judged(answer: Pending[Reply | None]) -> None:
            refusal = answer.result()
            message.refused += refusal is not None
            self._answer(packets.CONTINUE if refusal is None else packets.reply_code(refusal))

        self._wait_for(self._judge(transaction, rcpt.path), judged)

    def _judge(self, transaction: MilterTransaction, path: str) -> Pending[Reply | None]:
        """The refusal of a recipient, or None."""
        try:
            mailbox = parse_path(path)
            recipient = qualified(mailbox, self._settings.origin)
        except PathError as error:
            at_end = mails_refused(self._engine.macro, path)
            refusal = transaction.refuse_unreadable(replies.bad_recipient(error), at_end=at_end)
            return Pending.settled(refusal)
        if transaction.refuses_at_rcpt and transaction.recipients >= self._settings.max_recipients:
            self._limited("recipients")
            return Pending.settled(_TOO_MANY)
        if "@" not in mailbox or forgets_recipient(self._engine.macro):
            transaction.keep_together()
        return self._listener.run(transaction.recipient(recipient), transaction.spent)

    def _end_of_message(self, end: EndOfMessage) -> None:
        message = self._message
        if message is None:
            raise RuntimeError("the end of a message that did not begin")
        self._due = True
        self._kept(message.add_body, end.data)
        refusal = self._refusal(message)
        if refusal is not None:
            self._answer(refusal)
            self._forget_message()
            return
        queue_id = self._engine.macro("i") or ""
        transaction = message.transaction
        steps = transaction.message(
            message.header(), message.size, queue_id, message.text(), self._is_connected
        )
        self._show_progress_soon()
        self._wait_for(self._listener.run(steps, transaction.spent), self._advised)

    def _is_connected(self) -> bool:
        """Whether the MTA is still connected, as far as is known."""
        return not self._transport.is_closing()

    def _advised(self, answer: Pending[Advice]) -> None:
        """Answer a judged message, with its edits first."""
        if self._progress is not None:
            self._progress.cancel()
        try:
            advice = answer.result()
            reply = advice.reply
            self._answer(self._edits(advice) if reply is None else packets.reply_code(reply))
        finally:
            self._forget_message()

    def _show_progress_soon(self) -> None:
        loop = asyncio.get_running_loop()
        self._progress = loop.call_later(_PROGRESS, self._show_progress)

    def _show_progress(self) -> None:
        self._write(packets.PROGRESS)
        self._show_progress_soon()

    def _refusal(self, message: MilterMessage) -> bytes | None:
        """The answer to a message that must not be judged, or None."""
        if self._spool_failed:
            return _NO_SPACE
        problem = message.problem(self._listener.server.data_size_limit)
        if problem is not None:
            if problem in replies.LIMITED:
                self._limited(replies.LIMITED[problem])
            limits = self._listener.header_limits
            return packets.reply_code(replies.content_problem(problem, limits))
        return None if message.refusal is None else packets.reply_code(message.refusal)

    def _edits(self, advice: Advice) -> bytes:
        """The edits, and the reply to continue.

        The last field of a name is deleted first, so that the others keep their numbers.
        """
        edits = [packets.delete_recipient(f"<{path}>") for path in advice.deleted]
        if Actions.CHANGE_HEADERS in self._engine.agreed.actions:
            name = self._listener.services.stream_header
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

    def _give_up(self) -> None:
        self._forget_message()

    handlers: ClassVar[Mapping[type, Callable[[Any, Any], None] | None]] = {
        Negotiation: _and_answered(_nothing),
        Connect: _and_answered(_connected),
        Helo: _and_answered(_hello),
        Mail: _and_answered(_mail_from),
        Rcpt: _recipient,
        Data: _and_answered(_nothing),
        Header: _and_answered(_header),
        EndOfHeaders: _and_answered(_nothing),
        Body: _and_answered(_body),
        EndOfMessage: _end_of_message,
        Unknown: _and_answered(_nothing),
        Abort: _and_answered(_aborted),
        NextConnection: _and_answered(_next_client),
        Quit: _and_answered(_quit),
        Signal: None,
    }
