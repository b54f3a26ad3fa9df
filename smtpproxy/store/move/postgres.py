"""A store in PostgreSQL that is copied: changes are put on record, and at the end it is closed."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from smtpproxy.store.closed import FILLING, closed_text
from smtpproxy.store.move import state
from smtpproxy.store.move.ends import Begun, Reopened
from smtpproxy.store.move.postgres_tables import LOCKED, MOVE, MOVED_TO, Tables, owned, quoted
from smtpproxy.store.move.reading import NOTED, listed, record_of, same
from smtpproxy.store.move.tables import BESIDE, KEYS, NUMBERED, PARTS, TABLES
from smtpproxy.store.protocols import StoreMisconfigured

if TYPE_CHECKING:
    from asyncpg import Connection

CHANGES = "suppression_change"
"""Whose number is a row, not a sequence."""
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


class PostgresSource(Tables):
    """A `Source`."""

    def __init__(self, connection: "Connection") -> None:
        super().__init__(connection)
        self._stop: Any = None

    async def moved_to(self) -> str | None:
        place: str | None = await self._connection.fetchval(MOVED_TO)
        return place

    async def begun(self) -> Begun | None:
        return state.begun(await self._noted())

    async def begin(self, copy: Begun) -> None:
        await self._forget_changes()
        async with self._connection.transaction(isolation="read_committed"):
            await self._lock("SHARE ROW EXCLUSIVE")
            await self._connection.execute(f"CREATE TABLE {state.STATE} (name text, value bytea)")
            await self._connection.execute(
                f"INSERT INTO {state.STATE} VALUES ($1, $2)", state.NAME, state.encode(copy)
            )
            for table, key in KEYS.items():
                names = {
                    "table": f'"{table}"',
                    "record": f'"{record_of(table)}"',
                    "key": listed(key),
                    "old": listed(key, "OLD."),
                    "new": listed(key, "NEW."),
                    "same": same(key, "OLD", "NEW"),
                }
                for statement in (_RECORD, _COUNTED, _FUNCTION, _TRIGGER):
                    await self._connection.execute(statement.format(**names))

    async def _lock(self, mode: str) -> None:
        await self._connection.execute(f"LOCK TABLE {quoted(LOCKED)} IN {mode} MODE")

    async def _forget_changes(self) -> None:
        """Each table on its own, since nobody else may use it then: to wait for the next one
        meanwhile could be to wait for each other. Without its first part no copy goes on."""
        await self._connection.execute(f"DROP TABLE IF EXISTS {state.STATE}")
        for table in TABLES:
            record = f'"{record_of(table)}"'
            await self._connection.execute(f"DROP FUNCTION IF EXISTS {record}() CASCADE")
            await self._connection.execute(f"DROP TABLE IF EXISTS {record}")

    @asynccontextmanager
    async def snapshot(self, part: str) -> AsyncIterator[None]:
        async with self._connection.transaction(isolation="repeatable_read"):
            yield
            if await self._noted():
                for table in PARTS[part]:  # that is, those changes of which this moment knows
                    await self._connection.execute(f'DELETE FROM "{record_of(table)}"')

    @asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        self._stop = self._connection.transaction(isolation="read_committed")
        await self._stop.start()
        try:
            await self._lock("EXCLUSIVE")
            yield
        finally:
            if self._connection.is_in_transaction():
                await self._stop.rollback()

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
            argument = await self._connection.fetchval("SELECT quote_literal($1::text)", text)
            for table in LOCKED:
                await self._connection.execute(
                    f'CREATE TRIGGER closed BEFORE INSERT OR UPDATE OR DELETE ON "{table}" '
                    f"FOR EACH STATEMENT EXECUTE FUNCTION is_closed({argument})"
                )
        await self._stop.commit()

    async def tidy(self) -> None:
        await self._forget_changes()

    async def open_again(self) -> None:
        """Undo `close` and `begin`. What is read says it last."""
        await self._forget_changes()
        for table in LOCKED:
            await self._connection.execute(f'DROP TRIGGER IF EXISTS closed ON "{table}"')
        await self._connection.execute(MOVE, None)


@asynccontextmanager
async def open_source(url: str, timeout: float) -> AsyncIterator[PostgresSource]:
    """Raises StoreMisconfigured, StoreUnavailable."""
    async with owned(url, timeout) as connection:
        yield PostgresSource(connection)


async def reopen(url: str, timeout: float) -> Reopened | None:
    """Let a store that was closed answer again, or give up a copy that was begun; None: it is open,
    and there is none. Raises StoreMisconfigured, StoreUnavailable."""
    async with open_source(url, timeout) as source:
        place, begun = await source.moved_to(), await source.begun()
        if place is not None and place.startswith(FILLING):
            raise StoreMisconfigured(
                f"{closed_text(url, place)}; to give it up, make the database anew"
            )
        other = place or (begun and begun.other)
        if not other:
            return None
        await source.open_again()
        return Reopened(other, place is not None)
