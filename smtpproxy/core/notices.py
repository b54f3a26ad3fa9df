"""Notices to the sender of a message that only some of its recipients get (RFC 3464). A notice is
mail, judged and recorded like any other.

A ledger holds who has a copy, and which refusals the sender was told of, until the client has its
final answer, so that a client that tries again sends nothing twice. docs/adr/0011-fan-out.md says
why.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from msgspec.structs import replace

from smtpproxy.core.effects import (
    AskUpstream,
    BeginData,
    FindCopies,
    ForgetCopies,
    NoteCopy,
    ReadFacts,
    SendContent,
    Steps,
    StoreVersion,
    Upstream,
    WriteRecord,
)
from smtpproxy.core.recording import TEMPORARY_FAILURE, Mixed, Outcome, without_erased
from smtpproxy.core.services import Services, StreamChoice
from smtpproxy.core.transaction import Transaction
from smtpproxy.events import Client, Decided, JudgedRecipient, Relayed
from smtpproxy.mail.address import AddressError, canonical
from smtpproxy.mail.dsn import (
    Envelope,
    RefusedRecipient,
    failure_notice,
    relayed_notice,
    undelivered_notice,
)
from smtpproxy.mail.eight_bit import EIGHT_BIT, UTF8
from smtpproxy.mail.reply import Reply
from smtpproxy.policy import model as policy
from smtpproxy.policy.decide import judge
from smtpproxy.policy.model import (
    NOTICE_STREAM,
    Action,
    Decision,
    Facts,
    Lookups,
    Reason,
    Stream,
    Verdict,
)
from smtpproxy.policy.replies import recipient_reply
from smtpproxy.relay.connection import UpstreamError
from smtpproxy.relay.mail_parameters import MailParameters
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.wire.commands import Rcpt
from smtpproxy.wire.content import stuffed


class NoticeDeferred(UpstreamError):
    """The upstream works but does not accept this notice yet."""


class NoticeRefused(Exception):
    """The sender may not be mailed, or the upstream refuses the notice for good."""


class Notices:
    """Judges, records and sends the notices about one message to its reverse path."""

    def __init__(
        self,
        services: Services,
        id: str,
        client: Client,
        reverse_path: str,
        envid: str | None,
        began: datetime,
    ) -> None:
        """`began` is when the transaction began: nobody erased since then is named on record."""
        self._services = services
        self._about = id
        self._client = client
        self._reverse_path = reverse_path
        self._envid = envid
        self._verdict: Verdict | None = None
        self._began = began
        self._facts: Facts = {}
        self._judged_at: object = None  # the state of the store that the verdict is from

    @property
    def _stream(self) -> Stream:
        return replace(NOTICE_STREAM, rulebook=self._services.undeclared.rulebook)

    def permitted(self) -> Steps[bool]:
        """Whether the sender may be mailed. Raises StoreUnavailable."""
        if not self._reverse_path:
            return False
        version = yield from StoreVersion()
        if self._verdict is None or version != self._judged_at:
            self._verdict = yield from self._judge()
            self._judged_at = version
        return self._verdict is not None and self._verdict.action is Action.ALLOW

    def refused(self, refused: Sequence[RefusedRecipient], header: bytes) -> Steps[None]:
        """Tell the sender of refused recipients.

        Raises NoticeRefused or UpstreamError unless the upstream accepts the notice.
        """
        envelope = self._envelope()
        yield from self._send(envelope, failure_notice(envelope, refused, header))

    def undelivered(self, failed: Sequence[RefusedRecipient], header: bytes) -> Steps[None]:
        """Tell the sender for which recipients the upstream did not accept the message.

        Raises as `refused` does.
        """
        envelope = self._envelope()
        yield from self._send(envelope, undelivered_notice(envelope, failed, header))

    def relayed(self, accepted: Sequence[Rcpt], header: bytes) -> Steps[None]:
        """Tell a sender that asked for this that an upstream without DSN has the mail.

        RFC 3461 5.2.2. Raises as `refused` does.
        """
        asked = [(rcpt.forward_path, rcpt.orcpt) for rcpt in accepted if wants_success(rcpt)]
        if asked and self._reverse_path:
            envelope = self._envelope()
            yield from self._send(envelope, relayed_notice(envelope, asked, header))

    def handed_on(self, bounce: bytes) -> Steps[None]:
        """Hand on a notice from another system to the sender. Raises as `refused` does."""
        yield from self._send(self._envelope(), bounce)

    def _envelope(self) -> Envelope:
        services = self._services
        return Envelope(
            services.hostname,
            self._about,
            services.now(),
            self._reverse_path,
            services.notice_texts,
            self._envid,
        )

    def _judge(self) -> Steps[Verdict | None]:
        """Judge the sender; None if the reverse path is not an address."""
        try:
            address = canonical(self._reverse_path)
        except AddressError:
            return None
        facts, _ = yield from ReadFacts(Lookups((address,), contacts=False))
        self._facts = facts
        rulebook = self._services.rulebooks[self._stream.rulebook]
        question = policy.Transaction((self._stream,), (address,))
        (verdict,) = judge(question, facts, rulebook, self._services.now()).recipients
        return verdict

    def _send(self, envelope: Envelope, notice: bytes) -> Steps[None]:
        """Send from the null path, without asking for a notice about the notice (RFC 3461 6.1)."""
        allowed = yield from self.permitted()
        if self._verdict is None:
            raise NoticeRefused("the reverse path is not an address")
        decided = yield from self._record(self._services.new_id(), self._verdict, len(notice))
        if not allowed:
            raise NoticeRefused(f"the sender may not be mailed: {self._verdict.reason}")
        sender = envelope.reverse_path
        unicode = not sender.isascii() or b"message/global" in notice
        eight_bit = not notice.isascii()
        needs = frozenset({EIGHT_BIT} if eight_bit else ()) | frozenset({UTF8} if unicode else ())
        mail = MailParameters("", len(notice), eight_bit=eight_bit, utf8=unicode, needs=needs)
        upstream = self._services.open_upstream(mail)
        try:
            reply = yield from self._hand_over(upstream, Rcpt(sender, notify="NEVER"), notice)
        except UpstreamError as error:
            self._note(decided, error.reply)
            raise
        except StoreUnavailable:
            self._note(decided, TEMPORARY_FAILURE)
            raise
        if reply is None:
            reply = recipient_reply(sender, self._verdict, NOTICE_STREAM.name, decided.id)
            self._note(decided, reply)
            yield from self._record(decided.id, self._verdict, decided.size)
            raise NoticeRefused(f"the sender may no longer be mailed: {self._verdict.reason}")
        self._note(decided, reply)
        if reply.code >= 500:
            raise NoticeRefused(f"the upstream refuses the notice: {reply.code}")
        if reply.code >= 300:
            raise NoticeDeferred(f"notice to the sender not accepted: {reply.code}")

    def _hand_over(self, upstream: Upstream, rcpt: Rcpt, notice: bytes) -> Steps[Reply | None]:
        """Hand a notice to the upstream; return None if the sender may no longer be mailed."""
        try:
            (reply,) = yield from AskUpstream(upstream, [rcpt])
            if reply.code >= 300:
                upstream.abort()
                return reply
            refusal = yield from BeginData(upstream)
            if refusal is not None:
                return refusal
            if not (yield from self.permitted()):
                upstream.abort()
                return None
            content = [stuffed(notice)]
            while (sent := (yield from SendContent(upstream, content))) is None:
                if not (yield from self.permitted()):
                    upstream.abort()
                    return None
                content = []
            return sent
        except BaseException:  # a cancellation too
            upstream.abort()
            raise

    def _record(self, id: str, verdict: Verdict, size: int) -> Steps[Decided]:
        """Record a verdict on the sender before acting on it."""
        sender = self._reverse_path
        decided = Decided(
            id=id,
            at=self._services.now(),
            stage="notice",
            client=self._client,
            reverse_path="",
            decision=Decision(self._stream, self._stream.rulebook, (verdict,)),
            recipients=(JudgedRecipient(sender, canonical(sender), verdict),),
            facts=self._facts,
            undecided=verdict.reason is Reason.TEMPORARY_FAILURE,
            size=size,
            relayed=verdict.action is Action.ALLOW,
            notice_about=self._about,
        )
        decided = without_erased(decided, self._facts, self._began)
        yield from WriteRecord(decided)
        self._services.emit(decided)
        return decided

    def _note(self, decided: Decided, reply: Reply) -> None:
        relayed = Relayed(
            id=decided.id,
            listener=self._client.listener,
            stream=NOTICE_STREAM.name,
            code=reply.code,
            reply=str(reply),
            size=decided.size,
            recipients=int(reply.code < 300),
        )
        self._services.note_outcome(relayed)
        self._services.emit(relayed)


def wants_success(rcpt: Rcpt) -> bool:
    """Whether the sender asked to be told of the delivery (RFC 3461 4.1)."""
    return rcpt.notify is not None and "SUCCESS" in rcpt.notify.upper()


def wants_no_notice(rcpt: Rcpt) -> bool:
    """Whether the sender asked not to be told of a failure (RFC 3461 4.1)."""
    return rcpt.notify is not None and "FAILURE" not in rcpt.notify.upper()


_TOLD = "told "  # no path begins so: those have spaces only in quotes


def notice_entry(forward_path: str) -> str:
    """The ledger's entry for a recipient that the sender was told is not mailed."""
    return f"{_TOLD}{forward_path}"


