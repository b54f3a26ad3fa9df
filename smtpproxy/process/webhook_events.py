"""Events for webhooks that no other part logs: summaries of refusals, and trials of campaigns.

Both are read from what the mail path writes anyway, and logged together with the position read, so
that each is logged once even if the process is killed.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event as Flag

import msgspec
from msgspec import Struct

from smtpproxy.events import time_of
from smtpproxy.policy.campaign import Campaign, Trial, held_until
from smtpproxy.policy.model import Action
from smtpproxy.process.children import until_it_works
from smtpproxy.report.counting import count_rows
from smtpproxy.report.counts import Row
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit.following import Tail, newest_rows
from smtpproxy.store import open_stream_counts
from smtpproxy.store.propagation import NewEvent
from smtpproxy.store.register import relay_id
from smtpproxy.store.sql.store import Store
from smtpproxy.store.sql.stream_counts import StreamCounts

CAMPAIGNS, REFUSALS = "campaigns", "refusals"
"""The sources; for refusals one per relay and period, since each has its own journal."""

_LOOK = 2.0  # seconds
_WAITS = "webhook events wait"
_AT_ONCE = 100  # campaigns in one look
LEAST = 10
"""How many people must get a campaign before it is reported."""

Clock = Callable[[], datetime]


class _Read(Struct):
    """Until when refusals were summed up, and the last row that was read of each slot."""

    until: datetime
    rows: dict[int, int]


class _Ended(Exception):
    """The process is ending; what was counted is counted again."""


class RefusalSummaries(Struct):
    """Sums up the audit journal once in a period (seconds, from midnight in UTC)."""

    store: Store
    relay: str  # its host name
    id: str  # and what distinguishes its journal from others
    audit: Path
    period: float
    now: Clock
    ending: Flag

    @property
    def source(self) -> str:
        return f"{REFUSALS}:{self.id}:{self.period:g}"

    async def look(self) -> None:
        """Log a summary if one is due. Raises StoreUnavailable, OSError.

        It covers what was recorded since the last one, so more than a period if this did not run
        for longer. The first one covers what is recorded from now on.
        """
        noted = (await self.store.event_sources()).get(self.source)
        now = self.now()
        if noted is None:
            await self._note((), _Read(now, await asyncio.to_thread(newest_rows, self.audit)))
            return
        before = msgspec.json.decode(noted, type=_Read)
        if _periods(now, self.period) == _periods(before.until, self.period):
            return
        with suppress(_Ended):
            counted, rows = await asyncio.to_thread(self._count, before.rows)
            data = {
                "relay": self.relay,
                "since": before.until,
                "until": now,
                "period": self.period,
                "streams": list(_by_stream(counted)),
            }
            event = NewEvent(f"{self.source}:{before.until.isoformat()}", "refusals", data)
            await self._note((event,), _Read(now, rows))

    async def _note(self, events: tuple[NewEvent, ...], read: _Read) -> None:
        await self.store.log_events(events, (self.source, msgspec.json.encode(read).decode()))

    def _count(self, before: Mapping[int, int]) -> tuple[Row, dict[int, int]]:
        rows = dict(before)
        counted: Row = {}
        for slot, lines in Tail(self.audit).unread(before):
            count_rows(self._lines(slot, lines, rows), counted)
        return counted, rows

    def _lines(
        self, slot: int, lines: Iterable[tuple[str, int, bytes]], rows: dict[int, int]
    ) -> Iterator[bytes]:
        for _, number, raw in lines:
            if self.ending.is_set():
                raise _Ended
            rows[slot] = number
            yield raw


def _periods(moment: datetime, period: float) -> int:
    return int(moment.timestamp() // period)


_KINDS = {
    (False, Action.REFUSE): "refused",
    (False, Action.DEFER): "deferred",
    (True, Action.REFUSE): "would_be_refused",
    (True, Action.DEFER): "would_be_deferred",
}


def _by_stream(counted: Row) -> Iterator[dict[str, object]]:
    """Yield how many recipients passed on each stream, and how many did not, by reason."""
    for stream in sorted({what.stream for what in counted}):
        passed = 0
        reasons: dict[str, dict[str, int]] = {kind: {} for kind in _KINDS.values()}
        for what, people in counted.items():
            if what.stream != stream:
                continue
            if what.action is Action.ALLOW:
                passed += people
            else:
                kind = reasons[_KINDS[what.observed, what.action]]
                kind[what.word] = kind.get(what.word, 0) + people
        yield {"stream": stream, "passed": max(passed, 0), **reasons}


class _Known(Struct, frozen=True):
    """A campaign's first decision, and the keys of what was logged about it."""

    began: str
    noted: set[str]


