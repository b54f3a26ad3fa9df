"""Retention: removes data whose period is over, daily or by hand (docs/data.md).

A run finds such data and removes it a little at a time; `purge_runs.py` keeps the record of runs.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import msgspec
from msgspec import Struct

from smtpproxy.disk import locked
from smtpproxy.policy.periods import Period, beginning, years
from smtpproxy.policy.rulebook import Rulebook
from smtpproxy.purge_runs import note_run
from smtpproxy.settings import ServerSettings, Settings
from smtpproxy.sinks.audit.expire import expirable, expire
from smtpproxy.sinks.audit.files import segments, start_times
from smtpproxy.sinks.audit.following import matches
from smtpproxy.store import (
    open_answers,
    open_bulk_counter,
    open_confirmation_limit,
    open_copies,
    open_feedback,
    open_journals,
    open_mailings,
    open_stream_counts,
)
from smtpproxy.store.change_journal import Journal
from smtpproxy.store.import_jobs import ImportJobs
from smtpproxy.store.maildir import Maildir
from smtpproxy.store.operations import Limits, PurgedSuppressions, Removed
from smtpproxy.store.propagation import of_others
from smtpproxy.store.register import known_relay_id, relay_id
from smtpproxy.store.sql.store import Store

NOTES_FOR = years(1)
"""How long the free text of a suppression's note is kept."""

LOCK_NAME = "purge.lock"


class AlreadyRunning(Exception):
    """Another run has not ended yet."""


class Purged(Struct):
    """What a run removed, or would; `removed` has every kind of `PURGED_KINDS`."""

    began: datetime
    at: datetime
    dry_run: bool
    removed: dict[str, Removed] = {}
    orders: int = 0  # withdrawals and objections kept as suppressions
    objected: int = 0  # contacts of people who objected to all marketing
    matched: int = 0  # addresses whose suppressions mail matched since the last run
    notes: int = 0  # in free text, forgotten
    held: int = 0  # old suppressions that stay because of a contact
    indexed: int = 0  # rows of the index of decisions, if there is one
    behind: Sequence[str] = ()  # relays whose newest matches are not known yet


async def purge(
    settings: Settings,
    store: Store,
    *,
    at: datetime,
    clock: Callable[[], datetime],
    dry_run: bool = False,
) -> Purged:
    """Remove everything whose period is over at `at`, and record the run.

    Mail and imports go on meanwhile. An interrupted run keeps what it has removed, and the next one
    does the rest. Raises AlreadyRunning, StoreUnavailable, OSError.
    """
    state = settings.server.state_dir
    purged = Purged(clock(), at, dry_run)
    if dry_run:
        await _remove(settings, store, purged, clock)
        return purged
    with locked(state / LOCK_NAME, AlreadyRunning("another purge is running"), makes=True):
        await _remove(settings, store, purged, clock)
        note_run(state, purged.began, clock(), purged.removed)
    return purged


async def _remove(
    settings: Settings, store: Store, purged: Purged, clock: Callable[[], datetime]
) -> None:
    keep, at, dry_run = settings.retention, purged.at, purged.dry_run
    audit = settings.server.state_dir / "audit"
    # Matches first: they renew suppressions, and their files may be removed below.
    followed = await Followed.of(store, settings.server, dry_run=dry_run)
    unread = _unread(audit, followed.rows, purged)
    if not dry_run:
        another_key = len(await store.keys()) > 1
        for newest, read in unread:
            await store.renew_suppressions(newest)
            if another_key:  # here addresses are known that are stored nowhere
                await store.rekey(list(newest))
            await followed.note(read)
        await followed.note({}, clock())
    purged.behind = await followed.behind(purged.began)
    await _remove_people(settings, store, purged, (newest for newest, _ in unread))
    if keep.changes is not None and not dry_run:
        theirs = of_others((await store.webhook_progress()).holdings, followed.relay, clock())
        names = [*theirs, *(webhook.name for webhook in settings.webhooks)]
        await store.trim_changes(beginning(at, keep.changes), webhooks=names)
        await asyncio.to_thread(Journal(audit).expire, beginning(at, keep.changes))
        await store.trim_stream_events(beginning(at, keep.changes))
    mailings = await _prune_mailings(settings, at, clock(), dry_run=dry_run)
    purged.removed["mailings"] = Removed(mailings)
    if not dry_run:
        await _prune_counts(settings, at, clock())
        jobs = ImportJobs(settings.server.state_dir)
        await asyncio.to_thread(jobs.correct_ends, clock())
    purged.removed["reports"] = await _purge_reports(settings, at, clock(), dry_run=dry_run)
    before = beginning(at, keep.audit)
    # In a thread: it may wait for `audit verify`, which must not delay ending.
    purged.removed["audit"] = await asyncio.to_thread(_expire, audit, before, clock, dry_run)
    if not dry_run:
        purged.indexed = await _prune_index(settings, keep.indexed_since(at), before)


