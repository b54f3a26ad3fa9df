"""A store in PostgreSQL at either end of a copy, used by the role that owns its tables; and as the
source: recording its changes, and closing it."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from typing import TYPE_CHECKING, Any

from smtpproxy.store.closed import FILLING, closed_text, without_password
from smtpproxy.store.move.ends import (
    COPY_ROW,
    FIND_STATE,
    STATE,
    Reopened,
    RunningCopy,
    copy_of,
    encode,
)
from smtpproxy.store.move.reading import NOTED, listed, record_of, same
from smtpproxy.store.move.tables import BESIDE, KEYS, NUMBERED, OF_RELAYS, PARTS, TABLES
from smtpproxy.store.postgres.connection import Lease, Target
from smtpproxy.store.postgres.errors import unavailable
from smtpproxy.store.postgres.migrations import LOCK, check_version
from smtpproxy.store.postgres.session import PostgresSession
from smtpproxy.store.records import StoreMisconfigured, StoreUnavailable
from smtpproxy.store.sql.live_keys import LIVE, Live
from smtpproxy.store.sql.rows import Row

if TYPE_CHECKING:
    from asyncpg import Connection

LOCKED = ("store_state", "change_number", *TABLES)
"""Tables in the order in which writers lock them."""
EXCLUSIVE = "ACCESS EXCLUSIVE"
_FIRST_LOCK_SECONDS = 0.2
"""How long we wait for a lock, and others behind us; each try waits twice as long."""
_RETRY_SECONDS = 0.1
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
"""Fires for replicated rows, too, and for rows restored with --disable-triggers."""
_SCHEMA = """
SELECT 'trigger', tgrelid, tgname, pg_trigger.xmin::text, pg_proc.xmin::text
FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid WHERE tgrelid = ANY (
    SELECT to_regclass(quote_ident(name)) FROM unnest($1::text[]) AS name)
UNION ALL SELECT 'column', attrelid, attname, xmin::text, atttypid::text
FROM pg_attribute WHERE attnum > 0 AND attrelid = ANY (
    SELECT to_regclass(quote_ident(name)) FROM unnest($1::text[]) AS name)
ORDER BY 1, 2, 3
"""
EXISTS = "SELECT to_regclass($1) IS NOT NULL"
# All queries look rows up by their keys, in tables that may not have been analyzed yet.
_SESSION = (
    "SET statement_timeout = 0",
    "SET idle_in_transaction_session_timeout = 0",
    "SET enable_hashjoin = off",
    "SET enable_mergejoin = off",
    # One side must be closed on disk before the other answers, whatever the role's setting.
    "SELECT set_config('synchronous_commit', 'on', FALSE)"
    " WHERE current_setting('synchronous_commit') = 'off'",
)
# A report that was erased, but whose file another relay has yet to delete: in SQLite the next purge
# deletes it.
_SHOWN = {("report", "at"): 'CASE WHEN {of}"erased" THEN 0 ELSE {of}"at" END'}


def quoted(tables: Iterable[str]) -> str:
    return ", ".join(f'"{table}"' for table in tables)


class Tables:
    """The tables of a database."""

    def __init__(self, connection: "Connection", timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout
        self._session = PostgresSession(connection)
        self._types: dict[str, Mapping[str, str]] = {}

    async def columns(self, table: str) -> Sequence[str]:
        self._types.pop(table, None)
        return [name for name in await self._columns(table) if name not in OF_RELAYS]

    async def _columns(self, table: str) -> Mapping[str, str]:
        """Return the type of each column."""
        if table not in self._types:
            self._types[table] = dict(await self._connection.fetch(_COLUMNS, f'"{table}"'))
        return self._types[table]

    async def schema(self) -> object:
        return [tuple(row) for row in await self._connection.fetch(_SCHEMA, TABLES)]

    async def fetch(self, _table: str, sql: str, *values: object) -> list[Row]:
        return await self._session.fetch_all(sql, *values)

    def shown(self, table: str, column: str, of: str = "") -> str:
        return _SHOWN.get((table, column), '{of}"{column}"').format(of=of, column=column)

    async def live_keys(self) -> Live:
        return [(version, name) for version, name in await self._connection.fetch(LIVE)]

    async def _state(self) -> dict[str, bytes]:
        """Return the rows of the copy's state."""
        if not await self._connection.fetchval(EXISTS, STATE):
            return {}
        return dict(await self._connection.fetch(FIND_STATE))

    async def _locked(self, mode: str, tables: Iterable[str] = LOCKED) -> Any:
        """Begin a transaction that has locked tables, in the order in which writers lock them.

        The tries are short, so that nobody waits long behind one, and a deadlock ends soon.
        """
        from asyncpg import DeadlockDetectedError, LockNotAvailableError

        deadline, timeout = time.monotonic() + self._timeout, _FIRST_LOCK_SECONDS
        while True:
            transaction = self._connection.transaction(isolation="read_committed")
            await transaction.start()
            try:
                await self._run(f"SET LOCAL lock_timeout = '{timeout:.1f}s'")
                await self._run(f"LOCK TABLE {quoted(tables)} IN {mode} MODE")
                await self._run("SET LOCAL lock_timeout TO DEFAULT")
                return transaction
            except (LockNotAvailableError, DeadlockDetectedError):
                await transaction.rollback()
                if time.monotonic() > deadline:
                    raise
            except BaseException:
                await transaction.rollback()
                raise
            await asyncio.sleep(_RETRY_SECONDS)
            timeout = min(2 * timeout, self._timeout)

    @asynccontextmanager
    async def _locking(self, mode: str, tables: Iterable[str] = LOCKED) -> AsyncIterator[None]:
        """Run a transaction that has locked tables, and commit it."""
        transaction = await self._locked(mode, tables)
        try:
            yield
            await transaction.commit()
        finally:
            await self._roll_back(transaction)

    async def _roll_back(self, transaction: Any) -> None:
        if self._connection.is_in_transaction():
            await transaction.rollback()

    async def _run(self, *statements: str) -> None:
        for statement in statements:
            await self._connection.execute(statement)


