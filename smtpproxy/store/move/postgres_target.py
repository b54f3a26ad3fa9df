"""A store in PostgreSQL as the target of a copy; nobody else can use it until it is complete."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from smtpproxy.store.closed import FILLING, closed_text, without_password
from smtpproxy.store.move.ends import (
    COPY_ROW,
    STATE,
    Progress,
    RunningCopy,
    copy_of,
    encode,
    progress_of,
)
from smtpproxy.store.move.postgres import (
    ALWAYS,
    CHANGES,
    EXCLUSIVE,
    EXISTS,
    LOCKED,
    MOVE,
    MOVED_TO,
    Tables,
    connect_as_owner,
    quoted,
    store_errors,
)
from smtpproxy.store.move.reading import listed, same
from smtpproxy.store.move.tables import NUMBERED, TABLES, Key
from smtpproxy.store.records import StoreMisconfigured
from smtpproxy.store.sql.rows import Row

if TYPE_CHECKING:
    from asyncpg import Connection

_COPY_ID = "smtpproxy.copying"  # a setting of our session
_CREATE_STATE = f"CREATE TABLE IF NOT EXISTS {STATE} (name text PRIMARY KEY, value bytea NOT NULL)"
_PUT_STATE = f"""
INSERT INTO {STATE} VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""
_PUT_SECRET = """
INSERT INTO secret (part, octets) VALUES ($1, $2)
ON CONFLICT (part) DO UPDATE SET octets = excluded.octets
"""
_SET_SEQUENCE = "SELECT setval(pg_get_serial_sequence($1, $2), greatest($3, 1), $3 > 0)"
# Dropped meanwhile: rows come in any order, and removing one to write it again must not cascade.
_REFERENCES = """
SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint
WHERE contype = 'f' AND conrelid = ANY (SELECT to_regclass(quote_ident(name))
                                        FROM unnest($1::text[]) AS name)
"""
_NOT_VALID = " NOT VALID"
_FORGET = f"DELETE FROM {STATE} WHERE name = ANY ($1)"
_REFERENCE = "reference "  # the prefix of their names in the state


