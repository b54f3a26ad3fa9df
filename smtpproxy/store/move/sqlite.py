"""A store in SQLite at either end of a copy; and as the source: recording its changes, and closing
it."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path

from smtpproxy.disk import exists
from smtpproxy.store.move.ends import (
    COPY_ROW,
    FIND_STATE,
    STATE,
    Reopened,
    RunningCopy,
    copy_of,
    encode,
)
from smtpproxy.store.move.reading import NOTED, listed, record_of
from smtpproxy.store.move.tables import BESIDE, NUMBERED, PARTS, STORE
from smtpproxy.store.records import StoreMisconfigured, StoreUnavailable
from smtpproxy.store.sql.live_keys import Live
from smtpproxy.store.sql.rows import Row
from smtpproxy.store.sqlite import live_keys
from smtpproxy.store.sqlite.connection import (
    check_not_newer,
    check_ours,
    empty_log,
    is_busy,
    migrations,
    moved_to,
    unavailable,
    uri,
    version_of,
)
from smtpproxy.store.sqlite.moves import (
    CLOSING,
    NOTING,
    drop_triggers,
    forget_changes,
    locked_for_move,
    tables,
    triggers,
)
from smtpproxy.store.sqlite.side_file import opened, part_path
from smtpproxy.store.sqlite.side_tables import SIDE_TABLES
from smtpproxy.store.sqlite.watches import FileWatch

_RETRY_SECONDS = 0.002
_SEQUENCE = "SELECT name, seq FROM sqlite_sequence"
_PART = {table: part for part, tables in PARTS.items() for table in tables}
_EXISTS = "SELECT 1 FROM sqlite_master WHERE name = ?"


class Files:
    """The connections of a store, by part."""

    def __init__(self, connections: Mapping[str, sqlite3.Connection]) -> None:
        self._connections = connections

    def _of(self, table: str) -> sqlite3.Connection:
        return self._connections[_PART[table]]

    async def columns(self, table: str) -> Sequence[str]:
        return [row[1] for row in await self.fetch(table, f'PRAGMA table_info("{table}")')]

    async def fetch(self, table: str, sql: str, *values: object) -> list[Row]:
        with store_errors():
            return self._of(table).execute(sql, values).fetchall()

    def shown(self, _table: str, column: str, of: str = "") -> str:
        return f'{of}"{column}"'

    async def live_keys(self) -> Live:
        with store_errors():
            return live_keys.live(self._connections[STORE])


def open_part(path: Path, part: str) -> sqlite3.Connection:
    """Open a file of a store, so that deleted data is overwritten."""
    if part == STORE:
        if not exists(path):
            raise StoreMisconfigured(f"{path}: there is no database; check the file in the URL")
        connection = sqlite3.connect(
            uri(path, read_only=False), uri=True, timeout=0, isolation_level=None
        )
        _check_database(connection, path)
        connection.execute("PRAGMA secure_delete = ON")
    else:
        connection = opened(part_path(path, part), SIDE_TABLES[part], read_only=False)
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _check_database(connection: sqlite3.Connection, path: Path) -> None:
    try:
        check_ours(connection, path)
    except StoreMisconfigured:
        connection.close()
        raise
    except sqlite3.DatabaseError as error:
        connection.close()
        if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_NOTADB:
            raise
        wrong = f"{path}: not an SQLite database; check the file in the URL"
        raise StoreMisconfigured(wrong) from error


def read_state(connection: sqlite3.Connection) -> dict[str, bytes]:
    """Return the rows of the copy's state."""
    if not connection.execute(_EXISTS, (STATE,)).fetchone():
        return {}
    return dict(connection.execute(FIND_STATE).fetchall())


@contextmanager
def store_errors() -> Iterator[None]:
    """Raise errors of SQLite and of the disk as errors of the store."""
    try:
        yield
    except sqlite3.Error as error:
        raise unavailable(error) from error
    except OSError as error:
        file = error.filename2 or error.filename or "a file"
        raise StoreUnavailable(f"{file}: {error.strerror}") from error


