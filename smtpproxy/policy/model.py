"""The vocabulary of a decision: what is asked, what is known, and what is answered.

Everything here is frozen data. Times are timezone-aware `datetime`s in UTC.

The audit journal keeps these records for years, omitting values that equal their defaults: so a
default never changes once released (tests/sinks/audit/test_format.py).
"""

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property

from msgspec import Struct

from smtpproxy.policy.campaign import Trial
from smtpproxy.policy.contact import (
    BUILT_IN_BRAND,
    EVERY_PURPOSE,
    Collection,
    ConsentAct,
    Contact,
    Evidence,
    Link,
    Preference,
    Provenance,
    Purchase,
    came_by,
    collected,
    collections,
)
from smtpproxy.policy.message_features import (
    ContentFeatures,
    MessageFeatures,
    Pixel,
    SignatureFinding,
)
from smtpproxy.policy.periods import Cap
from smtpproxy.policy.rulebook import (
    Action,
    Alignment,
    Audience,
    Basis,
    Condition,
    ConfirmLink,
    Dealing,
    ExistingUnsubscribe,
    Frequency,
    Mode,
    Nature,
    Origin,
    PixelSign,
    Reason,
    Rulebook,
    Sign,
    SignatureState,
    Source,
    StreamClass,
    TrackingPixels,
    UndeclaredBulk,
)

__all__ = [
    "BUILT_IN_BRAND",
    "BULK_WINDOW",
    "CONFIRMATION_STREAM",
    "DEFAULT_STREAM",
    "EVERY_PURPOSE",
    "NOTICE_STREAM",
    "NO_FACTS",
    "PERSONAL_STREAM",
    "Action",
    "Alignment",
    "Audience",
    "Basis",
    "Cap",
    "Collection",
    "Condition",
    "ConfirmLink",
    "ConsentAct",
    "Contact",
    "ContentFeatures",
    "Dealing",
    "Decision",
    "Evidence",
    "ExistingUnsubscribe",
    "Facts",
    "Frequency",
    "Link",
    "Lookups",
    "Mailing",
    "MessageFeatures",
    "Mode",
    "Nature",
    "Origin",
    "Pause",
    "Pixel",
    "PixelSign",
    "Preference",
    "Provenance",
    "Purchase",
    "Reading",
    "Reason",
    "RecipientFacts",
    "Rulebook",
    "Sign",
    "SignatureFinding",
    "SignatureState",
    "Source",
    "Stream",
    "StreamClass",
    "Suppression",
    "TrackingPixels",
    "Transaction",
    "UndeclaredBulk",
    "Verdict",
    "came_by",
    "collected",
    "collections",
]


BULK_WINDOW = 3_600.0
"""Seconds in which the recipients of one text are counted, unless set otherwise."""


