"""The policy intake: one connection from a Postfix that asks about its recipients."""

from __future__ import annotations  # those of nested functions would each cost a call

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from smtpproxy.core.advice import DelegatedTransaction
from smtpproxy.core.recording import TEMPORARY_FAILURE
from smtpproxy.core.services import StreamTable, permits
from smtpproxy.events import Client, Failed, SenderRefused
from smtpproxy.intake import replies
from smtpproxy.intake.listener import Listener
from smtpproxy.intake.session import UNREAD, Session
from smtpproxy.mail.address import PathError, for_record, parse_path, qualified
from smtpproxy.mail.reply import Reply
from smtpproxy.settings import Credential
from smtpproxy.terminal import counted
from smtpproxy.waiting import Pending
from smtpproxy.wire.policy_delegation import (
    DUNNO,
    PolicyConnection,
    PolicyError,
    PolicyRequest,
    answer,
)

_UNQUOTED = re.compile(r"[^\s\"(),:;<>@\[\\\]\x00-\x1f\x7f]+")


def external(path: str) -> str:
    """Return an address as SMTP writes it; Postfix sends it without the quotes."""
    local, at, domain = path.rpartition("@")
    if not at or local.startswith('"') or _UNQUOTED.fullmatch(local):
        return path
    quoted = re.sub(r'(["\\])', r"\\\1", local)
    return f'"{quoted}"@{domain}'


def credential(request: PolicyRequest, streams: StreamTable) -> Credential | None:
    """The `[[credential]]` that the client proved to the MTA, if any.

    A login takes precedence over a certificate. A certificate is identified only by its SHA-256
    fingerprint, because the MTA does not send the whole subject.
    """
    if user := request.get("sasl_username"):
        return streams.of_user(user)
    fingerprint = request.get("ccert_fingerprint").replace(":", "").lower()
    return streams.of_certificate(fingerprint, "") if len(fingerprint) == 64 else None


_TOO_MANY = Reply.of(452, "4.5.3", "too many recipients")
_LATER_STATES = frozenset({"DATA", "END-OF-MESSAGE"})