class SqliteSource(Files):
    """A `Source`. Each of its files has its own snapshot and record of changes."""

    def __init__(
        self, path: Path, connections: Mapping[str, sqlite3.Connection], timeout: float
    ) -> None:
        super().__init__(connections)
        self._timeout = timeout
        self._paths = {part: part_path(path, part) for part in connections}
        self._watches = [FileWatch(file) for file in self._paths.values()]

    async def moved_to(self) -> str | None:
        return moved_to(self._connections[STORE])

    async def running_copy(self) -> RunningCopy | None:
        with store_errors():
            found = {_running_copy(file, part) for part, file in self._connections.items()}
        return found.pop() if len(found) == 1 else None

    async def schema(self) -> object:
        with store_errors():
            return [
                connection.execute("PRAGMA schema_version").fetchone()
                for connection in self._connections.values()
            ]

    async def begin(self, copy: RunningCopy) -> None:
        for part, connection in _store_last(self._connections):
            async with self._writing(connection):
                forget_changes(connection)
                connection.execute(f"CREATE TABLE {STATE} (name TEXT, value BLOB)")
                row = (COPY_ROW, encode(copy))
                connection.execute(f"INSERT INTO {STATE} VALUES (?, ?)", row)
                for table, key in PARTS[part].items():
                    for statement in _recording(table, key):
                        connection.execute(statement)

    @asynccontextmanager
    async def snapshot(self, part: str) -> AsyncIterator[None]:
        connection = self._connections[part]
        with store_errors():
            connection.execute("BEGIN")
            try:
                upto = _newest(connection, part)
                yield
            finally:
                connection.execute("ROLLBACK")
                empty_log(self._paths[part])  # it may still hold a person who was erased meanwhile
        if upto:
            async with self._writing(connection):
                for table, newest in upto.items():
                    connection.execute(
                        f'DELETE FROM "{record_of(table)}" WHERE {NOTED} <= ?', (newest,)
                    )

    @asynccontextmanager
    async def _writing(self, connection: sqlite3.Connection) -> AsyncIterator[None]:
        with store_errors():
            await _begin(connection, self._timeout)
            try:
                yield
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    @asynccontextmanager
    async def writes_stopped(self) -> AsyncIterator[None]:
        with store_errors():
            try:
                for connection in self._connections.values():
                    await _begin(connection, self._timeout)
                if not all(watch.same() for watch in self._watches):
                    raise StoreUnavailable("the files of the store were replaced meanwhile")
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
        with store_errors():
            is_open = moved_to(self._connections[STORE]) is None
            for part, connection in _store_last(self._connections):
                if is_open:
                    _close_tables(connection, text)
                if is_open and part == STORE:
                    for statement in live_keys.naming(_views(connection), ()):
                        connection.execute(statement)
                    connection.execute(f"CREATE VIEW moved_to AS SELECT {_quoted(place)} AS place")
                connection.execute("COMMIT")

    async def tidy(self) -> None:
        for part, connection in self._connections.items():
            async with self._writing(connection):
                forget_changes(connection)
            with store_errors():
                empty_log(self._paths[part])

    async def undo_half_close(self) -> bool:
        """Reopen the parts that were closed by a command killed before it closed the store itself;
        return whether there were any."""
        if await self.moved_to() is not None:
            return False
        found = False
        for part, connection in _store_last(self._connections):
            if part != STORE and any(name.startswith(CLOSING) for name in triggers(connection)):
                async with self._writing(connection):
                    found |= drop_triggers(connection, CLOSING)
        return found

    async def open_again(self) -> bool:
        """Undo `close` and `begin`; return whether anything was left of a copy. The store itself
        comes last, as it is what answers."""
        left = False
        with store_errors():
            for part, connection in _store_last(self._connections):
                left |= forget_changes(connection)
                drop_triggers(connection, CLOSING)
                if part == STORE and moved_to(connection) is not None:
                    connection.execute("DROP VIEW moved_to")
                    live_keys.name(connection)
                connection.execute("COMMIT")
        return left


def _store_last(
    connections: Mapping[str, sqlite3.Connection],
) -> list[tuple[str, sqlite3.Connection]]:
    """If a command is killed between two files, the store is still in its earlier state."""
    return sorted(connections.items(), reverse=True)


