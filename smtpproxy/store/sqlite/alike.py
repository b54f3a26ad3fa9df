"""To how many people a text went, counted on the mail path across workers."""

import asyncio
import sqlite3
from collections.abc import Collection
from contextlib import suppress
from datetime import datetime, timedelta
from hashlib import blake2b
from pathlib import Path

from smtpproxy.store.protocols import StoreUnavailable
from smtpproxy.store.sqlite.rows import to_micros
from smtpproxy.store.sqlite.side_file import SideFile

_SENT = """
INSERT INTO alike (fingerprint, person, at) VALUES (?, ?, ?)
ON CONFLICT DO UPDATE SET at = max(at, excluded.at)
"""
_COUNT = "SELECT count(*) FROM alike WHERE fingerprint = ? AND at > ?"
# Of a text that went to many more than matter, the newest rows are kept: it goes on counting.
_TRIM = """
DELETE FROM alike WHERE (fingerprint, person) IN (
    SELECT fingerprint, person FROM alike WHERE fingerprint = ?1 ORDER BY at DESC LIMIT -1 OFFSET ?2
)
"""
_PRUNE = """
DELETE FROM alike WHERE (fingerprint, person) IN
    (SELECT fingerprint, person FROM alike WHERE at < ? ORDER BY at LIMIT ?)
"""
_PRUNED_AT_ONCE = 500  # rows: other writers wait no longer than for these
_PRUNE_EVERY = 2_000  # rows written
_PRUNE_PAUSE = 0.01  # seconds
_MERGE_EVERY = timedelta(seconds=1)
_MOST_PENDING = 2_000  # people: a worker merges sooner


class SqliteAlike:
    """An `AlikeLog`. Opened with the first use, on the event loop.

    Estimates are counted in the process and merged with what others counted once a second, with
    the next message: an estimate costs no commit of its own.
    """

    def __init__(self, database: Path, timeout: float) -> None:
        path = database.with_name(f"{database.stem}-alike.db")
        self._file = SideFile(path, "alike.sql", timeout)
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
        def count(connection: sqlite3.Connection) -> int:
            connection.executemany(
                _SENT, [(fingerprint, self._person(p), to_micros(at)) for p in people]
            )
            return _counted(connection, fingerprint, at, window, most)

        counted = await self._file.write(count)
        self._wrote(len(people), at, window)
        return counted

    async def estimate(
        self, fingerprint: bytes, people: Collection[str], at: datetime, window: float, most: int
    ) -> int:
        pending = self._pending.setdefault(fingerprint, {})
        before = len(pending)
        pending.update(dict.fromkeys(people, at))
        self._pending_people += len(pending) - before
        known = self._merged.get(fingerprint, 0) + len(pending)
        due = self._merged_at is None or not timedelta(0) <= at - self._merged_at < _MERGE_EVERY
        if due or self._pending_people > _MOST_PENDING:
            with suppress(StoreUnavailable):
                await self._merge(at, window, most)
                known = self._merged.get(fingerprint, known)
        return known

    async def people(self) -> int:
        """Return how many rows there are: people, once for each text."""
        query = "SELECT count(*) FROM alike"
        return await self._file.ask(lambda c: int(c.execute(query).fetchone()[0]))

    def close(self) -> None:
        if self._pruning is not None:
            self._pruning.cancel()
        self._file.close()

    async def _merge(self, at: datetime, window: float, most: int) -> None:
        """Write what is pending and read what all workers counted of the same texts."""
        pending, self._pending, self._pending_people = self._pending, {}, 0
        self._merged_at = at

        def merge(connection: sqlite3.Connection) -> dict[bytes, int]:
            for fingerprint, people in pending.items():
                sent = [(fingerprint, self._person(p), to_micros(t)) for p, t in people.items()]
                connection.executemany(_SENT, sent)
            return {each: _counted(connection, each, at, window, most) for each in pending}

        counted = await self._file.write(merge)
        if len(self._merged) > 10 * _MOST_PENDING:
            self._merged.clear()  # estimates begin anew from the next merge on
        self._merged.update(counted)
        self._wrote(sum(map(len, pending.values())), at, window)

    def _person(self, address: str) -> bytes:
        return blake2b(address.encode(), digest_size=8, key=self._file.secret).digest()

    def _wrote(self, rows: int, at: datetime, window: float) -> None:
        """Now and then have removed what no window reaches any more."""
        self._longest = max(window, self._longest)
        self._written += rows
        if self._written >= _PRUNE_EVERY and (self._pruning is None or self._pruning.done()):
            self._written = 0
            before = to_micros(at - timedelta(seconds=self._longest))
            self._pruning = asyncio.create_task(self._prune(before))

    async def _prune(self, before: int) -> None:
        """Remove older rows in small steps, between which mail goes on."""
        removed = _PRUNED_AT_ONCE
        with suppress(StoreUnavailable):
            while removed == _PRUNED_AT_ONCE:
                removed = await self._file.write(
                    lambda c: c.execute(_PRUNE, (before, _PRUNED_AT_ONCE)).rowcount
                )
                await asyncio.sleep(_PRUNE_PAUSE)


def _counted(
    connection: sqlite3.Connection, fingerprint: bytes, at: datetime, window: float, most: int
) -> int:
    since = to_micros(at - timedelta(seconds=window))
    (found,) = connection.execute(_COUNT, (fingerprint, since)).fetchone()
    if found > 2 * most + 1:
        connection.execute(_TRIM, (fingerprint, most + 1))
    return int(found)
