"""Explanations name the periods, conditions and law of the rulebook in use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from smtpproxy.explain.trace import TraceStep, message_trace, trace
from smtpproxy.policy.decide import judge
from smtpproxy.policy.model import (
    Contact,
    Dealing,
    Evidence,
    Link,
    Provenance,
    Purchase,
    RecipientFacts,
    Source,
    Stream,
    Transaction,
)
from smtpproxy.policy.rulebooks import BUILTIN_NAMES, builtin
from tests.policy.cases import GOOD_MESSAGE
from tests.policy.cases import NOW as OTHER_NOW
from tests.policy.rulebooks.people import (
    ADDRESS,
    APPEAL,
    LONG_AGO,
    NOW,
    OFFERS,
    PERSON,
    TWO_YEARS_AGO,
    agreed,
    asked,
    at_work,
    bought,
    by,
    seen,
)
from tests.policy.strategies import cases, untimed


def _steps(rulebook: str, contact: Contact | None, stream: Stream = OFFERS) -> dict[str, TraceStep]:
    facts = {ADDRESS: RecipientFacts(contact=contact)}
    steps = trace(Transaction((stream,), (ADDRESS,)), 0, facts, builtin(rulebook), NOW)
    return {step.rule: step for step in steps}


@untimed
@given(cases, st.sampled_from(BUILTIN_NAMES))
def test_the_trace_ends_where_the_verdict_was_made(
    case: tuple[str, Stream, RecipientFacts], rulebook: str
) -> None:
    address, stream, facts = case
    asked_for = Transaction((stream,), (address,))
    book = builtin(rulebook)
    (verdict,) = judge(asked_for, {address: facts}, book, OTHER_NOW).recipients
    steps = trace(asked_for, 0, {address: facts}, book, OTHER_NOW)
    decided = [step for step in steps if step.outcome != "passed"]
    assert (decided[-1].rule, decided[-1].outcome) == (verdict.rule, verdict.action)
    assert all(step.text and step.source for step in steps)
    assert not any("None" in step.text or "{" in step.text for step in steps)


TOLD = [
    ("fr", bought(), OFFERS, "existing_customer",
     "the person bought a product of stream offers in the last 3 years, and was told about"
     " such mail and had a way to refuse when the address was collected"),
    ("uk", bought(), OFFERS, "existing_customer",
     "the person bought or asked for a product of stream offers, and was told about such mail and"
     " had a way to refuse when the address was collected"),
    ("ca", bought("hats"), OFFERS, "existing_customer",
     "the person has been a customer in the last 2 years (for an inquiry, in the last 6 months)"),
    ("ca", asked(at=TWO_YEARS_AGO), OFFERS, "existing_customer",
     "the person bought nothing in the last 2 years (for an inquiry, in the last 6 months)"),
    ("de", bought("hats"), OFFERS, "existing_customer",
     "nothing the person bought is a product of stream offers"),
    ("uk", at_work("mining"), OFFERS, "professional",
     "the person is a professional and was told about such mail when the address was collected;"
     " last activity on 1 January 2010"),
    ("ca", at_work("retail"), OFFERS, "professional",
     "the person is a professional and was told about such mail when the address was collected,"
     " and the mail is about their work; last activity on 1 January 2010"),
    ("uk", seen(replace(PERSON, purchases=(Purchase("x", NOW, Dealing.DONATION),)), NOW), APPEAL,
     "charity",
     "stream appeal belongs to a charity; the person was told about such mail and"
     " had a way to refuse when the address was collected; last activity on 28 August 2026"),
    ("uk", PERSON, APPEAL, "charity",
     "stream appeal does not belong to a charity, or the contact is not a supporter collected since"
     " 5 February 2026"),
    ("us", None, OFFERS, "no_record",
     "the address is not on record, and rulebook us does not require it"),
    ("us", None, OFFERS, "source", "rulebook us accepts the source unknown"),
    ("us", by(PERSON, Source.WEB), OFFERS, "source", "rulebook us accepts the source web"),
    ("us", PERSON, OFFERS, "opt_out",
     "mail is lawful until the person objects, and no objection is on record"),
    ("eu-strict", agreed(evidence=Evidence("v3")), OFFERS, "consent",
     "the consent of 27 August 2026 lacks an active method or its wording and form"),
    ("eu-strict", agreed(at=LONG_AGO), OFFERS, "consent",
     "last activity on 1 January 2010; consent lapses after 3 years without any"),
    ("eu-strict",
     by(agreed(), Source.PARTNER, Provenance(chain=(Link("A", True), Link("B", True)))),
     OFFERS, "source",
     "the source is partner, through 2 suppliers: the most allowed is 1"),
]  # fmt: skip


@pytest.mark.parametrize(("rulebook", "contact", "stream", "rule", "text"), TOLD)
def test_reasons_as_people_read_them(
    rulebook: str, contact: Contact | None, stream: Stream, rule: str, text: str
) -> None:
    assert _steps(rulebook, contact, stream)[rule].text == text


SOURCES = [
    ("fr", "design 4.8; A6 to A9, A11; CPCE, art. L. 34-5"),
    ("uk", "design 4.8; A6 to A9, A11; PECR reg. 22(3)"),
    ("de", "design 4.8; A6 to A9, A11; UWG § 7(3)"),
    ("ca", "design 4.8; A6 to A9, A11; CASL s. 10(9)(a), 10(10)"),
    ("eu-strict", "design 4.8; A6 to A9, A11; ePrivacy Directive art. 13(2)"),
]


@pytest.mark.parametrize(("rulebook", "source"), SOURCES)
def test_the_law_cited_is_the_rulebooks(rulebook: str, source: str) -> None:
    assert _steps(rulebook, bought())["existing_customer"].source == source


def test_only_the_french_rulebook_cites_french_law() -> None:
    busy = replace(PERSON, purchases=(Purchase("hats", LONG_AGO),))
    for name in BUILTIN_NAMES:
        steps = [*_steps(name, busy).values(), *_steps(name, None).values()]
        steps += message_trace(OFFERS, GOOD_MESSAGE, builtin(name))
        assert any("CPCE" in step.source for step in steps) == (name == "fr")


def test_rules_about_messages_cite_the_law_too() -> None:
    steps = {step.rule: step for step in message_trace(OFFERS, GOOD_MESSAGE, builtin("us"))}
    assert steps["unsubscribe_present"].source == "design 6; A12; 15 U.S.C. 7704(a)(3)"
