"""The vocabularies of decisions (design.md section 2), and one jurisdiction's parameters."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from smtpproxy.policy.periods import Period, Unit, months, years


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


WIDENED_ORIGINS = frozenset(
    {Origin.UNSUBSCRIBE, Origin.COMPLAINT, Origin.OBJECTION, Origin.ERASURE, Origin.EXTERNAL}
)
"""Origins that apply to all variants of a mailbox; the others only to the exact address."""


class Basis(StrEnum):
    """Why a recipient may be mailed."""

    CONSENT = "consent"
    EXISTING_CUSTOMER = "existing_customer"
    PROFESSIONAL = "professional"
    CHARITY = "charity"
    GENERIC_ADDRESS = "generic_address"
    TRANSACTIONAL = "transactional"
    OPT_OUT = "opt_out"  # mail is lawful until the person objects; not in `fr`
    PERMISSION = "permission"  # the one message at the end of a period, on permission streams


class Condition(StrEnum):
    """What a rulebook may require of a basis other than consent."""

    SIMILAR_PRODUCT = "similar_product"
    DIRECT_SOURCE = "direct_source"
    NOTICE = "notice"
    OPTOUT_OFFERED = "optout_offered"
    TOPIC = "topic"
    ACTIVE = "active"


class Dealing(StrEnum):
    """The kinds of dealing that a recorded purchase may be."""

    SALE = "sale"
    INQUIRY = "inquiry"  # asked for an offer, or negotiated
    ACCOUNT = "account"  # opened a free account
    DONATION = "donation"  # gave or offered support to a charity


class Sign(StrEnum):
    """What may count as a person's last activity."""

    COLLECTED = "collected"
    CONSENT = "consent"
    PURCHASE = "purchase"
    POSITIVE_ACT = "positive_act"  # click, reply, login; an open is not one


class Action(StrEnum):
    ALLOW = "allow"
    REFUSE = "refuse"
    DEFER = "defer"


class Mode(StrEnum):
    ENFORCE = "enforce"
    OBSERVE = "observe"


class ExistingUnsubscribe(StrEnum):
    """What becomes of a message's own List-Unsubscribe if the relay adds one."""

    KEEP = "keep"
    REPLACE = "replace"
    REFUSE = "refuse"


class Alignment(StrEnum):
    """Whether the From domain must be that of the envelope sender or of a signature."""

    OFF = "off"
    RELAXED = "relaxed"  # the same organisation
    STRICT = "strict"


class UndeclaredBulk(StrEnum):
    """What becomes of bulk mail on a transactional stream."""

    OBSERVE = "observe"
    REFUSE = "refuse"
    MARKETING = "marketing"  # it is judged as undeclared mail


class TrackingPixels(StrEnum):
    """What becomes of mail that reports its opening, to people who did not agree."""

    ALLOW = "allow"  # nothing is checked
    OBSERVE = "observe"
    REFUSE = "refuse"
    STRIP = "strip"  # they are removed


class PixelSign(StrEnum):
    """Why a picture is taken to report an opening."""

    KNOWN = "known"  # its address is a tracker's
    TINY = "tiny"
    HIDDEN = "hidden"


class ConfirmLink(StrEnum):
    """The state of the confirm link that a permission message has to carry."""

    VALID = "valid"  # one or more, each for the only recipient and the stream
    MISSING = "missing"
    UNKNOWN = "unknown"  # not made here, or altered
    FOREIGN = "foreign"  # for somebody or something else
    OVER = "over"  # expired
    SEVERAL = "several"  # several recipients: a link is for one person


class SignatureState(StrEnum):
    """The state of a DKIM signature that a message came with."""

    VALID = "valid"
    UNCOVERED = "uncovered"  # does not cover both unsubscribe fields; its key was not looked up
    BROKEN = "broken"
    UNUSABLE = "unusable"  # it or its key cannot be used
    UNKNOWN = "unknown"  # the DNS did not answer


class Frequency(StrEnum):
    """How often a person wants mail of one purpose at most, the strictest last."""

    ALL = "all"
    WEEKLY = "weekly"
    MONTHLY = "monthly"


class Reason(StrEnum):
    """The reasons of verdicts. docs/reasons.md has a paragraph for each."""

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
    BRAND_UNPROVEN = "brand_unproven"
    SOURCE_NOT_ANNOUNCED = "source_not_announced"
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
    # a recipient: what the message would report about them
    TRACKING_UNCONSENTED = "tracking_unconsented"
    # a recipient: the message that asks whether to continue
    PERMISSION_NOT_DUE = "permission_not_due"
    PERMISSION_REPEATED = "permission_repeated"
    # a recipient: where the mail would go
    NULL_MX = "null_mx"
    # a recipient: more often than they want
    PREFERENCE_FREQUENCY = "preference_frequency"
    # a recipient: not now
    RESTORE_PENDING = "restore_pending"
    STREAM_PAUSED = "stream_paused"
    FREQUENCY_CAP = "frequency_cap"
    LIST_STALE = "list_stale"
    CAMPAIGN_ON_TRIAL = "campaign_on_trial"
    # a message
    HEADER_MALFORMED = "header_malformed"
    STREAM_NOT_PERMITTED = "stream_not_permitted"
    SENDER_NOT_PERMITTED = "sender_not_permitted"
    FROM_MISALIGNED = "from_misaligned"
    UNSUBSCRIBE_MISSING = "unsubscribe_missing"
    UNSUBSCRIBE_MALFORMED = "unsubscribe_malformed"
    ONE_CLICK_MISSING = "one_click_missing"
    UNSUBSCRIBE_UNSIGNED = "unsubscribe_unsigned"
    BODY_OPTOUT_MISSING = "body_optout_missing"
    SENDER_UNIDENTIFIED = "sender_unidentified"
    SUBJECT_MISLEADING = "subject_misleading"
    CONFIRM_LINK_MISSING = "confirm_link_missing"
    BULK_UNDECLARED = "bulk_undeclared"
    RECIPIENT_LIMIT = "recipient_limit"  # more than the stream allows in one message
    SINGLE_RECIPIENT_REQUIRED = "single_recipient_required"
    RECIPIENTS_REFUSED = "recipients_refused"  # on_mixed = "refuse", or nobody is left
    # internal failures
    TEMPORARY_FAILURE = "temporary_failure"


