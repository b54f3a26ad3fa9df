"""What a transaction asks of the world outside.

A transaction is a machine without I/O. Each of its methods is a generator of steps: it yields
an effect, is sent the effect's result or has its failure thrown in, and returns its answer at
the end. Whoever drives it (core/perform.py for the relay, core/dry_run.py for somebody who
asks what would happen, the tests) decides how an effect is carried out and when it is answered.
docs/adr/0019-transaction-machine.md says why.
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
from smtpproxy.store.counters import Mailed
from smtpproxy.wire.commands import Rcpt

T = TypeVar("T")
Steps = Generator["Effect[Any]", Any, T]
"""Yields effects, returns T."""


class Effect(Struct, Generic[T], frozen=True):
    """One thing to be done outside; `result = yield from effect`.

    `stage` is where the time that it takes is counted.
    """

    stage: ClassVar[Stage] = "store"

    def __iter__(self) -> Generator["Effect[Any]", Any, T]:
        answer: T = yield self
        return answer


Handlers = Mapping[type, Callable[[Any], Any]]
"""What carries out the effects of each type: it returns the answer, or an awaitable of it."""


class Upstream(Protocol):
    """One mail transaction with the upstream; see AskUpstream, BeginData and SendContent."""

    accepted: list[Rcpt]
    in_doubt: bool  # the end of data was sent and not answered: it may be accepted
    notifies: bool  # the upstream sends the notifications that are asked for

    @property
    def is_open(self) -> bool:
        """Whether what was accepted still is."""

    @property
    def takes_all(self) -> bool:
        """Whether the upstream offers every extension that MAIL asked for."""

    def leave_to_client(self, given_back: Callable[[], None]) -> None:
        """It is the client's turn; if that takes long, others may have the connection."""

    def end_turn(self) -> None:
        """The client's turn is over."""

    def refusal_of(self, needs: frozenset[str]) -> Reply | None:
        """Refuse content that needs extensions that the upstream lacks."""

    def abort(self) -> None:
        """Give up: nothing of it is mailed."""


class ReadFacts(Effect[tuple[Facts, object]], frozen=True):
    """Read what is known of addresses, and the state of the store that it is no older than.

    Raises StoreUnavailable.
    """

    lookups: Lookups


class StoreVersion(Effect[object], frozen=True):
    """Tell the state of the store: another value when facts may have changed.

    Raises StoreUnavailable.
    """


STORE_VERSION = StoreVersion()


class AskDomains(Effect[Mapping[str, bool]], frozen=True):
    """Ask the DNS whether the domains of canonical addresses take no mail, where it is known."""

    stage: ClassVar[Stage] = "dns"
    addresses: Sequence[str]


class CheckSignatures(Effect[Sequence[SignatureFinding]], frozen=True):
    """Find out about the DKIM signatures that a message came with."""

    stage: ClassVar[Stage] = "dns"
    headers: HeaderBlock
    body: Body | None  # None: the header alone


class FindOrganisations(Effect[tuple[MessageFeatures, str]], frozen=True):
    """Find out of which organisations the domains are that alignment has to know.

    The features with these, and what failed, "" when nothing did.
    """

    stage: ClassVar[Stage] = "dns"
    stream: Stream
    features: MessageFeatures


class CountText(Effect[int], frozen=True):
    """Count people who are sent one text; how many are it by now. Raises StoreUnavailable."""

    key: bytes
    people: Sequence[str]
    at: datetime
    window: float  # seconds
    most: int
    exact: bool


class CountCampaign(Effect[Campaign], frozen=True):
    """Count a campaign for people, True for strangers, while it has too few; what was known of it
    before. Raises StoreUnavailable."""

    stream: str
    key: str
    id: str
    people: Mapping[str, bool]  # canonical addresses
    at: datetime
    most: int  # people


class ReleaseCampaign(Effect[None], frozen=True):
    """Take back that a campaign was counted for these people. Raises StoreUnavailable."""

    key: str
    id: str
    people: Mapping[str, bool]  # as they were counted
    most: int


class CountMailing(Effect[Mapping[str, Mailed]], frozen=True):
    """Count a message for these addresses; what each was mailed before it.

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
    """Put recipients to the upstream, the first with MAIL. Raises UpstreamError."""

    stage: ClassVar[Stage] = "upstream"
    upstream: Upstream
    recipients: Sequence[Rcpt]


class BeginData(Effect[Reply | None], frozen=True):
    """Send DATA; the answer to it, None when it is 354. Raises UpstreamError."""

    stage: ClassVar[Stage] = "upstream"
    upstream: Upstream


class SendContent(Effect[Reply], frozen=True):
    """Send dot-stuffed content and its end; the final reply. Raises UpstreamError, OSError."""

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
    """Which of these were noted of a message at an attempt that the client has no answer to.

    `digest` tells the message from others of its reverse path. `paths` are forward paths, for
    whoever has a copy, or what `core.notices.told` makes of them. Raises StoreUnavailable,
    OSError.
    """

    reverse_path: str
    digest: Callable[[], bytes]
    paths: Sequence[str]


class NoteCopy(Effect[None], frozen=True):
    """Keep that somebody has a copy, until the client has its final answer.

    Raises StoreUnavailable, OSError.
    """

    reverse_path: str
    digest: Callable[[], bytes]
    path: str


class ForgetCopies(Effect[None], frozen=True):
    """The client has its final answer: the same message again is a second sending.

    Raises StoreUnavailable, OSError.
    """

    reverse_path: str
    digest: Callable[[], bytes]
    paths: Sequence[str]


class InThread(Effect[T], Generic[T], frozen=True):
    """Do what takes long apart from the loop, so that other sessions go on meanwhile."""

    stage: ClassVar[Stage] = "policy"
    work: Callable[[], T]


class Together(Effect[None], frozen=True):
    """Carry out several runs of steps, no more than `at_once` at a time."""

    stage: ClassVar[Stage] = "upstream"
    runs: Callable[[], Iterable[Steps[None]]]
    at_once: int