async def _remove_people(
    settings: Settings, store: Store, purged: Purged, matched: Iterator[Mapping[str, datetime]]
) -> None:
    """Remove contacts, suppressions and notes; `matched` are suppressions that mail has matched."""
    keep, at, dry_run = settings.retention, purged.at, purged.dry_run
    limits = Limits(
        _limit(settings, at, keep.prospects, lambda b: (b.consent_period, b.activity_period)),
        _limit(settings, at, keep.customers, lambda b: (b.customer_period, b.inquiry_period)),
        settings.restricted_tags,
        _objected_before(settings, at),
        _requested_before(settings, at),
    )
    contacts = await store.purge_contacts(limits, at=at, dry_run=dry_run)
    purged.removed["contacts"] = contacts.removed
    purged.orders = contacts.orders
    purged.objected = contacts.objected
    suppressions = PurgedSuppressions()
    if keep.suppressions is not None and not purged.behind:
        suppressions = await store.purge_suppressions(
            beginning(at, keep.suppressions),
            dry_run=dry_run,
            matched=matched,
        )
    purged.removed["suppressions"] = suppressions.removed
    purged.held = suppressions.held
    lifted = Removed()
    if keep.lifted_suppressions is not None:
        limit = beginning(at, keep.lifted_suppressions)
        lifted = await store.purge_lifted(limit, dry_run=dry_run)
    purged.removed["lifted_suppressions"] = lifted
    from smtpproxy.store.exchange.suppression_record import is_motive  # 15 ms to load the layouts

    purged.notes = await store.trim_notes(beginning(at, NOTES_FOR), is_motive, dry_run=dry_run)


def _limit(
    settings: Settings,
    at: datetime,
    keep: Period,
    ends: Callable[[Rulebook], Iterable[Period | None]],
) -> datetime:
    """Return the moment before which nobody is kept.

    People whose basis has expired stay while they may be asked whether to continue, unless their
    period ends before the basis does.
    """
    own = beginning(at, keep)
    asked = (
        beginning(beginning(at, book.permission_window), period)
        for book in _asking(settings)
        for period in ends(book)
        if book.permission_window and period and own <= beginning(at, period)
    )
    return min([own, *asked])


def _asking(settings: Settings) -> Iterator[Rulebook]:
    """Yield the rulebook of each stream that asks people whether to continue."""
    for stream in settings.streams.values():
        if stream.permission:
            yield settings.rulebooks[stream.rulebook]


def _objected_before(settings: Settings, at: datetime) -> datetime | None:
    """The limit by the shortest `objection_period` of the rulebooks in use; None if none has
    one."""
    periods = [book.objection_period for book in settings.rulebooks.values()]
    return max((beginning(at, period) for period in periods if period), default=None)


def _requested_before(settings: Settings, at: datetime) -> datetime:
    """The limit for requests, which stay while the mailed link works."""
    limit = beginning(at, settings.retention.requests)
    if settings.confirmation is None:
        return limit
    return min(limit, at - timedelta(seconds=settings.confirmation.valid_for))


_MONTH = timedelta(days=32)  # for those who want mail once a month


async def _prune_mailings(settings: Settings, at: datetime, now: datetime, *, dry_run: bool) -> int:
    """Remove messages once the longest cap or permission window is over, and at least a month old;
    that somebody was mailed is kept as long as a contact.

    A purge has its clock checked, so it also corrects what a clock that was ahead has counted.
    """
    windows = [book.permission_window for book in _asking(settings)]
    caps = [
        cap
        for stream in settings.streams.values()
        for cap in (stream.frequency_cap, stream.marketing_cap)
        if cap is not None
    ]
    with closing(open_mailings(settings.store)) as log:
        if not dry_run:
            await log.correct(now)
        return await log.prune(
            min(
                [
                    at - _MONTH,
                    *(beginning(at, cap.period) for cap in caps),
                    *(beginning(at, window) for window in windows if window),
                ]
            ),
            first_before=beginning(at, settings.retention.prospects),
            dry_run=dry_run,
        )


async def _prune_counts(settings: Settings, at: datetime, now: datetime) -> None:
    """Remove what no longer counts, and correct what a clock that was ahead has counted.

    Most of it goes with what is counted next; but that may never come.
    """
    with closing(open_stream_counts(settings.store)) as counts:
        await counts.correct(now)
        await counts.prune(at - timedelta(seconds=settings.breaker.window))
    with closing(open_bulk_counter(settings.store)) as texts:
        await texts.correct(now)
        longest = max(stream.bulk_window for stream in settings.streams.values())
        await texts.prune(at - timedelta(seconds=longest))
    with closing(open_copies(settings.store, lambda: at)) as copies:
        await copies.prune()
    with closing(open_answers(settings.store, lambda: at)) as answers:
        await answers.prune()
    with closing(open_confirmation_limit(settings.store)) as confirmations:
        await confirmations.prune(at)


