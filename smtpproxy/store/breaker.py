"""The breaker: counts feedback on the streams, and pauses those with too much of it.

Every process judges soon after it has counted, so none depends on another. Notifications go
through the store (docs/adr/0024-breaker.md).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from msgspec import Struct
from msgspec.structs import asdict

from smtpproxy.events import time_of
from smtpproxy.policy.breaker import (
    BRAND,
    MILLION,
    RESTORE,
    STREAM,
    Feedback,
    Finding,
    Tally,
    enough,
    heard_by,
    judged,
)
from smtpproxy.policy.model import Pause, Stream, StreamClass
from smtpproxy.policy.rules.deferrals import pause_in_force
from smtpproxy.settings import BreakerSettings
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sql.store import Store
from smtpproxy.store.sql.stream_counts import StreamCounts
from smtpproxy.store.streams import StreamEvent

SENT_EVERY = 1.0
"""Seconds between two counts of sent mail in each process."""

_ALL_SENT = 2 * SENT_EVERY
"""Seconds after which all mail sent before has been counted."""

_RESTORE = "smtpproxy restore says what is missing"

_CACHE_TIME, _WARNING_INTERVAL = timedelta(seconds=1), timedelta(seconds=10)

log = structlog.get_logger(__name__)


class StreamStatus(Struct, frozen=True):
    """The state of a marketing stream."""

    name: str
    brand: str
    tally: Tally  # within the window
    pause: Pause | None  # set by a person or the breaker, and in force
    configured: bool  # `paused` is set in its table
    reached: tuple[Finding, ...]  # the bounds that it, or its brand, has reached

    @property
    def cause(self) -> str | None:
        """Why its mail is held back, as in the metrics; None if it is not."""
        if self.configured:
            return "configuration"
        return None if self.pause is None else self.pause.cause


def subject_of(streams: Iterable[Stream], name: str) -> str:
    """Return the subject for the name of a marketing stream, or for brand:NAME.

    Raises ValueError if there is none.
    """
    every = list(streams)
    marketing = [s for s in every if s.stream_class is StreamClass.MARKETING]
    if name.startswith(BRAND) and name.removeprefix(BRAND) in {s.brand for s in marketing}:
        return name
    if name in {s.name for s in marketing}:
        return STREAM + name
    if name in {s.name for s in every}:
        raise ValueError(f"{name} is a transactional stream: its mail is never held back")
    known = sorted(s.name for s in marketing) + sorted({BRAND + s.brand for s in marketing})
    raise ValueError(f"there is no stream {name!r}; known: {', '.join(known) or 'none'}")


def status_object(status: StreamStatus) -> dict[str, Any]:
    """Return the object for a stream in commands and the API; shares are fractions of 1."""
    pause = status.pause
    paused: dict[str, Any] | None = None
    if status.configured:
        paused = {"subject": STREAM + status.name, "since": None, "until": None}
        paused |= {"cause": "configuration", "reason": None}
    elif pause is not None:
        paused = {"subject": pause.subject, "since": pause.at, "until": pause.until}
        # The reason of a restore is for programs: where its journals are to be read from.
        reason = _RESTORE if pause.cause == RESTORE else pause.reason
        paused |= {"cause": pause.cause, "reason": reason}
    return {
        "stream": status.name,
        "brand": status.brand,
        "state": "running" if paused is None else "paused",
        "paused": paused,
        "messages": status.tally.messages,
        **{kind: status.tally.heard.get(kind, 0) for kind in Feedback},
        "reached": [asdict(one) | {"bound": one.bound / MILLION} for one in status.reached],
    }


class Breaker:
    """Counts for all marketing streams of a configuration, for one event loop.

    `states` returns the store to write to; it is called only when a stream nears a bound. Methods
    raise StoreUnavailable. Counts are judged in a task, since that takes seconds.
    """

    def __init__(
        self,
        settings: BreakerSettings,
        streams: Iterable[Stream],
        counts: StreamCounts,
        states: Callable[[], Store],
        *,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self._rules = settings.rules
        marketing = [one for one in streams if one.stream_class is StreamClass.MARKETING]
        self._brands = {one.name: one.brand for one in marketing}
        self._trials = {one.name: one.trial for one in marketing}
        self._configured = {one.name for one in marketing if one.paused}
        self._counts = counts
        self._states = states
        self._now = now
        self._sleep = sleep
        self._due: set[str] = set()  # streams with new counts
        self._judging: asyncio.Task[None] | None = None
        self._warned: dict[tuple[str, Feedback], datetime] = {}
        self._known: tuple[datetime, Mapping[str, datetime], frozenset[str]] | None = None

    async def sent(self, messages: Mapping[str, int]) -> None:
        """Count messages by stream, one for each recipient."""
        counted = {name: n for name, n in messages.items() if n and name in self._brands}
        if counted:
            await self._counts.add_messages(counted, self._now(), self._settings.window)
            self._judge_soon(counted)

    async def heard(self, kind: Feedback, stream: str, id: str, person: str) -> bool:
        """Count feedback on our message to `person`, which a token proves; return if it counted.

        `id` is the decision's, `person` a canonical address or a key text. Feedback without a valid
        token must not come here: nobody may pause a stream with forgeries. A person counts once in
        a window.
        """
        if stream not in self._brands:
            return False
        sent_at = datetime.fromtimestamp(time_of(id) / 1000, UTC)
        window = self._settings.window
        if self._now() - sent_at >= timedelta(seconds=window):
            return False
        trial = self._trials[stream]
        if kind is Feedback.DEAD_ADDRESS and trial is not None and trial.dead_addresses is not None:
            least = self._rules.minimum_reports
            await self._counts.campaign_bounced(
                id, person, self._now(), trial.dead_addresses, least
            )
        counted = await self._counts.add_heard(stream, kind, person, sent_at, self._now(), window)
        if counted:
            self._judge_soon([stream])
        return counted

    async def settled(self) -> None:
        """Wait until what was counted in this process has been judged."""
        if self._judging is not None:
            await self._judging

    def _judge_soon(self, streams: Iterable[str]) -> None:
        self._due.update(streams)
        if self._judging is None or self._judging.done():
            self._judging = asyncio.create_task(self._judge_due())

    async def _judge_due(self) -> None:
        """Judge the due streams; those that cannot be judged wait for the next count."""
        while self._due:
            streams, self._due = self._due, set()
            try:
                await self._judge(streams)
            except StoreUnavailable as error:
                self._due |= streams
                log.warning("streams not judged", error=str(error))
                return
            except Exception as error:  # a bug here must not stop the mail
                log.error("internal error", exc_info=error)

    async def _judge(self, streams: Iterable[str]) -> None:
        """Pause or warn, for these streams and all of the same brands.

        Feedback is compared with all mail sent before it. That takes a moment to be counted, and
        the share would be too high without it.
        """
        brands = {self._brands[name] for name in streams}
        names = [name for name, brand in self._brands.items() if brand in brands]
        beginning = self._now() - timedelta(seconds=self._settings.window)
        whole = await self._counts.tallies(dict.fromkeys(names, beginning))
        if not enough(sum(whole.values(), Tally()), self._rules):
            return
        _, before, found = await self._found(names)
        if not found:
            return
        await self._sleep(_ALL_SENT)
        now = self._now()
        since, _, found = await self._found(names, before)
        for subject, one in found:
            event = self._event(subject, one, now)
            if one.level == "warn":
                self._warned[subject, one.cause] = now
            if await self._states().note_stream(event, unless_since=since.get(subject, beginning)):
                log_event(event)

    async def _found(
        self, names: Sequence[str], before: Mapping[str, Tally] | None = None
    ) -> tuple[Mapping[str, datetime], Mapping[str, Tally], Sequence[tuple[str, Finding]]]:
        """Return the findings for streams and their brands, with the start of their windows and
        their tallies; if `before` is given, with its feedback only, and with a state that may be
        acted on: a cached one may be outdated.
        """
        now = self._now()
        since, paused = await self._state(now, fresh=before is not None)
        tallies = await self._counts.tallies({name: since[name] for name in names})
        if before is not None:
            tallies = {n: heard_by(before.get(n, Tally()), tally) for n, tally in tallies.items()}
        found = [
            (subject, one)
            for subject, one in judged(tallies, self._brands, self._rules, paused)
            if one.level == "pause" or not self._warned_lately(subject, one.cause, now)
        ]
        return since, tallies, found

    def _warned_lately(self, subject: str, cause: Feedback, now: datetime) -> bool:
        at = self._warned.get((subject, cause))
        return at is not None and now - at < _WARNING_INTERVAL

    async def _state(
        self, now: datetime, *, fresh: bool
    ) -> tuple[Mapping[str, datetime], frozenset[str]]:
        """Return the start of each stream's window, and the paused subjects."""
        if fresh or self._known is None or not timedelta(0) <= now - self._known[0] < _CACHE_TIME:
            since = await self._since(now)
            pauses = await self._states().pauses()
            paused = frozenset(one.subject for one in pauses if one.holds(now))
            self._known = now, since, paused
        return self._known[1:]

    async def resume_due(self) -> None:
        """Resume the streams whose pause is over."""
        states, now = self._states(), self._now()
        if any(one.until is not None and one.until <= now for one in await states.pauses()):
            for event in await states.resume_due(now):
                log_event(event)

    async def paused(self) -> tuple[str, ...]:
        """Return the subjects that are paused now, also by the configuration."""
        now = self._now()
        held = {one.subject for one in await self._states().pauses() if one.holds(now)}
        return tuple(sorted(held | {STREAM + name for name in self._configured}))

    async def status(self) -> Sequence[StreamStatus]:
        """Return the state of all streams now."""
        states, now = self._states(), self._now()
        since = await self._since(now)
        pauses = await states.pauses()
        tallies = await self._counts.tallies({name: since[name] for name in self._brands})
        reached = judged(tallies, self._brands, self._rules)
        return [
            StreamStatus(
                name,
                brand,
                tallies.get(name, Tally()),
                pause_in_force(name, brand, pauses, now),
                name in self._configured,
                tuple([one for s, one in reached if s in (STREAM + name, BRAND + brand)]),
            )
            for name, brand in self._brands.items()
        ]

    async def _since(self, now: datetime) -> Mapping[str, datetime]:
        """Return when counting starts, by stream name and by subject: not before the last resume,
        as the pause has already dealt with earlier mail."""
        beginning = now - timedelta(seconds=self._settings.window)
        resumed = await self._states().resumed_at(now)
        since = {subject: max(at, beginning) for subject, at in resumed.items()}
        return since | {
            name: max(since.get(s, beginning) for s in (STREAM + name, BRAND + brand))
            for name, brand in self._brands.items()
        }

    def _event(self, subject: str, found: Finding, now: datetime) -> StreamEvent:
        until, after = None, self._settings.resume_after
        if found.level == "pause" and after is not None:
            until = now + timedelta(seconds=after)
        return StreamEvent(
            now,
            subject,
            "paused" if found.level == "pause" else "warned",
            found.cause,
            found.reports,
            found.messages,
            found.bound,
            until,
        )

    def close(self) -> None:
        """Stop; streams that are still due are judged with their next count."""
        if self._judging is not None:
            self._judging.cancel()
        self._counts.close()


def log_event(event: StreamEvent) -> None:
    write = log.info if event.action == "resumed" else log.warning
    write(
        f"stream {event.action}",
        subject=event.subject,
        cause=event.cause,
        reports=event.reports,
        messages=event.messages,
        until=None if event.until is None else event.until.isoformat(),
    )
