"""A store in SQLite that is copied: its changes are put on record, and it is closed at the end."""

import asyncio
import fcntl
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path

from smtpproxy.store.move import state
from smtpproxy.store.move.ends import Begun, Reopened
from smtpproxy.store.move.reading import NOTED, listed, record_of
from smtpproxy.store.move.sqlite_files import Files, noted, open_part, told, triggers
from smtpproxy.store.move.tables import BESIDE, NUMBERED, PARTS, STORE
from smtpproxy.store.protocols import StoreMisconfigured, StoreUnavailable
from smtpproxy.store.sqlite import live_keys
from smtpproxy.store.sqlite.connection import (
    check_not_newer,
    is_busy,
    migrations,
    moved_to,
    version_of,
)

_LOOK_SECONDS = 0.002
_CLOSING = "closed_"  # how the triggers are called that refuse what is written
_NOTING = "copying_"  # and those that put it on record, with its tables
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
_SEQUENCE = "SELECT name, seq FROM sqlite_sequence"


class SqliteSource(Files):
    """A `Source`. Each of its files has a moment, and a record of changes, of its own."""

    def __init__(self, connections: Mapping[str, sqlite3.Connection], timeout: float) -> None:
        super().__init__(connections)
        self._timeout = timeout

    async def moved_to(self) -> str | None:
        return moved_to(self._connections[STORE])

    async def begun(self) -> Begun | None:
        with told():
            found = {state.begun(noted(connection)) for connection in self._connections.values()}
        return found.pop() if len(found) == 1 else None

    async def begin(self, copy: Begun) -> None:
        for part, connection in _store_last(self._connections):
            async with self._writing(connection):
                _forget_changes(connection)
                connection.execute(f"CREATE TABLE {state.STATE} (name TEXT, value BLOB)")
                row = (state.NAME, state.encode(copy))
                connection.execute(f"INSERT INTO {state.STATE} VALUES (?, ?)", row)
                for table, key in PARTS[part].items():
                    for statement in _noting(table, key):
                        connection.execute(statement)

    @asynccontextmanager
    async def snapshot(self, part: str) -> AsyncIterator[None]:
        connection = self._connections[part]
        with told():
            connection.execute("BEGIN")
            try:
                upto = _newest(connection, part)
                yield
            finally:
                connection.execute("ROLLBACK")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # who was erased meanwhile
        if upto:
            async with self._writing(connection):
                for table, newest in upto.items():
                    connection.execute(
                        f'DELETE FROM "{record_of(table)}" WHERE {NOTED} <= ?', (newest,)
                    )

    @asynccontextmanager
    async def _writing(self, connection: sqlite3.Connection) -> AsyncIterator[None]:
        with told():
            await _begin(connection, self._timeout)
            try:
                yield
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    @asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        with told():
            try:
                for connection in self._connections.values():
                    await _begin(connection, self._timeout)
                yield
            finally:
                for connection in self._connections.values():
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")

    async def numbers(self) -> Mapping[str, int]:
        store = self._connections[STORE]
        given = dict(store.execute(_SEQUENCE).fetchall())
        for table, column in NUMBERED.items():
            (newest,) = store.execute(f'SELECT max("{column}") FROM "{table}"').fetchone()
            given[table] = max(given.get(table, 0), newest or 0)
        return {table: given[table] for table in NUMBERED}

    async def secrets(self) -> Mapping[str, bytes]:
        return {
            part: self._connections[part].execute("SELECT octets FROM secret").fetchone()[0]
            for part in BESIDE
        }

    async def close(self, text: str, place: str) -> None:
        with told():
            is_open = moved_to(self._connections[STORE]) is None
            for part, connection in _store_last(self._connections):
                _forget_changes(connection)
                if is_open:
                    _close_tables(connection, text)
                if is_open and part == STORE:
                    for statement in live_keys.naming(_views(connection), ()):
                        connection.execute(statement)
                    connection.execute(f"CREATE VIEW moved_to AS SELECT {_quoted(place)} AS place")
                connection.execute("COMMIT")

    async def tidy(self) -> None:
        """`close` has done it."""

    async def open_again(self) -> None:
        """Undo `close` and `begin`. The store is the last: it is what answers."""
        with told():
            for part, connection in _store_last(self._connections):
                _forget_changes(connection)
                _drop_triggers(connection, _CLOSING)
                if part == STORE and moved_to(connection) is not None:
                    connection.execute("DROP VIEW moved_to")
                    live_keys.name(connection)
                connection.execute("COMMIT")


