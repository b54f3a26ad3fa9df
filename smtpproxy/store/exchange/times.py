"""Times as people and programs write them."""

import re
from datetime import UTC, datetime, time
from email.utils import parsedate_to_datetime

EXAMPLE = "2025-03-01T10:00:00Z"
NOTATIONS = ("iso", "epoch", "rfc2822", "go")
"""Notations that have a name; all others are patterns of strptime."""

_EPOCH_NUMBER = re.compile(r"\d{9,13}(?:\.\d+)?")
_MILLISECONDS = 10**11  # seconds would be the year 5138
_GO = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d(?:\.\d+)?) ([+-]\d{4})(?: [A-Za-z0-9+-]+)?")


def read_time(text: str, *, last_moment: bool = False, pattern: str | None = None) -> datetime:
    """Read a time of ISO 8601 with its zone, or a date alone, which is meant in UTC.

    A date alone is its first moment; with `last_moment` its last, where the later is the
    stricter (somebody who unsubscribed that day did so after all that they agreed to).
    `pattern` is another notation, or several with | between them, tried in turn: one of
    NOTATIONS or a pattern of strptime. Its times are UTC where they name no zone.

    Raises:
        ValueError: with what is wrong and what would be right.
    """
    try:
        if pattern is None:
            moment, has_time = datetime.fromisoformat(text), len(text) > len("2025-03-01")
        else:
            moment, has_time = _of_any(text, pattern)
        if moment.tzinfo is None and not has_time:
            moment = datetime.combine(moment, time.max if last_moment else time.min, UTC)
        elif moment.tzinfo is None and pattern:
            moment = moment.replace(tzinfo=UTC)
        elif moment.tzinfo is None:
            raise ValueError("no time zone")
        return in_utc(moment)
    except (ValueError, OverflowError, OSError) as error:
        wrong = "has no time zone" if str(error) == "no time zone" else "is not a time"
        right = f"as the mapping's time_format {pattern}" if pattern else f"like {EXAMPLE}"
        raise ValueError(f"{text[:40]!r} {wrong}; write it {right}") from None


def _of_any(text: str, patterns: str) -> tuple[datetime, bool]:
    for pattern in patterns.split("|"):
        try:
            return _of_one(text, pattern)
        except (ValueError, OverflowError, OSError, TypeError, IndexError):
            continue
    raise ValueError("not a time")


def _of_one(text: str, pattern: str) -> tuple[datetime, bool]:
    """Return the moment, and whether it has a time of day."""
    if pattern == "epoch":
        if not _EPOCH_NUMBER.fullmatch(text):
            raise ValueError("no number")
        seconds = float(text)
        return datetime.fromtimestamp(seconds / (1000 if seconds > _MILLISECONDS else 1), UTC), True
    if pattern == "iso":
        return datetime.fromisoformat(text), len(text) > len("2025-03-01")
    if pattern == "rfc2822":
        return parsedate_to_datetime(text), True
    if pattern == "go":
        match = _GO.fullmatch(text)  # what Go's time.Time.String() prints
        if match is None:
            raise ValueError("not of Go")
        return datetime.fromisoformat("{}T{}{}".format(*match.groups())), True
    moment = datetime.strptime(text, pattern)  # noqa: DTZ007 - the caller sets the zone
    return moment, any(part in pattern for part in ("%H", "%I", "%s", "%c", "%X"))


def in_utc(moment: datetime) -> datetime:
    """Return the same moment in UTC; OverflowError beyond the years 1 to 9999."""
    return moment if moment.tzinfo is UTC else moment.astimezone(UTC)


def written_time(moment: datetime) -> str:
    """Return the time as exports have it: UTC, with Z, as exact as it is known."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