class Stream(Struct, frozen=True, omit_defaults=True, dict=True, cache_hash=True):
    """A named flow of mail with one class and purpose (docs/settings.md, `[[stream]]`).

    What follows from its settings is computed once per object; `replace` makes a new one.
    """

    name: str
    stream_class: StreamClass = StreamClass.MARKETING
    purpose: str | None = None  # always set on a marketing stream
    nature: Nature = Nature.COMMERCIAL
    products: frozenset[str] = frozenset()
    topics: frozenset[str] = frozenset()
    brand: str = BUILT_IN_BRAND  # who is speaking
    many_brands: bool = False  # several exist: a permission must name the stream's own
    all_brands: frozenset[str] = frozenset()  # all that exist; empty: unknown
    from_domains: frozenset[str] = frozenset()  # lower-case A-labels; empty: any
    foreign_domains: frozenset[str] = frozenset()  # refused if `from_domains` is empty
    one_click_required: bool = True
    rulebook: str = "fr"
    mode: Mode = Mode.ENFORCE
    paused: bool = False
    confirmation: bool = False  # the relay's own mail that asks people to confirm
    permission: bool = False  # marketing, but only the one message at the end of a period
    first_contact_notice: bool = False  # a first message must say where the address is from
    frequency_cap: Cap | None = None  # of this stream's messages
    marketing_cap: Cap | None = None  # of all marketing messages together
    max_snapshot_age: float | None = None  # seconds, for every partner's snapshot
    trial: Trial | None = None  # of new campaigns; None: none

    max_recipients: int | None = None  # of one message
    refuse_at_data: bool = False  # nobody is refused before the end of the message
    check_dkim: bool = False  # if signed: validly, unsubscribe fields included
    unsubscribe_scope: str | None = None  # of the link that the relay adds; None: it adds none
    existing_unsubscribe: ExistingUnsubscribe = ExistingUnsubscribe.KEEP
    unsubscribe_mailto: str | None = None  # an alternative to the link
    list_id: str | None = None  # RFC 2919
    verp: bool = False  # bounces come back to us, by a reverse path for each recipient

    # These need a closer look at the message (policy/content_checks.py).
    alignment: Alignment = Alignment.OFF
    body_optout: bool = False  # the text must show an unsubscribe link
    imprint: tuple[str, ...] = ()  # one of these must be in the text
    source_statement: tuple[str, ...] = ()  # any of these says where addresses come from
    honest_subject: bool = False
    undeclared_bulk: UndeclaredBulk = UndeclaredBulk.OBSERVE
    bulk_recipients: int | None = None  # one text to more people is bulk; None: not counted
    bulk_window: float = BULK_WINDOW  # seconds in which they are counted
    tracking_pixels: TrackingPixels = TrackingPixels.ALLOW

    @property
    def class_name(self) -> str:
        """The class as configured."""
        return "permission" if self.permission else self.stream_class.value

    @property
    def counted_as(self) -> str:
        """The name under which its messages are counted; all permission streams of a brand share
        one that no stream can have.
        """
        return f"permission:{self.brand}" if self.permission else self.name

    @cached_property
    def own_brands(self) -> tuple[str | None, ...]:
        """The brands whose permissions count for its mail. None: no brand is on record."""
        return (self.brand,) if self.many_brands else (None, self.brand)

    @cached_property
    def checks_content(self) -> bool:
        """Whether a rule needs more than what is read from every message."""
        return (
            self.stream_class is StreamClass.TRANSACTIONAL
            or self.reads_text
            or self.honest_subject
            or self.trial is not None
            or self.alignment is not Alignment.OFF
        )

    @cached_property
    def reads_text(self) -> bool:
        """Whether a rule needs the text of the message."""
        if self.stream_class is StreamClass.TRANSACTIONAL:
            return self.bulk_recipients is not None
        return self.body_optout or self.permission or bool(self.imprint or self.source_statement)

    @cached_property
    def looks_for_pixels(self) -> bool:
        return self.tracking_pixels is not TrackingPixels.ALLOW

    @cached_property
    def may_be_held_back(self) -> bool:
        """Whether pauses can apply: any to marketing, a restore's to confirmations too."""
        return self.stream_class is StreamClass.MARKETING or self.confirmation

    @cached_property
    def counts_mailings(self) -> bool:
        """Whether a verdict depends on what the recipient was mailed before."""
        return self.stream_class is StreamClass.MARKETING and (
            self.frequency_cap is not None
            or self.trial is not None
            or self.marketing_cap is not None
            or self.first_contact_notice
            or self.permission
        )

    @cached_property
    def asks_for_snapshots(self) -> bool:
        """Whether a verdict depends on how old the partners' snapshots are."""
        return self.stream_class is StreamClass.MARKETING and self.max_snapshot_age is not None


DEFAULT_STREAM = Stream(
    name="default",
    purpose="marketing",
    check_dkim=True,
    tracking_pixels=TrackingPixels.OBSERVE,
)
"""The stream of undeclared mail: marketing, purpose `marketing`, the strict rules."""

NOTICE_STREAM = Stream(name="notices", stream_class=StreamClass.TRANSACTIONAL)
"""The relay's own mail to senders, except to those suppressed for all mail."""

