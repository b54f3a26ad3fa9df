"""The order of time in one slot: each line is dated after the lines and the anchors before it."""

import re
from datetime import UTC, datetime

from smtpproxy.sinks.audit.anchor_check import Seen
from smtpproxy.sinks.audit.chain import NotALine, Sealed
from smtpproxy.sinks.audit.lines import (
    CLOCK_TOLERANCE,
    BeginEntry,
    ClockEntry,
    DecisionEntry,
    read_line,
)

_DATED = re.compile(
    rb'"entry":\{"kind":"decision","id":"[0-9A-Z]{26}","at":"([0-9]{4}-[0-9T:.-]{14,21})Z"'
)
_TIME = "%Y-%m-%d %H:%M:%S"


class TimeOrder:
    """Told of lines and anchors in their order, it returns what is wrong in words, or None.

    Times are compared as they are written, and read only where they seem to go back.
    """

    def __init__(self) -> None:
        self._latest = b""
        self._since = b""  # the newest of the lines since the last anchor

    def line(self, sealed: Sealed, raw: bytes) -> str | None:
        """Whether a decision, or a step of the clock, is dated before what stands before it."""
        found = _DATED.search(sealed.rest)
        if found is not None and _plain(sealed.rest, found.end()):
            at = found[1]
        else:
            try:
                entry = read_line(raw).entry
            except NotALine:
                return None
            if isinstance(entry, ClockEntry):
                self._latest = _written(entry.at)
                return None
            if not isinstance(entry, DecisionEntry):
                return None  # what the upstream answered may be noted late
            at = _written(entry.at)
        self._since = max(self._since, at)
        return self._after_all(at)

    def begin(self, begin: BeginEntry) -> str | None:
        """A file's first line."""
        at = _written(begin.at)
        self._since = max(self._since, at)
        if begin.set_back_from is None:
            return self._after_all(at)
        self._latest = b""  # what comes next may have waited
        return None

    def anchor(self, seen: Seen) -> str | None:
        """An anchor has seen all lines up to here, and saw no further ones until `seen.until`."""
        self._latest = max(self._latest, _written(seen.until))
        since, self._since = self._since, b""
        if since and not seen.set_back and _read(since) - seen.at > CLOCK_TOLERANCE:
            return (
                f"a row up to here is dated {_read(since):{_TIME}}, and was seen by anchor "
                f"{seen.anchor} at {seen.at:{_TIME}}"
            )
        return None

    def end(self, now: datetime | None) -> str | None:
        """Nothing is dated in the future."""
        if now is not None and self._since and _read(self._since) - now > CLOCK_TOLERANCE:
            return f"a row of it is dated {_read(self._since):{_TIME}}, and it is {now:{_TIME}}"
        return None

    def _after_all(self, at: bytes) -> str | None:
        if at >= self._latest:
            self._latest = at
            return None
        latest = _read(self._latest)
        if latest - _read(at) <= CLOCK_TOLERANCE:
            return None
        return f"it is dated {_read(at):{_TIME}}, after what is dated {latest:{_TIME}}"


def _plain(rest: bytes, position: int) -> bool:
    """Whether no other member can be meant by the names that were found."""
    return (
        rest.find(b'"at":"', position) < 0
        and rest.find(b'"entry":', position) < 0
        and b"\\u" not in rest
    )


def _written(at: datetime) -> bytes:
    return at.astimezone(UTC).isoformat().encode().removesuffix(b"+00:00")


def _read(at: bytes) -> datetime:
    try:
        return datetime.fromisoformat(at.decode()).replace(tzinfo=UTC)
    except ValueError:
        return datetime.max.replace(tzinfo=UTC)  # digits that are no date
