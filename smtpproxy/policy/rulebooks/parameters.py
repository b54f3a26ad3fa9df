"""What a rulebook can say: every parameter and how it is written.

docs/rulebooks.md explains them and shows the values of the built-in rulebooks; a test
holds the two together.
"""

from smtpproxy.policy.model import Basis, Condition, Dealing, Evidence, Origin, Sign, Source
from smtpproxy.policy.periods import Unit
from smtpproxy.policy.rulebooks.kinds import (
    CountKind,
    DayKind,
    FlagKind,
    Kind,
    MembersKind,
    OrderKind,
    PeriodKind,
    TextsKind,
    WordsKind,
    domain,
    local_part,
)
from smtpproxy.policy.rules import table

_CLOCK = PeriodKind((Unit.YEARS, Unit.MONTHS, Unit.DAYS))
_SOURCES = MembersKind(tuple(Source), Source)
_IN_FORCE = tuple(basis for basis in Basis if basis is not Basis.TRANSACTIONAL)
_NOT_SIMILAR = tuple(each for each in Condition if each is not Condition.SIMILAR_PRODUCT)
# A mailbox that bounces is not mended by consent, and what somebody else entered is not the
# person's order alone.
_LIFTABLE = (Origin.UNSUBSCRIBE, Origin.COMPLAINT, Origin.OBJECTION, Origin.ERASURE)
_RULES = tuple(
    rule.name
    for rules in (
        table.recipient_rules(_IN_FORCE),
        table.DELIVERY_RULES,
        table.MESSAGE_RULES,
        table.TRANSACTIONAL_MESSAGE_RULES[-1:],  # the others are among the ones before
    )
    for rule in rules
)

PARAMETERS: dict[str, Kind] = {
    "bases": OrderKind(_IN_FORCE, Basis),
    "role_local_parts": WordsKind(local_part),
    "consumer_domains": WordsKind(domain),
    "record_required": FlagKind(),
    "restricted_tags": WordsKind(),
    "accepted_sources": _SOURCES,
    "disclosed_sources": _SOURCES,
    "forbidden_sources": _SOURCES,
    "longest_chain": CountKind(),
    "valid_methods": WordsKind(),
    "preticked_methods": WordsKind(),
    "required_evidence": MembersKind(Evidence.__struct_fields__),
    "conditional_allowed": FlagKind(),
    "consent_period": _CLOCK,
    "dealings": MembersKind(tuple(Dealing), Dealing),
    "customer_period": _CLOCK,
    "inquiry_period": _CLOCK,
    "customer_requires": OrderKind(tuple(Condition), Condition),
    "charity_requires": OrderKind(_NOT_SIMILAR, Condition),
    "charity_dealings": MembersKind(tuple(Dealing), Dealing),
    "charity_since": DayKind(),
    "professional_requires": OrderKind(_NOT_SIMILAR, Condition),
    "activity_period": _CLOCK,
    "signs_of_life": MembersKind(tuple(Sign), Sign),
    "lifted_by_consent": MembersKind(_LIFTABLE, Origin),
    "lifting_methods": WordsKind(),
    "honour_within": PeriodKind((Unit.HOURS, Unit.DAYS, Unit.BUSINESS_DAYS), unlimited=False),
    "imprint_required": FlagKind(),
    "notice_each_use": FlagKind(),
    "unsubscribe_valid": PeriodKind((Unit.DAYS,)),
    "law": TextsKind(_RULES),
}

SHORTHANDS: dict[str, tuple[str, Unit]] = {
    name.replace("_period", f"_{unit}"): (name, unit)
    for name, kind in PARAMETERS.items()
    if kind is _CLOCK
    for unit in _CLOCK.units
}
"""A period may say its unit in the key: `customer_years = 3` is `customer_period = "3 years"`."""
