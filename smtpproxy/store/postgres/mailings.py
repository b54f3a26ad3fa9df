"""Counting mailings on the mail path, for all relays."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from smtpproxy.policy.model import Stream
from smtpproxy.store.sql.mailings import Mailed, MailingLog, mailed
from smtpproxy.store.sql.rows import to_micros
from smtpproxy.store.sql.side_tables import person_hash

_KNOWN = """
SELECT person, at, stream, purpose, brand FROM mailing WHERE person = ANY (?1)
UNION ALL SELECT person, at, NULL, NULL, NULL FROM first_mailing WHERE person = ANY (?1) ORDER BY at
"""
# Relays that count for the same person take turns; all take the locks in the same order.
_LOCK_PERSONS = """
SELECT pg_advisory_xact_lock(lock)
FROM unnest(?::bigint[]) AS locks (lock) ORDER BY lock
"""
# The rows returned are those before the insertions.
_COUNT = f"""
WITH counted AS (
    INSERT INTO mailing (person, at, id, stream, purpose, brand)
    SELECT person, ?2, ?3, ?4, ?5, ?6 FROM unnest(?1::bytea[]) AS persons (person)
), counted_first AS (
    INSERT INTO first_mailing (person, at, id)
    SELECT person, ?2, ?3 FROM unnest(?1::bytea[]) AS persons (person) ON CONFLICT DO NOTHING
)
{_KNOWN}
"""
_TAKE_BACK = "DELETE FROM mailing WHERE person = ANY (?1) AND id = ?2"
_TAKE_FIRST_BACK = "DELETE FROM first_mailing WHERE person = ANY (?1) AND id = ?2 RETURNING person"
_NEXT_IS_FIRST = """
INSERT INTO first_mailing (person, at, id)
SELECT DISTINCT ON (person) person, at, id FROM mailing WHERE person = ANY (?1)
ORDER BY person, at ON CONFLICT DO NOTHING
"""


class PostgresMailings(MailingLog):
    async def reserve(
        self, id: str, stream: Stream, addresses: Iterable[str], at: datetime
    ) -> Mapping[str, Mailed]:
        persons = await self._persons(addresses)
        keys, moment = list(persons.values()), to_micros(at)
        async with self._tables.writing() as session:
            await session.fetch_all(_LOCK_PERSONS, [int.from_bytes(key[:7]) for key in keys])
            values = (stream.counted_as, stream.purpose, stream.brand)
            rows = await session.fetch_all(_COUNT, keys, moment, id, *values)
        return mailed(persons, rows)

    async def release(self, id: str, addresses: Iterable[str]) -> None:
        keys = list((await self._persons(addresses)).values())
        async with self._tables.writing() as session:
            await session.fetch_all(_LOCK_PERSONS, [int.from_bytes(key[:7]) for key in keys])
            await session.run(_TAKE_BACK, keys, id)
            gone = [row[0] for row in await session.fetch_all(_TAKE_FIRST_BACK, keys, id)]
            if gone:
                await session.run(_NEXT_IS_FIRST, gone)

    async def known(self, addresses: Sequence[str]) -> Mapping[str, Mailed]:
        persons = await self._persons(addresses)
        async with self._tables.reading() as session:
            rows = await session.fetch_all(_KNOWN, list(persons.values()))
        return mailed(persons, rows)

    async def _persons(self, addresses: Iterable[str]) -> dict[str, bytes]:
        secret = await self._tables.hash_key()
        return {one: person_hash(one, secret) for one in addresses}
