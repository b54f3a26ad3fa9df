"""How amounts are written: sizes, durations, calendar periods, moments, rates and caps.

Each function takes a TOML value and returns plain units (bytes, seconds), or raises ValueError with
what is wrong and what is expected. The types below apply them.
"""

import contextlib
import math
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from typing import Annotated

from msgspec import Struct

from smtpproxy.policy.periods import (
    Cap,
    Period,
    Unit,
    at_least_years,
    minutes_fault,
    parse_cap,
    parse_period,
)
from smtpproxy.toml import shown
from smtpproxy.toml_tables import Bounds, Written

KIB, MIB = 1024, 1024**2
MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0

SIZE_UNITS = {
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": KIB,
    "MiB": MIB,
    "GiB": 1024**3,
}
DURATION_UNITS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}

_LEAST_HEADER, _MAX_HEADER = 4 * KIB, MIB
_MAX_OF = {Unit.HOURS: 100_000, Unit.DAYS: 40_000, Unit.MONTHS: 1_200, Unit.YEARS: 100}
_SUPPRESSION_YEARS = 3
_TIME_OF_DAY = re.compile(r"([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?", re.ASCII)
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,4})?)\s*%", re.ASCII)
_LONGEST = 36_500 * 86_400  # seconds: moments further away may have no date
_AMOUNT = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]*)", re.ASCII)


class Rate(Struct, frozen=True):
    """So many per period in seconds; all may be used at once, and are restored over it."""

    count: int
    period: float


def size(value: object) -> int:
    """Return bytes of `1048576`, `"10MB"` (1000²) or `"25MiB"` (1024²)."""
    right = 'a size such as "25MiB", "10MB" or a number of bytes'
    octets = _in_units(value, right, SIZE_UNITS, "B")
    if octets < 1 or octets != int(octets):
        raise ValueError(f"{shown(value)} is not a whole number of bytes above 0")
    return int(octets)


def header_size(value: object) -> int:
    """Return how many bytes a header section may have."""
    octets = size(value)
    if not _LEAST_HEADER <= octets <= _MAX_HEADER:
        raise ValueError(
            f"{shown(value)} is not between 4KiB (less would refuse honest mail)"
            " and 1MiB (more would hold up other sessions while it is read)"
        )
    return octets


def duration(value: object) -> float:
    """Return seconds of `30`, `"30s"`, `"5m"`, `"2h"` or `"1d"`. A month is not a duration."""
    right = 'a time such as "30s", "5m", "2h", "1d" or a number of seconds'
    seconds = _in_units(value, right, DURATION_UNITS, "s")
    if seconds <= 0:
        raise ValueError(f"{shown(value)} must be more than 0")
    if seconds > _LONGEST:
        raise ValueError(f"{shown(value)} is too long: at most 36500d")
    return seconds


def _in_units(value: object, right: str, units: Mapping[str, float], plain: str) -> float:
    """Return an amount in the base unit; `units` has their sizes, and `plain` is the default."""
    amount, unit = _amount(value, right)
    if (unit or plain) not in units:
        raise ValueError(f"{shown(value)} is not {right}; units: {', '.join(units)}")
    return amount * units[unit or plain]


def _amount(value: object, right: str) -> tuple[float, str]:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value, ""
    match = _AMOUNT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{shown(value)} is not {right}")
    number = match[1]
    return (float(number) if "." in number else int(number)), match[2]


def period(value: object) -> Period | None:
    """Return the calendar period of `"3y"`, `"13 months"` or `"30d"`; None of `"forever"`."""
    if value == "forever":
        return None
    text = value.strip() if isinstance(value, str) else ""
    if wrong := minutes_fault(text):
        raise ValueError(wrong)
    found = parse_period(text)
    if found is None or found.unit not in _MAX_OF:
        raise ValueError(
            f'{shown(value)} is not a period such as "3 years", "13 months", "30 days" or "48h"'
        )
    if not 1 <= found.count <= _MAX_OF[found.unit]:
        raise ValueError(f"{shown(value)}: must be from 1 to {_MAX_OF[found.unit]} {found.unit}")
    return found


def period_with_end(value: object) -> Period:
    """Return a period for data that names people, which is never kept for ever."""
    found = period(value)
    if found is None:
        raise ValueError(
            '"forever" is not lawful for data that names people: they are kept no longer than'
            ' necessary (RGPD 5(1)(e), docs/law.md A34); set a period such as "3 years"'
        )
    return found


def suppression_period(value: object) -> Period | None:
    """Return how long a suppression is kept: by law at least three years."""
    found = period(value)
    if found is not None and not at_least_years(found, _SUPPRESSION_YEARS):
        raise ValueError(
            f"{shown(value)} is too short: an objection is honoured for at least"
            f' {_SUPPRESSION_YEARS} years (docs/law.md A34 and A35); "3 years" or more, or'
            ' "forever"'
        )
    return found


def time_of_day(value: object) -> time:
    """Return the time of `"03:30"` or `"03:30:15"`."""
    match = _TIME_OF_DAY.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f'{shown(value)} is not a time of day such as "03:30"')
    return time(int(match[1]), int(match[2]), int(match[3] or 0))


def moment(value: object) -> datetime:
    """Return a date (its first moment, UTC) or a time with its offset, in UTC."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    raise ValueError(
        f"{shown(str(value))} is not a date such as 2026-12-01 or 2026-12-01T06:00:00Z, without"
        " quotes"
    )


def rate(value: object) -> Rate:
    """Return a rate, `600/1m`: so many in so much time."""
    count, slash, period = value.partition("/") if isinstance(value, str) else ("", "", "")
    if slash and re.fullmatch(r"[1-9][0-9]{0,8}", count):
        with contextlib.suppress(ValueError):
            return Rate(int(count), duration(period))
    raise ValueError(f'{shown(value)} is not a rate such as "600/1m" or "10000/1h"')


def frequency_cap(value: object) -> Cap:
    """Return how many messages a person may get in how much time, `3/7d`."""
    if not isinstance(value, str):
        raise ValueError(f'must be text such as "3/7d", not {shown(value)}')
    try:
        return parse_cap(value)
    except ValueError as error:
        raise ValueError(f"{shown(value)} {error}") from None


def share(value: object) -> int | None:
    """Return parts per million of `"0.3%"`; None of `"off"`."""
    if value == "off":
        return None
    match = _SHARE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f'{shown(value)} is not a share such as "0.3%", or "off"')
    parts = round(float(match[1]) * 10_000)
    if not 1 <= parts <= 1_000_000:
        raise ValueError(f'{shown(value)}: must be from "0.0001%" to "100%", or "off"')
    return parts


Count = Annotated[int, Bounds(1)]
Size = Annotated[int, Written(size)]
HeaderSize = Annotated[int, Written(header_size)]
Duration = Annotated[float, Written(duration)]
OpenPeriod = Annotated[Period | None, Written(period)]
PeriodWithEnd = Annotated[Period, Written(period_with_end)]
SuppressionPeriod = Annotated[Period | None, Written(suppression_period)]
TimeOfDay = Annotated[time, Written(time_of_day)]
Moment = Annotated[datetime, Written(moment)]
PerTime = Annotated[Rate, Written(rate)]
Share = Annotated[int | None, Written(share)]
FrequencyCap = Annotated[Cap, Written(frequency_cap)]
