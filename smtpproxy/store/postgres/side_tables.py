"""The tables besides contacts and suppressions in PostgreSQL, for all relays."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime

from smtpproxy.policy.model import Stream
from smtpproxy.store.postgres.connection import Lease, Target
from smtpproxy.store.postgres.errors import unavailable
from smtpproxy.store.postgres.session import PostgresSession
from smtpproxy.store.sql.mailings import KNOWN, Mailed, MailingLog, mailed
from smtpproxy.store.sql.rows import Row, to_micros
from smtpproxy.store.sql.session import Session
from smtpproxy.store.sql.side_tables import SideTables


class PostgresTables(SideTables):
    """Side tables in PostgreSQL, which fail in time for a 451."""

    def __init__(self, target: Target, part: str) -> None:
        self._lease = Lease(target)
        self._part = part

    def exist(self) -> bool:
        return True

    def writing(self, *, flushed: bool = False) -> AbstractAsyncContextManager[PostgresSession]:
        settings = {} if flushed else {"synchronous_commit": "off"}
        return self._in_time(self._lease.database.transaction(**settings))

    def reading(self) -> AbstractAsyncContextManager[PostgresSession]:
        """Each statement sees its own snapshot."""
        return self._in_time(self._lease.database.reading())

    @asynccontextmanager
    async def _in_time(
        self, lent: AbstractAsyncContextManager[PostgresSession]
    ) -> AsyncIterator[PostgresSession]:
        try:
            async with asyncio.timeout(self._lease.target.timeout), lent as session:
                yield session
        except TimeoutError as error:
            raise unavailable(error) from error

    async def hash_key(self) -> bytes:
        return await self._lease.database.secret(self._part)

    async def fetch_in(
        self, session: Session, sql: str, values: Sequence[object], *first: object
    ) -> list[Row]:
        listed = sql.replace("IN ?", f"= ANY (?{len(first) + 1})")
        return await session.fetch_all(listed, *first, list(values))

    async def purge_log(self) -> None:
        """The server writes over it in its own time."""

    def close(self) -> None:
        self._lease.close()


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
