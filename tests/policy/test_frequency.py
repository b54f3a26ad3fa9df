"""Frequency caps: how often a person may be mailed."""

from datetime import timedelta

import pytest
from msgspec.structs import replace

from smtpproxy.explain.trace import trace
from smtpproxy.policy.as_of import known_at
from smtpproxy.policy.decide import judge, needs
from smtpproxy.policy.model import Mailing, RecipientFacts, Stream, Transaction
from smtpproxy.policy.periods import Cap, Period, Unit, parse_cap
from smtpproxy.policy.replies import recipient_reply
from tests.policy.cases import (
    ADDRESS,
    BOOK,
    DAY,
    GOOD_MESSAGE,
    NOW,
    OFFERS,
    RECEIPTS,
    SUBSCRIBER,
    TICK,
    said,
)

WEEKLY = parse_cap("3/7d")
CAPPED = replace(OFFERS, frequency_cap=WEEKLY)
ALL_CAPPED = replace(OFFERS, marketing_cap=WEEKLY)
HOUR = timedelta(hours=1)


def _mailed(*ago: timedelta, stream: str = "offers") -> tuple[Mailing, ...]:
    return tuple(Mailing(stream, NOW - each) for each in sorted(ago, reverse=True))


def _judged(stream: Stream, mailings: tuple[Mailing, ...]) -> str:
    facts = {ADDRESS: RecipientFacts(contact=SUBSCRIBER, mailings=mailings)}
    return said(judge(Transaction((stream,), (ADDRESS,)), facts, BOOK, NOW).recipients[0])


ALLOWED, DEFERRED = "allow consent", "defer frequency_cap"
WEEK = 7 * DAY


@pytest.mark.parametrize(
    ("stream", "mailings", "expected"),
    [
        (CAPPED, (), ALLOWED),
        (CAPPED, _mailed(DAY, 2 * DAY), ALLOWED),
        (CAPPED, _mailed(DAY, 2 * DAY, 3 * DAY), DEFERRED),
        # the exact end of the period still counts
        (CAPPED, _mailed(DAY, 2 * DAY, WEEK), DEFERRED),
        (CAPPED, _mailed(DAY, 2 * DAY, WEEK + TICK), ALLOWED),
        # mail of other streams counts only towards a cap on all marketing
        (CAPPED, _mailed(DAY, 2 * DAY, 3 * DAY, stream="news"), ALLOWED),
        (ALL_CAPPED, _mailed(DAY, 2 * DAY, 3 * DAY, stream="news"), DEFERRED),
        (ALL_CAPPED, _mailed(DAY, 2 * DAY), ALLOWED),
        (
            replace(CAPPED, marketing_cap=parse_cap("1/24h")),
            _mailed(DAY, stream="news"),
            DEFERRED,
        ),
        (OFFERS, _mailed(*[HOUR] * 100), ALLOWED),
        (replace(RECEIPTS, marketing_cap=WEEKLY), _mailed(*[HOUR] * 9), "allow transactional"),
    ],
)
def test_caps(stream: Stream, mailings: tuple[Mailing, ...], expected: str) -> None:
    assert _judged(stream, mailings) == expected


def test_refusals_come_first() -> None:
    facts = {ADDRESS: RecipientFacts(mailings=_mailed(*[HOUR] * 9))}
    verdict = judge(Transaction((CAPPED,), (ADDRESS,)), facts, BOOK, NOW).recipients[0]
    assert said(verdict) == "refuse no_record"


def test_a_pause_is_named_before_a_cap() -> None:
    assert _judged(replace(CAPPED, paused=True), _mailed(*[HOUR] * 9)) == "defer stream_paused"


def test_the_reply_and_the_trace_say_so() -> None:
    asked = Transaction((CAPPED,), (ADDRESS,), GOOD_MESSAGE)
    facts = {ADDRESS: RecipientFacts(contact=SUBSCRIBER, mailings=_mailed(DAY, DAY, WEEK - HOUR))}
    verdict = judge(asked, facts, BOOK, NOW).recipients[0]
    assert verdict.detail == f"3 in 7 days; again after {NOW + HOUR:%Y-%m-%dT%H:%M:%SZ}"
    assert str(recipient_reply(ADDRESS, verdict, "offers", "01J9")).startswith(
        f"450 4.7.0 <{ADDRESS}> deferred: frequency_cap (stream offers)"
    )
    step = trace(asked, 0, facts, BOOK, NOW)[-1]
    assert (step.rule, step.outcome) == ("frequency", "defer")


def test_a_cap_is_free_again_once_enough_mail_is_old_in_any_order() -> None:
    mailed = [NOW - DAY, NOW - 3 * DAY, NOW - 2 * DAY]
    assert parse_cap("2/7d").free_at(mailed, NOW) == NOW + 5 * DAY
    assert parse_cap("4/7d").free_at(mailed, NOW) is None


def test_mail_is_counted_only_if_a_verdict_depends_on_it() -> None:
    def asks(stream: Stream) -> bool:
        return needs(Transaction((stream,), (ADDRESS,)), BOOK).mailings

    assert asks(CAPPED)
    assert asks(ALL_CAPPED)
    assert asks(replace(OFFERS, first_contact_notice=True))
    assert not asks(OFFERS)
    assert not asks(replace(RECEIPTS, marketing_cap=WEEKLY))


def test_mail_sent_later_is_ignored_at_an_earlier_moment() -> None:
    facts = RecipientFacts(mailings=_mailed(DAY, 3 * DAY), first_mailed_at=NOW - DAY)
    then = known_at(facts, NOW - 2 * DAY)
    assert then == RecipientFacts(mailings=_mailed(3 * DAY))


@pytest.mark.parametrize(
    ("text", "count", "period"),
    [
        ("3/7d", 3, Period(7, Unit.DAYS)),
        ("1/24h", 1, Period(24, Unit.HOURS)),
        ("10/2w", 10, Period(14, Unit.DAYS)),
    ],
)
def test_how_a_cap_is_written(text: str, count: int, period: Period) -> None:
    assert parse_cap(text) == Cap(count, period)


@pytest.mark.parametrize(
    "text", ["", "3", "3/7", "0/7d", "3/0d", "3/7m", "3 / 7d", "-1/7d", "3/7D"]
)
def test_text_that_is_not_a_cap(text: str) -> None:
    with pytest.raises(ValueError, match="so many messages in so much time"):
        parse_cap(text)
