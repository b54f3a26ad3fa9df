"""Counting the people sent one text: estimates without extra commits, and pruning."""

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import datetime, timedelta

from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sql.rows import to_micros
from smtpproxy.store.sql.side_tables import AHEAD, SideTable, SideTables, reader_hash

Texts = Mapping[bytes, Mapping[str, datetime]]
"""When each person was sent each text."""

_SENT = """
INSERT INTO bulk (fingerprint, person, at) VALUES (?, ?, ?)
ON CONFLICT (fingerprint, person) DO UPDATE SET at = excluded.at WHERE excluded.at > bulk.at
"""
_COUNT = "SELECT count(*) FROM bulk WHERE fingerprint = ? AND at > ?"
_TRIM = f"""
DELETE FROM bulk WHERE (fingerprint, person) IN (
    SELECT fingerprint, person FROM bulk WHERE fingerprint = ?1
    ORDER BY at DESC LIMIT {2**62} OFFSET ?2 /*FOR UPDATE SKIP LOCKED*/
)
"""
_PRUNE = """
DELETE FROM bulk WHERE (fingerprint, person) IN
    (SELECT fingerprint, person FROM bulk WHERE at < ? ORDER BY at LIMIT ?
    /*FOR UPDATE SKIP LOCKED*/)
"""
_CORRECT = """
UPDATE bulk SET at = ?1 WHERE (fingerprint, person) IN
    (SELECT fingerprint, person FROM bulk WHERE at > ?2 LIMIT ?3)
"""
_PRUNED_AT_ONCE = 500  # rows in one transaction, while other writers wait
_PRUNE_EVERY = 2_000  # rows written
_PRUNE_PAUSE = 0.01  # seconds
_MERGE_EVERY = timedelta(seconds=1)
_MOST_PENDING = 2_000  # people: a worker merges sooner


class BulkCounter(SideTable):
    """Counts people by the fingerprint of what they are sent, across workers.

    Estimates are counted in the process. Once a second, with the next message, they are merged
    with the counts of others: so an estimate costs no commit of its own.
    """

    def __init__(self, tables: SideTables) -> None:
        super().__init__(tables)
        self._written = 0  # rows, since the last pruning
        self._pruning: asyncio.Task[None] | None = None
        self._longest = 0.0  # window, seconds
        self._pending: dict[bytes, dict[str, datetime]] = {}
        self._pending_people = 0
        self._merged: dict[bytes, int] = {}  # people, as of the last merge
        self._merged_at: datetime | None = None

    async def count(
        self, fingerprint: bytes, people: Collection[str], at: datetime, window: float, most: int
    ) -> int:
        """Count a text for canonical addresses; return how many people were sent it within `window`
        seconds, including these.

        Exact up to `most`; any higher number means "more". A person counts once. Atomic across
        workers. Raises StoreUnavailable.
        """
        texts = {fingerprint: dict.fromkeys(people, at)}
        return (await self._count(texts, at, window, most))[fingerprint]

    async def estimate(
        self, fingerprint: bytes, people: Collection[str], at: datetime, window: float, most: int
    ) -> int:
        """Do the same, cheaper: the counts of other workers may be some seconds old.

        Never fails: what cannot be read or written is not counted.
        """
        pending = self._pending.setdefault(fingerprint, {})
        before = len(pending)
        pending.update(dict.fromkeys(people, at))
        self._pending_people += len(pending) - before
        known = self._merged.get(fingerprint, 0) + len(pending)
        due = self._merged_at is None or not timedelta(0) <= at - self._merged_at < _MERGE_EVERY
        if due or self._pending_people > _MOST_PENDING:
            self._merged_at = at
            texts, self._pending, self._pending_people = self._pending, {}, 0
            with suppress(StoreUnavailable):
                counted = await self._count(texts, at, window, most)
                if len(self._merged) > 10 * _MOST_PENDING:
                    self._merged.clear()  # the next merge fills it again
                self._merged.update(counted)
                known = counted[fingerprint]
        return known

    async def _count(
        self, texts: Texts, at: datetime, window: float, most: int
    ) -> dict[bytes, int]:
        """Store who was sent what; return the number of people sent each text within `window`.

        Of a text sent to many more than `most` people only the newest rows are kept.
        """
        secret = await self._tables.hash_key()
        sent = [
            (text, reader_hash(one, secret), to_micros(at))
            for text, people in texts.items()
            for one, at in people.items()
        ]
        since = to_micros(at - timedelta(seconds=window))
        counted: dict[bytes, int] = {}
        async with self._tables.writing() as session:
            # Ordered, so that two relays that count the same people cannot deadlock.
            await session.run_many(_SENT, sorted(sent))
            for text in texts:
                counted[text] = int((await session.fetch_all(_COUNT, text, since))[0][0])
                if counted[text] > 2 * most + 1:
                    await session.run(_TRIM, text, most + 1)
        self._longest = max(window, self._longest)
        self._written += len(sent)
        if self._written >= _PRUNE_EVERY and (self._pruning is None or self._pruning.done()):
            self._written = 0
            before = to_micros(at - timedelta(seconds=self._longest))
            self._pruning = asyncio.create_task(self._prune(before))
        return counted

    async def _prune(self, before: int) -> None:
        """Remove what no window reaches, in small steps, so that mail can pass in between."""
        removed = _PRUNED_AT_ONCE
        with suppress(StoreUnavailable):
            while removed == _PRUNED_AT_ONCE:
                async with self._tables.writing() as session:
                    removed = await session.run(_PRUNE, before, _PRUNED_AT_ONCE)
                await asyncio.sleep(_PRUNE_PAUSE)

    async def prune(self, before: datetime) -> None:
        """Remove what no window reaches, also where too few people are counted to do so then."""
        if self._tables.exist():
            await self._in_steps(_PRUNE, before)

    async def correct(self, now: datetime) -> None:
        """Move what was counted while a clock was ahead to the present: it would count until
        then."""
        if self._tables.exist():
            await self._in_steps(_CORRECT, now, now + AHEAD)

    def close(self) -> None:
        if self._pruning is not None:
            self._pruning.cancel()
        super().close()
