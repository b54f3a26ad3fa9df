"""Calendar periods and their last moments, to the microsecond."""

from datetime import UTC, datetime

import pytest

from smtpproxy.policy.periods import (
    Period,
    Unit,
    at_least_years,
    beginning,
    end,
    months,
    shortest_seconds,
    within,
    years,
)
from tests.policy.cases import DAY, TICK


def at(year: int, month: int, day: int, hour: int = 12) -> datetime:
    return datetime(year, month, day, hour, tzinfo=UTC)


ENDS = [
    (at(2023, 6, 1), years(3), at(2026, 6, 1)),
    (at(2024, 2, 29), years(1), at(2025, 2, 28)),
    (at(2024, 2, 29), years(4), at(2028, 2, 29)),
    (at(2025, 2, 28), years(3), at(2028, 2, 28)),
    (at(2026, 2, 28), months(6), at(2026, 8, 28)),
    (at(2025, 8, 31), months(6), at(2026, 2, 28)),
    (at(2027, 8, 31), months(6), at(2028, 2, 29)),
    (at(2026, 7, 31), months(18), at(2028, 1, 31)),
    (at(2025, 12, 31), months(2), at(2026, 2, 28)),
    (at(2026, 1, 31), months(3), at(2026, 4, 30)),
    (at(2026, 2, 27), Period(2, Unit.DAYS), at(2026, 3, 1)),
    (at(2026, 2, 28), Period(48, Unit.HOURS), at(2026, 3, 2)),
]


@pytest.mark.parametrize(("begin", "period", "last"), ENDS)
def test_a_period_holds_to_its_last_moment(begin: datetime, period: Period, last: datetime) -> None:
    assert end(begin, period) == last
    assert within(begin, period, last)
    assert not within(begin, period, last + TICK)
    assert within(begin, period, begin)
    assert not within(begin, period, last + 400 * DAY)


FRIDAY = at(2026, 6, 5)
BUSINESS_DAYS = [
    (FRIDAY, 1, at(2026, 6, 8)),
    (FRIDAY, 5, at(2026, 6, 12)),
    (FRIDAY, 10, at(2026, 6, 19)),
    (FRIDAY - DAY, 1, FRIDAY),
    (FRIDAY - DAY, 2, at(2026, 6, 8)),
    # from a weekend on, Monday is the first day
    (FRIDAY + DAY, 1, at(2026, 6, 8)),
    (FRIDAY + 2 * DAY, 5, at(2026, 6, 12)),
    (FRIDAY + 2 * DAY, 10, at(2026, 6, 19)),
]


@pytest.mark.parametrize(("begin", "count", "last"), BUSINESS_DAYS)
def test_business_days_are_monday_to_friday(begin: datetime, count: int, last: datetime) -> None:
    assert end(begin, Period(count, Unit.BUSINESS_DAYS)) == last


def test_business_days_are_counted_one_by_one() -> None:
    for start in range(7):
        begin = FRIDAY + start * DAY
        workdays = [day for after in range(1, 50) if (day := begin + after * DAY).weekday() < 5]
        for count in range(1, 30):
            assert end(begin, Period(count, Unit.BUSINESS_DAYS)) == workdays[count - 1]


def test_every_period_ends() -> None:
    assert within(at(1970, 1, 1), None, at(9999, 12, 31))


def test_a_period_that_ends_beyond_the_calendar_is_handled() -> None:
    with pytest.raises(OverflowError):
        end(at(9998, 1, 1), years(3))
    assert within(at(9998, 1, 1), years(3), at(9999, 12, 31))
    assert within(at(9998, 1, 1), months(36), at(9999, 12, 31))


@pytest.mark.parametrize(
    ("period", "text"),
    [
        (years(3), "3 years"),
        (years(1), "1 year"),
        (months(6), "6 months"),
        (Period(1, Unit.BUSINESS_DAYS), "1 business day"),
        (Period(48, Unit.HOURS), "48 hours"),
    ],
)
def test_periods_in_words(period: Period, text: str) -> None:
    assert str(period) == text


BEGINNINGS = [
    (at(2026, 6, 1), years(3), at(2023, 6, 1)),
    (at(2028, 2, 29), years(4), at(2024, 2, 29)),
    # no such day: the period begins with the next month
    (at(2028, 2, 29), years(3), at(2025, 3, 1, 0)),
    (at(2026, 3, 31), months(1), at(2026, 3, 1, 0)),
    (at(2026, 12, 31), months(6), at(2026, 7, 1, 0)),
    (at(2026, 1, 15), months(13), at(2024, 12, 15)),
    (at(2026, 3, 1), Period(30, Unit.DAYS), at(2026, 1, 30)),
    (at(2026, 3, 2), Period(48, Unit.HOURS), at(2026, 2, 28)),
]


@pytest.mark.parametrize(("now", "period", "first"), BEGINNINGS)
def test_anything_before_the_start_of_a_period_has_outlived_it(
    now: datetime, period: Period, first: datetime
) -> None:
    assert beginning(now, period) == first
    assert within(first, period, now)
    assert not within(first - TICK, period, now)


def test_looking_back_agrees_with_looking_ahead_on_every_day() -> None:
    """Nothing before the start is still within, on any day of two leap cycles."""
    for period in (years(1), years(3), months(1), months(13), months(36)):
        for day in range(8 * 366):
            now = at(2023, 1, 1) + day * DAY
            first = beginning(now, period)
            assert within(first, period, now)
            assert not any(within(first - TICK - ago * DAY, period, now) for ago in range(4))


@pytest.mark.parametrize(
    ("period", "enough"),
    [
        (years(3), True),
        (years(2), False),
        (months(36), True),
        (months(35), False),
        (Period(1096, Unit.DAYS), True),
        (Period(1095, Unit.DAYS), False),  # shorter than three years with a leap day
        (Period(1096 * 24, Unit.HOURS), True),
        (Period(1096 * 24 - 1, Unit.HOURS), False),
    ],
)
def test_which_periods_are_never_shorter_than_three_years(period: Period, enough: bool) -> None:
    assert at_least_years(period, 3) is enough


@pytest.mark.parametrize(
    ("period", "hours"),
    [
        (Period(48, Unit.HOURS), 48),
        (Period(2, Unit.DAYS), 48),
        (Period(10, Unit.BUSINESS_DAYS), 240),  # at least
    ],
)
def test_the_shortest_a_deadline_can_be(period: Period, hours: int) -> None:
    assert shortest_seconds(period) == hours * 3_600
