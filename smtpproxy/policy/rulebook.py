"""The parameters of one jurisdiction."""

from collections.abc import Mapping
from datetime import datetime

from msgspec import Struct

from smtpproxy.policy.periods import Period, Unit, months, years
from smtpproxy.policy.terms import Basis, Condition, Dealing, Origin, Sign, Source

_ACTIVE_METHODS = frozenset({"unticked_box", "double_opt_in", "signed_form", "verbal_recorded"})


class Rulebook(Struct, frozen=True):
    """The parameters of one jurisdiction, explained one by one in docs/rulebooks.md.

    The defaults are those of `fr` (design.md sections 4 and 5), but for the lists of
    mailboxes, which are empty. A period of None is without end.
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
    charity_dealings: frozenset[Dealing] = frozenset()  # support or interest; empty: none is asked
    charity_since: datetime | None = None  # only contacts collected from then on
    professional_requires: tuple[Condition, ...] = (
        Condition.NOTICE,
        Condition.OPTOUT_OFFERED,
        Condition.TOPIC,
        Condition.ACTIVE,
    )
    activity_period: Period | None = years(3)
    signs_of_life: frozenset[Sign] = frozenset(Sign)
    # suppressions
    lifted_by_consent: frozenset[Origin] = frozenset({Origin.UNSUBSCRIBE, Origin.ERASURE})
    lifting_methods: frozenset[str] = _ACTIVE_METHODS
    honour_within: Period = Period(48, Unit.HOURS)
    objection_period: Period | None = Period(30, Unit.DAYS)  # then the contact goes
    # messages
    imprint_required: bool = False
    notice_each_use: bool = True
    unsubscribe_valid: Period | None = None
    # rule to the articles of law that it carries out, for explanations
    law: Mapping[str, str] = {}
