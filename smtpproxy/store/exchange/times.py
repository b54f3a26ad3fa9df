"""Times as people and programs write them."""

import re
from datetime import UTC, datetime, time, timedelta, tzinfo
from email.utils import parsedate_to_datetime

from msgspec import Struct

NO_EARLIER = datetime(1990, 1, 1, tzinfo=UTC)
"""Programs write 0001-01-01, 1900-01-01 or 1970-01-01 where there is no date."""
EXAMPLE = "2025-03-01T10:00:00Z"

_EPOCH_NUMBER = re.compile(r"\d{9,13}(?:\.\d+)?")
_MILLISECONDS = 10**11  # seconds would be the year 5138
_GO = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d(?:\.\d+)?) ([+-]\d{4})(?: [A-Za-z0-9+-]+)?")
_EXCEL_DAY = re.compile(r"\d{5}(?:[.,]\d+)?")
_EXCEL_NUMBER = re.compile(r"\d{1,6}(?:[.,]\d+)?")
_EXCEL_DAY_0 = datetime(1899, 12, 30)  # noqa: DTZ001 - the caller sets the zone
_PARTED = re.compile(r"(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d\d)(?:[ T]\d{1,2}:\d\d(:\d\d)?)?")
_LAST_MONTH = 12


def read_time(text: str, *, last_moment: bool = False, zone: tzinfo | None = None) -> datetime:
    """Read an ISO 8601 time with its zone, or a date alone, in UTC; `zone` is for times without.

    A date alone is its first moment, or with `last_moment` its last: for an unsubscribe that is
    the stricter, as it then comes after all that the person agreed to that day. Raises ValueError
    with what is wrong and what is expected.
    """
    try:
        return _placed(*_of_one(text, "iso"), zone, last_moment=last_moment)
    except (ValueError, OverflowError) as error:
        wrong = "has no time zone" if isinstance(error, _NoZone) else "is not a time"
        raise ValueError(f"{text[:40]!r} {wrong}; write it like {EXAMPLE}") from None


class Notation(Struct, frozen=True):
    """How the times of a file are written.

    `pattern` is iso, epoch, rfc2822, go, excel or a strptime pattern, or several separated by |,
    which are tried in turn; None is ISO 8601. `zone` is for times without one.
    """

    pattern: str | None = None
    zone: tzinfo | None = None

    def read(self, text: str, *, last_moment: bool = False) -> datetime:
        """Read a cell. A date alone is in the zone, or UTC.

        A local time that came twice, or was skipped, is read as the earlier moment, or with
        `last_moment` as the later. Raises ValueError with what is wrong and what to write in a
        mapping.
        """
        try:
            found = _of_any(text, self.pattern) if self.pattern else _of_one(text, "iso")
            return _placed(*found, self.zone, last_moment=last_moment)
        except _NoZone:
            right = 'has no time zone; set one in a mapping, like time_zone = "Europe/Paris"'
        except (ValueError, OverflowError, OSError):
            right = f"is not a time in the mapping's time_format {self.pattern}"
            if self.pattern is None:
                right = _guess(text)
            elif day := _excel_day(text):
                right += f"; in Excel it is {day}: add |excel to it"
        raise ValueError(f"{text[:40]!r} {right}")


ISO = Notation()


class _NoZone(ValueError):
    """A time of day without a zone."""


def _placed(
    moment: datetime, has_time: bool, zone: tzinfo | None, *, last_moment: bool
) -> datetime:
    """Return the moment in UTC."""
    if moment.tzinfo is not None:
        return in_utc(moment)
    if not has_time:
        day = datetime.combine(moment, time.max if last_moment else time.min)
        return _only_one(day, zone or UTC, last_moment=last_moment)
    if zone is None:
        raise _NoZone
    return _only_one(moment, zone, last_moment=last_moment)


def _only_one(local: datetime, zone: tzinfo, *, last_moment: bool) -> datetime:
    if zone is UTC:
        return local.replace(tzinfo=UTC)
    both = [in_utc(local.replace(tzinfo=zone, fold=fold)) for fold in (0, 1)]
    return max(both) if last_moment else min(both)


def _guess(text: str) -> str:
    """Return what is wrong with a text that is not ISO 8601, and how a mapping can read it."""
    if match := _PARTED.fullmatch(text):
        first, sign, second, year, seconds = match.groups()
        ending = sign + ("%Y" if len(year) > len("26") else "%y")
        if ":" in text:
            ending += " %H:%M" + (":%S" if seconds else "")
        day_first, month_first = f"%d{sign}%m{ending}", f"%m{sign}%d{ending}"
        if int(second) > _LAST_MONTH:
            return f'is not a time; set time_format = "{month_first}" in a mapping'
        if int(first) > _LAST_MONTH or sign == "." or first == second:
            return f'is not a time; set time_format = "{day_first}" in a mapping'
        return (
            "may be two different days; choose one in a mapping: "
            f'time_format = "{day_first}" or "{month_first}"'
        )
    if day := _excel_day(text):
        return f'is not a time; in Excel it is {day}: set time_format = "excel" in a mapping'
    if _EPOCH_NUMBER.fullmatch(text):
        return 'is not a time; for seconds since 1970 set time_format = "epoch" in a mapping'
    return f"is not a time; write it like {EXAMPLE}, or set time_format in a mapping"


def _excel_day(text: str) -> str:
    """Return the day of a number that Excel shows as a date, as it exports some; otherwise ''."""
    return f"{_of_one(text, 'excel')[0]:%Y-%m-%d}" if _EXCEL_DAY.fullmatch(text) else ""


def _of_any(text: str, patterns: str) -> tuple[datetime, bool]:
    for pattern in patterns.split("|"):
        try:
            return _of_one(text, pattern)
        except (ValueError, OverflowError, OSError, TypeError, IndexError):
            continue
    raise ValueError("not a time")


def _of_one(text: str, pattern: str) -> tuple[datetime, bool]:
    """Return the moment, and whether it has a time of day."""
    if pattern == "iso":
        return datetime.fromisoformat(text), len(text) > len("2025-03-01")
    if pattern == "epoch":
        if not _EPOCH_NUMBER.fullmatch(text):
            raise ValueError("no number")
        seconds = float(text)
        return datetime.fromtimestamp(seconds / (1000 if seconds > _MILLISECONDS else 1), UTC), True
    if pattern == "excel":
        if not _EXCEL_NUMBER.fullmatch(text):
            raise ValueError("no number")
        days = timedelta(days=float(text.replace(",", ".")))
        exact = timedelta(seconds=round(days.total_seconds()))
        return _EXCEL_DAY_0 + exact, bool(exact.seconds)
    if pattern == "rfc2822":
        return parsedate_to_datetime(text), True
    if pattern == "go":
        match = _GO.fullmatch(text)  # as Go's time.Time.String() prints
        if match is None:
            raise ValueError("not of Go")
        return datetime.fromisoformat("{}T{}{}".format(*match.groups())), True
    moment = datetime.strptime(text, pattern)  # noqa: DTZ007 - the caller sets the zone
    return moment, any(part in pattern for part in ("%H", "%I", "%s", "%c", "%X"))


def in_utc(moment: datetime) -> datetime:
    """Return the same moment in UTC; OverflowError beyond the years 1 to 9999."""
    return moment if moment.tzinfo is UTC else moment.astimezone(UTC)


def written_time(moment: datetime) -> str:
    """Return the time as in exports: UTC, with Z, in full precision."""
    return in_utc(moment).isoformat().replace("+00:00", "Z")
