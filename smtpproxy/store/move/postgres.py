"""A store in PostgreSQL that moves, by the role that owns its tables."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

from smtpproxy.store.move import BATCH
from smtpproxy.store.move.tables import BESIDE, NUMBERED, OF_RELAYS, TABLES
from smtpproxy.store.postgres.connection import Lease, Target
from smtpproxy.store.postgres.migrations import check_version
from smtpproxy.store.protocols import StoreMisconfigured
from smtpproxy.store.sql.live_keys import LIVE, Live
from smtpproxy.store.sql.rows import Row

if TYPE_CHECKING:
    from asyncpg import Connection

_OWNS = """
SELECT coalesce(bool_and(pg_has_role(relowner, 'USAGE')), FALSE) FROM pg_class
WHERE oid = to_regclass('contact')
"""
_COLUMNS = """
SELECT attname FROM pg_attribute
WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_MOVED_TO = "SELECT moved_to FROM store_state"
_MOVE = "UPDATE store_state SET version = version + 1, moved_to = $1"
_SECRETS = "SELECT part, octets FROM secret"
_PUT_SECRET = """
INSERT INTO secret (part, octets) VALUES ($1, $2)
ON CONFLICT (part) DO UPDATE SET octets = excluded.octets
"""
_GIVEN = "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence($1, $2)::regclass), 0)"
_GIVE = "SELECT setval(pg_get_serial_sequence($1, $2), greatest($3, 1), $3 > 0)"
_CHANGES = "suppression_change"  # whose number is a row, not a sequence
_LOCKED = ("store_state", "change_number", *TABLES)  # in the order in which writers lock