CONFIRMATION_STREAM = Stream(
    name="confirmations", stream_class=StreamClass.TRANSACTIONAL, confirmation=True
)
"""The relay's own mail to people, which may go to fewer of them than a receipt (section 4)."""

PERSONAL_STREAM = Stream(name="personal", stream_class=StreamClass.TRANSACTIONAL)
"""Links to people's own data, which they asked for, even if they objected to all else."""


class Suppression(Struct, frozen=True, omit_defaults=True):
    """A standing order not to mail: `all`, `marketing`, `brand:NAME` or `purpose:NAME`."""

    scope: str
    origin: Origin
    since: datetime
    widened: bool = False  # matched only by the widened key, not by the address
    note: str | None = None
    domain: str | None = None  # for a whole domain: "@example.com", "*.example.com"
    read_as: str | None = None  # the address given, which an MTA may read the recipient's as


class Reading(Struct, frozen=True):
    """Another address that an MTA may read the recipient's as, where consent was withdrawn."""

    address: str  # canonical
    acts: tuple[ConsentAct, ...]


class Mailing(Struct, frozen=True, omit_defaults=True):
    """A message on a marketing stream that was accepted for a recipient, or may have been."""

    stream: str
    at: datetime
    purpose: str | None = None  # the stream's purpose and brand at the time
    brand: str = BUILT_IN_BRAND


class Pause(Struct, frozen=True, omit_defaults=True):
    """Why a stream, a brand's marketing streams, or all marketing streams are held back."""

    subject: str  # "stream:NAME", "brand:NAME" or "marketing"
    at: datetime
    cause: str  # too much feedback (`breaker.Feedback`), "person" or "restore"
    until: datetime | None = None  # when it ends; None: when a person resumes it
    reason: str | None = None  # for people

    def holds(self, now: datetime) -> bool:
        return self.until is None or now < self.until


class RecipientFacts(Struct, frozen=True, omit_defaults=True):
    """All that the store knows about one recipient."""

    suppressions: tuple[Suppression, ...] = ()
    contact: Contact | None = None
    mailings: tuple[Mailing, ...] = ()  # as far back as they are kept
    first_mailed_at: datetime | None = None  # by this relay, on any marketing stream
    snapshot_at: datetime | None = None  # the oldest of the partners'; None: one is missing
    newest_snapshot_at: datetime | None = None  # if it is not the oldest
    null_mx: bool | None = None  # the domain accepts no mail; None: not known
    readings: tuple[Reading, ...] = ()  # of the address, by an MTA after us
    pauses: tuple[Pause, ...] = ()  # of streams that it may be on


NO_FACTS = RecipientFacts()

Facts = Mapping[str, RecipientFacts]
"""What is known, by canonical address; a missing one has `NO_FACTS`."""


class Lookups(Struct, frozen=True):
    """What a judgement needs from the store, in one batched read."""

    addresses: tuple[str, ...]  # canonical
    contacts: bool = True  # False: only suppressions decide
    mailings: bool = False  # whether earlier mail to the recipients matters
    snapshots: bool = False  # whether the age of the partners' snapshots matters
    pauses: bool = False  # whether pauses matter
    provisional: bool = False  # read again before it has an effect: a standby may answer


class Transaction(Struct, frozen=True):
    """One question to the decision core."""

    streams: tuple[Stream, ...]  # all that it may still be on; certain if there is one
    recipients: tuple[str, ...] = ()  # canonical addresses
    message: MessageFeatures | None = None  # None: judged at RCPT


class Verdict(Struct, frozen=True, omit_defaults=True):
    """What is to happen to one recipient or to the message, with one reason."""

    action: Action
    reason: Reason = Reason.NONE
    basis: Basis | None = None
    rule: str = ""  # the rule that decided; explain.trace shows those before it
    detail: str | None = None  # for people: which suppression, which date
    unconsented_pixels: bool = False  # allowed, but without consent to report the opening


class Decision(Struct, frozen=True):
    """The verdicts of one transaction."""

    stream: Stream
    rulebook: str
    recipients: tuple[Verdict, ...] = ()  # in the order of Transaction.recipients
    message: Verdict | None = None