class PostgresTarget(Tables):
    """A `Target`. The relay `mailbox` has the files of all reports."""

    def __init__(self, connection: "Connection", timeout: float, mailbox: str) -> None:
        super().__init__(connection, timeout)
        self._mailbox = mailbox
        self._last: Any = None
        """The transaction that ends with `commit`."""
        self._schema: object = None

    async def rollback(self) -> None:
        if not self._connection.is_closed() and self._connection.is_in_transaction():
            await self._last.rollback()

    async def running_copy(self) -> RunningCopy | None:
        place = await self._connection.fetchval(MOVED_TO)
        if place is None or not place.startswith(FILLING):
            return None
        return copy_of(await self._state())

    async def has_rows(self, table: str) -> bool:
        return bool(await self._connection.fetchval(f'SELECT EXISTS (SELECT 1 FROM "{table}")'))

    async def begin(self, copy: RunningCopy) -> None:
        async with self._locking(EXCLUSIVE):
            place = f"{FILLING} {copy.other}"
            await self.write_as(copy)
            await self._keep_others_out(copy, closed_text("", place))
            await self._connection.execute(MOVE, place)
            await self._run(_CREATE_STATE)
            for table, name, definition in await self._connection.fetch(_REFERENCES, TABLES):
                add = f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}"
                await self._put_state(f"{_REFERENCE}{table}.{name}", add.removesuffix(_NOT_VALID))
                await self._run(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
            await self._run(f"TRUNCATE {quoted(TABLES)}")
            await self._connection.execute(_FORGET, TABLES)
            await self._put_state(COPY_ROW, copy)

    async def write_as(self, copy: RunningCopy) -> None:
        """Make this session the one that may write."""
        await self._connection.execute("SELECT set_config($1, $2, FALSE)", _COPY_ID, copy.id)

    async def _keep_others_out(self, copy: RunningCopy, text: str) -> None:
        """Refuse writes by others. User triggers are off: their effects are copied as rows."""
        argument, id = await self._connection.fetchrow(
            "SELECT quote_literal($1::text), quote_literal($2::text)", text, copy.id
        )
        for table in TABLES:
            await self._run(f'ALTER TABLE "{table}" DISABLE TRIGGER USER')
        for table in LOCKED:
            await self._run(
                f'DROP TRIGGER IF EXISTS closed ON "{table}"',
                f'CREATE TRIGGER closed BEFORE INSERT OR UPDATE OR DELETE ON "{table}" '
                "FOR EACH STATEMENT "
                f"WHEN (current_setting('{_COPY_ID}', TRUE) IS DISTINCT FROM {id}) "
                f"EXECUTE FUNCTION is_closed({argument})",
                ALWAYS.format(table=f'"{table}"', trigger="closed"),
            )

    async def _put_state(self, name: str, value: object) -> None:
        await self._connection.execute(_PUT_STATE, name, encode(value))

    async def invalidate(self) -> None:
        await self._put_state(COPY_ROW, RunningCopy("", "another store"))

    async def progress(self, table: str) -> Progress:
        return progress_of(await self._state(), table)

    async def set_progress(self, table: str, progress: Progress) -> None:
        await self._put_state(table, progress)

    @asynccontextmanager
    async def transaction(self, table: str, *, flushed: bool) -> AsyncIterator[None]:
        async with self._connection.transaction(isolation="read_committed"):
            if not flushed:
                await self._run("SET LOCAL synchronous_commit = off")
            yield

    async def write(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        if "mailbox" in await self._columns(table):
            columns = [*columns, "mailbox"]
            rows = [(*row, self._mailbox) for row in rows]
        if rows:
            await self._connection.copy_records_to_table(table, records=rows, columns=columns)

    async def find(
        self, table: str, columns: Sequence[str], by: Sequence[str], keys: Sequence[Key]
    ) -> list[Row]:
        wanted, wanted_keys = listed(columns, "one."), await self._key_table(table, by)
        sql = f'SELECT {wanted} FROM {wanted_keys} JOIN "{table}" AS one ON {_same(by)}'
        return await self._fetch_by_key(sql, keys)

    async def remove(
        self, table: str, columns: Sequence[str], by: Sequence[str], keys: Sequence[Key]
    ) -> list[Row]:
        wanted_keys = await self._key_table(table, by)
        sql = (
            f'DELETE FROM "{table}" AS one USING {wanted_keys} WHERE {_same(by)} '
            f"RETURNING {listed(columns, 'one.')}"
        )
        return await self._fetch_by_key(sql, keys)

    async def _key_table(self, table: str, by: Sequence[str]) -> str:
        """Return the SQL of a table of keys, which are its parameters column by column."""
        types = await self._columns(table)
        lists = ", ".join(f"${number}::{types[name]}[]" for number, name in enumerate(by, 1))
        return f"unnest({lists}) AS wanted ({listed(by)})"

    async def _fetch_by_key(self, sql: str, keys: Sequence[Key]) -> list[Row]:
        if not keys:
            return []
        found = await self._connection.fetch(sql, *map(list, zip(*keys, strict=True)))
        return list(map(tuple, found))

    async def optimize(self) -> None:
        for table in TABLES:
            await self._run(f'VACUUM (ANALYZE) "{table}"')

    async def watch(self) -> None:
        self._schema = await self.schema()

    async def is_untouched(self) -> bool:
        """Nobody else can write, unless triggers are changed."""
        return await self.schema() == self._schema

    async def lock(self) -> None:
        self._last = await self._locked(EXCLUSIVE)

    async def finish(self, numbers: Mapping[str, int], secrets: Mapping[str, bytes]) -> None:
        for table, newest in numbers.items():
            if table == CHANGES:
                await self._connection.execute("UPDATE change_number SET newest = $1", newest)
            else:
                await self._connection.execute(_SET_SEQUENCE, f'"{table}"', NUMBERED[table], newest)
        await self._connection.executemany(_PUT_SECRET, list(secrets.items()))
        for name, value in (await self._state()).items():
            if name.startswith(_REFERENCE):
                await self._run(f"{msgspec.msgpack.decode(value)}{_NOT_VALID}")
        for table in LOCKED:
            await self._run(f'DROP TRIGGER closed ON "{table}"')
        for table in TABLES:
            await self._run(f'ALTER TABLE "{table}" ENABLE TRIGGER USER')
        await self._run(f"DROP TABLE {STATE}")
        await self._connection.execute(MOVE, None)

    async def commit(self) -> None:
        with store_errors():
            await self._last.commit()

    async def tidy(self) -> None:
        with store_errors():
            for table, name, _ in await self._connection.fetch(_REFERENCES, TABLES):
                await self._run(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")
            await self.optimize()  # vacuum also the rows removed by the last changes


def _same(by: Sequence[str]) -> str:
    return same(by, "one", "wanted")


@asynccontextmanager
async def open_target(url: str, timeout: float, mailbox: str) -> AsyncIterator[PostgresTarget]:
    """Open an empty or partly filled store. Raises StoreMisconfigured, StoreUnavailable."""
    async with connect_as_owner(url, timeout) as connection:
        place = await connection.fetchval(MOVED_TO)
        if place is not None and not place.startswith(FILLING):
            raise StoreMisconfigured(closed_text(url, place))
        if place is None and await connection.fetchval(EXISTS, STATE):
            raise StoreMisconfigured(
                f"{without_password(url)}: is itself being copied; smtpproxy store reopen gives "
                "that copy up"
            )
        target = PostgresTarget(connection, timeout, mailbox)
        if unfinished := await target.running_copy():
            await target.write_as(unfinished)
        try:
            yield target
        finally:
            await target.rollback()