@contextmanager
def store_errors() -> Iterator[None]:
    """Raise errors of the database as errors of the store."""
    from asyncpg import InterfaceError, InternalClientError, PostgresError

    try:
        yield
    except (PostgresError, InterfaceError, InternalClientError, OSError) as error:
        raise unavailable(error) from error


@asynccontextmanager
async def connect_as_owner(url: str, timeout: float) -> AsyncIterator["Connection"]:
    """Connect as the owner of the tables. Raises StoreMisconfigured, StoreUnavailable."""
    lease = Lease(Target(url, timeout, 1, patient=True))
    with closing(lease):
        async with lease.database.connection() as connection:
            if not await connection.fetchval(_OWNS):
                raise StoreMisconfigured(
                    "the database has no tables of smtpproxy, or the role in its URL does not own "
                    "them; name the role that smtpproxy migrate is run with"
                )
            await check_version(connection, url, moved=True)
            for statement in _SESSION:
                await connection.execute(statement)
            await _lock_out_others(connection, url, timeout)
            yield connection


async def _lock_out_others(connection: "Connection", url: str, timeout: float) -> None:
    """Keep others from copying or migrating the database as long as the session lasts.

    Waits until the session of a killed command has ended. Raises StoreUnavailable.
    """
    deadline = time.monotonic() + timeout
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK):
        if time.monotonic() > deadline:
            raise StoreUnavailable(
                f"{without_password(url)}: store copy, store reopen or migrate is running on it; "
                "wait until that has ended"
            )
        await asyncio.sleep(_RETRY_SECONDS)


CHANGES = "suppression_change"
"""The table whose numbers come from a row, not from a sequence."""
_QUOTED = "SELECT quote_literal($1::text)"
_SECRETS = "SELECT part, octets FROM secret"
_GIVEN = "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence($1, $2)::regclass), 0)"
_RECORD = "CREATE TABLE {record} AS SELECT {key} FROM {table} WITH NO DATA"
_NUMBERED = (
    f"ALTER TABLE {{record}} ADD COLUMN {NOTED} bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
)
# SECURITY DEFINER: roles that may write to the table have no rights to the record itself.
_FUNCTION = """
CREATE FUNCTION {record}() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'DELETE' OR TG_OP = 'UPDATE' AND NOT ({same}) THEN
        INSERT INTO {record} ({key}) VALUES ({old});
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO {record} ({key}) VALUES ({new});
    END IF;
    RETURN NULL;
END $$
"""
_TRIGGER = """
CREATE TRIGGER copying AFTER INSERT OR UPDATE OR DELETE ON {table}
FOR EACH ROW EXECUTE FUNCTION {record}()
"""
_RECORDED = """
SELECT count(*) FROM pg_trigger WHERE tgname = 'copying' AND tgenabled = 'A'
AND tgrelid = ANY (SELECT to_regclass(quote_ident(name)) FROM unnest($1::text[]) AS name)
"""
_LEFT = """
SELECT name FROM unnest($1::text[]) AS name
WHERE to_regclass(quote_ident(name)) IS NOT NULL
OR to_regprocedure(quote_ident(name) || '()') IS NOT NULL
"""


