"""To how many people one text went, counted for all relays."""

from smtpproxy.store.postgres.connection import Counts, Target
from smtpproxy.store.postgres.session import PostgresSession
from smtpproxy.store.sql.bulk import COUNT, BulkCounts, Texts
from smtpproxy.store.sql.rows import to_micros
from smtpproxy.store.sql.side_tables import reader_hash

# In the order of the rows: two relays that count the same people must not wait for each other.
_SENT = """
INSERT INTO bulk (fingerprint, person, at)
SELECT text, who, moment
FROM unnest(?::bytea[], ?::bytea[], ?::bigint[]) AS sent (text, who, moment) ORDER BY text, who
ON CONFLICT (fingerprint, person) DO UPDATE SET at = greatest(bulk.at, excluded.at)
"""
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


class PostgresBulkCounter(Counts, BulkCounts):
    """A `BulkCounter`."""

    _part = "bulk"

    def __init__(self, target: Target) -> None:
        Counts.__init__(self, target)
        BulkCounts.__init__(self)

    def close(self) -> None:
        self._stop_pruning()
        super().close()

    async def _add(self, texts: Texts, since: int, most: int) -> dict[bytes, int]:
        secret = await self._secret()
        sent = [
            (text, reader_hash(one, secret), to_micros(at))
            for text, people in texts.items()
            for one, at in people.items()
        ]
        async with self._counting() as session:
            columns = ([row[place] for row in sent] for place in range(3))
            await session.run(_SENT, *columns)
            return {text: await _people(session, text, since, most) for text in texts}

    async def _remove(self, before: int, most: int) -> int:
        async with self._counting() as session:
            return await session.run(_PRUNE, before, most)


async def _people(session: PostgresSession, fingerprint: bytes, since: int, most: int) -> int:
    found = int((await session.fetch_all(COUNT, fingerprint, since))[0][0])
    if found > 2 * most + 1:
        await session.run(_TRIM, fingerprint, most + 1)
    return found