class PolicySession(Session):
    """One connection. Requests are handled one after the other."""

    __slots__ = ("_asked", "_due", "_instance", "_message", "_refusals", "_within")

    breaches = (PolicyError,)
    _engine: PolicyConnection

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener)
        self._engine = PolicyConnection()
        self._due = False  # whether the MTA waits for an answer
        self._within = False  # whether a request has begun, with a deadline
        self._instance = ""  # the MTA's name for the current message
        self._message: DelegatedTransaction | None = None
        self._asked: set[str] = set()  # its recipients that were not refused
        self._refusals = 0  # how many were

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._engine.buffered:
            self._acknowledge()

    # the session

    def _in_message(self) -> bool:
        return False  # nothing is lost with a connection between requests

    def _send_internal_failure(self) -> None:
        if self._due:
            self._answer(str(TEMPORARY_FAILURE))

    def _request(self, request: PolicyRequest) -> None:
        self._due = True
        self._within = False
        self._wait_for(self._judge(request), self._judged)

    def _judged(self, answer: Pending[Reply | None]) -> None:
        refusal = answer.result()
        self._answer(DUNNO if refusal is None else str(refusal))

    def _set_deadline(self, taken: int) -> None:
        """Set the MTA's deadline: long between requests, short within one."""
        within = bool(self._engine.buffered) or bool(self._stops & UNREAD)
        if not (within and self._within):  # a request that trickles in gets no extension
            limit = self._settings
            timeout = limit.command_timeout if within else limit.data_timeout
            self.at = self._now() + timeout
        self._within = within

    def _judge(self, request: PolicyRequest) -> Pending[Reply | None]:
        """The refusal, or None if the request is permitted or not ours to decide."""
        if request.state == "RCPT":
            return self._recipient(request)
        if request.state not in _LATER_STATES:
            return Pending.settled(None)
        refusal = self._later(request)
        if request.state != "END-OF-MESSAGE" or self._message is None:
            return refusal
        message = self._message

        def ended(answer: Pending[Reply | None]) -> Reply | None:
            refusal = answer.result()
            if refusal is None:
                message.passed(request.size)
            return refusal

        return refusal.then(ended)

    def _recipient(self, request: PolicyRequest) -> Pending[Reply | None]:
        message = self._message_of(request)
        if isinstance(message, Reply):
            return Pending.settled(message)
        if message.permitted >= self._settings.max_recipients:
            self._limited("recipients")
            return Pending.settled(_TOO_MANY)
        if self._refusals >= self._settings.max_refused_recipients:
            self._limited("refused_recipients")
            return Pending.settled(replies.TOO_MANY_REFUSED)
        try:
            recipient = self._path(request, "recipient")
        except PathError as error:
            self._refusals += 1
            return Pending.settled(replies.bad_recipient(error))

        def judged(answer: Pending[Reply | None]) -> Reply | None:
            refusal = answer.result()
            if refusal is None:
                self._asked.add(request.get("recipient"))
            else:
                self._refusals += 1
            return refusal

        return self._listener.run(message.recipient(recipient), message.spent).then(judged)

    def _later(self, request: PolicyRequest) -> Pending[Reply | None]:
        """Refuse a message with recipients that the MTA did not ask about at RCPT.

        The MTA names the recipient only if there is a single one; otherwise it sends their number.
        """
        message = self._message_of(request)
        if isinstance(message, Reply):
            return Pending.settled(message)
        path, count = request.get("recipient"), request.recipient_count
        if path and path not in self._asked:
            return self._recipient(request)
        if path or 0 < count <= message.permitted:
            return self._listener.run(message.still_permitted(), message.spent)
        text = (
            f"{counted(count, 'recipient')} at {request.state}, of whom {message.permitted} were"
            " asked about at RCPT on this connection: is check_policy_service in"
            " smtpd_recipient_restrictions, with nothing before it that permits?"
        )
        self._listener.services.emit(Failed(self._settings.name, "protocol", text))
        return Pending.settled(TEMPORARY_FAILURE)

    def _message_of(self, request: PolicyRequest) -> DelegatedTransaction | Reply:
        """The message that the request is about, or the refusal of its sender."""
        instance = request.get("instance")
        if self._message is not None and instance and instance == self._instance:
            return self._message
        self._forget()
        streams = self._listener.streams
        try:
            sender = for_record(self._path(request, "sender"))
        except PathError as error:
            return replies.bad_sender(error)
        believed = self._listener.believes_logins(self._peer)
        proven = credential(request, streams) if believed else None
        if proven is not None and not permits(proven, sender):
            peer = request.get("client_address")
            self._listener.services.emit(SenderRefused(self._settings.name, peer))
            return replies.SENDER_REFUSED
        client = Client(
            self._settings.name,
            request.get("client_address") or "unknown",
            request.get("helo_name"),
            (request.get("sasl_username") if believed else "") or (proven.name if proven else ""),
            request.get("queue_id"),
        )
        choice = streams.choice(self._settings.name, sender, proven)
        self._instance = instance
        self._message = DelegatedTransaction(self._listener.services, client, sender, choice)
        return self._message

    def _path(self, request: PolicyRequest, name: str) -> str:
        """The address in an attribute, as SMTP writes it. Raises PathError."""
        path = external(request.get(name))
        if not path and name == "sender":
            return ""  # the null reverse path
        return qualified(parse_path(path), self._settings.origin)

    def _forget(self) -> None:
        """Forget the last message."""
        if self._message is not None:
            self._message.ended()
        self._message, self._instance = None, ""
        self._asked, self._refusals = set(), 0

    def _answer(self, action: str) -> None:
        self._due = False
        self._write(answer(action))

    def _give_up(self) -> None:
        self._forget()

    handlers: ClassVar[Mapping[type, Callable[[Any, Any], None] | None]] = {
        PolicyRequest: _request,
        type(None): None,
    }