def is_notice_entry(entry: str) -> bool:
    return entry.startswith(_TOLD)


class NotifyingTransaction(Transaction):
    """A transaction that may mail only some recipients and tell the sender of the others."""

    __slots__ = ("_digest", "_envid", "_kept", "_notified", "_own_notices")

    def __init__(
        self,
        services: Services,
        client: Client,
        reverse_path: str,
        choice: StreamChoice,
        mixed: Mixed | None = None,
        envid: str | None = None,
    ) -> None:
        super().__init__(services, client, reverse_path, choice, mixed)
        self._envid = envid
        self._own_notices: Notices | None = None
        self._notified: set[str] = set()  # forward paths that the sender was told of
        self._digest: Callable[[], bytes] = bytes  # of the content, once it has arrived
        self._kept: set[str] = set()  # what the ledger has for this message

    @property
    def _notices(self) -> Notices:
        """The notices about this message, made at first use because most messages have none."""
        notices = self._own_notices
        if notices is None:
            client = replace(self.client, queue_id="")  # that is the message's
            notices = self._own_notices = Notices(
                self._services, self.id, client, self.reverse_path, self._envid, self._began
            )
        return notices

    def _notify_refused(self, outcome: Outcome, header: bytes) -> Steps[Outcome | None]:
        """Record the decision and tell the sender who is not mailed.

        Returns another outcome if the sender cannot be told, or if the store has changed.
        """
        if not (yield from self._notices.permitted()):
            return self._refused_whole(outcome)
        changed = yield from self._recheck_and_record(outcome)
        if changed is not None:
            return changed
        refusals = outcome.refusals
        yield from self._find_told([recipient.path for recipient in refusals])
        news = [
            RefusedRecipient(recipient.path, reply, recipient.rcpt.orcpt)
            for recipient, reply in refusals.items()
            if recipient.path not in self._notified
        ]
        try:
            if news:
                yield from self._notices.refused(news, header)
        except NoticeRefused:
            return self._refused_whole(outcome)
        yield from self._note_told([each.address for each in news])
        return None

    # the ledger

    def _find(self, paths: Sequence[str]) -> Steps[frozenset[str]]:
        """Return which of these the ledger has. Raises StoreUnavailable, OSError."""
        found = yield from FindCopies(self.reverse_path, self._digest, paths)
        self._kept |= found
        return found

    def _find_told(self, forward_paths: Sequence[str]) -> Steps[None]:
        """Find which of these the sender was told of. If that fails, they may be told twice."""
        news = [path for path in forward_paths if path not in self._notified]
        if not news:
            return
        try:
            found = yield from self._find([notice_entry(path) for path in news])
        except (StoreUnavailable, OSError) as error:
            self._failed(error)
            return
        self._notified.update(path for path in news if notice_entry(path) in found)

    def _note_told(self, forward_paths: Iterable[str]) -> Steps[None]:
        for path in forward_paths:
            self._notified.add(path)
            self._kept.add(notice_entry(path))
            try:
                yield from NoteCopy(self.reverse_path, self._digest, notice_entry(path))
            except (StoreUnavailable, OSError) as error:
                self._failed(error)
                return

    def _forget(self) -> Steps[None]:
        """Clear the ledger. If that fails, the same message still counts as a retry."""
        if not self._kept:
            return
        try:
            yield from ForgetCopies(self.reverse_path, self._digest, sorted(self._kept))
        except (StoreUnavailable, OSError) as error:
            self._failed(error)
