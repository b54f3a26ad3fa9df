"""How often people want mail: anything beyond is refused for good."""

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from smtpproxy.explain.trace import trace
from smtpproxy.policy.contact import said_last
from smtpproxy.policy.decide import judge
from smtpproxy.policy.model import (
    Frequency,
    Mailing,
    Preference,
    RecipientFacts,
    Stream,
    Transaction,
)
from smtpproxy.policy.replies import recipient_reply
from tests.policy.cases import ADDRESS, BOOK, DAY, OFFERS, RECEIPTS, SUBSCRIBER, TICK, said

NOW = datetime(2026, 3, 10, 8, tzinfo=UTC)
LONG_AGO = NOW - 90 * DAY
WEEKLY, MONTHLY, ALL = Frequency.WEEKLY, Frequency.MONTHLY, Frequency.ALL
ALLOWED, REFUSED = "allow consent", "refuse preference_frequency"
SHOP, BOOTS = replace(OFFERS, brand="shop"), replace(OFFERS, brand="boots")
SUBSCRIBED = replace(SUBSCRIBER, last_activity_at=NOW - DAY)


def facts(wish: Preference, *mailed: Mailing) -> RecipientFacts:
    return RecipientFacts(contact=replace(SUBSCRIBED, preferences=(wish,)), mailings=mailed)


def judged(stream: Stream, known: RecipientFacts, now: datetime = NOW) -> str:
    question = Transaction((stream,), (ADDRESS,))
    return said(judge(question, {ADDRESS: known}, BOOK, now).recipients[0])


@pytest.mark.parametrize(
    ("frequency", "last", "now", "expected"),
    [
        (WEEKLY, "2026-03-03T23:59", "2026-03-09T23:59", REFUSED),
        (WEEKLY, "2026-03-03T23:59", "2026-03-10T00:00", ALLOWED),
        (MONTHLY, "2026-03-03T09:00", "2026-03-31T23:59", REFUSED),
        (MONTHLY, "2026-03-03T09:00", "2026-04-01T00:00", ALLOWED),
        (MONTHLY, "2026-03-31T09:00", "2026-04-27T23:59", REFUSED),  # four weeks
        (MONTHLY, "2026-03-31T09:00", "2026-04-28T00:00", ALLOWED),
        (MONTHLY, "2025-12-31T09:00", "2026-01-28T00:00", ALLOWED),
        (MONTHLY, "2026-04-01T09:00", "2026-05-01T00:00", ALLOWED),
        (ALL, "2026-03-03T09:00", "2026-03-03T09:01", ALLOWED),
    ],
)
def test_from_which_day_more_mail_is_allowed(
    frequency: Frequency, last: str, now: str, expected: str
) -> None:
    at = datetime.fromisoformat(f"{now}+00:00")
    mailed = Mailing("offers", datetime.fromisoformat(f"{last}+00:00"), "offers")
    wish = Preference("offers", frequency, LONG_AGO)
    active = replace(SUBSCRIBED, last_activity_at=LONG_AGO, preferences=(wish,))
    assert judged(OFFERS, RecipientFacts(contact=active, mailings=(mailed,)), at) == expected


@pytest.mark.parametrize("ahead", [timedelta(microseconds=1), timedelta(seconds=90)])
def test_mail_counted_meanwhile_by_another_worker_counts(ahead: timedelta) -> None:
    """It may have read the clock later than this worker and still have come first."""
    wish = Preference("offers", WEEKLY, LONG_AGO)
    assert judged(OFFERS, facts(wish)) == ALLOWED
    assert judged(OFFERS, facts(wish, Mailing("offers", NOW + ahead, "offers"))) == REFUSED


