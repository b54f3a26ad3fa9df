"""The pauses of streams, the warnings before them, and their history."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from msgspec import Struct
from msgspec.structs import asdict, astuple

from smtpproxy.policy.breaker import MILLION
from smtpproxy.policy.model import Pause
from smtpproxy.store.sql.rows import PAUSES, from_micros, record_of, row_of, to_micros
from smtpproxy.store.sql.session import Connections, Session, put_row

PERSON, TIME = "person", "time"
"""Causes other than those of `Feedback`: an operator, or the end of a pause."""


class StreamEvent(Struct, frozen=True, omit_defaults=True):
    """A warning about a stream or a whole brand, its pause, or the end of one."""

    at: datetime
    subject: str  # "stream:NAME" or "brand:NAME"
    action: Literal["warned", "paused", "resumed"]
    cause: str  # the `Feedback`, PERSON or TIME
    reports: int = 0
    messages: int = 0  # within the window
    bound: int = 0  # that was reached, in parts per million
    until: datetime | None = None  # of a pause; None: until an operator resumes it
    reason: str | None = None  # given by an operator


def event_object(event: StreamEvent) -> dict[str, object]:
    """Return the object for commands and webhooks; shares are fractions of 1."""
    found = asdict(event) | {"bound": event.bound / MILLION}
    for name in () if event.messages else ("reports", "messages", "bound"):
        del found[name]
    return found


_EVENT = "at, subject, action, cause, reports, messages, bound, until, reason"
_NOTE = f"INSERT INTO stream_event ({_EVENT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_EVENTS = f"SELECT {_EVENT} FROM stream_event ORDER BY id DESC LIMIT 100"

_PAUSED = "SELECT 1 FROM stream_pause WHERE subject = ? AND (until IS NULL OR until > ?)"
_PAUSE = put_row("stream_pause", "subject, at, cause, until, reason")
_RESUME = "DELETE FROM stream_pause WHERE subject = ?"
_WARNED = """
SELECT 1 FROM stream_event WHERE subject = ? AND action = 'warned' AND cause = ?
AND at BETWEEN ? AND ? LIMIT 1
"""
_DUE = "SELECT subject, until FROM stream_pause WHERE until <= ? ORDER BY until"
_TRIM = "DELETE FROM stream_event WHERE at < ?"
_RESUMED = """
SELECT subject, max(at) FROM (
    SELECT subject, at FROM stream_event WHERE action = 'resumed' AND at <= ?1
    UNION ALL SELECT subject, until FROM stream_pause WHERE until <= ?1
    UNION ALL SELECT subject, at FROM stream_event WHERE action = 'paused' AND at <= ?1
        AND subject NOT IN (SELECT subject FROM stream_pause)
) AS ended GROUP BY subject
"""


class Streams(Connections):
    """The part of a store about pauses of streams; the mail path gets these by `FactReader`."""

    async def pauses(self) -> Sequence[Pause]:
        """Return all pauses on record, even those whose time is over."""
        async with self._reading() as session:
            return [record_of(Pause, row) for row in await session.fetch_all(PAUSES)]

    async def note_stream(
        self, event: StreamEvent, *, unless_since: datetime | None = None
    ) -> bool:
        """Pause, resume or warn, and record it; if it is so already, return False.

        Only an operator can change a pause in force. A warning given `unless_since` for the same
        cause is not repeated.
        """
        async with self._writing() as session:
            if await _is_so(session, event, unless_since):
                return False
            if event.action == "paused":
                await _resume_due(session, event.at)  # else nobody hears of it any more
                row = (event.subject, event.at, event.cause, event.until, event.reason)
                await session.run(_PAUSE, *row_of(row))
            elif event.action == "resumed":
                await session.run(_RESUME, event.subject)
            await session.run(_NOTE, *row_of(astuple(event)))
            return True

    async def resume_due(self, now: datetime) -> Sequence[StreamEvent]:
        """Resume the streams whose pause is over; return the events."""
        async with self._writing() as session:
            return await _resume_due(session, now)

    async def stream_events(self) -> Sequence[StreamEvent]:
        """Return the newest events, the newest first."""
        async with self._reading() as session:
            return [record_of(StreamEvent, row) for row in await session.fetch_all(_EVENTS)]

    async def trim_stream_events(self, before: datetime) -> int:
        """Delete the events from before a time; return how many."""
        async with self._writing() as session:
            return await session.run(_TRIM, to_micros(before))

    async def resumed_at(self, now: datetime) -> Mapping[str, datetime]:
        """Return when each subject was last resumed, or its time was over, up to now.

        If a clock that is ahead has dated that, when the pause began: nothing was sent in it.
        """
        async with self._reading() as session:
            return {
                name: from_micros(at)
                for name, at in await session.fetch_all(_RESUMED, to_micros(now))
            }


async def _resume_due(session: Session, now: datetime) -> Sequence[StreamEvent]:
    due = [
        StreamEvent(from_micros(until), subject, "resumed", TIME)
        for subject, until in await session.fetch_all(_DUE, to_micros(now))
    ]
    for event in due:
        await session.run(_RESUME, event.subject)
        await session.run(_NOTE, *row_of(astuple(event)))
    return due


async def _is_so(session: Session, event: StreamEvent, unless_since: datetime | None) -> bool:
    at = to_micros(event.at)
    if event.action == "warned":
        since = at if unless_since is None else to_micros(unless_since)
        return bool(await session.fetch_all(_WARNED, event.subject, event.cause, since, at))
    paused = bool(await session.fetch_all(_PAUSED, event.subject, at))
    if event.action == "paused":
        return paused and event.cause != PERSON
    return not paused
