"""A store in PostgreSQL that is filled. Nobody else reads or writes it before it is whole."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from smtpproxy.store.closed import FILLING, closed_text, without_password
from smtpproxy.store.move import state
from smtpproxy.store.move.ends import Begun, Reached
from smtpproxy.store.move.postgres import CHANGES
from smtpproxy.store.move.postgres_tables import (
    ALWAYS,
    EXCLUSIVE,
    IS_THERE,
    LOCKED,
    MOVE,
    MOVED_TO,
    Tables,
    owned,
    quoted,
    told,
)
from smtpproxy.store.move.reading import listed, same
from smtpproxy.store.move.tables import NUMBERED, TABLES, Key
from smtpproxy.store.protocols import StoreMisconfigured
from smtpproxy.store.sql.rows import Row

if TYPE_CHECKING:
    from asyncpg import Connection

_LOOK_SECONDS = 0.05
_MINE = "smtpproxy.copying"  # a setting of our session: the copy's number
_STATE = f"CREATE TABLE IF NOT EXISTS {state.STATE} (name text PRIMARY KEY, value bytea NOT NULL)"
_NOTE = f"""
INSERT INTO {state.STATE} VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""
_PUT_SECRET = """
INSERT INTO secret (part, octets) VALUES ($1, $2)
ON CONFLICT (part) DO UPDATE SET octets = excluded.octets
"""
_GIVE = "SELECT setval(pg_get_serial_sequence($1, $2), greatest($3, 1), $3 > 0)"
# Rows come in any order, and one that is removed to be written again takes none with it.
_REFERENCES = """
SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint
WHERE contype = 'f' AND conrelid = ANY (SELECT to_regclass(quote_ident(name))
                                        FROM unnest($1::text[]) AS name)
"""
_LATER = " NOT VALID"
_FORGET = f"DELETE FROM {state.STATE} WHERE name = ANY ($1)"
_REFERENCE = "reference "  # how their names begin among the notes