class PostgresSource(Tables):
    """A `Source`."""

    def __init__(self, connection: "Connection", timeout: float) -> None:
        super().__init__(connection, timeout)
        self._stop: Any = None

    async def moved_to(self) -> str | None:
        place: str | None = await self._connection.fetchval(MOVED_TO)
        return place

    async def running_copy(self) -> RunningCopy | None:
        recorded = await self._connection.fetchval(_RECORDED, TABLES)
        return copy_of(await self._state()) if recorded == len(TABLES) else None

    async def begin(self, copy: RunningCopy) -> None:
        await self._forget_changes()
        async with self._locking("SHARE ROW EXCLUSIVE"):
            await self._run(f"CREATE TABLE {STATE} (name text, value bytea)")
            await self._connection.execute(
                f"INSERT INTO {STATE} VALUES ($1, $2)", COPY_ROW, encode(copy)
            )
            other = await self._connection.fetchval(_QUOTED, copy.other)
            await self._run(f"COMMENT ON TABLE {STATE} IS {other}")  # read by `traces`
            for table, key in KEYS.items():
                names = {
                    "table": f'"{table}"',
                    "record": f'"{record_of(table)}"',
                    "trigger": "copying",
                    "key": listed(key),
                    "old": listed(key, "OLD."),
                    "new": listed(key, "NEW."),
                    "same": same(key, "OLD", "NEW"),
                }
                for statement in (_RECORD, _NUMBERED, _FUNCTION, _TRIGGER, ALWAYS):
                    await self._run(statement.format(**names))

    async def _forget_changes(self) -> bool:
        """Return whether anything was left of a copy. The state goes first: no copy resumes without
        it. The records go table by table, so that a user of one waits for that one alone."""
        first = await self._left((STATE,))
        await self._run(f"DROP TABLE IF EXISTS {STATE}")
        left = await self._left([record_of(table) for table in TABLES])
        for table in TABLES:
            record = record_of(table)
            if record in left:
                async with self._locking(EXCLUSIVE, [table]):
                    await self._run(f'DROP FUNCTION IF EXISTS "{record}"() CASCADE')
                    await self._run(f'DROP TABLE IF EXISTS "{record}"')
        return bool(first or left)

    async def _left(self, names: Sequence[str]) -> set[str]:
        """Return the names that tables or functions have."""
        return {name for (name,) in await self._connection.fetch(_LEFT, names)}

    @asynccontextmanager
    async def snapshot(self, part: str) -> AsyncIterator[None]:
        async with self._connection.transaction(isolation="repeatable_read"):
            yield
            if await self._state():
                for table in PARTS[part]:  # only the changes that the snapshot sees
                    await self._connection.execute(f'DELETE FROM "{record_of(table)}"')

    @asynccontextmanager
    async def writes_stopped(self) -> AsyncIterator[None]:
        self._stop = await self._locked("EXCLUSIVE")
        try:
            yield
        finally:
            await self._roll_back(self._stop)

    async def numbers(self) -> Mapping[str, int]:
        numbers = {
            table: await self._connection.fetchval(_GIVEN, f'"{table}"', column)
            for table, column in NUMBERED.items()
            if table != CHANGES
        }
        newest = await self._connection.fetchval("SELECT newest FROM change_number")
        return {**numbers, CHANGES: newest}

    async def secrets(self) -> Mapping[str, bytes]:
        found: dict[str | None, bytes] = dict(await self._connection.fetch(_SECRETS))
        return {part: found.get(part) or found[None] for part in BESIDE}

    async def close(self, text: str, place: str) -> None:
        if await self.moved_to() is None:
            await self._connection.execute(MOVE, place)
            argument = await self._connection.fetchval(_QUOTED, text)
            for table in LOCKED:
                await self._run(
                    f'CREATE TRIGGER closed BEFORE INSERT OR UPDATE OR DELETE ON "{table}" '
                    f"FOR EACH STATEMENT EXECUTE FUNCTION is_closed({argument})",
                    ALWAYS.format(table=f'"{table}"', trigger="closed"),
                )
        await self._stop.commit()

    async def tidy(self) -> None:
        with store_errors():
            await self._forget_changes()

    async def open_again(self) -> bool:
        """Undo `close` in one transaction, then `begin`; return whether anything was left of a
        copy."""
        if await self.moved_to() is not None:
            async with self._locking(EXCLUSIVE):
                for table in LOCKED:
                    await self._run(f'DROP TRIGGER IF EXISTS closed ON "{table}"')
                await self._run(f"DROP TABLE IF EXISTS {STATE}")
                await self._connection.execute(MOVE, None)
        return await self._forget_changes()


@asynccontextmanager
async def open_source(url: str, timeout: float) -> AsyncIterator[PostgresSource]:
    """Raises StoreMisconfigured, StoreUnavailable."""
    async with connect_as_owner(url, timeout) as connection:
        yield PostgresSource(connection, timeout)


async def reopen(url: str, timeout: float) -> Reopened | None:
    """Reopen a closed store, or give up an unfinished copy; return None if there is neither.

    Raises StoreMisconfigured, StoreUnavailable.
    """
    async with open_source(url, timeout) as source:
        place, copy = await source.moved_to(), await source.running_copy()
        if place is not None and place.startswith(FILLING):
            raise StoreMisconfigured(
                f"{closed_text(url, place)}; to give it up, create the database again"
            )
        if not await source.open_again() and place is None:
            return None
        return Reopened(place or (copy and copy.other), place is not None)