MESSAGE_REASONS = (
    Reason.HEADER_MALFORMED,
    Reason.STREAM_NOT_PERMITTED,
    Reason.SENDER_NOT_PERMITTED,
    Reason.FROM_MISALIGNED,
    Reason.RECIPIENT_LIMIT,
    Reason.RECIPIENTS_REFUSED,
)
"""Why a message itself is refused, on streams of either class."""

MARKETING_MESSAGE_REASONS = (
    Reason.UNSUBSCRIBE_MISSING,
    Reason.UNSUBSCRIBE_MALFORMED,
    Reason.ONE_CLICK_MISSING,
    Reason.UNSUBSCRIBE_UNSIGNED,
    Reason.BODY_OPTOUT_MISSING,
    Reason.SENDER_UNIDENTIFIED,
    Reason.SUBJECT_MISLEADING,
    Reason.CONFIRM_LINK_MISSING,
    Reason.SINGLE_RECIPIENT_REQUIRED,
)
TRANSACTIONAL_MESSAGE_REASONS = (Reason.BULK_UNDECLARED,)


DOUBLE_OPT_IN = "double_opt_in"
"""The method of a request and its confirmation."""

_ACTIVE_METHODS = frozenset({"unticked_box", DOUBLE_OPT_IN, "signed_form", "verbal_recorded"})


class Rulebook(Struct, frozen=True):
    """The parameters of one jurisdiction, explained one by one in docs/rulebooks.md.

    The defaults are those of `fr` (design.md sections 4 and 5), except for the lists of mailboxes,
    which are empty. A period of None never ends.
    """

    name: str
    bases: tuple[Basis, ...] = (
        Basis.GENERIC_ADDRESS,
        Basis.CONSENT,
        Basis.EXISTING_CUSTOMER,
        Basis.CHARITY,
        Basis.PROFESSIONAL,
    )
    role_local_parts: frozenset[str] = frozenset()
    consumer_domains: frozenset[str] = frozenset()
    # the record and its source
    record_required: bool = True
    restricted_tags: frozenset[str] = frozenset({"restricted"})
    accepted_sources: frozenset[Source] = frozenset({Source.DIRECT})
    disclosed_sources: frozenset[Source] = frozenset(
        {Source.PURCHASED, Source.RENTED, Source.EXCHANGED, Source.PARTNER}
    )
    forbidden_sources: frozenset[Source] = frozenset({Source.WEB, Source.HARVESTED, Source.GUESSED})
    longest_chain: int | None = None  # links of provenance; None: any number
    # consent
    valid_methods: frozenset[str] = _ACTIVE_METHODS
    preticked_methods: frozenset[str] = frozenset({"preticked_box", "implied", "silence"})
    required_evidence: frozenset[str] = frozenset({"wording"})
    conditional_allowed: bool = False
    consent_period: Period | None = years(3)
    # customers
    dealings: frozenset[Dealing] = frozenset({Dealing.SALE})
    customer_period: Period | None = years(3)
    inquiry_period: Period | None = months(6)
    customer_requires: tuple[Condition, ...] = (
        Condition.SIMILAR_PRODUCT,
        Condition.DIRECT_SOURCE,
        Condition.NOTICE,
        Condition.OPTOUT_OFFERED,
    )
    # charities and professionals
    charity_requires: tuple[Condition, ...] = (
        Condition.NOTICE,
        Condition.OPTOUT_OFFERED,
        Condition.ACTIVE,
    )
    charity_dealings: frozenset[Dealing] = frozenset()  # support or interest; empty: none required
    charity_since: datetime | None = None  # only for contacts collected since then
    professional_requires: tuple[Condition, ...] = (
        Condition.NOTICE,
        Condition.OPTOUT_OFFERED,
        Condition.TOPIC,
        Condition.ACTIVE,
    )
    activity_period: Period | None = years(3)
    signs_of_life: frozenset[Sign] = frozenset(Sign)
    permission_window: Period | None = Period(30, Unit.DAYS)  # None: nobody may be asked
    # suppressions
    lifted_by_consent: frozenset[Origin] = frozenset({Origin.UNSUBSCRIBE, Origin.ERASURE})
    lifting_methods: frozenset[str] = _ACTIVE_METHODS
    honour_within: Period = Period(48, Unit.HOURS)
    objection_period: Period | None = Period(30, Unit.DAYS)  # then the contact is deleted
    # messages
    imprint_required: bool = False
    notice_each_use: bool = True
    unsubscribe_valid: Period | None = None
    # the articles of law that each rule carries out, for explanations
    law: Mapping[str, str] = {}