class _Tables:
    """The tables of a database, in a transaction that keeps other writers out."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection

    async def columns(self, table: str) -> Sequence[str]:
        return [name for name in await self._all_columns(table) if name not in OF_RELAYS]

    async def _all_columns(self, table: str) -> Sequence[str]:
        return [row[0] for row in await self._connection.fetch(_COLUMNS, f'"{table}"')]

    async def read(self, table: str, columns: Sequence[str]) -> AsyncIterator[Sequence[Row]]:
        listed = ", ".join(f'"{column}"' for column in columns)
        cursor = f'"all of {table}"'  # closed at its end: the table could not be altered else
        await self._connection.execute(
            f'DECLARE {cursor} CURSOR FOR SELECT {listed} FROM "{table}"'
        )
        while rows := await self._connection.fetch(f"FETCH {BATCH} FROM {cursor}"):
            yield list(map(tuple, rows))
        await self._connection.execute(f"CLOSE {cursor}")

    async def live(self) -> Live:
        return [(version, name) for version, name in await self._connection.fetch(LIVE)]


class PostgresSource(_Tables):
    """A `Source`."""

    def __init__(self, connection: "Connection", transaction: Any) -> None:
        super().__init__(connection)
        self._transaction = transaction

    async def moved_to(self) -> str | None:
        place: str | None = await self._connection.fetchval(_MOVED_TO)
        return place

    async def numbers(self) -> Mapping[str, int]:
        numbers = {
            table: await self._connection.fetchval(_GIVEN, f'"{table}"', column)
            for table, column in NUMBERED.items()
            if table != _CHANGES
        }
        newest = await self._connection.fetchval("SELECT newest FROM change_number")
        return {**numbers, _CHANGES: newest}

    async def secrets(self) -> Mapping[str, bytes]:
        found: dict[str | None, bytes] = dict(await self._connection.fetch(_SECRETS))
        return {part: found.get(part) or found[None] for part in BESIDE}

    async def close(self, text: str, place: str) -> None:
        if await self.moved_to() is None:
            await self._connection.execute(_MOVE, place)
            argument = await self._connection.fetchval("SELECT quote_literal($1::text)", text)
            for table in _LOCKED:
                await self._connection.execute(
                    f'CREATE TRIGGER closed BEFORE INSERT OR UPDATE OR DELETE ON "{table}" '
                    f"FOR EACH STATEMENT EXECUTE FUNCTION is_closed({argument})"
                )
        await self._transaction.commit()


class PostgresTarget(_Tables):
    """A `Target`. The files of all reports are with the relay `mailbox`."""

    def __init__(self, connection: "Connection", transaction: Any, mailbox: str) -> None:
        super().__init__(connection)
        self._transaction = transaction
        self._mailbox = mailbox

    async def is_empty(self, table: str) -> bool:
        return not await self._connection.fetchval(f'SELECT EXISTS (SELECT 1 FROM "{table}")')

    async def clear(self, tables: frozenset[str]) -> None:
        for table in TABLES:  # what rows cause was copied with them
            await self._connection.execute(f'ALTER TABLE "{table}" DISABLE TRIGGER USER')
        for table in tables:
            await self._connection.execute(f'DELETE FROM "{table}"')

    async def write(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        if "mailbox" in await self._all_columns(table):
            columns = [*columns, "mailbox"]
            rows = [(*row, self._mailbox) for row in rows]
        await self._connection.copy_records_to_table(table, records=rows, columns=columns)

    async def finish(self, numbers: Mapping[str, int], secrets: Mapping[str, bytes]) -> None:
        for table, newest in numbers.items():
            if table == _CHANGES:
                await self._connection.execute("UPDATE change_number SET newest = $1", newest)
            else:
                await self._connection.execute(_GIVE, f'"{table}"', NUMBERED[table], newest)
        await self._connection.executemany(_PUT_SECRET, list(secrets.items()))
        for table in TABLES:
            await self._connection.execute(f'ALTER TABLE "{table}" ENABLE TRIGGER USER')
        await self._connection.execute("UPDATE store_state SET version = version + 1")

    async def commit(self) -> None:
        await self._transaction.commit()
        for table in TABLES:
            await self._connection.execute(f'ANALYZE "{table}"')


@asynccontextmanager
async def held_source(url: str, timeout: float) -> AsyncIterator[PostgresSource]:
    """Hold a store: nobody else writes to it. Raises StoreMisconfigured, StoreUnavailable."""
    async with _locked(url, timeout, moved=True) as (connection, transaction):
        yield PostgresSource(connection, transaction)


@asynccontextmanager
async def held_target(url: str, timeout: float, mailbox: str) -> AsyncIterator[PostgresTarget]:
    """Hold a store that is to be filled. Raises StoreMisconfigured, StoreUnavailable."""
    async with _locked(url, timeout, moved=False) as (connection, transaction):
        yield PostgresTarget(connection, transaction, mailbox)


async def reopen(url: str, timeout: float) -> bool:
    """Let a store that was closed answer again; return whether it was. Raises StoreUnavailable."""
    async with _locked(url, timeout, moved=True) as (connection, transaction):
        if await connection.fetchval(_MOVED_TO) is None:
            return False
        for table in _LOCKED:
            await connection.execute(f'DROP TRIGGER IF EXISTS closed ON "{table}"')
        await connection.execute(_MOVE, None)
        await transaction.commit()
        return True


@asynccontextmanager
async def _locked(
    url: str, timeout: float, *, moved: bool
) -> AsyncIterator[tuple["Connection", Any]]:
    """A transaction in which nobody else writes; what is not committed at its end is undone."""
    lease = Lease(Target(url, timeout, 1, patient=True))
    with closing(lease):
        async with lease.database.connection() as connection:
            if not await connection.fetchval(_OWNS):
                raise StoreMisconfigured(
                    "the database has no tables of smtpproxy, or its URL names another role than "
                    "owns them; use the one that smtpproxy migrate is run with"
                )
            await check_version(connection, url, moved=moved)
            transaction = connection.transaction()
            await transaction.start()
            try:
                await connection.execute("SET LOCAL statement_timeout = 0")
                await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
                tables = ", ".join(f'"{table}"' for table in _LOCKED)
                await connection.execute(f"LOCK TABLE {tables} IN EXCLUSIVE MODE")
                yield connection, transaction
            finally:
                if connection.is_in_transaction():
                    await transaction.rollback()
