"""To how many people one text went, counted for all relays."""

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from hashlib import blake2b

from smtpproxy.store.postgres.connection import Counts, PostgresSession, Target
from smtpproxy.store.protocols import StoreUnavailable
from smtpproxy.store.sql.rows import to_micros

# In the order of the rows: two relays that count the same people must not wait for each other.
_SENT = """
INSERT INTO bulk (fingerprint, person, at)
SELECT text, who, ?3 FROM unnest(?1::bytea[], ?2::bytea[]) AS sent (text, who) ORDER BY text, who
ON CONFLICT (fingerprint, person) DO UPDATE SET at = greatest(bulk.at, excluded.at)
"""
_COUNT = "SELECT count(*) FROM bulk WHERE fingerprint = ? AND at > ?"
# Of a text that went to many more than matter, the newest rows are kept: it goes on counting.
_TRIM = """
DELETE FROM bulk WHERE (fingerprint, person) IN (
    SELECT fingerprint, person FROM bulk WHERE fingerprint = ?1 ORDER BY at DESC OFFSET ?2
    FOR UPDATE SKIP LOCKED
)
"""
_PRUNE = """
DELETE FROM bulk WHERE (fingerprint, person) IN
    (SELECT fingerprint, person FROM bulk WHERE at < ? ORDER BY at LIMIT ? FOR UPDATE SKIP LOCKED)
"""
_AT_ONCE = 500  # rows
_PRUNE_EVERY = 2_000  # rows written
_PRUNE_PAUSE = 0.01  # seconds
_MERGE_EVERY = timedelta(seconds=1)
_MOST_PENDING = 2_000  # people: a worker merges sooner


class PostgresBulkCounter(Counts):
    """A `BulkCounter`. Estimates are counted in the process and merged with what others counted
    once a second, with the next message: an estimate costs no statement of its own."""

    _part = "bulk"

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._written = 0  # rows, since the last pruning
        self._pruning: asyncio.Task[None] | None = None
        self._longest = 0.0  # window, seconds
        self._pending: dict[bytes, set[str]] = {}
        self._pending_people = 0
        self._merged: dict[bytes, int] = {}  # people, as of the last merge
        self._merged_at: datetime | None = None

    async def count(
        self, fingerprint: bytes, people: Collection[str], at: datetime, window: float, most: int
    ) -> int:
        counted = await self._count({fingerprint: people}, at, window, most)
        return counted[fingerprint]

    async def estimate(
        self, fingerprint: bytes, people: Collection[str], at: datetime, window: float, most: int
    ) -> int:
        pending = self._pending.setdefault(fingerprint, set())
        before = len(pending)
        pending.update(people)
        self._pending_people += len(pending) - before
        known = self._merged.get(fingerprint, 0) + len(pending)
        due = self._merged_at is None or not timedelta(0) <= at - self._merged_at < _MERGE_EVERY
        if due or self._pending_people > _MOST_PENDING:
            self._merged_at = at
            texts, self._pending, self._pending_people = self._pending, {}, 0
            with suppress(StoreUnavailable):
                counted = await self._count(texts, at, window, most)
                if len(self._merged) > 10 * _MOST_PENDING:
                    self._merged.clear()  # estimates start afresh from the next merge on
                self._merged.update(counted)
                known = counted.get(fingerprint, known)
        return known

    async def people(self) -> int:
        """Return how many rows there are: people, once for each text."""
        async with self._asking() as session:
            return int((await session.fetch_all("SELECT count(*) FROM bulk"))[0][0])

    def close(self) -> None:
        if self._pruning is not None:
            self._pruning.cancel()
        super().close()

    async def _count(
        self, texts: Mapping[bytes, Collection[str]], at: datetime, window: float, most: int
    ) -> dict[bytes, int]:
        """Write who was sent each text; return to how many people each went."""
        secret = await self._secret()
        sent = [(text, _person(secret, one)) for text, people in texts.items() for one in people]
        since = to_micros(at - timedelta(seconds=window))
        async with self._counting() as session:
            keys = [text for text, _ in sent], [person for _, person in sent]
            await session.run(_SENT, *keys, to_micros(at))
            counted = {text: await _people(session, text, since, most) for text in texts}
        self._wrote(len(sent), at, window)
        return counted

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
        removed = _AT_ONCE
        with suppress(StoreUnavailable):
            while removed == _AT_ONCE:
                async with self._counting() as session:
                    removed = await session.run(_PRUNE, before, _AT_ONCE)
                await asyncio.sleep(_PRUNE_PAUSE)


def _person(secret: bytes, address: str) -> bytes:
    return blake2b(address.encode(), digest_size=8, key=secret).digest()


async def _people(session: PostgresSession, fingerprint: bytes, since: int, most: int) -> int:
    found = int((await session.fetch_all(_COUNT, fingerprint, since))[0][0])
    if found > 2 * most + 1:
        await session.run(_TRIM, fingerprint, most + 1)
    return found