class PostgresTarget(Tables):
    """A `Target`. The files of all reports are with the relay `mailbox`."""

    def __init__(self, connection: "Connection", timeout: float, mailbox: str) -> None:
        super().__init__(connection, timeout)
        self._mailbox = mailbox
        self._end: Any = None
        self._shape: object = None

    async def leave(self) -> None:
        if not self._connection.is_closed() and self._connection.is_in_transaction():
            await self._end.rollback()

    async def begun(self) -> Begun | None:
        place = await self._connection.fetchval(MOVED_TO)
        if place is None or not place.startswith(FILLING):
            return None
        return state.begun(await self._noted())

    async def has_rows(self, table: str) -> bool:
        return bool(await self._connection.fetchval(f'SELECT EXISTS (SELECT 1 FROM "{table}")'))

    async def begin(self, copy: Begun) -> None:
        begun = await self._locked(EXCLUSIVE)
        try:
            place = f"{FILLING} {copy.other}"
            await self.write_as(copy)
            await self._keep_others_out(copy, closed_text("", place))
            await self._connection.execute(MOVE, place)
            await self._run(_STATE)
            for table, name, text in await self._connection.fetch(_REFERENCES, TABLES):
                again = f"ALTER TABLE {table} ADD CONSTRAINT {name} {text}"
                await self._note(f"{_REFERENCE}{table}.{name}", again.removesuffix(_LATER))
                await self._run(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
            await self._run(f"TRUNCATE {quoted(TABLES)}")
            await self._connection.execute(_FORGET, TABLES)
            await self._note(state.NAME, copy)
            await begun.commit()
        finally:
            if self._connection.is_in_transaction():
                await begun.rollback()

    async def write_as(self, copy: Begun) -> None:
        """Be the one who may write, where it is half of that copy."""
        await self._connection.execute("SELECT set_config($1, $2, FALSE)", _MINE, copy.id)

    async def _keep_others_out(self, copy: Begun, text: str) -> None:
        """Refuse what others write; what rows cause is copied with them, so nothing causes it."""
        argument, id = await self._connection.fetchrow(
            "SELECT quote_literal($1::text), quote_literal($2::text)", text, copy.id
        )
        for table in TABLES:
            await self._run(f'ALTER TABLE "{table}" DISABLE TRIGGER USER')
        for table in LOCKED:
            await self._run(
                f'DROP TRIGGER IF EXISTS closed ON "{table}"',
                f'CREATE TRIGGER closed BEFORE INSERT OR UPDATE OR DELETE ON "{table}" '
                f"FOR EACH STATEMENT WHEN (current_setting('{_MINE}', TRUE) IS DISTINCT FROM {id}) "
                f"EXECUTE FUNCTION is_closed({argument})",
                ALWAYS.format(table=f'"{table}"', trigger="closed"),
            )

    async def _note(self, name: str, value: object) -> None:
        await self._connection.execute(_NOTE, name, state.encode(value))

    async def spoil(self) -> None:
        await self._note(state.NAME, Begun("", "another store"))

    async def reached(self, table: str) -> Reached:
        return state.reached(await self._noted(), table)

    async def reach(self, table: str, reached: Reached) -> None:
        await self._note(table, reached)

    @asynccontextmanager
    async def step(self, table: str, *, flushed: bool) -> AsyncIterator[None]:
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
        wanted, names = listed(columns, "one."), await self._named(table, by)
        sql = f'SELECT {wanted} FROM {names} JOIN "{table}" AS one ON {same(by, "one", "named")}'
        return await self._about(sql, keys)

    async def remove(
        self, table: str, columns: Sequence[str], by: Sequence[str], keys: Sequence[Key]
    ) -> list[Row]:
        names = await self._named(table, by)
        sql = (
            f'DELETE FROM "{table}" AS one USING {names} WHERE {same(by, "one", "named")} '
            f"RETURNING {listed(columns, 'one.')}"
        )
        return await self._about(sql, keys)

    async def _named(self, table: str, by: Sequence[str]) -> str:
        """Return keys as a table, in SQL."""
        kinds = await self._columns(table)
        lists = ", ".join(f"${place}::{kinds[name]}[]" for place, name in enumerate(by, 1))
        return f"unnest({lists}) AS named ({listed(by)})"

    async def _about(self, sql: str, keys: Sequence[Key]) -> list[Row]:
        if not keys:
            return []
        found = await self._connection.fetch(sql, *map(list, zip(*keys, strict=True)))
        return list(map(tuple, found))

    async def settle(self) -> None:
        for table in TABLES:
            await self._run(f'VACUUM (ANALYZE) "{table}"')

    async def watch(self) -> None:
        self._shape = await self.shape()

    async def is_ours(self) -> bool:
        """Nobody else can write, unless triggers are changed."""
        return await self.shape() == self._shape

    async def hold(self) -> None:
        self._end = await self._locked(EXCLUSIVE)

    async def finish(self, numbers: Mapping[str, int], secrets: Mapping[str, bytes]) -> None:
        for table, newest in numbers.items():
            if table == CHANGES:
                await self._connection.execute("UPDATE change_number SET newest = $1", newest)
            else:
                await self._connection.execute(_GIVE, f'"{table}"', NUMBERED[table], newest)
        await self._connection.executemany(_PUT_SECRET, list(secrets.items()))
        for name, value in (await self._noted()).items():
            if name.startswith(_REFERENCE):
                await self._run(f"{msgspec.msgpack.decode(value)}{_LATER}")
        for table in LOCKED:
            await self._run(f'DROP TRIGGER closed ON "{table}"')
        for table in TABLES:
            await self._run(f'ALTER TABLE "{table}" ENABLE TRIGGER USER')
        await self._run(f"DROP TABLE {state.STATE}")
        await self._connection.execute(MOVE, None)

    async def commit(self) -> None:
        with told():
            await self._end.commit()

    async def tidy(self) -> None:
        with told():
            for table, name, _ in await self._connection.fetch(_REFERENCES, TABLES):
                await self._run(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")
            await self.settle()  # of rows that were removed once more


@asynccontextmanager
async def open_target(url: str, timeout: float, mailbox: str) -> AsyncIterator[PostgresTarget]:
    """Open a store that is to be filled, or that is half filled. Raises StoreMisconfigured,
    StoreUnavailable."""
    async with owned(url, timeout) as connection:
        place = await connection.fetchval(MOVED_TO)
        if place is not None and not place.startswith(FILLING):
            raise StoreMisconfigured(closed_text(url, place))
        if place is None and await connection.fetchval(IS_THERE, state.STATE):
            raise StoreMisconfigured(
                f"{without_password(url)}: is in use, for a copy of it was begun; smtpproxy store "
                "reopen gives that up"
            )
        target = PostgresTarget(connection, timeout, mailbox)
        if half := await target.begun():
            await target.write_as(half)
        try:
            yield target
        finally:
            await target.leave()