class CampaignTrials(Struct):
    """Logs which campaigns were on trial, and the result."""

    store: Store
    counts: StreamCounts
    trials: Mapping[str, Trial]
    now: Clock
    _known: dict[str, _Known] = {}

    async def look(self) -> None:
        """Log what is new. Raises StoreUnavailable."""
        noted = (await self.store.event_sources()).get(CAMPAIGNS)
        since = self.now() if noted is None else datetime.fromisoformat(noted)
        if noted is None:
            await self.store.log_events((), (CAMPAIGNS, since.isoformat()))
        found = await self.counts.tried_since(since, LEAST)
        known, self._known = self._known, {}
        news: list[NewEvent] = []
        for stream, campaign in found:
            trial = self.trials.get(stream)
            if trial is None or len(news) >= _AT_ONCE:
                continue
            of_it = known.get(campaign.key) or await self._first_seen(campaign.key)
            if of_it is not None:
                self._known[campaign.key] = of_it
                news += [
                    each
                    for each in _events(stream, campaign, trial, of_it.began)
                    if each.key not in of_it.noted
                ]
        if news:
            await self.store.log_events(news)
        for one in news:
            self._known[str(one.data["campaign"])].noted.add(one.key)

    async def _first_seen(self, campaign: str) -> _Known | None:
        began = await self.counts.campaign_began(campaign)
        return None if began is None else _Known(began, set())


def _events(stream: str, campaign: Campaign, trial: Trial, began: str) -> Iterator[NewEvent]:
    """Yield the beginning of a trial, and its end; another one if the campaign waits longer for
    dead addresses."""

    def event(key: str, at: datetime, action: str, **more: object) -> NewEvent:
        about = {"subject": f"stream:{stream}", "action": action, "campaign": campaign.key}
        return NewEvent(f"{campaign.key}:{began}:{key}", "campaign", {"at": at, **about, **more})

    begun_at = datetime.fromtimestamp(time_of(began) / 1000, UTC)
    yield event("begun", begun_at, "trial_begun", recipients=trial.recipients)
    if campaign.full_at is not None:
        until = held_until(campaign, trial)
        yield event(
            "free" if until is None else until.isoformat(),
            campaign.full_at if until is None else until - timedelta(seconds=trial.wait),
            "trial_ended",
            recipients=campaign.people,
            strangers=campaign.strangers,
            dead_addresses=campaign.dead,
            until=until,
        )


async def keep_logging(settings: Settings, store: Store, now: Clock, ending: Flag) -> None:
    """Log what any webhook wants, until cancelled; after a failure it tries again."""
    wanted = frozenset(event for webhook in settings.webhooks for event in webhook.events)
    periods = {one.refusals_every for one in settings.webhooks if "refusals" in one.events}
    relay, audit = settings.server.hostname, settings.server.state_dir / "audit"
    id = relay_id(settings.server.state_dir)
    summaries = [
        RefusalSummaries(store, relay, id, audit, each, now, ending) for each in sorted(periods)
    ]
    looks = [each.look for each in summaries]
    kept = [each.source for each in summaries]
    counts = open_stream_counts(settings.store, read_only=True)
    if "streams" in wanted and settings.tries_campaigns:
        streams = settings.streams.values()
        trials = {one.name: one.trial for one in streams if one.trial is not None}
        looks.append(CampaignTrials(store, counts, trials, now).look)
        kept.append(CAMPAIGNS)
    with closing(counts):
        await until_it_works(lambda: _forget_others(store, id, kept), _WAITS)
        while looks:
            for look in looks:
                await until_it_works(look, _WAITS)
            await asyncio.sleep(_LOOK)


async def _forget_others(store: Store, id: str, kept: Sequence[str]) -> None:
    """Forget this relay's sources that no webhook wants: they begin afresh if wanted again."""
    ours = (CAMPAIGNS, f"{REFUSALS}:{id}:")
    known = await store.event_sources()
    await store.forget_event_sources([n for n in known if n.startswith(ours) and n not in kept])