async def _prune_index(settings: Settings, before: datetime, journals_before: datetime) -> int:
    """Remove rows of the index whose period is over; return how many."""
    journals = open_journals(settings.store)
    if journals is None:
        return 0
    with closing(journals):
        return await journals.prune(before, journals_before=journals_before)


async def _purge_reports(
    settings: Settings, at: datetime, now: datetime, *, dry_run: bool
) -> Removed:
    mailbox = known_relay_id(settings.server.state_dir) or ""
    log, maildir = open_feedback(settings.store, mailbox), Maildir(settings.feedback_dir)
    with closing(log):
        gone = await log.purge(beginning(at, settings.retention.reports), dry_run=dry_run)
        if not dry_run:
            await log.correct(now)
            maildir.remove(gone)
    return Removed(len(gone))


def _unread(
    audit: Path, read: Mapping[int, int], purged: Purged
) -> Iterator[tuple[Mapping[str, datetime], Mapping[int, int]]]:
    for part in matches(audit, read):
        purged.matched += len(part.newest)
        yield part.newest, {part.slot: part.n}


def _expire(audit: Path, before: datetime, clock: Callable[[], datetime], dry_run: bool) -> Removed:
    started = {
        file.name: time
        for files in segments(audit).values()
        for file, time in zip(files, start_times(files), strict=True)
    }
    expired = expirable(audit, before, now=clock) if dry_run else expire(audit, before, now=clock)
    dates = [started[name] for name in expired.files if name in started]
    return Removed(expired.lines, min(dates, default=None), max(dates, default=None))


_SOURCE = "matches:"
_FRESH = timedelta(hours=12)
"""All relays purge once a day: the last of them finds the reports of the others."""
_GONE = timedelta(days=30)
"""A relay that has reported nothing for this long is gone for good, unless it is registered."""
_NEVER = datetime.fromtimestamp(0, UTC)


class _Progress(Struct):
    """Up to when a relay has reported all its matches, and the last row read of each slot."""

    relay: str  # its host name, for people
    until: datetime
    rows: dict[int, int]


class Followed(Struct):
    """How far one relay has reported the matches in its journal. Methods raise StoreUnavailable.

    A refused mail renews the suppression that it matched, and is recorded in the refusing relay's
    journal. So no relay purges suppressions before the others have reported their matches.
    """

    store: Store
    source: str
    progress: _Progress

    @classmethod
    async def of(cls, store: Store, server: ServerSettings, *, dry_run: bool = False) -> Self:
        """Raises StoreUnavailable, OSError."""
        id_of = known_relay_id if dry_run else relay_id
        source = f"{_SOURCE}{id_of(server.state_dir)}"
        mine = (await _all(store)).get(source) or _Progress(server.hostname, _NEVER, {})
        mine.relay = server.hostname
        return cls(store, source, mine)

    @property
    def relay(self) -> str:
        return self.source.removeprefix(_SOURCE)

    @property
    def rows(self) -> Mapping[int, int]:
        return dict(self.progress.rows)

    async def note(self, rows: Mapping[int, int], until: datetime | None = None) -> None:
        """Save how far the journal was read; `until`: all that was recorded by then was read."""
        self.progress.rows |= rows
        self.progress.until = until or self.progress.until
        state = msgspec.json.encode(self.progress).decode()
        await self.store.log_events((), (self.source, state))

    async def behind(self, now: datetime) -> Sequence[str]:
        """Return the other relays that have not reported their matches recently.

        One that runs refuses mail, and so has matches, although its purges may fail for months, or
        have never succeeded.
        What a relay reported while its clock was ahead says nothing about the time since.
        """
        there = {f"{_SOURCE}{relay.id}": relay.state.host for relay in await self.store.relays()}
        silent = {source: _Progress(host, _NEVER, {}) for source, host in there.items()}
        others = silent | await _all(self.store)
        others.pop(self.source, None)
        ages = [(source, one.relay, now - one.until) for source, one in others.items()]
        return sorted(
            name
            for source, name, age in ages
            if age < -_FRESH or (age > _FRESH and (age < _GONE or source in there))
        )


async def _all(store: Store) -> dict[str, _Progress]:
    sources = await store.event_sources()
    return {
        name: msgspec.json.decode(state, type=_Progress)
        for name, state in sources.items()
        if name.startswith(_SOURCE)
    }
