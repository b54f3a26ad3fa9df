"""What was decided about a message, how it is answered, and what a transaction reports: the record,
events for the sinks, and how long it took."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Literal, TypeVar, final

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.core.effects import Steps, WriteRecord
from smtpproxy.core.evaluation import Evaluation
from smtpproxy.core.services import Services, StreamChoice
from smtpproxy.events import (
    Client,
    Decided,
    Failed,
    JudgedRecipient,
    Limited,
    Part,
    Relayed,
    Stage,
    TransactionEnded,
)
from smtpproxy.mail.address import AddressError, AmbiguousAddress
from smtpproxy.mail.dkim import SigningFailed
from smtpproxy.mail.reply import Reply
from smtpproxy.policy.features import MessageIdentity
from smtpproxy.policy.model import (
    NO_FACTS,
    Action,
    Decision,
    Facts,
    MessageFeatures,
    Origin,
    Reason,
    RecipientFacts,
    Stream,
    TrackingPixels,
    Verdict,
)
from smtpproxy.policy.replies import message_reply, recipient_reply, recipients_reply
from smtpproxy.relay.connection import UpstreamError
from smtpproxy.relay.shares import UpstreamShareUsed
from smtpproxy.sinks.audit.journal import AuditUnavailable
from smtpproxy.sinks.audit.lines import ERASED
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.wire.commands import Rcpt

TEMPORARY_FAILURE = Reply.of(451, "4.3.0", "temporary_failure")
BAD_ADDRESS = Reply.of(553, "5.1.3", "recipient address cannot be read")
AMBIGUOUS_ADDRESS = Reply.of(
    553,
    "5.1.3",
    "recipient address could be read as too many others: write it without %, ! or quotes",
)

Mixed = Literal["refuse", "split", "each"]
"""What becomes of a message that only some recipients may get: nobody gets it; the permitted get it
and the sender a notice; or each recipient has its own reply (LMTP, PRDR)."""


class Recipient(Struct, frozen=True):
    """A recipient as the client named it, and its canonical address."""

    rcpt: Rcpt
    canonical: str

    @property
    def path(self) -> str:
        return self.rcpt.forward_path


Refused = tuple[Recipient, Verdict]


@final
class Outcome(Struct, frozen=True):
    """A decided message. `refused` are the recipients not allowed, in observe mode too."""

    decided: Decided
    refused: tuple[Refused, ...]
    passes: bool
    help_url: str = ""

    @property
    def stream(self) -> Stream:
        return self.decided.decision.stream

    @property
    def mixed(self) -> bool:
        """Whether it goes to only some of its recipients."""
        return self.passes and bool(self.refused) and not self.decided.observed

    @property
    def strips(self) -> bool:
        """Whether tracking pixels are removed for those who did not agree to them."""
        return self.stream.tracking_pixels is TrackingPixels.STRIP and not self.decided.observed

    def without_pixels(self, canonical: str | None = None) -> bool:
        """Whether they are removed from the copy of this recipient, or (None) of any."""
        return self.strips and any(
            judged.verdict.unconsented_pixels
            for judged in self.decided.recipients
            if canonical is None or judged.canonical == canonical
        )

    @property
    def refusal(self) -> Reply:
        """The one reply for a message that does not pass."""
        stream, verdict = self.stream.name, self.decided.decision.message
        if verdict is not None and verdict.reason is not Reason.RECIPIENTS_REFUSED:
            return message_reply(verdict, stream, self.decided.id, self.help_url)
        return refusal_of(self.refused, stream, self.decided.id, self.help_url)

    @property
    def refusals(self) -> dict[Recipient, Reply]:
        """The reply to each refused recipient."""
        return {recipient: self.reply_to(recipient, verdict) for recipient, verdict in self.refused}

    def reply_to(self, recipient: Recipient, verdict: Verdict) -> Reply:
        stream, id = self.stream.name, self.decided.id
        return recipient_reply(recipient.path, verdict, stream, id, self.help_url)

    @property
    def for_nobody(self) -> bool:
        """Whether the message is refused only because every recipient is."""
        message = self.decided.decision.message
        return (
            message is not None
            and message.reason is Reason.RECIPIENTS_REFUSED
            and len(self.refused) == len(self.decided.recipients)
        )


def refusal_of(refused: Sequence[Refused], stream: str, id: str, help_url: str) -> Reply:
    """The one reply for a message that nobody gets because of these recipients."""
    named = [(recipient.path, verdict) for recipient, verdict in refused]
    if len(named) == 1:
        return recipient_reply(*named[0], stream, id, help_url)
    return recipients_reply(named, stream, id, help_url)


def unreadable_reply(error: AddressError) -> Reply:
    """The reply about a recipient whose address cannot be judged."""
    return AMBIGUOUS_ADDRESS if isinstance(error, AmbiguousAddress) else BAD_ADDRESS


def verdict_holds(before: Verdict, now: Verdict) -> bool:
    """Whether a verdict need not be changed although a new one was given."""
    return before.action is now.action and before.unconsented_pixels >= now.unconsented_pixels


def refused_as_a_whole(refused: Sequence[Refused]) -> Verdict:
    """The verdict on a message that is refused because of some recipients.

    A refusal outweighs a deferral, so that nobody retries in vain.
    """
    actions = {verdict.action for _, verdict in refused}
    action = Action.REFUSE if Action.REFUSE in actions else Action.DEFER
    return Verdict(action, Reason.RECIPIENTS_REFUSED, rule="on_mixed")


T = TypeVar("T")

_ALLOW, _TEMPORARY_FAILURE = Action.ALLOW, Reason.TEMPORARY_FAILURE
_NO_FEATURES, _NO_IDENTITY = MessageFeatures(), MessageIdentity()
_NOBODY: Mapping[str, bool] = {}

_suppressions = attrgetter("suppressions")

_PARTS: Mapping[type[Exception], Part] = {
    StoreUnavailable: "store",
    AuditUnavailable: "audit",
    SigningFailed: "sign",
    OSError: "spool",
}


class RecordedTransaction:
    """The state that all kinds of transaction share, and what they record and report."""

    __slots__ = (
        *("_addresses", "_began", "_choice", "_counted", "_evaluation", "_features", "_identity"),
        "_tried",
        *("_lacks_outcome", "_mixed", "_on_record", "_services", "_size", "_stream"),
        *("_turn_began", "_worked", "client", "id", "recipients_accepted", "reverse_path", "spent"),
    )

    def __init__(
        self,
        services: Services,
        client: Client,
        reverse_path: str,
        choice: StreamChoice,
        mixed: Mixed | None = None,
    ) -> None:
        self.id = services.new_id()
        self.client = client
        self.reverse_path = reverse_path
        self._services = services
        self._choice = choice
        self._mixed: Mixed = mixed or services.on_mixed
        self._began = services.now()
        self.spent: dict[Stage, float] = {}  # seconds in effects, added from outside
        self._worked = 0.0  # seconds in total, without the client's time
        self._turn_began = 0.0
        self._on_record: Decided | None = None  # the passing decision that was last recorded
        self._lacks_outcome = False  # how that ended is not on record yet
        self._evaluation = Evaluation(services, choice)
        self._counted: frozenset[str] = frozenset()  # for whom the message was counted
        self._tried: Mapping[str, bool] = _NOBODY  # of these, in its campaign
        self.recipients_accepted: list[Recipient] = []
        # About the message, once it has arrived:
        self._addresses: Sequence[str] = ()  # of its recipients, canonical
        self._stream: Stream | None = None  # None also if no stream is permitted
        self._features = _NO_FEATURES
        self._identity = _NO_IDENTITY
        self._size = 0  # octets

    def _decision(
        self,
        stage: Literal["rcpt", "data"],
        at: datetime,
        decision: Decision,
        people: Sequence[Recipient],
        facts: Facts,
        *,
        features: MessageFeatures | None = None,
        observed: bool = False,
        relayed: bool = False,
    ) -> Decided:
        """The record of a decision on these people, who are in the order of its verdicts."""
        identity, message = self._identity, decision.message
        judged, against = [], set()  # the reasons for not allowing
        for person, verdict in zip(people, decision.recipients, strict=True):
            judged.append(JudgedRecipient(person.rcpt.forward_path, person.canonical, verdict))
            if verdict.action is not _ALLOW:
                against.add(verdict.reason)
        if message is not None and message.action is not _ALLOW:
            against.add(message.reason)
        return Decided(  # this many keywords would take as long as all the rest
            self.id,
            at,
            stage,
            self.client,
            self.reverse_path,
            decision,
            tuple(judged),
            facts,
            features,
            observed,
            _TEMPORARY_FAILURE in against,
            identity.message_id,
            identity.subject,
            identity.header_from,
            self._size,
            relayed,
            None,
            self._services.help_url if against else "",
        )

    def _record(self, decided: Decided) -> Steps[None]:
        """Record a decision and emit it. Raises AuditUnavailable."""
        decided = without_erased(decided, self._evaluation.facts, self._began)
        yield WriteRecord(decided)
        self._services.emit(decided)

    def _record_passing(self, decided: Decided) -> Steps[None]:
        """Record a passing decision, once. Raises AuditUnavailable, unless it is only observed."""
        if decided is self._on_record:  # a split was recorded before its notice was sent
            return
        recorded = without_erased(decided, self._evaluation.facts, self._began)
        try:
            yield WriteRecord(recorded)
        except AuditUnavailable as error:
            if not decided.observed:
                raise
            self._services.emit(Failed(decided.client.listener, "audit", f"observed: {error}"))
        self._services.emit(recorded)
        self._on_record = decided
        self._lacks_outcome = decided.relayed

    def _note(
        self, decided: Decided, reply: Reply, recipients: int, each: tuple[str, ...] = ()
    ) -> None:
        self._lacks_outcome = False
        relayed = Relayed(
            id=decided.id,
            listener=decided.client.listener,
            stream=decided.decision.stream.name,
            code=reply.code,
            reply=str(reply),
            size=decided.size,
            recipients=recipients,
            each=each,
        )
        self._services.note_outcome(relayed)
        self._services.emit(relayed)

    def _failed(self, error: Exception, *, recipients: int = 0, messages: int = 0) -> Reply:
        """Report an internal failure, which leaves these recipients and messages undecided."""
        cause = error.__cause__ or error
        name = type(cause).__name__
        text = f"{name}: {cause}" if str(cause) else str(error) or name  # TimeoutError has none
        listener, emit = self.client.listener, self._services.emit
        if isinstance(error, UpstreamShareUsed):
            emit(Limited(listener, self.client.peer, "upstream_connections"))
            return error.reply
        if isinstance(error, UpstreamError):
            emit(Failed(listener, "upstream", text))
            return error.reply
        part: Part = "internal"
        for kind, its_part in _PARTS.items():
            if isinstance(error, kind):
                part = its_part
        emit(Failed(listener, part, text, self._choice.default.name, recipients, messages))
        return TEMPORARY_FAILURE

    def _ended(self) -> None:
        """Report that the message has its final answer."""
        worked, spent = self._worked, self.spent
        ours = worked - sum(spent.values()) + spent.get("policy", 0.0)  # work in threads is ours
        stages = {**spent, "policy": ours}
        self._services.emit(TransactionEnded(self.client.listener, worked, stages))

    def _resume(self) -> None:
        """Begin our turn: the time until now was the client's."""
        self._turn_began = self._services.ticks()

    def _pause(self) -> None:
        """End our turn: the time from now on is the client's."""
        self._worked += self._services.ticks() - self._turn_began


def without_erased(decided: Decided, facts: Facts, began: datetime) -> Decided:
    """The decision without the names of those erased since the transaction began.

    `facts` are the latest; the decision keeps those that it was based on.
    """
    if not any(map(_suppressions, facts.values())):
        return decided
    erased = [
        index
        for index, recipient in enumerate(decided.recipients)
        if was_erased(facts.get(recipient.canonical, NO_FACTS), began)
    ]
    if not erased:
        return decided
    recipients = list(decided.recipients)
    for index in erased:
        name = f"{ERASED}{decided.id}.{index}"
        verdict = replace(recipients[index].verdict, detail=None)
        recipients[index] = JudgedRecipient(name, name, verdict)
    return replace(decided, recipients=tuple(recipients))


def was_erased(facts: RecipientFacts, since: datetime) -> bool:
    """Whether the person was erased at that moment or later."""
    return any(
        found.origin is Origin.ERASURE and not found.widened and found.since >= since
        for found in facts.suppressions
    )
