"""Counting mailings on the mail path, for all relays."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from smtpproxy.policy.model import Stream
from smtpproxy.store.sql.mailings import KNOWN, Mailed, MailingLog, mailed
from smtpproxy.store.sql.rows import to_micros
from smtpproxy.store.sql.session import Session

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
{KNOWN.replace("IN ?", "= ANY (?1)")}
"""


class PostgresMailings(MailingLog):
    async def reserve(
        self, id: str, stream: Stream, addresses: Iterable[str], at: datetime
    ) -> Mapping[str, Mailed]:
        """Do the same in two statements."""
        persons = await self._persons(addresses)
        keys = list(persons.values())
        async with self._tables.writing() as session:
            await self._take_turns(session, keys)
            told = (stream.counted_as, stream.purpose, stream.brand)
            rows = await session.fetch_all(_COUNT, keys, to_micros(at), id, *told)
        return mailed(persons, rows)

    async def _take_turns(self, session: Session, persons: Sequence[bytes]) -> None:
        await session.fetch_all(_LOCK_PERSONS, [int.from_bytes(key[:7]) for key in persons])
