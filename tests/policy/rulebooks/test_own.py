"""Every parameter makes a difference between `fr` and a custom rulebook."""

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from smtpproxy.policy.decide import judge
from smtpproxy.policy.model import (
    Audience,
    Contact,
    Dealing,
    Evidence,
    Link,
    Origin,
    Provenance,
    Purchase,
    RecipientFacts,
    Source,
    Stream,
    Suppression,
    Transaction,
)
from smtpproxy.policy.rulebooks import PARAMETERS, builtin, parse_rulebook
from tests.policy.cases import said
from tests.policy.rulebooks.people import (
    ADDRESS,
    APPEAL,
    DAY,
    NOW,
    OFFERS,
    PERSON,
    TICK,
    account,
    agreed,
    agreed_since,
    asked,
    at_work,
    bought,
    by,
    seen,
    stopped,
    told,
)

TWO_HANDS = Provenance(chain=(Link("Collector", True), Link("Broker", True)))
NINETY_DAYS_AGO = NOW - 90 * DAY
EIGHTEEN_MONTHS_AGO = datetime(2025, 2, 28, 12, tzinfo=UTC)
LONG_SILENT = agreed(at=datetime(2020, 1, 1, tzinfo=UTC))
COLLECTED_TWICE = seen(LONG_SILENT, NOW)
AGREED_TO_NEWS = replace(
    LONG_SILENT, acts=(*LONG_SILENT.acts, replace(agreed().acts[0], purpose="news"))
)
DONATION = Purchase("support", NOW - DAY, Dealing.DONATION)

THREE_YEARS_AGO = NOW.replace(year=NOW.year - 3)
ENDED_LATELY = seen(agreed(at=THREE_YEARS_AGO - 7 * DAY), THREE_YEARS_AGO - 7 * DAY)
LONG_ENDED = seen(agreed(at=THREE_YEARS_AGO - 40 * DAY), THREE_YEARS_AGO - 40 * DAY)

Case = tuple[str, Contact | None, str, str]
CASES: list[Case] = [
    ('bases = ["consent", "professional", "existing_customer"]',
     replace(bought(), audience=Audience.PROFESSIONAL, occupations=frozenset({"retail"}),
             collected_at=NOW, informed_at=NOW),
     "allow existing_customer", "allow professional"),
    ('bases = ["consent"]', bought(), "allow existing_customer", "refuse consent_missing"),
    ('bases = ["consent", "opt_out"]', PERSON, "refuse consent_missing", "allow opt_out"),
    # the first existing basis that fails gives the reason
    ('bases = ["existing_customer", "consent"]',
     replace(bought("hats"), acts=agreed("silence").acts),
     "refuse consent_preticked", "refuse product_not_similar"),
    ("record_required = false", None, "refuse no_record", "refuse source_unproven"),
    ('restricted_tags = ["vip"]', replace(agreed(), tags=frozenset({"vip"})),
     "allow consent", "refuse contact_restricted"),
    ("restricted_tags = []", replace(agreed(), tags=frozenset({"restricted"})),
     "refuse contact_restricted", "allow consent"),
    ('[add]\naccepted_sources = ["unknown"]', by(agreed(), None),
     "refuse source_unproven", "allow consent"),
    ('disclosed_sources = ["partner"]', by(agreed(), Source.RENTED, TWO_HANDS),
     "allow consent", "refuse source_unproven"),
    ('forbidden_sources = ["unknown"]', by(agreed(), Source.WEB),
     "refuse source_forbidden", "refuse source_unproven"),
    ("longest_chain = 1", by(agreed(), Source.PARTNER, TWO_HANDS),
     "allow consent", "refuse source_undisclosed"),
    ('[add]\nvalid_methods = ["kiosk"]', agreed("kiosk"),
     "refuse consent_unproven", "allow consent"),
    ('[add]\npreticked_methods = ["kiosk"]', agreed("kiosk"),
     "refuse consent_unproven", "refuse consent_preticked"),
    ('required_evidence = ["document_hash"]', agreed(), "allow consent",
     "refuse consent_unproven"),
    ("required_evidence = []", agreed(evidence=Evidence()), "refuse consent_unproven",
     "allow consent"),
    ("conditional_allowed = true", agreed(conditional=True), "refuse consent_conditional",
     "allow consent"),
    ("conditional_allowed = true", agreed_since(conditional=True), "refuse consent_withdrawn",
     "allow consent"),
    ("consent_days = 90", seen(agreed(at=NINETY_DAYS_AGO), NINETY_DAYS_AGO),
     "allow consent", "allow consent"),
    ("consent_days = 90", seen(agreed(at=NINETY_DAYS_AGO - TICK), NINETY_DAYS_AGO - TICK),
     "allow consent", "refuse consent_expired"),
    ("customer_months = 18", bought(at=EIGHTEEN_MONTHS_AGO),
     "allow existing_customer", "allow existing_customer"),
    ("customer_months = 18", bought(at=EIGHTEEN_MONTHS_AGO - TICK),
     "allow existing_customer", "refuse customer_stale"),
    ('dealings = ["sale", "account"]', account(), "refuse consent_missing",
     "allow existing_customer"),
    ('dealings = ["inquiry"]', bought(), "allow existing_customer", "refuse consent_missing"),
    ('dealings = ["sale", "inquiry"]\ninquiry_days = 90', asked(at=NINETY_DAYS_AGO - TICK),
     "refuse consent_missing", "refuse customer_stale"),
    ('customer_requires = ["active"]', seen(bought("hats"), NOW), "refuse product_not_similar",
     "allow existing_customer"),
    ('professional_requires = ["notice", "topic"]', told(at_work("retail"), free=False),
     "refuse optout_not_offered", "allow professional"),
    ('professional_requires = ["active"]', replace(at_work(), collected_at=None),
     "refuse notice_missing", "refuse inactive"),
    ('activity_period = "unlimited"', at_work("retail"), "refuse inactive",
     "allow professional"),
    ('signs_of_life = ["consent"]', COLLECTED_TWICE, "allow consent", "refuse consent_expired"),
    ('signs_of_life = ["consent"]', replace(LONG_SILENT, purchases=bought("hats").purchases),
     "allow consent", "refuse consent_expired"),
    ('signs_of_life = ["consent"]', replace(LONG_SILENT, last_activity_at=NOW),
     "allow consent", "refuse consent_expired"),
    ('signs_of_life = ["purchase"]', AGREED_TO_NEWS, "allow consent", "refuse consent_expired"),
    # a purchase of an unknown kind says nothing
    ('dealings = ["sale", "inquiry"]', replace(LONG_SILENT, purchases=asked("hats").purchases),
     "refuse consent_expired", "allow consent"),
    ('charity_dealings = ["donation"]', replace(LONG_SILENT, purchases=(DONATION,)),
     "refuse consent_expired", "allow consent"),
]  # fmt: skip

