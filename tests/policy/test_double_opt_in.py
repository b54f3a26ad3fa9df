"""A double opt-in is two acts: a request counts once it has been confirmed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from smtpproxy.explain.trace import trace
from smtpproxy.policy.decide import judge
from smtpproxy.policy.model import (
    CONFIRMATION_STREAM,
    ConsentAct,
    Contact,
    Evidence,
    Origin,
    RecipientFacts,
    Rulebook,
    Suppression,
    Transaction,
)
from tests.policy.cases import (
    ADDRESS,
    AGREED,
    BOOK,
    COLLECTED,
    DAY,
    NOW,
    OFFERS,
    PERSON,
    TICK,
    WITHDRAWN,
    said,
    verdict,
)
from tests.policy.strategies import MOMENTS, cases, untimed

FORM = Evidence("form v3", "192.0.2.7", "3")
REQUEST = ConsentAct("offers", COLLECTED, method="double_opt_in", evidence=FORM, pending=True)
CONFIRMED = replace(REQUEST, at=COLLECTED + DAY, evidence=Evidence(ip="192.0.2.7"), pending=False)
LATER = COLLECTED + 3 * DAY
OLD = AGREED.at - 2000 * DAY

ASKS = replace(CONFIRMATION_STREAM, brand="shop", purpose="offers")


@pytest.mark.parametrize("origin", [Origin.COMPLAINT, Origin.OBJECTION, Origin.UNSUBSCRIBE])
@pytest.mark.parametrize("scope", ["brand:mill", "purpose:letters"])
def test_no_confirmation_after_a_complaint_or_objection_about_anything(
    origin: Origin, scope: str
) -> None:
    """Not even about another brand; whoever unsubscribed may ask again."""
    facts = RecipientFacts(suppressions=(Suppression(scope, origin, COLLECTED),))
    found = judge(Transaction((ASKS,), (ADDRESS,)), {ADDRESS: facts}, BOOK, NOW).recipients[0]
    refused = origin is not Origin.UNSUBSCRIBE
    assert said(found) == (f"refuse suppressed_{origin}" if refused else "allow transactional")


HISTORIES = [
    ((REQUEST,), "refuse consent_unproven"),
    ((REQUEST, CONFIRMED), "allow consent"),
    ((CONFIRMED, REQUEST), "allow consent"),
    ((REQUEST, replace(CONFIRMED, at=COLLECTED)), "allow consent"),
    # the request proves the confirmation, or the confirmation proves itself
    ((CONFIRMED,), "refuse consent_unproven"),
    ((replace(CONFIRMED, evidence=FORM),), "allow consent"),
    ((CONFIRMED, replace(REQUEST, at=LATER)), "refuse consent_unproven"),
    ((replace(REQUEST, purpose="news"), CONFIRMED), "refuse consent_unproven"),
    ((replace(REQUEST, evidence=Evidence()), CONFIRMED), "refuse consent_unproven"),
    # it confirms the newest request
    ((replace(REQUEST, at=OLD, conditional=True), REQUEST, CONFIRMED), "allow consent"),
    ((REQUEST, replace(REQUEST, at=OLD, evidence=Evidence()), CONFIRMED), "allow consent"),
    # made to the same brand, or without naming one
    ((REQUEST, replace(CONFIRMED, brand="default")), "allow consent"),
    (
        (replace(REQUEST, brand="default"), replace(CONFIRMED, brand="default")),
        "allow consent",
    ),
    # other methods must prove themselves
    ((REQUEST, replace(CONFIRMED, method="signed_form")), "refuse consent_unproven"),
    # a condition counts whichever of the two states it
    ((replace(REQUEST, conditional=True), CONFIRMED), "refuse consent_conditional"),
    ((REQUEST, replace(CONFIRMED, conditional=True)), "refuse consent_conditional"),
    # something anybody could have typed undoes nothing the person said
    ((AGREED, replace(REQUEST, at=LATER)), "allow consent"),
    ((WITHDRAWN, replace(REQUEST, at=LATER)), "refuse consent_withdrawn"),
    ((WITHDRAWN, replace(REQUEST, at=LATER), replace(CONFIRMED, at=LATER + DAY)), "allow consent"),
    ((replace(AGREED, method="silence"), replace(REQUEST, at=LATER)), "refuse consent_preticked"),
    # acts in the future
    ((REQUEST, replace(CONFIRMED, at=NOW)), "allow consent"),
    ((REQUEST, replace(CONFIRMED, at=NOW + TICK)), "refuse consent_unproven"),
]


@pytest.mark.parametrize(("acts", "expected"), HISTORIES)
def test_histories_of_double_opt_in(acts: tuple[ConsentAct, ...], expected: str) -> None:
    assert said(verdict(replace(PERSON, acts=acts))) == expected


def test_a_request_is_not_a_sign_of_life() -> None:
    silent = replace(PERSON, collected_at=OLD, informed_at=OLD)
    agreed_long_ago = replace(silent, acts=(replace(AGREED, at=OLD),))
    asked_again = replace(silent, acts=(*agreed_long_ago.acts, replace(REQUEST, at=NOW)))
    confirmed = replace(silent, acts=(*asked_again.acts, replace(CONFIRMED, at=NOW)))
    assert said(verdict(agreed_long_ago)) == "refuse consent_expired"
    assert said(verdict(asked_again)) == "refuse consent_expired"
    assert said(verdict(confirmed)) == "allow consent"


def test_a_request_lifts_no_unsubscribe_and_its_confirmation_does() -> None:
    gone = Suppression("all", Origin.UNSUBSCRIBE, COLLECTED - DAY)
    asked = replace(PERSON, acts=(REQUEST,))
    assert said(verdict(asked, gone)) == "refuse suppressed_unsubscribe"
    assert said(verdict(replace(PERSON, acts=(REQUEST, CONFIRMED)), gone)) == "allow consent"


def test_an_unconfirmed_request_is_explained_in_plain_words() -> None:
    facts = {ADDRESS: RecipientFacts(contact=replace(PERSON, acts=(REQUEST,)))}
    steps = trace(Transaction((OFFERS,), (ADDRESS,)), 0, facts, BOOK, NOW)
    told = {step.rule: step.text for step in steps}
    assert told["consent"] == "the double opt-in of 1 March 2025 was not confirmed"


requests = st.builds(
    ConsentAct,
    purpose=st.just("offers"),
    at=st.sampled_from(MOMENTS),
    method=st.sampled_from(["double_opt_in", "unticked_box", None]),
    evidence=st.sampled_from([FORM, Evidence()]),
    pending=st.just(True),
)


@untimed
@given(cases, requests)
def test_a_request_alone_neither_lets_mail_through_nor_stops_it(
    case: tuple[str, object, RecipientFacts], request: ConsentAct
) -> None:
    """None of the random acts is a confirmation."""
    address, _, facts = case
    known = facts.contact or Contact(ADDRESS)
    before = _judged(address, known, facts)
    after = _judged(address, replace(known, acts=(*known.acts, request)), facts)
    if before != after:  # the request then came nearest to a basis
        assert before.startswith("refuse")
        assert after == "refuse consent_unproven"


def _judged(address: str, contact: Contact, facts: RecipientFacts) -> str:
    asked = Transaction((OFFERS,), (address,))
    known = {address: replace(facts, contact=contact)}
    return said(judge(asked, known, BOOK, NOW).recipients[0])


@pytest.mark.parametrize(
    ("required", "expected"),
    [
        ({"wording", "version"}, "allow"),
        ({"wording", "ip"}, "allow"),
        ({"wording", "form"}, "refuse"),
        ({"document_hash"}, "refuse"),
        (set(), "allow"),
    ],
)
def test_either_act_may_hold_the_evidence_a_rulebook_requires(
    required: set[str], expected: str
) -> None:
    book: Rulebook = replace(BOOK, required_evidence=frozenset(required))
    facts = {ADDRESS: RecipientFacts(contact=replace(PERSON, acts=(REQUEST, CONFIRMED)))}
    (answer,) = judge(Transaction((OFFERS,), (ADDRESS,)), facts, book, NOW).recipients
    assert answer.action == expected
