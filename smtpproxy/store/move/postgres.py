"""A store in PostgreSQL as the source of a copy: recording its changes, and closing it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from smtpproxy.store.closed import FILLING, closed_text
from smtpproxy.store.move.ends import COPY_ROW, STATE, Reopened, RunningCopy, copy_of, encode
from smtpproxy.store.move.postgres_tables import (
    ALWAYS,
    EXCLUSIVE,
    LOCKED,
    MOVE,
    MOVED_TO,
    Tables,
    connect_as_owner,
    store_errors,
)
from smtpproxy.store.move.reading import NOTED, listed, record_of, same
from smtpproxy.store.move.tables import BESIDE, KEYS, NUMBERED, PARTS, TABLES
from smtpproxy.store.records import StoreMisconfigured

if TYPE_CHECKING:
    from asyncpg import Connection

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