ADDRESSES = [
    ('[add]\nrole_local_parts = ["jeanne"]', ADDRESS, "refuse no_record", "allow generic_address"),
    (
        '[add]\nconsumer_domains = ["example.org"]',
        "contact@example.org",
        "allow generic_address",
        "refuse no_record",
    ),
]

ORDERS = [
    ("lifted_by_consent = []", stopped(), "allow consent", "refuse suppressed_unsubscribe"),
    (
        '[add]\nlifted_by_consent = ["objection"]',
        stopped(Origin.OBJECTION),
        "refuse suppressed_objection",
        "allow consent",
    ),
    (
        'lifting_methods = ["signed_form"]',
        stopped(),
        "allow consent",
        "refuse suppressed_unsubscribe",
    ),
]

SUPPORTERS = [
    (
        "charity_since = 2026-08-29",
        seen(PERSON, NOW),
        "allow charity",
        "refuse consent_missing",
    ),
    ("charity_since = 2026-08-28", seen(PERSON, NOW), "allow charity", "allow charity"),
    ('charity_requires = ["notice"]', told(PERSON, free=False), "refuse optout_not_offered",
     "allow charity"),
    ('charity_dealings = ["donation"]', seen(PERSON, NOW), "allow charity",
     "refuse consent_missing"),
]  # fmt: skip

ASKING = [
    ('permission_window = "2 months"', LONG_ENDED, "refuse permission_not_due", "allow permission"),
    ('permission_window = "none"', ENDED_LATELY, "allow permission",
     "refuse permission_not_due"),
]  # fmt: skip

# No rule uses these: they are for other parts of the program, or for people.
ELSEWHERE = {"honour_within", "imprint_required", "notice_each_use", "unsubscribe_valid", "law"}


def _answers(
    text: str,
    contact: Contact | None,
    *suppressions: Suppression,
    stream: Stream = OFFERS,
    address: str = ADDRESS,
) -> tuple[str, str]:
    """The answers under `fr`, and under a rulebook that extends it by `text`."""
    asked = Transaction((stream,), (address,))
    facts = {address: RecipientFacts(suppressions, contact)}
    own = parse_rulebook(f'name = "own"\nextends = "fr"\n{text}')
    here, there = (judge(asked, facts, book, NOW).recipients[0] for book in (builtin("fr"), own))
    return said(here), said(there)


@pytest.mark.parametrize(("text", "contact", "usual", "own"), CASES)
def test_people(text: str, contact: Contact | None, usual: str, own: str) -> None:
    assert _answers(text, contact) == (usual, own)


@pytest.mark.parametrize(("text", "address", "usual", "own"), ADDRESSES)
def test_unknown_addresses(text: str, address: str, usual: str, own: str) -> None:
    assert _answers(text, None, address=address) == (usual, own)


@pytest.mark.parametrize(("text", "order", "usual", "own"), ORDERS)
def test_which_consent_lifts_a_suppression(
    text: str, order: Suppression, usual: str, own: str
) -> None:
    assert _answers(text, agreed(), order) == (usual, own)


@pytest.mark.parametrize(("text", "contact", "usual", "own"), ASKING)
def test_permission_requests(text: str, contact: Contact, usual: str, own: str) -> None:
    stream = replace(OFFERS, permission=True)
    assert _answers(text, contact, stream=stream) == (usual, own)


@pytest.mark.parametrize(("text", "contact", "usual", "own"), SUPPORTERS)
def test_supporters(text: str, contact: Contact, usual: str, own: str) -> None:
    assert _answers(text, contact, stream=APPEAL) == (usual, own)


def test_every_parameter_is_tested() -> None:
    texts = " ".join(row[0] for row in [*CASES, *ADDRESSES, *ORDERS, *SUPPORTERS, *ASKING])
    stems = {name: name.removesuffix("_period") for name in PARAMETERS}
    left_out = {name for name, stem in stems.items() if stem not in texts}
    assert left_out == ELSEWHERE