@pytest.mark.parametrize(
    ("stream", "wish", "mailed", "expected"),
    [
        # the wish came from a message, which counts
        (OFFERS, Preference("offers", WEEKLY, NOW - 6 * DAY), (), REFUSED),
        (OFFERS, Preference("offers", WEEKLY, NOW - 7 * DAY), (), ALLOWED),
        (OFFERS, Preference("offers", WEEKLY, NOW + DAY), (), REFUSED),  # by a clock that is ahead
        (OFFERS, Preference("offers", WEEKLY, NOW + 90 * DAY), (), ALLOWED),  # by a clock far ahead
        (OFFERS, Preference("offers", WEEKLY, NOW + 90 * DAY), ("s", "offers", "default"), REFUSED),
        (OFFERS, Preference("news", WEEKLY, NOW), (), ALLOWED),
        # every stream of the purpose in this brand counts
        (OFFERS, Preference("offers", WEEKLY, LONG_AGO), ("sales", "offers", "default"), REFUSED),
        (OFFERS, Preference("offers", WEEKLY, LONG_AGO), ("offers", "news", "default"), ALLOWED),
        (SHOP, Preference("offers", WEEKLY, LONG_AGO, "shop"), ("s", "offers", "shop"), REFUSED),
        (SHOP, Preference("offers", WEEKLY, LONG_AGO, "shop"), ("s", "offers", "boots"), ALLOWED),
        (BOOTS, Preference("offers", WEEKLY, NOW, "shop"), (), ALLOWED),
        (BOOTS, Preference("offers", WEEKLY, NOW), (), REFUSED),  # said before there were brands
        (OFFERS, Preference("offers", WEEKLY, NOW, "shop"), (), REFUSED),  # without a brand
        (replace(RECEIPTS, purpose="offers"), Preference("offers", WEEKLY, NOW), (), "allow"),
    ],
)
def test_which_mail_a_wish_applies_to(
    stream: Stream, wish: Preference, mailed: tuple[str, str, str], expected: str
) -> None:
    sent = (Mailing(mailed[0], NOW - DAY, mailed[1], mailed[2]),) if mailed else ()
    assert judged(stream, facts(wish, *sent)).startswith(expected)


@pytest.mark.parametrize(
    ("stream", "before", "later", "expected"),
    [
        (SHOP, "default", "shop", ALLOWED),  # limited before there were brands
        (SHOP, "shop", "default", REFUSED),  # only naming the shop lifts its limit
        (BOOTS, "default", "shop", REFUSED),  # only the shop may send more
        (OFFERS, "shop", "default", ALLOWED),  # brands are no longer used
        (OFFERS, "default", "shop", REFUSED),
    ],
)
def test_a_later_wish_for_more_mail_counts(
    stream: Stream, before: str, later: str, expected: str
) -> None:
    wishes = (
        Preference("offers", WEEKLY, NOW - DAY, before),
        Preference("offers", ALL, NOW - DAY / 2, later),
    )
    known = RecipientFacts(contact=replace(SUBSCRIBED, preferences=wishes))
    assert judged(stream, known) == expected
    at_once = tuple(replace(one, at=NOW) for one in wishes)
    known = RecipientFacts(contact=replace(SUBSCRIBED, preferences=at_once))
    assert judged(stream, known) == REFUSED


def test_other_refusals_come_first_and_deferrals_last() -> None:
    wish = Preference("offers", WEEKLY, NOW)
    known = facts(wish)
    assert judged(replace(OFFERS, paused=True), known) == REFUSED
    assert judged(OFFERS, replace(known, null_mx=True)) == "refuse null_mx"


def test_the_reply_is_permanent_and_the_reason_names_the_day() -> None:
    known = facts(Preference("offers", WEEKLY, NOW))
    (verdict,) = judge(
        Transaction((OFFERS,), (ADDRESS,)), {ADDRESS: known}, BOOK, NOW + timedelta(hours=1)
    ).recipients
    reply = recipient_reply(ADDRESS, verdict, "offers", "01J9")
    assert str(reply) == (
        f"550 5.7.1 <{ADDRESS}> refused: preference_frequency (stream offers) id=01J9"
    )
    assert verdict.detail == "weekly at most, said on 2026-03-10; again from 2026-03-17"
    steps = trace(Transaction((OFFERS,), (ADDRESS,)), 0, {ADDRESS: known}, BOOK, NOW)
    assert steps[-1].text.endswith("the next may go from 17 March 2026")


def test_a_new_wish_is_dated_after_those_of_a_fast_clock() -> None:
    told = [
        Preference("offers", MONTHLY, NOW + DAY, "shop"),
        Preference("offers", ALL, NOW, "shop"),
    ]
    assert said_last(told, "offers", "shop", NOW) == NOW + DAY + TICK
    assert said_last(told[1:], "offers", "shop", NOW) == NOW + TICK
    assert said_last(told, "offers", "boots", NOW) == said_last(told, "news", "shop", NOW) == NOW
