"""Recipients whose domain declares that it accepts no mail (RFC 7505)."""

import pytest
from msgspec.structs import replace

from smtpproxy.explain.trace import trace
from smtpproxy.policy.decide import judge
from smtpproxy.policy.model import (
    Contact,
    Origin,
    RecipientFacts,
    Rulebook,
    Stream,
    Suppression,
    Transaction,
)
from smtpproxy.policy.replies import recipient_reply
from tests.policy.cases import NOW, OFFERS, RECEIPTS, SUBSCRIBER, said, suppression

FR = Rulebook("fr")
ADDRESS = SUBSCRIBER.address


def verdict(
    *streams: Stream,
    null_mx: bool | None,
    contact: Contact | None = SUBSCRIBER,
    suppressions: tuple[Suppression, ...] = (),
) -> str:
    facts = {ADDRESS: RecipientFacts(suppressions, contact, null_mx=null_mx)}
    return said(judge(Transaction(streams, (ADDRESS,)), facts, FR, NOW).recipients[0])


@pytest.mark.parametrize(
    ("stream", "null_mx", "expected"),
    [
        (OFFERS, None, "allow consent"),
        (OFFERS, False, "allow consent"),
        (OFFERS, True, "refuse null_mx"),
        (RECEIPTS, False, "allow transactional"),
        (RECEIPTS, True, "refuse null_mx"),
    ],
)
def test_only_a_null_mx_refuses(stream: Stream, null_mx: bool | None, expected: str) -> None:
    assert verdict(stream, null_mx=null_mx) == expected


def test_refusals_by_law_come_before_and_deferrals_after() -> None:
    assert verdict(OFFERS, null_mx=True, contact=None) == "refuse no_record"
    objected = (suppression("all", Origin.OBJECTION),)
    assert verdict(OFFERS, null_mx=True, suppressions=objected) == "refuse suppressed_objection"
    assert verdict(replace(OFFERS, paused=True), null_mx=True) == "refuse null_mx"


def test_a_null_mx_refuses_while_the_stream_is_uncertain() -> None:
    assert verdict(OFFERS, RECEIPTS, null_mx=True) == "refuse null_mx"


def test_the_reply_is_that_of_the_rfc() -> None:
    facts = {ADDRESS: RecipientFacts(null_mx=True)}
    found = judge(Transaction((RECEIPTS,), (ADDRESS,)), facts, FR, NOW).recipients[0]
    reply = recipient_reply(ADDRESS, found, "receipts", "01J9")
    assert str(reply) == f"556 5.1.10 <{ADDRESS}> refused: null_mx (stream receipts) id=01J9"


def test_the_trace_mentions_the_mx_only_where_it_was_looked_up() -> None:
    asked = Transaction((RECEIPTS,), (ADDRESS,))
    told = {}
    for null_mx in (None, False, True):
        facts = {ADDRESS: RecipientFacts(null_mx=null_mx)}
        steps = trace(asked, 0, facts, FR, NOW)
        told[null_mx] = [(s.outcome, s.text) for s in steps if s.rule == "null_mx"]
    assert told == {
        None: [],
        False: [("passed", "the domain does not say that it accepts no mail")],
        True: [("refuse", "the recipient's domain accepts no mail (null MX)")],
    }
