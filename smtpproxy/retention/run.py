"""One run: what has outlived its period is found, and removed a little at a time."""

import asyncio
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from smtpproxy.policy.periods import beginning
from smtpproxy.retention import history
from smtpproxy.retention.history import Kind
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit.expire import expirable, expire
from smtpproxy.sinks.audit.files import give_to_owner_of, segments
from smtpproxy.sinks.audit.reader import matches
from smtpproxy.store import open_mailings
from smtpproxy.store.operations import Limits, PurgedSuppressions, Removed
from smtpproxy.store.protocols import Store

LOCK_NAME = "purge.lock"


class AlreadyRunning(Exception):
    """Another run has not come to its end."""


@dataclass(slots=True)
class Purged:
    """What a run removed, or would; `removed` has every kind of `history.KINDS`."""

    began: datetime
    at: datetime
    dry_run: bool
    removed: dict[str, Kind] = field(default_factory=dict)
    orders: int = 0  # suppressions that withdrawals and objections of contacts became
    objected: int = 0  # contacts that went since the person had objected to all marketing
    matched: int = 0  # addresses whose suppressions recorded mail has matched since the last run
    held: int = 0  # suppressions that are old enough, and stay since a contact has the address


async def purge(
    settings: Settings,
    store: Store,
    *,
    at: datetime,
    clock: Callable[[], datetime],
    dry_run: bool = False,
) -> Purged:
    """Remove what has outlived its period at `at`, and record that it was done.

    Mail and imports go on meanwhile. What is interrupted is as it was up to there, and the
    next run does the rest. Raises AlreadyRunning, StoreUnavailable, OSError.
    """
    state = settings.server.state_dir
    purged = Purged(clock(), at, dry_run)
    if dry_run:
        await _remove(settings, store, purged, clock)
        return purged
    with _alone(state):
        await _remove(settings, store, purged, clock)
        history.note(state, purged.began, clock(), purged.removed)
    return purged


@contextmanager
def _alone(state_dir: Path) -> Iterator[None]:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    file = os.open(state_dir / LOCK_NAME, flags, 0o600)
    try:
        give_to_owner_of(state_dir, file)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise AlreadyRunning("another purge is running") from None
    finally:
        os.close(file)


async def _remove(
    settings: Settings, store: Store, purged: Purged, clock: Callable[[], datetime]
) -> None:
    keep, at, dry_run = settings.retention, purged.at, purged.dry_run
    audit = settings.server.state_dir / "audit"
    # Matches first: what they renew stays, and the files they stand in may go below.
    unread = _unread(audit, await store.journal_read(), purged)
    if not dry_run:
        another_key = len(await store.keys()) > 1
        for newest, read in unread:
            await store.renew_suppressions(newest, read)
            if another_key:  # here addresses are known that are stored nowhere
                await store.rekey(list(newest))
    limits = Limits(
        beginning(at, keep.prospects),
        beginning(at, keep.customers),
        settings.restricted_tags,
        _objected_before(settings, at),
    )
    contacts = await store.purge_contacts(limits, at=at, dry_run=dry_run)
    purged.removed["contacts"] = _kind(contacts.removed)
    purged.orders = contacts.orders
    purged.objected = contacts.objected
    suppressions = PurgedSuppressions()
    if keep.suppressions is not None:
        suppressions = await store.purge_suppressions(
            beginning(at, keep.suppressions),
            dry_run=dry_run,
            matched=(newest for newest, _ in unread),
        )
    purged.removed["suppressions"] = _kind(suppressions.removed)
    purged.held = suppressions.held
    lifted = Removed()
    if keep.lifted_suppressions is not None:
        limit = beginning(at, keep.lifted_suppressions)
        lifted = await store.purge_lifted(limit, dry_run=dry_run)
    purged.removed["lifted_suppressions"] = _kind(lifted)
    if keep.changes is not None and not dry_run:
        names = [webhook.name for webhook in settings.webhooks]
        await store.trim_changes(beginning(at, keep.changes), webhooks=names)
    mailings = await _prune_mailings(settings, at, dry_run=dry_run)
    purged.removed["mailings"] = Kind(mailings)
    before = beginning(at, keep.audit)
    # On a thread: it may wait for `audit verify`, and who is told to end should not.
    purged.removed["audit"] = await asyncio.to_thread(_expire, audit, before, clock, dry_run)


def _objected_before(settings: Settings, at: datetime) -> datetime | None:
    """By the shortest `objection_period` of the rulebooks in use; None: none has one."""
    periods = [book.objection_period for book in settings.rulebooks.values()]
    return max((beginning(at, period) for period in periods if period), default=None)


async def _prune_mailings(settings: Settings, at: datetime, *, dry_run: bool) -> int:
    """Messages count for as long as the longest cap; that somebody was mailed, like a contact."""
    caps = [
        cap
        for stream in settings.streams.values()
        for cap in (stream.frequency_cap, stream.marketing_cap)
        if cap is not None
    ]
    log = open_mailings(settings.store)
    try:
        return await log.prune(
            min((beginning(at, cap.period) for cap in caps), default=at),
            first_before=beginning(at, settings.retention.prospects),
            dry_run=dry_run,
        )
    finally:
        log.close()


def _unread(
    audit: Path, read: Mapping[int, int], purged: Purged
) -> Iterator[tuple[Mapping[str, datetime], Mapping[int, int]]]:
    for part in matches(audit, read):
        purged.matched += len(part.newest)
        yield part.newest, {part.slot: part.n}


def _expire(audit: Path, before: datetime, clock: Callable[[], datetime], dry_run: bool) -> Kind:
    begun = {file.name: file.begun for files in segments(audit).values() for file in files}
    expired = expirable(audit, before) if dry_run else expire(audit, before, now=clock)
    dates = [begun[name] for name in expired.files if name in begun]
    return Kind(expired.lines, min(dates, default=None), max(dates, default=None))


def _kind(removed: Removed) -> Kind:
    return Kind(removed.rows, removed.oldest, removed.newest)
