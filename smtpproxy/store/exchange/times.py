"""Times as people and programs write them."""

from datetime import UTC, datetime, time

EXAMPLE = "2025-03-01T10:00:00Z"


def read_time(text: str, *, last_moment: bool = False, pattern: str | None = None) -> datetime:
    """Read a time of ISO 8601 with its zone, or a date alone, which is meant in UTC.

    A date alone is its first moment; with `last_moment` its last, where the later is the
    stricter (somebody who unsubscribed that day did so after all that they agreed to).
    `pattern` is that of another notation (strptime); its times are UTC unless it has a %z.

    Raises:
        ValueError: with what is wrong and what would be right.
    """
    try:
        if pattern is None:
            moment = datetime.fromisoformat(text)
            has_time = len(text) > len("2025-03-01")
        else:
            moment = datetime.strptime(text, pattern)  # noqa: DTZ007 - see the next lines
            has_time = any(part in pattern for part in ("%H", "%I", "%s", "%c", "%X"))
        if moment.tzinfo is None and not has_time:
            moment = datetime.combine(moment, time.max if last_moment else time.min, UTC)
        elif moment.tzinfo is None and pattern:
            moment = moment.replace(tzinfo=UTC)
        elif moment.tzinfo is None:
            raise ValueError("no time zone")
        return in_utc(moment)
    except (ValueError, OverflowError) as error:
        wrong = "has no time zone" if str(error) == "no time zone" else "is not a time"
        right = f"as the mapping's time_format {pattern}" if pattern else f"like {EXAMPLE}"
        raise ValueError(f"{text[:40]!r} {wrong}; write it {right}") from None


def in_utc(moment: datetime) -> datetime:
    """Return the same moment in UTC; OverflowError beyond the years 1 to 9999."""
    return moment if moment.tzinfo is UTC else moment.astimezone(UTC)


def written_time(moment: datetime) -> str:
    """Return the time as exports have it: UTC, with Z, as exact as it is known."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
