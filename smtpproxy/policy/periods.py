"""Periods as people count them, in UTC: calendar years, months and days; caps such as `3/7d`."""

import re
from calendar import monthrange
from collections.abc import Iterable
from datetime import MAXYEAR, MINYEAR, date, datetime, timedelta
from enum import StrEnum

from msgspec import Struct

_FRIDAY = 4


class Unit(StrEnum):
    HOURS = "hours"
    DAYS = "days"
    BUSINESS_DAYS = "business days"
    MONTHS = "months"
    YEARS = "years"


_MONTHS, _YEARS = Unit.MONTHS, Unit.YEARS
_WRITTEN = re.compile(r"([0-9]{1,6}) *([a-z]+(?: [a-z]+)?)")
_UNITS = {"h": Unit.HOURS, "d": Unit.DAYS, "mo": Unit.MONTHS, "y": Unit.YEARS}
_UNITS |= {name: unit for unit in Unit for name in (unit.value, unit.removesuffix("s"))}


class Period(Struct, frozen=True):
    """A number of units: `3 years`, `10 business days`."""

    count: int
    unit: Unit

    def __str__(self) -> str:
        return f"{self.count} {self.unit if self.count != 1 else self.unit.removesuffix('s')}"


def parse_period(text: str) -> Period | None:
    """Return the period of `13 months` or `13mo`, or None.

    `m` is not a unit here, because it means minutes everywhere else.
    """
    match = _WRITTEN.fullmatch(text)
    unit = _UNITS.get(match[2]) if match else None
    return Period(int(match[1]), unit) if match and unit else None


def minutes_fault(text: str) -> str | None:
    """What is wrong with `13m` where months may be meant; None for any other text."""
    match = re.fullmatch(r"([0-9]{1,6}) *m", text)
    if match is None:
        return None
    return f'"{text}" is minutes: months are written "{match[1]} months"'


def years(count: int) -> Period:
    return Period(count, Unit.YEARS)


def months(count: int) -> Period:
    return Period(count, Unit.MONTHS)


def days(count: int) -> Period:
    return Period(count, Unit.DAYS)


def within(moment: datetime, period: Period | None, now: datetime) -> bool:
    """Whether `now` is no later than `period` after `moment`; None means no limit.

    The exact end still counts. Years and months are calendar ones: if the last month has no such
    day, they end on its last day.
    """
    if period is None:
        return True
    unit = period.unit
    if unit is _YEARS:
        passed = now.year - moment.year
        if passed != period.count:
            return passed < period.count
        return now <= _moved(moment, now.year, moment.month)
    if unit is _MONTHS:
        passed = 12 * (now.year - moment.year) + now.month - moment.month
        if passed != period.count:
            return passed < period.count
        return now <= _moved(moment, now.year, now.month)
    return now <= end(moment, period)


def end(moment: datetime, period: Period) -> datetime:
    """Return the last moment of a period that begins at `moment`.

    Business days are Monday to Friday. Public holidays are not known here; they could only make a
    deadline later. Raises OverflowError beyond the year 9999.
    """
    match period.unit:
        case Unit.HOURS:
            return moment + timedelta(hours=period.count)
        case Unit.DAYS:
            return moment + timedelta(days=period.count)
        case Unit.BUSINESS_DAYS:
            return _business_days_later(moment, period.count)
    counted = period.count * (12 if period.unit is Unit.YEARS else 1)
    year, month = divmod(12 * moment.year + moment.month - 1 + counted, 12)
    if year > MAXYEAR:
        raise OverflowError(f"{period} after {moment:%Y-%m-%d} is beyond the year 9999")
    return _moved(moment, year, month + 1)