def _running_copy(connection: sqlite3.Connection, part: str) -> RunningCopy | None:
    """Return the copy for which all changes of a file are recorded."""
    wanted = {name for table in PARTS[part] for name in _recording_triggers(table).values()}
    return copy_of(read_state(connection)) if wanted <= triggers(connection).keys() else None


def _recording_triggers(table: str) -> dict[str, str]:
    """Return the names of the triggers, by action."""
    return {
        action: f"{NOTING}{action.lower()}_{table}" for action in ("INSERT", "DELETE", "UPDATE")
    }


def _newest(connection: sqlite3.Connection, part: str) -> dict[str, int]:
    """Return the number of the newest change of each table that has any."""
    if not read_state(connection):
        return {}
    found = {
        table: connection.execute(f'SELECT max({NOTED}) FROM "{record_of(table)}"').fetchone()[0]
        for table in PARTS[part]
    }
    return {table: newest for table, newest in found.items() if newest}


def _recording(table: str, key: tuple[str, ...]) -> list[str]:
    """Return the statements that make a table record the keys of changed rows."""
    record = f'"{record_of(table)}"'
    put = f"INSERT INTO {record} ({listed(key)})"
    new, old = (f"{put} SELECT {listed(key, of)}" for of in ("NEW.", "OLD."))
    moved = " OR ".join(f'NEW."{column}" IS NOT OLD."{column}"' for column in key)
    done = {"INSERT": new, "DELETE": old, "UPDATE": f"{new}; {old} WHERE {moved}"}
    return [
        f"CREATE TABLE {record} ({NOTED} INTEGER PRIMARY KEY, {listed(key)})",
        *(
            f'CREATE TRIGGER "{name}" AFTER {action} ON "{table}" BEGIN {done[action]}; END'
            for action, name in _recording_triggers(table).items()
        ),
    ]


def _close_tables(connection: sqlite3.Connection, text: str) -> None:
    drop_triggers(connection, CLOSING)
    for table in tables(connection):
        for action in ("INSERT", "UPDATE", "DELETE"):
            connection.execute(
                f'CREATE TRIGGER {CLOSING}{action.lower()}_{table} BEFORE {action} ON "{table}" '
                f"BEGIN SELECT RAISE(ABORT, {_quoted(text)}); END"
            )


def _views(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute(live_keys.VIEWS).fetchall()]


@asynccontextmanager
async def open_source(path: Path, timeout: float) -> AsyncIterator[SqliteSource]:
    """Open all files of a store, and lock out other commands that move or migrate it.

    Raises StoreMisconfigured, StoreUnavailable.
    """
    async with _opened(path, timeout) as source:
        await source.undo_half_close()
        yield source


@asynccontextmanager
async def _opened(path: Path, timeout: float) -> AsyncIterator[SqliteSource]:
    with store_errors(), ExitStack() as stack:
        stack.enter_context(locked_for_move(path))
        connections = {}
        for part in PARTS:
            connection = open_part(path, part)
            connections[part] = stack.enter_context(closing(connection))
            connection.execute("PRAGMA wal_autocheckpoint = 0")  # others write: `checkpoint`
            if part == STORE:
                check_not_newer(connection, path)
                if version_of(connection) < len(migrations()):
                    raise StoreMisconfigured(
                        f"{path}: of an earlier release: run smtpproxy migrate"
                    )
        yield SqliteSource(path, connections, timeout)


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
        await asyncio.sleep(_RETRY_SECONDS)


async def reopen(path: Path, timeout: float) -> Reopened | None:
    """Reopen a closed store, or give up an unfinished copy; return None if there is neither.

    Raises StoreMisconfigured, StoreUnavailable.
    """
    async with _opened(path, timeout) as source:
        half_closed = await source.undo_half_close()
        async with source.writes_stopped():
            place, copy = await source.moved_to(), await source.running_copy()
            left = await source.open_again()
    if place is None and not half_closed and not left:
        return None
    return Reopened(place or (copy and copy.other), place is not None or half_closed)


def _quoted(text: str) -> str:
    doubled = text.replace("'", "''")
    return f"'{doubled}'"
