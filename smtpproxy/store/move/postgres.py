"""A store in PostgreSQL that is copied: changes are put on record, and at the end it is closed."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from smtpproxy.store.closed import FILLING, closed_text
from smtpproxy.store.move import state
from smtpproxy.store.move.ends import Begun, Reopened
from smtpproxy.store.move.postgres_tables import (
    ALWAYS,
    EXCLUSIVE,
    LOCKED,
    MOVE,
    MOVED_TO,
    Tables,
    owned,
    told,
)
from smtpproxy.store.move.reading import NOTED, listed, record_of, same
from smtpproxy.store.move.tables import BESIDE, KEYS, NUMBERED, PARTS, TABLES
from smtpproxy.store.protocols import StoreMisconfigured

if TYPE_CHECKING:
    from asyncpg import Connection

CHANGES = "suppression_change"
"""Whose number is a row, not a sequence."""
_QUOTED = "SELECT quote_literal($1::text)"
_SECRETS = "SELECT part, octets FROM secret"
_GIVEN = "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence($1, $2)::regclass), 0)"
_RECORD = "CREATE TABLE {record} AS SELECT {key} FROM {table} WITH NO DATA"
_COUNTED = (
    f"ALTER TABLE {{record}} ADD COLUMN {NOTED} bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
)
# Whoever may write to a table has its changes put on record, and no other right to the record.
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
_NOTING = """
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

    async def begun(self) -> Begun | None:
        noting = await self._connection.fetchval(_NOTING, TABLES)
        return state.begun(await self._noted()) if noting == len(TABLES) else None

    async def begin(self, copy: Begun) -> None:
        await self._forget_changes()
        begun = await self._locked("SHARE ROW EXCLUSIVE")
        try:
            await self._run(f"CREATE TABLE {state.STATE} (name text, value bytea)")
            await self._connection.execute(
                f"INSERT INTO {state.STATE} VALUES ($1, $2)", state.NAME, state.encode(copy)
            )
            other = await self._connection.fetchval(_QUOTED, copy.other)
            await self._run(f"COMMENT ON TABLE {state.STATE} IS {other}")  # for whoever asks
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
                for statement in (_RECORD, _COUNTED, _FUNCTION, _TRIGGER, ALWAYS):
                    await self._run(statement.format(**names))
            await begun.commit()
        finally:
            await self._leave(begun)

    async def _leave(self, begun: Any) -> None:
        if self._connection.is_in_transaction():
            await begun.rollback()

    async def _forget_changes(self) -> bool:
        """Tell whether anything was left of a copy. No copy goes on without the first thing that
        goes; the rest goes table by table, so that who uses one waits for no others."""
        first = await self._left((state.STATE,))
        await self._run(f"DROP TABLE IF EXISTS {state.STATE}")
        left = await self._left([record_of(table) for table in TABLES])
        for table in TABLES:
            record = record_of(table)
            if record in left:
                begun = await self._locked(EXCLUSIVE, [table])
                try:
                    await self._run(f'DROP FUNCTION IF EXISTS "{record}"() CASCADE')
                    await self._run(f'DROP TABLE IF EXISTS "{record}"')
                    await begun.commit()
                finally:
                    await self._leave(begun)
        return bool(first or left)

    async def _left(self, names: Sequence[str]) -> set[str]:
        """Return those that are tables or functions."""
        return {name for (name,) in await self._connection.fetch(_LEFT, names)}

    @asynccontextmanager
    async def snapshot(self, part: str) -> AsyncIterator[None]:
        async with self._connection.transaction(isolation="repeatable_read"):
            yield
            if await self._noted():
                for table in PARTS[part]:  # that is, those changes of which this moment knows
                    await self._connection.execute(f'DELETE FROM "{record_of(table)}"')

    @asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        self._stop = await self._locked("EXCLUSIVE")
        try:
            yield
        finally:
            await self._leave(self._stop)

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
        with told():
            await self._forget_changes()

    async def open_again(self) -> bool:
        """Undo `close` at one moment, and then `begin`; tell whether anything was left of a
        copy."""
        if await self.moved_to() is not None:
            begun = await self._locked(EXCLUSIVE)
            try:
                for table in LOCKED:
                    await self._run(f'DROP TRIGGER IF EXISTS closed ON "{table}"')
                await self._run(f"DROP TABLE IF EXISTS {state.STATE}")
                await self._connection.execute(MOVE, None)
                await begun.commit()
            finally:
                await self._leave(begun)
        return await self._forget_changes()


@asynccontextmanager
async def open_source(url: str, timeout: float) -> AsyncIterator[PostgresSource]:
    """Raises StoreMisconfigured, StoreUnavailable."""
    async with owned(url, timeout) as connection:
        yield PostgresSource(connection, timeout)


async def reopen(url: str, timeout: float) -> Reopened | None:
    """Let a store that was closed answer again, or give up a copy that was begun; None: it is open,
    and there is none. Raises StoreMisconfigured, StoreUnavailable."""
    async with open_source(url, timeout) as source:
        place, begun = await source.moved_to(), await source.begun()
        if place is not None and place.startswith(FILLING):
            raise StoreMisconfigured(
                f"{closed_text(url, place)}; to give it up, create the database again"
            )
        if not await source.open_again() and place is None:
            return None
        return Reopened(place or (begun and begun.other), place is not None)
