"""What a transaction asks of the outside world.

A transaction is a machine without I/O. Each of its methods is a generator of steps: it yields an
effect, is sent the result or has the failure thrown in, and returns its answer at the end. Whatever
drives it (core/perform.py for the relay, core/dry_run.py for `explain`, the tests) decides how an
effect is carried out and when it is answered. docs/adr/0019-transaction-machine.md says why.
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from msgspec import Struct

from smtpproxy.events import Decided, Stage
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.reply import Reply
from smtpproxy.policy.campaign import Campaign
from smtpproxy.policy.model import Facts, Lookups, MessageFeatures, SignatureFinding, Stream
from smtpproxy.relay.content import Body
from smtpproxy.store.sql.mailings import Mailed
from smtpproxy.wire.commands import Rcpt

T = TypeVar("T")
Steps = Generator["Effect[Any]", Any, T]
"""Yields effects, returns T."""


class Effect(Struct, Generic[T], frozen=True):
    """One thing to be done outside the transaction; `result = yield from effect`.

    The time that it takes is added to its `stage`.
    """

    stage: ClassVar[Stage] = "store"

    def __iter__(self) -> Generator["Effect[Any]", Any, T]:
        answer: T = yield self
        return answer


Handlers = Mapping[type, Callable[[Any], Any]]
"""What carries out each type of effect: it returns the answer, or an awaitable of it."""


class Upstream(Protocol):
    """One mail transaction with the upstream; see AskUpstream, BeginData and SendContent."""

    accepted: list[Rcpt]
    in_doubt: bool  # the end of data was sent but not answered: the mail may be accepted
    notifies: bool  # the upstream sends the notifications that the sender asked for

    @property
    def is_open(self) -> bool:
        """Whether the upstream still has the transaction."""

    @property
    def offers_all(self) -> bool:
        """Whether the upstream offers every extension that the client's MAIL asked for."""

    def begin_client_turn(self, on_hold_expired: Callable[[], None]) -> None:
        """Begin the client's turn: if it takes long, others may have the connection."""

    def end_client_turn(self) -> None:
        """End the client's turn."""

    def refusal_of(self, needs: frozenset[str]) -> Reply | None:
        """Return the refusal if the upstream lacks one of these extensions."""

    def abort(self) -> None:
        """Give up; nothing has been mailed."""


class ReadFacts(Effect[tuple[Facts, object]], frozen=True):
    """Read what is known about addresses, and a state of the store that it is no older than.

    Raises StoreUnavailable.
    """

    lookups: Lookups


class StoreVersion(Effect[object], frozen=True):
    """Return the state of the store, a different value if facts may have changed.

    Raises StoreUnavailable.
    """


STORE_VERSION = StoreVersion()


class AskDomains(Effect[Mapping[str, bool]], frozen=True):
    """Ask the DNS which canonical addresses have a null MX; what it does not say is missing."""

    stage: ClassVar[Stage] = "dns"
    addresses: Sequence[str]


class CheckSignatures(Effect[Sequence[SignatureFinding]], frozen=True):
    """Check the DKIM signatures that a message came with."""

    stage: ClassVar[Stage] = "dns"
    headers: HeaderBlock
    body: Body | None  # None: the header alone


class FindOrganisations(Effect[tuple[MessageFeatures, str]], frozen=True):
    """Find the organisational domains that alignment needs.

    The result is the features with these, and what failed ("" if nothing did).
    """

    stage: ClassVar[Stage] = "dns"
    stream: Stream
    features: MessageFeatures


class CountText(Effect[int], frozen=True):
    """Count the people who are sent one text; return their number. Raises StoreUnavailable."""

    key: bytes
    people: Sequence[str]
    at: datetime
    window: float  # seconds
    most: int
    exact: bool


class CountCampaign(Effect[Campaign], frozen=True):
    """Count people, and which of them are strangers, for a campaign while it has fewer than `most`;
    return what was known of it before. Raises StoreUnavailable."""

    stream: str
    key: str
    id: str
    people: Mapping[str, bool]  # canonical addresses
    at: datetime
    most: int  # people


class ReleaseCampaign(Effect[None], frozen=True):
    """Take back the count of a campaign for these people. Raises StoreUnavailable."""

    key: str
    id: str
    people: Mapping[str, bool]  # as they were counted
    most: int


class CountMailing(Effect[Mapping[str, Mailed]], frozen=True):
    """Count a message for these addresses; return what each was mailed before it.

    Raises StoreUnavailable.
    """

    id: str
    stream: Stream
    addresses: frozenset[str]
    at: datetime


class ReleaseMailing(Effect[None], frozen=True):
    """Take the count of a message back. Raises StoreUnavailable."""

    id: str
    addresses: frozenset[str]


class WriteRecord(Effect[None], frozen=True):
    """Put a decision on record. Raises AuditUnavailable."""

    stage: ClassVar[Stage] = "audit"
    decided: Decided


class AskUpstream(Effect[list[Reply]], frozen=True):
    """Offer recipients to the upstream, the first with MAIL. Raises UpstreamError."""

    stage: ClassVar[Stage] = "upstream"
    upstream: Upstream
    recipients: Sequence[Rcpt]


class BeginData(Effect[Reply | None], frozen=True):
    """Send DATA; return the reply, or None if it is 354. Raises UpstreamError."""

    stage: ClassVar[Stage] = "upstream"
    upstream: Upstream


class SendContent(Effect[Reply | None], frozen=True):
    """Send dot-stuffed content and its end; return the final reply. Raises UpstreamError, OSError.

    None: the upstream was slow to read it, and its end goes with the next content, which is empty.
    """

    stage: ClassVar[Stage] = "upstream"
    upstream: Upstream
    content: Iterable[bytes]


class Sign(Effect[bytes], frozen=True):
    """Make the DKIM-Signature fields of a message. Raises SigningFailed."""

    stage: ClassVar[Stage] = "sign"
    keys: Sequence[Any]
    headers: HeaderBlock
    body: Body
    at: datetime


class FindCopies(Effect[frozenset[str]], frozen=True):
    """Return which of these were noted at attempts without a final answer to the client.

    `digest` distinguishes the message from others with the same reverse path. `paths` are forward
    paths, for those who have a copy, or what `core.notices.notice_entry` makes of them. Raises
    StoreUnavailable, OSError.
    """

    reverse_path: str
    digest: Callable[[], bytes]
    paths: Sequence[str]


class NoteCopy(Effect[None], frozen=True):
    """Note that somebody has a copy, until the client has its final answer.

    Raises StoreUnavailable, OSError.
    """

    reverse_path: str
    digest: Callable[[], bytes]
    path: str


class ForgetCopies(Effect[None], frozen=True):
    """Forget the copies of a message, because the client has its final answer.

    Raises StoreUnavailable, OSError.
    """

    reverse_path: str
    digest: Callable[[], bytes]
    paths: Sequence[str]


class InThread(Effect[T], Generic[T], frozen=True):
    """Do long work off the event loop, so that other sessions can go on."""

    stage: ClassVar[Stage] = "policy"
    work: Callable[[], T]


class RunConcurrently(Effect[None], frozen=True):
    """Carry out several runs of steps, no more than `at_once` at a time."""

    stage: ClassVar[Stage] = "upstream"
    runs: Callable[[], Iterable[Steps[None]]]
    at_once: int