def _store_last(
    connections: Mapping[str, sqlite3.Connection],
) -> list[tuple[str, sqlite3.Connection]]:
    """Where a command is killed between two files, the store says how it was before."""
    return sorted(connections.items(), reverse=True)


def _newest(connection: sqlite3.Connection, part: str) -> dict[str, int]:
    """Return the number of the newest change of each table, where there is any."""
    if not noted(connection):
        return {}
    found = {
        table: connection.execute(f'SELECT max({NOTED}) FROM "{record_of(table)}"').fetchone()[0]
        for table in PARTS[part]
    }
    return {table: newest for table, newest in found.items() if newest}


def _noting(table: str, key: tuple[str, ...]) -> list[str]:
    """Return the statements that have the keys of changed rows put on record."""
    record = f'"{record_of(table)}"'
    put = f"INSERT INTO {record} ({listed(key)})"
    new, old = (f"{put} SELECT {listed(key, of)}" for of in ("NEW.", "OLD."))
    moved = " OR ".join(f'NEW."{column}" IS NOT OLD."{column}"' for column in key)
    done = {"INSERT": new, "DELETE": old, "UPDATE": f"{new}; {old} WHERE {moved}"}
    return [
        f"CREATE TABLE {record} ({NOTED} INTEGER PRIMARY KEY, {listed(key)})",
        *(
            f'CREATE TRIGGER "{_NOTING}{action.lower()}_{table}" AFTER {action} ON "{table}" '
            f"BEGIN {statements}; END"
            for action, statements in done.items()
        ),
    ]


def _forget_changes(connection: sqlite3.Connection) -> None:
    _drop_triggers(connection, _NOTING)
    for (table,) in connection.execute(_TABLES).fetchall():
        if table.startswith(_NOTING) or table == state.STATE:
            connection.execute(f'DROP TABLE "{table}"')


def _close_tables(connection: sqlite3.Connection, text: str) -> None:
    _drop_triggers(connection, _CLOSING)
    for (table,) in connection.execute(_TABLES).fetchall():
        for action in ("INSERT", "UPDATE", "DELETE"):
            connection.execute(
                f'CREATE TRIGGER {_CLOSING}{action.lower()}_{table} BEFORE {action} ON "{table}" '
                f"BEGIN SELECT RAISE(ABORT, {_quoted(text)}); END"
            )


def _drop_triggers(connection: sqlite3.Connection, beginning: str) -> None:
    for name in triggers(connection):
        if name.startswith(beginning):
            connection.execute(f'DROP TRIGGER "{name}"')


def _views(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute(live_keys.VIEWS).fetchall()]


@asynccontextmanager
async def open_source(path: Path, timeout: float) -> AsyncIterator[SqliteSource]:
    """Open all files of a store, for nobody else to move. Raises StoreMisconfigured,
    StoreUnavailable."""
    with told(), ExitStack() as stack:
        stack.enter_context(_alone(path))
        connections = {}
        for part in PARTS:
            connection = open_part(path, part)
            connections[part] = stack.enter_context(closing(connection))
            if part == STORE:
                check_not_newer(connection, path)
                if version_of(connection) < len(migrations()):
                    raise StoreMisconfigured(f"{path}: of a release before: run smtpproxy migrate")
        yield SqliteSource(connections, timeout)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock of the store's folder. Raises StoreUnavailable."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StoreUnavailable(
            f"{path}: a store copy or store reopen of it is under way; wait for its end"
        ) from None
    finally:
        os.close(folder)


async def _begin(connection: sqlite3.Connection, timeout: float) -> None:
    """Take the write lock, between two writes of others."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.Error as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
        await asyncio.sleep(_LOOK_SECONDS)


async def reopen(path: Path, timeout: float) -> Reopened | None:
    """Let a store that was closed answer again, or give up a copy that was begun; None: it is open,
    and there is none. Raises StoreMisconfigured, StoreUnavailable."""
    async with open_source(path, timeout) as source, source.stopped():
        place, begun = await source.moved_to(), await source.begun()
        await source.open_again()
        other = place or (begun and begun.other)
        return Reopened(other, place is not None) if other else None


def _quoted(text: str) -> str:
    doubled = text.replace("'", "''")
    return f"'{doubled}'"
