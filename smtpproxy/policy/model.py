"""The vocabulary of a decision: what is asked, what is known, what is answered.

Everything here is frozen data. Times are timezone-aware `datetime`s in UTC.

The audit journal keeps these records for years, without what has its default: a default
never changes once it is released (tests/sinks/audit/test_format.py).
"""

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property

from msgspec import Struct

from smtpproxy.policy.campaign import Trial
from smtpproxy.policy.contact import (
    BUILT_IN_BRAND,
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
"""Seconds in which one text to many people is counted, where none are set."""


class Stream(Struct, frozen=True, omit_defaults=True, dict=True, cache_hash=True):
    """A named flow of mail with one class and purpose (docs/settings.md, `[[stream]]`).

    What follows from its settings is worked out once for each object; `replace` makes a new one.
    """

    name: str
    stream_class: StreamClass = StreamClass.MARKETING
    purpose: str | None = None  # always set on a marketing stream
    nature: Nature = Nature.COMMERCIAL
    products: frozenset[str] = frozenset()
    topics: frozenset[str] = frozenset()
    brand: str = BUILT_IN_BRAND  # who is talking
    many_brands: bool = False  # there are several, so what allows must name the stream's own
    all_brands: frozenset[str] = frozenset()  # those that there are; empty: it is not known
    from_domains: frozenset[str] = frozenset()  # lower-case A-labels; empty: any
    foreign_domains: frozenset[str] = frozenset()  # of other brands, where any would be taken
    one_click_required: bool = True
    rulebook: str = "fr"
    mode: Mode = Mode.ENFORCE
    paused: bool = False
    confirmation: bool = False  # the relay's own mail, which asks people to confirm
    permission: bool = False  # marketing, and only the one message at the end of a period
    first_contact_notice: bool = False  # a first message must say where the address is from
    frequency_cap: Cap | None = None  # of this stream's messages
    marketing_cap: Cap | None = None  # of all marketing messages together
    max_snapshot_age: float | None = None  # seconds; of every partner's snapshot
    trial: Trial | None = None  # of new campaigns; None: they have none

    max_recipients: int | None = None  # of one message
    refuse_at_data: bool = False  # nobody is refused before the end of the message
    check_dkim: bool = False  # of signed messages, whether the ways out are signed validly
    unsubscribe_scope: str | None = None  # of the link that the relay adds; None: it adds none
    existing_unsubscribe: ExistingUnsubscribe = ExistingUnsubscribe.KEEP
    unsubscribe_mailto: str | None = None  # an alternative to the link
    list_id: str | None = None  # RFC 2919
    verp: bool = False  # bounces come back to us: each recipient has a reverse path of their own

    # What follows is found out by a closer look at the message (policy/content_checks.py).
    alignment: Alignment = Alignment.OFF
    body_optout: bool = False  # the text must show an unsubscribe link
    imprint: tuple[str, ...] = ()  # one of these must stand in the text
    source_statement: tuple[str, ...] = ()  # any of these tells where addresses are from
    honest_subject: bool = False
    undeclared_bulk: UndeclaredBulk = UndeclaredBulk.OBSERVE
    bulk_recipients: int | None = None  # one text to more people is bulk; None: not counted
    bulk_window: float = BULK_WINDOW  # seconds in which they are counted
    tracking_pixels: TrackingPixels = TrackingPixels.ALLOW

    @property
    def class_name(self) -> str:
        """The class as it is declared."""
        return "permission" if self.permission else self.stream_class.value

    @property
    def counted_as(self) -> str:
        """The name that its messages are counted under: all permission streams of a brand are one.

        No stream can have the other name.
        """
        return f"permission:{self.brand}" if self.permission else self.name

    @cached_property
    def own_brands(self) -> tuple[str | None, ...]:
        """To whom was said what may allow its mail. None: it is not on record."""
        return (self.brand,) if self.many_brands else (None, self.brand)

    @cached_property
    def checks_content(self) -> bool:
        """Whether a rule asks for more than every message is read for."""
        return (
            self.stream_class is StreamClass.TRANSACTIONAL
            or self.reads_text
            or self.honest_subject
            or self.trial is not None
            or self.alignment is not Alignment.OFF
        )

    @cached_property
    def reads_text(self) -> bool:
        """Whether a rule asks for the text of the message."""
        if self.stream_class is StreamClass.TRANSACTIONAL:
            return self.bulk_recipients is not None
        return self.body_optout or self.permission or bool(self.imprint or self.source_statement)

    @cached_property
    def looks_for_pixels(self) -> bool:
        return self.tracking_pixels is not TrackingPixels.ALLOW

    @cached_property
    def may_be_held_back(self) -> bool:
        """Whether pauses count: any of marketing, that of a restore also of what asks people."""
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
"""Where undeclared mail goes: marketing, purpose `marketing`, the strict rules."""

NOTICE_STREAM = Stream(name="notices", stream_class=StreamClass.TRANSACTIONAL)
"""The relay's own mail to senders: people suppressed for all mail get none of it."""

CONFIRMATION_STREAM = Stream(
    name="confirmations", stream_class=StreamClass.TRANSACTIONAL, confirmation=True
)
"""The relay's own mail to people: to whom it may go is narrower than a receipt's (section 4)."""

PERSONAL_STREAM = Stream(name="personal", stream_class=StreamClass.TRANSACTIONAL)
"""Links to what is stored about people, who asked for them: they may have objected to all else."""


class Suppression(Struct, frozen=True, omit_defaults=True):
    """A standing order not to mail: `all`, `marketing`, `brand:NAME` or `purpose:NAME`."""

    scope: str
    origin: Origin
    since: datetime
    widened: bool = False  # matched by the widened key only, not by the address itself
    note: str | None = None
    domain: str | None = None  # of everybody there: "@example.com", "*.example.com"
    read_as: str | None = None  # of this address, which an MTA may take the recipient's for


class Reading(Struct, frozen=True):
    """Another address that an MTA may take the recipient's for, where consent was withdrawn."""

    address: str  # canonical
    acts: tuple[ConsentAct, ...]


class Mailing(Struct, frozen=True, omit_defaults=True):
    """A message on a marketing stream that was accepted for a recipient, or may have been."""

    stream: str
    at: datetime
    purpose: str | None = None  # what the stream was for then, and whose it was
    brand: str = BUILT_IN_BRAND


class Pause(Struct, frozen=True, omit_defaults=True):
    """Why the mail of a stream, or of all marketing streams of a brand or at all, is held back."""

    subject: str  # "stream:NAME", "brand:NAME" or "marketing"
    at: datetime
    cause: str  # what was heard too often (`breaker.Heard`), "person" or "restore"
    until: datetime | None = None  # not from then on; None: until a person resumes it
    reason: str | None = None  # for people

    def holds(self, now: datetime) -> bool:
        return self.until is None or now < self.until


class RecipientFacts(Struct, frozen=True, omit_defaults=True):
    """All that the store said about one recipient."""

    suppressions: tuple[Suppression, ...] = ()
    contact: Contact | None = None
    mailings: tuple[Mailing, ...] = ()  # as far back as they are kept
    first_mailed_at: datetime | None = None  # by this relay, on any marketing stream
    snapshot_at: datetime | None = None  # the oldest of the partners'; None: one is missing
    null_mx: bool | None = None  # the domain says that it takes no mail; None: it is not known
    readings: tuple[Reading, ...] = ()  # of the address, by an MTA behind us
    pauses: tuple[Pause, ...] = ()  # of streams that it may be on


NO_FACTS = RecipientFacts()

Facts = Mapping[str, RecipientFacts]
"""Canonical address to what is known; an address that is absent has `NO_FACTS`."""


class Lookups(Struct, frozen=True):
    """What a judgement needs from the store, as one batched read."""

    addresses: tuple[str, ...]  # canonical
    contacts: bool = True  # False: suppressions alone decide
    mailings: bool = False  # whether it counts what the recipients were mailed before
    snapshots: bool = False  # whether the age of the partners' snapshots counts
    pauses: bool = False  # whether it counts that a stream is paused
    provisional: bool = False  # asked again before anything comes of it: a standby may answer


class Transaction(Struct, frozen=True):
    """One question to the decision core."""

    streams: tuple[Stream, ...]  # all that it may still be; certain when there is one
    recipients: tuple[str, ...] = ()  # canonical addresses
    message: MessageFeatures | None = None  # None: judged at RCPT


class Verdict(Struct, frozen=True, omit_defaults=True):
    """What is to happen to one recipient or to the message, with one reason."""

    action: Action
    reason: Reason = Reason.NONE
    basis: Basis | None = None
    rule: str = ""  # the rule that decided; explain.trace tells what came before it
    detail: str | None = None  # for people: which suppression, which date
    unconsented_pixels: bool = False  # allowed, and nobody agreed that the opening is told


class Decision(Struct, frozen=True):
    """The verdicts of one transaction."""

    stream: Stream
    rulebook: str
    recipients: tuple[Verdict, ...] = ()  # in the order of Transaction.recipients
    message: Verdict | None = None
