"""The tables of a store in PostgreSQL, either end of a copy, by the role that owns them."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from typing import TYPE_CHECKING, Any

from smtpproxy.store.closed import without_password
from smtpproxy.store.move import state
from smtpproxy.store.move.tables import OF_RELAYS, TABLES
from smtpproxy.store.postgres.connection import Lease, Target
from smtpproxy.store.postgres.errors import unavailable
from smtpproxy.store.postgres.migrations import LOCK, check_version
from smtpproxy.store.postgres.session import PostgresSession
from smtpproxy.store.protocols import StoreMisconfigured, StoreUnavailable
from smtpproxy.store.sql.live_keys import LIVE, Live
from smtpproxy.store.sql.rows import Row

if TYPE_CHECKING:
    from asyncpg import Connection

LOCKED = ("store_state", "change_number", *TABLES)
"""Tables in the order in which writers lock them."""
EXCLUSIVE = "ACCESS EXCLUSIVE"
_BRIEF = 0.2
"""Seconds that others, who wait behind, are kept from tables which are not free yet; twice as long
with each try."""
_LOOK_SECONDS = 0.1
MOVED_TO = "SELECT moved_to FROM store_state"
MOVE = "UPDATE store_state SET version = version + 1, moved_to = $1"
_OWNS = """
SELECT coalesce(bool_and(pg_has_role(relowner, 'USAGE')), FALSE) FROM pg_class
WHERE oid = to_regclass('contact')
"""
_COLUMNS = """
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
ALWAYS = "ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}"
"""Also for who replicates, or restores rows with --disable-triggers."""
_SHAPE = """
SELECT 'trigger', tgrelid, tgname, pg_trigger.xmin::text, pg_proc.xmin::text
FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid WHERE tgrelid = ANY (
    SELECT to_regclass(quote_ident(name)) FROM unnest($1::text[]) AS name)
UNION ALL SELECT 'column', attrelid, attname, xmin::text, atttypid::text
FROM pg_attribute WHERE attnum > 0 AND attrelid = ANY (
    SELECT to_regclass(quote_ident(name)) FROM unnest($1::text[]) AS name)
ORDER BY 1, 2, 3
"""
IS_THERE = "SELECT to_regclass($1) IS NOT NULL"
# What is asked names rows by their keys, of tables that nobody may have analyzed yet.
_SESSION = (
    "SET statement_timeout = 0",
    "SET idle_in_transaction_session_timeout = 0",
    "SET enable_hashjoin = off",
    "SET enable_mergejoin = off",
    # What closes one side is on the disk before the other one counts, whatever the role is told.
    "SELECT set_config('synchronous_commit', 'on', FALSE)"
    " WHERE current_setting('synchronous_commit') = 'off'",
)
# What was erased elsewhere, and its file not here yet: in SQLite it goes with the next purge.
_SHOWN = {("report", "at"): 'CASE WHEN {of}"erased" THEN 0 ELSE {of}"at" END'}


def quoted(tables: Iterable[str]) -> str:
    return ", ".join(f'"{table}"' for table in tables)


class Tables:
    """The tables of a database."""

    def __init__(self, connection: "Connection", timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout
        self._session = PostgresSession(connection)
        self._kinds: dict[str, Mapping[str, str]] = {}

    async def columns(self, table: str) -> Sequence[str]:
        self._kinds.pop(table, None)
        return [name for name in await self._columns(table) if name not in OF_RELAYS]

    async def _columns(self, table: str) -> Mapping[str, str]:
        """Return the type of each column."""
        if table not in self._kinds:
            self._kinds[table] = dict(await self._connection.fetch(_COLUMNS, f'"{table}"'))
        return self._kinds[table]

    async def shape(self) -> object:
        """Return what is another once anybody has changed tables or triggers, or back again."""
        return [tuple(row) for row in await self._connection.fetch(_SHAPE, TABLES)]

    async def fetch(self, _table: str, sql: str, *values: object) -> list[Row]:
        return await self._session.fetch_all(sql, *values)

    def shown(self, table: str, column: str, of: str = "") -> str:
        return _SHOWN.get((table, column), '{of}"{column}"').format(of=of, column=column)

    async def live(self) -> Live:
        return [(version, name) for version, name in await self._connection.fetch(LIVE)]

    async def _noted(self) -> dict[str, bytes]:
        """Return what is noted of a copy."""
        if not await self._connection.fetchval(IS_THERE, state.STATE):
            return {}
        return dict(await self._connection.fetch(state.FIND))

    async def _locked(self, mode: str, tables: Iterable[str] = LOCKED) -> Any:
        """Begin a transaction that has locked tables, in the order in which writers do. Whoever
        waits for it waits briefly, and it is never in a circle of who waits for whom for long."""
        from asyncpg import DeadlockDetectedError, LockNotAvailableError

        deadline, patience = time.monotonic() + self._timeout, _BRIEF
        while True:
            begun = self._connection.transaction(isolation="read_committed")
            await begun.start()
            try:
                await self._run(f"SET LOCAL lock_timeout = '{patience:.1f}s'")
                await self._run(f"LOCK TABLE {quoted(tables)} IN {mode} MODE")
                await self._run("SET LOCAL lock_timeout TO DEFAULT")
                return begun
            except (LockNotAvailableError, DeadlockDetectedError):
                await begun.rollback()
                if time.monotonic() > deadline:
                    raise
            except BaseException:
                await begun.rollback()
                raise
            await asyncio.sleep(_LOOK_SECONDS)
            patience = min(2 * patience, self._timeout)

    async def _run(self, *statements: str) -> None:
        for statement in statements:
            await self._connection.execute(statement)


@contextmanager
def told() -> Iterator[None]:
    """Raise what callers know."""
    from asyncpg import InterfaceError, InternalClientError, PostgresError

    try:
        yield
    except (PostgresError, InterfaceError, InternalClientError, OSError) as error:
        raise unavailable(error) from error


@asynccontextmanager
async def owned(url: str, timeout: float) -> AsyncIterator["Connection"]:
    """Connect as the owner of the tables. Raises StoreMisconfigured, StoreUnavailable."""
    lease = Lease(Target(url, timeout, 1, patient=True))
    with closing(lease):
        async with lease.database.connection() as connection:
            if not await connection.fetchval(_OWNS):
                raise StoreMisconfigured(
                    "the database has no tables of smtpproxy, or its URL names another role than "
                    "owns them; use the one that smtpproxy migrate is run with"
                )
            await check_version(connection, url, moved=True)
            for statement in _SESSION:
                await connection.execute(statement)
            await _alone(connection, url, timeout)
            yield connection


async def _alone(connection: "Connection", url: str, timeout: float) -> None:
    """Keep others from moving the database, and from migrating it, as long as the session lasts;
    wait for one that was killed to end there as well. Raises StoreUnavailable."""
    deadline = time.monotonic() + timeout
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK):
        if time.monotonic() > deadline:
            raise StoreUnavailable(
                f"{without_password(url)}: a store copy, store reopen or migrate of it is under "
                "way; wait for its end"
            )
        await asyncio.sleep(_LOOK_SECONDS)
