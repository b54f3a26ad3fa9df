"""The vocabulary of a decision: what is asked, what is known, what is answered.

Everything here is frozen data. Times are timezone-aware `datetime`s in UTC.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from msgspec import Struct


class StreamClass(StrEnum):
    MARKETING = "marketing"
    TRANSACTIONAL = "transactional"


class Nature(StrEnum):
    COMMERCIAL = "commercial"
    CHARITY = "charity"


class Audience(StrEnum):
    CONSUMER = "consumer"
    PROFESSIONAL = "professional"
    GENERIC = "generic"
    UNKNOWN = "unknown"


class Source(StrEnum):
    """How an address was obtained (rules A8, A18 to A22)."""

    DIRECT = "direct"
    WEB = "web"
    HARVESTED = "harvested"
    GUESSED = "guessed"
    PURCHASED = "purchased"
    RENTED = "rented"
    EXCHANGED = "exchanged"
    PARTNER = "partner"
    UNKNOWN = "unknown"


class Origin(StrEnum):
    """Where a suppression came from."""

    UNSUBSCRIBE = "unsubscribe"
    COMPLAINT = "complaint"
    BOUNCE = "bounce"
    OBJECTION = "objection"
    ERASURE = "erasure"
    MANUAL = "manual"
    EXTERNAL = "external"


class Basis(StrEnum):
    """Why a recipient may be mailed."""

    CONSENT = "consent"
    EXISTING_CUSTOMER = "existing_customer"
    PROFESSIONAL = "professional"
    CHARITY = "charity"
    GENERIC_ADDRESS = "generic_address"
    TRANSACTIONAL = "transactional"


class Action(StrEnum):
    ALLOW = "allow"
    REFUSE = "refuse"
    DEFER = "defer"


class Mode(StrEnum):
    ENFORCE = "enforce"
    OBSERVE = "observe"


class Reason(StrEnum):
    """Why a verdict is what it is. docs/reasons.md has a paragraph for each."""

    NONE = "none"  # the verdict is allow

    # a recipient: suppression
    SUPPRESSED_UNSUBSCRIBE = "suppressed_unsubscribe"
    SUPPRESSED_COMPLAINT = "suppressed_complaint"
    SUPPRESSED_BOUNCE = "suppressed_bounce"
    SUPPRESSED_OBJECTION = "suppressed_objection"
    SUPPRESSED_ERASURE = "suppressed_erasure"
    SUPPRESSED_MANUAL = "suppressed_manual"
    SUPPRESSED_EXTERNAL = "suppressed_external"
    # a recipient: the record and its source
    NO_RECORD = "no_record"
    CONTACT_RESTRICTED = "contact_restricted"
    SOURCE_FORBIDDEN = "source_forbidden"
    SOURCE_UNDISCLOSED = "source_undisclosed"
    SOURCE_UNPROVEN = "source_unproven"
    # a recipient: consent
    CONSENT_MISSING = "consent_missing"
    CONSENT_WITHDRAWN = "consent_withdrawn"
    CONSENT_PRETICKED = "consent_preticked"
    CONSENT_CONDITIONAL = "consent_conditional"
    CONSENT_UNPROVEN = "consent_unproven"
    CONSENT_CHANNEL = "consent_channel"
    CONSENT_EXPIRED = "consent_expired"
    # a recipient: the other bases
    CUSTOMER_STALE = "customer_stale"
    PRODUCT_NOT_SIMILAR = "product_not_similar"
    SOURCE_NOT_DIRECT = "source_not_direct"
    NOTICE_MISSING = "notice_missing"
    OPTOUT_NOT_OFFERED = "optout_not_offered"
    TOPIC_UNRELATED = "topic_unrelated"
    INACTIVE = "inactive"
    # a recipient: not now
    STREAM_PAUSED = "stream_paused"
    # a message
    HEADER_MALFORMED = "header_malformed"
    STREAM_NOT_PERMITTED = "stream_not_permitted"
    SENDER_NOT_PERMITTED = "sender_not_permitted"
    UNSUBSCRIBE_MISSING = "unsubscribe_missing"
    UNSUBSCRIBE_MALFORMED = "unsubscribe_malformed"
    ONE_CLICK_MISSING = "one_click_missing"
    RECIPIENTS_REFUSED = "recipients_refused"  # on_mixed = "refuse", or nobody is left
    # trouble of ours
    TEMPORARY_FAILURE = "temporary_failure"


class Stream(Struct, frozen=True):
    """A named flow of mail with one class and purpose (docs/settings.md, `[[stream]]`)."""

    name: str
    stream_class: StreamClass = StreamClass.MARKETING
    purpose: str | None = None  # always set on a marketing stream
    nature: Nature = Nature.COMMERCIAL
    products: frozenset[str] = frozenset()
    topics: frozenset[str] = frozenset()
    from_domains: frozenset[str] = frozenset()  # lower-case A-labels; empty: any
    one_click_required: bool = True
    rulebook: str = "fr"
    mode: Mode = Mode.ENFORCE
    paused: bool = False


DEFAULT_STREAM = Stream(name="default", purpose="marketing")
"""Where undeclared mail goes: marketing, purpose `marketing`, the strict rules."""


class Rulebook(Struct, frozen=True):
    """The parameters of one jurisdiction (design.md sections 4 and 5)."""

    name: str
    customer_years: int = 3
    consent_years: int = 3
    activity_years: int = 3
    valid_methods: frozenset[str] = frozenset(
        {"unticked_box", "double_opt_in", "signed_form", "verbal_recorded"}
    )
    preticked_methods: frozenset[str] = frozenset({"preticked_box", "implied", "silence"})
    role_local_parts: frozenset[str] = frozenset()
    consumer_domains: frozenset[str] = frozenset()


class Evidence(Struct, frozen=True):
    """The proof of one act of agreement (rule A2, RGPD 7(1))."""

    wording: str | None = None
    ip: str | None = None


class ConsentAct(Struct, frozen=True):
    """One act of agreement to one purpose, or its withdrawal."""

    purpose: str
    at: datetime
    withdrawal: bool = False
    method: str | None = None
    conditional: bool = False
    channels: frozenset[str] = frozenset({"email"})
    evidence: Evidence = Evidence()


class Purchase(Struct, frozen=True):
    product: str
    at: datetime


class Provenance(Struct, frozen=True):
    supplier: str | None = None
    sender_disclosed: bool = False


class Contact(Struct, frozen=True):
    """What the store knows of one address. `acts` is a history, oldest first."""

    address: str  # canonical (mail.address)
    audience: Audience = Audience.UNKNOWN
    source: Source | None = None
    collected_at: datetime | None = None
    informed_at: datetime | None = None
    optout_offered: bool = False
    last_activity_at: datetime | None = None  # newest positive act: click, reply, login
    occupations: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    provenance: Provenance | None = None
    purchases: tuple[Purchase, ...] = ()
    acts: tuple[ConsentAct, ...] = ()


class Suppression(Struct, frozen=True):
    """A standing order not to mail. `scope` is `all`, `marketing` or `purpose:NAME`."""

    scope: str
    origin: Origin
    since: datetime
    widened: bool = False  # matched by the widened key only, not by the address itself
    note: str | None = None


class RecipientFacts(Struct, frozen=True):
    """All that the store said about one recipient."""

    suppressions: tuple[Suppression, ...] = ()
    contact: Contact | None = None


NO_FACTS = RecipientFacts()

Facts = Mapping[str, RecipientFacts]
"""Canonical address to what is known; an address that is absent has `NO_FACTS`."""


class Lookups(Struct, frozen=True):
    """What a judgement needs from the store, as one batched read."""

    addresses: tuple[str, ...]  # canonical
    contacts: bool = True  # False: suppressions alone decide


class MessageFeatures(Struct, frozen=True):
    """What the message rules look at, read from the raw header block."""

    malformed: str | None = None  # what cannot be read, for the trace
    from_domains: tuple[str, ...] = ()  # lower-case A-labels, one for each From address
    stream_header: tuple[str, ...] = ()  # every value found
    unsubscribe_fields: int = 0
    unsubscribe_https: tuple[str, ...] = ()
    unsubscribe_mailto: tuple[str, ...] = ()
    unsubscribe_encoded: bool = False  # encoded words had to be decoded
    one_click: bool = False  # exactly one List-Unsubscribe-Post, and it is exact


class Transaction(Struct, frozen=True):
    """One question to the decision core."""

    streams: tuple[Stream, ...]  # all that it may still be; certain when there is one
    recipients: tuple[str, ...] = ()  # canonical addresses
    message: MessageFeatures | None = None  # None: judged at RCPT


class Verdict(Struct, frozen=True):
    """What is to happen to one recipient or to the message, with one reason."""

    action: Action
    reason: Reason = Reason.NONE
    basis: Basis | None = None
    rule: str = ""  # the rule that decided; policy.trace tells what came before it
    detail: str | None = None  # for people: which suppression, which date


class Decision(Struct, frozen=True):
    """The verdicts of one transaction."""

    stream: Stream
    rulebook: str
    recipients: tuple[Verdict, ...] = ()  # in the order of Transaction.recipients
    message: Verdict | None = None