def beginning(now: datetime, period: Period) -> datetime:
    """Return the earliest moment that is no older than `period` at `now`.

    The exact beginning is not older. If the earlier month has no such day, the period began with
    the month after. Raises OverflowError before the year 1.
    """
    match period.unit:
        case Unit.HOURS:
            return now - timedelta(hours=period.count)
        case Unit.DAYS:
            return now - timedelta(days=period.count)
        case Unit.BUSINESS_DAYS:
            raise ValueError("a period that looks back cannot be in business days")
    counted = period.count * (12 if period.unit is Unit.YEARS else 1)
    year, month = divmod(12 * now.year + now.month - 1 - counted, 12)
    if year < MINYEAR:
        raise OverflowError(f"{period} before {now:%Y-%m-%d} is before the year 1")
    try:
        return now.replace(year=year, month=month + 1)
    except ValueError:
        following = _moved(now, year, month + 1).replace(hour=0, minute=0, second=0, microsecond=0)
        return following + timedelta(days=1)


def shortest_seconds(period: Period) -> float:
    """Return the shortest duration of a period of hours or days; a business day counts as a day."""
    hours = period.count if period.unit is Unit.HOURS else 24 * period.count
    return timedelta(hours=hours).total_seconds()


def at_least_years(period: Period, count: int) -> bool:
    """Whether a period is never shorter than `count` years, wherever it begins."""
    match period.unit:
        case Unit.YEARS:
            return period.count >= count
        case Unit.MONTHS:
            return period.count >= 12 * count
    days = period.count / 24 if period.unit is Unit.HOURS else period.count
    return days >= 366 * count - count * 3 // 4  # with the fewest leap years possible


def _moved(moment: datetime, year: int, month: int) -> datetime:
    """The same time on the same day of another month, or on its last day."""
    try:
        return moment.replace(year=year, month=month)
    except ValueError:
        return moment.replace(year=year, month=month, day=monthrange(year, month)[1])


def _business_days_later(moment: datetime, count: int) -> datetime:
    """The same time `count` business days later; after a weekend, Monday is the first."""
    moment -= timedelta(days=max(0, moment.weekday() - _FRIDAY))
    weeks, left = divmod(count, 5)
    over_weekend = 2 if moment.weekday() + left > _FRIDAY else 0
    return moment + timedelta(weeks=weeks, days=left + over_weekend)


def next_weekly(day: date) -> date:
    """Return the first day on which somebody who wants mail once a week may get it again."""
    return day + timedelta(days=7)


def next_monthly(day: date) -> date:
    """The same for once a month: never in the same month, nor within four weeks."""
    next_month = (day.replace(day=1) + timedelta(days=31)).replace(day=1)
    return max(day + timedelta(days=28), next_month)


_CAP = re.compile(r"([1-9][0-9]{0,3})/([1-9][0-9]{0,3})([hdw])")
_CAP_UNITS = {"h": (1, Unit.HOURS), "d": (1, Unit.DAYS), "w": (7, Unit.DAYS)}


class Cap(Struct, frozen=True):
    """At most so many messages to one person in a period; each message counts for that long."""

    count: int
    period: Period

    def __str__(self) -> str:
        return f"{self.count} in {self.period}"

    def free_at(self, mailed: Iterable[datetime], now: datetime) -> datetime | None:
        """Return when the cap will no longer be reached; None: it is not reached at `now`.

        `mailed` are the moments of earlier messages, in any order.
        """
        counted = sorted([at for at in mailed if within(at, self.period, now)])
        if len(counted) < self.count:
            return None
        return end(counted[-self.count], self.period)


def parse_cap(text: str) -> Cap:
    """Read `3/7d`: a count, and hours (h), days (d) or weeks (w). Raises ValueError."""
    match = _CAP.fullmatch(text)
    if match is None:
        raise ValueError(
            'must be so many messages in so much time, like "3/7d" or "1/24h"'
            " (hours, days and weeks are h, d and w)"
        )
    factor, unit = _CAP_UNITS[match[3]]
    return Cap(int(match[1]), Period(factor * int(match[2]), unit))
