"""The first message to somebody must name the source, unless they gave the address."""

from typing import Any

import pytest
from msgspec.structs import replace

from smtpproxy.explain.trace import trace
from smtpproxy.policy.decide import judge
from smtpproxy.policy.model import (
    Audience,
    Contact,
    MessageFeatures,
    Provenance,
    RecipientFacts,
    Source,
    Stream,
    Transaction,
)
from smtpproxy.policy.rulebooks import builtin
from tests.policy.cases import (
    ADDRESS,
    BOOK,
    DAY,
    DISCLOSED,
    GOOD_MESSAGE,
    NOW,
    OFFERS,
    RECEIPTS,
    SUBSCRIBER,
    TICK,
    said,
)

ASKING = replace(OFFERS, first_contact_notice=True)
STATED = replace(GOOD_MESSAGE, source_statement="Lists Ltd gave us your address.")
HANDED_ON = replace(SUBSCRIBER, source=Source.PARTNER, provenance=DISCLOSED)
MAILED_BEFORE = replace(HANDED_ON, first_contacted_at=NOW - DAY)

Outcome = tuple[str, str]


def _both(
    contact: Contact | None,
    stream: Stream,
    message: MessageFeatures,
    rulebook: str = "fr",
    address: str = ADDRESS,
) -> Outcome:
    """The verdict at RCPT, and the final one."""
    book = builtin(rulebook)
    facts = {address: RecipientFacts(contact=contact)}
    at_rcpt = judge(Transaction((stream,), (address,)), facts, book, NOW).recipients
    asked = Transaction((stream,), (address,), message)
    (in_the_end,) = judge(asked, facts, book, NOW).recipients
    return said(at_rcpt[0]), said(in_the_end)


ALLOWED = ("allow consent", "allow consent")
REFUSED = ("allow consent", "refuse source_not_announced")
CASES: list[tuple[Contact | None, Stream, MessageFeatures, Outcome]] = [
    (HANDED_ON, ASKING, GOOD_MESSAGE, REFUSED),
    (HANDED_ON, ASKING, STATED, ALLOWED),
    (HANDED_ON, OFFERS, GOOD_MESSAGE, ALLOWED),
    (MAILED_BEFORE, ASKING, GOOD_MESSAGE, ALLOWED),
    (replace(HANDED_ON, first_contacted_at=NOW), ASKING, GOOD_MESSAGE, ALLOWED),
    (replace(HANDED_ON, first_contacted_at=NOW + TICK), ASKING, GOOD_MESSAGE, REFUSED),
    (SUBSCRIBER, ASKING, GOOD_MESSAGE, ALLOWED),
    (
        replace(HANDED_ON, audience=Audience.GENERIC),
        ASKING,
        GOOD_MESSAGE,
        ("allow generic_address", "allow generic_address"),
    ),
    (
        HANDED_ON,
        replace(RECEIPTS, first_contact_notice=True),
        GOOD_MESSAGE,
        ("allow transactional", "allow transactional"),
    ),
    (None, ASKING, STATED, ("refuse no_record", "refuse no_record")),
]


@pytest.mark.parametrize(("contact", "stream", "message", "expected"), CASES)
def test_first_messages(
    contact: Contact | None, stream: Stream, message: MessageFeatures, expected: Outcome
) -> None:
    assert _both(contact, stream, message) == expected


def test_mail_sent_by_the_relay_itself_counts_as_earlier_mail() -> None:
    asked = Transaction((ASKING,), (ADDRESS,), GOOD_MESSAGE)
    for first, expected in ((NOW, "allow consent"), (NOW + TICK, "refuse source_not_announced")):
        facts = {ADDRESS: RecipientFacts(contact=HANDED_ON, first_mailed_at=first)}
        assert said(judge(asked, facts, BOOK, NOW).recipients[0]) == expected


def test_a_refusal_comes_before_a_deferral() -> None:
    asked = Transaction((replace(ASKING, paused=True),), (ADDRESS,), GOOD_MESSAGE)
    facts = {ADDRESS: RecipientFacts(contact=HANDED_ON)}
    assert said(judge(asked, facts, BOOK, NOW).recipients[0]) == "refuse source_not_announced"


def test_a_source_is_not_assumed_direct_where_none_is_required() -> None:
    stranger = ("allow opt_out", "refuse source_not_announced")
    assert _both(None, ASKING, GOOD_MESSAGE, "us") == stranger
    assert _both(None, ASKING, STATED, "us") == ("allow opt_out", "allow opt_out")


def test_only_recipients_it_concerns_are_refused() -> None:
    asked = Transaction((ASKING,), (ADDRESS, "paul@example.org", ADDRESS), GOOD_MESSAGE)
    facts = {
        ADDRESS: RecipientFacts(contact=HANDED_ON),
        "paul@example.org": RecipientFacts(contact=SUBSCRIBER),
    }
    assert [said(verdict) for verdict in judge(asked, facts, BOOK, NOW).recipients] == [
        "refuse source_not_announced",
        "allow consent",
        "refuse source_not_announced",
    ]


TOLD = [
    (HANDED_ON, GOOD_MESSAGE, "refuse", "it is the first message to the person and does not"),
    (HANDED_ON, STATED, "passed", "the message says where the address came from"),
    (MAILED_BEFORE, GOOD_MESSAGE, "passed", "it is not the first message to the person"),
    (SUBSCRIBER, GOOD_MESSAGE, "passed", "the person gave the address"),
    (
        replace(HANDED_ON, audience=Audience.GENERIC),
        GOOD_MESSAGE,
        "passed",
        "the address belongs to an organisation",
    ),
]


@pytest.mark.parametrize(("contact", "message", "outcome", "text"), TOLD)
def test_the_trace_explains_the_announcement(
    contact: Contact, message: MessageFeatures, outcome: str, text: str
) -> None:
    asked = Transaction((ASKING,), (ADDRESS,), message)
    steps = trace(asked, 0, {ADDRESS: RecipientFacts(contact=contact)}, builtin("fr"), NOW)
    (step,) = [step for step in steps if step.rule == "source_announced"]
    assert (step.outcome, step.text[: len(text)]) == (outcome, text)
    assert step.source.endswith("A24; RGPD, art. 14, § 3, b)")
    assert any(step.rule == "paused" for step in steps) == (outcome == "passed")


@pytest.mark.parametrize("asked", [{"message": None}, {"streams": (OFFERS,)}])
def test_the_trace_omits_rules_that_were_not_asked(asked: dict[str, Any]) -> None:
    transaction = replace(Transaction((ASKING,), (ADDRESS,), GOOD_MESSAGE), **asked)
    steps = trace(transaction, 0, {ADDRESS: RecipientFacts(contact=HANDED_ON)}, BOOK, NOW)
    assert "source_announced" not in [step.rule for step in steps]


def test_provenance_alone_is_not_an_announcement() -> None:
    known = replace(HANDED_ON, provenance=Provenance("Lists Ltd", sender_disclosed=True))
    assert _both(known, ASKING, GOOD_MESSAGE) == REFUSED
