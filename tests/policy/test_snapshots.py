"""Streams that require fresh snapshots from partners (design.md section 4, rule 12)."""

from datetime import timedelta

import pytest
from msgspec.structs import replace

from smtpproxy.policy.as_of import known_at
from smtpproxy.policy.decide import judge, needs
from smtpproxy.policy.model import RecipientFacts, Rulebook, Stream, StreamClass, Transaction
from tests.policy.cases import NOW, OFFERS, SUBSCRIBER, said

FR = Rulebook("fr")
DAY = timedelta(days=1)
FRESH = replace(OFFERS, max_snapshot_age=DAY.total_seconds())
SECOND = timedelta(seconds=1)


def verdict(stream: Stream, facts: RecipientFacts) -> str:
    asked = Transaction((stream,), (SUBSCRIBER.address,))
    return said(judge(asked, {SUBSCRIBER.address: facts}, FR, NOW).recipients[0])


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (timedelta(), "allow consent"),
        (DAY, "allow consent"),
        (DAY + SECOND, "defer list_stale"),
        (None, "defer list_stale"),
        (-5 * 60 * SECOND, "allow consent"),  # from a partner whose clock is slightly ahead
        (-5 * 60 * SECOND - SECOND, "defer list_stale"),
        (-365 * DAY, "defer list_stale"),
    ],
)
def test_how_old_a_snapshot_may_be(age: timedelta | None, expected: str) -> None:
    facts = RecipientFacts(contact=SUBSCRIBER, snapshot_at=None if age is None else NOW - age)
    assert verdict(FRESH, facts) == expected
    assert verdict(OFFERS, facts) == "allow consent"


def test_refusals_and_other_deferrals_come_first() -> None:
    assert verdict(FRESH, RecipientFacts()) == "refuse no_record"
    paused = replace(FRESH, paused=True)
    assert verdict(paused, RecipientFacts(contact=SUBSCRIBER)) == "defer stream_paused"


def test_transactional_mail_waits_for_no_list() -> None:
    receipts = replace(FRESH, stream_class=StreamClass.TRANSACTIONAL)
    assert verdict(receipts, RecipientFacts()) == "allow transactional"
    assert not needs(Transaction((receipts,), ("a@b.example",)), FR).snapshots


def test_the_age_is_requested_only_where_it_counts() -> None:
    assert needs(Transaction((OFFERS, FRESH), ("a@b.example",)), FR).snapshots
    assert not needs(Transaction((OFFERS,), ("a@b.example",)), FR).snapshots


def test_a_later_snapshot_is_ignored_at_an_earlier_moment() -> None:
    facts = RecipientFacts(contact=SUBSCRIBER, snapshot_at=NOW)
    assert known_at(facts, NOW).snapshot_at == NOW
    assert known_at(facts, NOW - SECOND).snapshot_at is None
    two = replace(facts, snapshot_at=NOW - DAY, newest_snapshot_at=NOW)
    assert known_at(two, NOW) == two
    assert known_at(two, NOW - SECOND) == RecipientFacts(contact=SUBSCRIBER)


def test_a_fresh_snapshot_does_not_hide_one_in_the_future() -> None:
    facts = RecipientFacts(contact=SUBSCRIBER, snapshot_at=NOW, newest_snapshot_at=NOW + 9 * DAY)
    assert verdict(FRESH, facts) == "defer list_stale"
    assert verdict(OFFERS, facts) == "allow consent"
