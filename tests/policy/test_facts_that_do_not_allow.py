"""Facts that are missing, in the future or no agreement never let mail through."""

from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest
from msgspec.structs import replace

from smtpproxy.policy.decide import judge
from smtpproxy.policy.model import (
    Audience,
    Contact,
    Evidence,
    Link,
    Provenance,
    RecipientFacts,
    Source,
    Stream,
    Transaction,
)
from smtpproxy.policy.rulebooks import builtin
from tests.policy.cases import (
    ADDRESS,
    AGREED,
    APPEAL,
    BUYER,
    COLLECTED,
    CUSTOMER,
    DAY,
    NOW,
    OFFERS,
    PERSON,
    SUBSCRIBER,
    WITHDRAWN,
    said,
    verdict,
)

LATER = COLLECTED + 2 * DAY


def _under(rulebook: str, contact: Contact, stream: Stream = OFFERS) -> str:
    asked = Transaction((stream,), (ADDRESS,))
    facts = {ADDRESS: RecipientFacts(contact=contact)}
    return said(judge(asked, facts, builtin(rulebook), NOW).recipients[0])


NO_AGREEMENT: list[dict[str, Any]] = [
    {"method": "silence"},
    {"method": "preticked_box"},
    {"method": "implied"},
    {"method": "carrier_pigeon"},
    {"method": None},
    {"conditional": True},
    {"evidence": Evidence()},
    {"channels": frozenset({"sms"})},
]


@pytest.mark.parametrize("changes", NO_AGREEMENT)
@pytest.mark.parametrize("contact", [SUBSCRIBER, CUSTOMER, BUYER])
def test_invalid_consent_undoes_no_withdrawal(contact: Contact, changes: dict[str, Any]) -> None:
    later = replace(AGREED, at=LATER, **changes)
    acts = (AGREED, WITHDRAWN, later)
    for order in permutations(acts):
        assert said(verdict(replace(contact, acts=order))) == "refuse consent_withdrawn"
    agreed_again = replace(AGREED, at=LATER + DAY)
    assert said(verdict(replace(contact, acts=(*acts, agreed_again)))) == "allow consent"


@pytest.mark.parametrize("changes", [c for c in NO_AGREEMENT if "evidence" not in c])
def test_the_strictest_of_simultaneous_acts_counts(changes: dict[str, Any]) -> None:
    other = replace(AGREED, **changes)
    alone = said(verdict(replace(PERSON, acts=(other,))))
    for acts in permutations([AGREED, other]):
        assert said(verdict(replace(PERSON, acts=acts))) == alone
    after = (WITHDRAWN, replace(AGREED, at=LATER), replace(other, at=LATER))
    for acts in permutations(after):
        assert said(verdict(replace(CUSTOMER, acts=acts))) == "refuse consent_withdrawn"


def test_evidence_found_later_completes_an_act() -> None:
    for acts in permutations([AGREED, replace(AGREED, evidence=Evidence())]):
        assert said(verdict(replace(PERSON, acts=acts))) == "allow consent"


@pytest.mark.parametrize("offered", [None, False])
def test_an_unrecorded_offer_to_refuse_counts_as_none(offered: bool | None) -> None:
    for contact, stream in ((CUSTOMER, OFFERS), (PERSON, APPEAL), (BUYER, OFFERS)):
        known = replace(contact, optout_offered=offered)
        assert said(verdict(known, stream=stream)) == "refuse optout_not_offered"


def test_missing_facts_are_not_a_refusal() -> None:
    assert Contact(ADDRESS).optout_offered is None
    assert Provenance("X").sender_disclosed is None
    assert Link("X").sender_disclosed is None


def test_an_unrecorded_disclosure_counts_as_none() -> None:
    bought = replace(SUBSCRIBER, source=Source.PURCHASED, provenance=Provenance("X"))
    assert said(verdict(bought)) == "refuse source_undisclosed"


def test_professionals_must_have_been_offered_to_refuse_at_collection() -> None:
    """CNIL, 27 January 2022: without that offer, only consent allows mail."""
    assert _under("fr", BUYER) == "allow professional"
    assert _under("fr", replace(BUYER, optout_offered=False)) == "refuse optout_not_offered"
    assert _under("fr", replace(BUYER, informed_at=None)) == "refuse notice_missing"
    unrelated = replace(BUYER, optout_offered=False, occupations=frozenset())
    assert _under("fr", unrelated) == "refuse optout_not_offered"


TO_COME = [datetime(2062, 1, 1, tzinfo=UTC), NOW + timedelta(microseconds=1), NOW + 400 * DAY]


@pytest.mark.parametrize("at", TO_COME)
def test_a_collection_in_the_future_makes_no_supporter(at: datetime) -> None:
    new = replace(PERSON, collected_at=at, informed_at=COLLECTED)
    assert _under("uk", new, APPEAL) == "refuse consent_missing"


@pytest.mark.parametrize("at", TO_COME)
def test_a_collection_in_the_future_hides_no_late_notice(at: datetime) -> None:
    """Collected in March, informed in April: a wrong year must not make that look right."""
    late = replace(CUSTOMER, informed_at=COLLECTED + 30 * DAY)
    assert said(verdict(late)) == "refuse notice_missing"
    assert said(verdict(replace(late, collected_at=at))) == "refuse notice_missing"
    for contact in (BUYER, PERSON):
        told = replace(contact, collected_at=at)
        assert said(verdict(told, stream=APPEAL)) == "refuse notice_missing"


def test_other_facts_in_the_future_allow_nothing() -> None:
    hand = Provenance(chain=(Link("X", sender_disclosed=True, at=NOW + DAY),))
    bought = replace(SUBSCRIBER, source=Source.PURCHASED, provenance=hand)
    assert said(verdict(bought)) == "refuse source_undisclosed"
    silent = COLLECTED - 5000 * DAY
    old = replace(BUYER, collected_at=silent, informed_at=silent, last_activity_at=NOW + DAY)
    assert said(verdict(old)) == "refuse inactive"
    told = replace(BUYER, audience=Audience.PROFESSIONAL, informed_at=NOW + DAY)
    assert said(verdict(told)) == "refuse notice_missing"
    assert said(verdict(replace(PERSON, acts=(replace(AGREED, at=NOW + DAY),)))) == (
        "refuse consent_unproven"
    )
