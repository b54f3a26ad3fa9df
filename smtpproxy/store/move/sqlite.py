"""A store in SQLite that moves: the files that are held and closed, or made."""

import asyncio
import fcntl
import os
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path

from smtpproxy.disk import sync_folder
from smtpproxy.store.change_journal import FOLDER, Journal, JournalGap, Mark
from smtpproxy.store.key_files import give_to_owner_of
from smtpproxy.store.move import BATCH
from smtpproxy.store.move.tables import BESIDE, NUMBERED
from smtpproxy.store.protocols import StoreMisconfigured, StoreUnavailable
from smtpproxy.store.sql.live_keys import Live
from smtpproxy.store.sql.rows import Row
from smtpproxy.store.sqlite import answers, confirmations, counters, feedback, live_keys, streams
from smtpproxy.store.sqlite.connection import (
    check_not_newer,
    is_busy,
    migrate,
    migrations,
    moved_to,
    unavailable,
    uri,
    version_of,
)
from smtpproxy.store.sqlite.side_file import COPY_TABLES, opened

_TABLES = {
    "answers": answers.TABLES,
    "bulk": counters.BULK_TABLES,
    "confirmations": confirmations.TABLES,
    "copies": COPY_TABLES,
    "feedback": feedback.TABLES,
    "mailings": counters.MAILING_TABLES,
    "streams": streams.TABLES,
}
_PART = {table: part for part, tables in BESIDE.items() for table in tables}
_LOOK_SECONDS = 0.002
_STORE = ""  # among the parts: the file of the store itself
_CLOSING = "closed_"  # how the triggers are called that refuse what is written
_TRIGGERS = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
_SEQUENCE = "SELECT name, seq FROM sqlite_sequence"


class _Files:
    """The connections of a store, by part."""

    def __init__(self, connections: Mapping[str, sqlite3.Connection]) -> None:
        self._connections = connections

    def _of(self, table: str) -> sqlite3.Connection:
        return self._connections[_PART.get(table, _STORE)]

    async def columns(self, table: str) -> Sequence[str]:
        return [row[1] for row in self._of(table).execute(f'PRAGMA table_info("{table}")')]

    async def read(self, table: str, columns: Sequence[str]) -> AsyncIterator[Sequence[Row]]:
        with _told(), closing(self._of(table).cursor()) as cursor:
            cursor.execute(f'SELECT {_listed(columns)} FROM "{table}"')
            while rows := cursor.fetchmany(BATCH):
                yield rows

    async def live(self) -> Live:
        return live_keys.live(self._connections[_STORE])


class SqliteSource(_Files):
    """A `Source`."""

    async def moved_to(self) -> str | None:
        return moved_to(self._connections[_STORE])

    async def numbers(self) -> Mapping[str, int]:
        store = self._connections[_STORE]
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
        with _told():
            for part, connection in sorted(self._connections.items(), reverse=True):
                if moved_to(self._connections[_STORE]) is None:
                    _close_tables(connection, text)
                if part == _STORE and moved_to(connection) is None:  # the last one
                    for statement in live_keys.naming(_views(connection), ()):
                        connection.execute(statement)
                    connection.execute(f"CREATE VIEW moved_to AS SELECT {_quoted(place)} AS place")
                connection.execute("COMMIT")


def _close_tables(connection: sqlite3.Connection, text: str) -> None:
    _open_tables(connection)
    tables = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    ).fetchall()
    for (table,) in tables:
        for action in ("INSERT", "UPDATE", "DELETE"):
            connection.execute(
                f'CREATE TRIGGER {_CLOSING}{action.lower()}_{table} BEFORE {action} ON "{table}" '
                f"BEGIN SELECT RAISE(ABORT, {_quoted(text)}); END"
            )


def _open_tables(connection: sqlite3.Connection) -> None:
    for name, _ in connection.execute(_TRIGGERS).fetchall():
        if name.startswith(_CLOSING):
            connection.execute(f"DROP TRIGGER {name}")


def _views(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute(live_keys.VIEWS).fetchall()]


@asynccontextmanager
async def held_source(path: Path, timeout: float) -> AsyncIterator[SqliteSource]:
    """Hold a store: nobody else writes to it. Raises StoreMisconfigured, StoreUnavailable."""
    async with _held(path, timeout) as connections:
        yield SqliteSource(connections)


@asynccontextmanager
async def _held(path: Path, timeout: float) -> AsyncIterator[Mapping[str, sqlite3.Connection]]:
    """Open all files of a store, and begin to write to each."""
    with _told(), ExitStack() as stack:
        connections = {}
        for part in (_STORE, *sorted(BESIDE)):
            connection = _opened(path, part)
            connections[part] = stack.enter_context(closing(connection))
            if part == _STORE:
                check_not_newer(connection, path)
                if version_of(connection) < len(migrations()):
                    raise StoreMisconfigured(f"{path}: of a release before: run smtpproxy migrate")
            await _begin(connection, timeout)
        yield connections


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


def _opened(path: Path, part: str) -> sqlite3.Connection:
    if part == _STORE:
        if not path.exists():
            raise StoreMisconfigured(f"{path}: there is no database; the URL names another file")
        return sqlite3.connect(
            uri(path, read_only=False), uri=True, timeout=0, isolation_level=None
        )
    connection = opened(_beside(path, part), _TABLES[part], read_only=False)
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _beside(path: Path, part: str) -> Path:
    return path.with_name(f"{path.stem}-{part}.db") if part else path


async def reopen(path: Path, timeout: float) -> bool:
    """Let a store that was closed answer again; return whether it was. Raises StoreUnavailable."""
    async with _held(path, timeout) as connections:
        store = connections[_STORE]
        if moved_to(store) is None:
            return False
        for part, connection in connections.items():  # others first: the store is what answers
            if part != _STORE:
                _open_tables(connection)
                connection.execute("COMMIT")
        _open_tables(store)
        store.execute("DROP VIEW moved_to")
        live_keys.name(store)
        store.execute("COMMIT")
        return True


class SqliteTarget(_Files):
    """A `Target`: files in a folder beside, that get their names at the end."""

    def __init__(
        self, connections: Mapping[str, sqlite3.Connection], folder: Path, path: Path, mark: Mark
    ) -> None:
        super().__init__(connections)
        self._folder = folder
        self._path = path
        self._mark = mark
        self._triggers = [sql for _, sql in connections[_STORE].execute(_TRIGGERS).fetchall()]
        for connection in connections.values():
            for name, _ in connection.execute(_TRIGGERS).fetchall():
                connection.execute(f"DROP TRIGGER {name}")
            connection.execute("BEGIN IMMEDIATE")

    async def is_empty(self, table: str) -> bool:
        return not self._of(table).execute(f'SELECT 1 FROM "{table}" LIMIT 1').fetchone()

    async def clear(self, tables: frozenset[str]) -> None:
        for table in tables:
            self._of(table).execute(f'DELETE FROM "{table}"')

    async def write(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        values = ", ".join("?" * len(columns))
        with _told():
            self._of(table).executemany(
                f'INSERT INTO "{table}" ({_listed(columns)}) VALUES ({values})', rows
            )

    async def finish(self, numbers: Mapping[str, int], secrets: Mapping[str, bytes]) -> None:
        store = self._connections[_STORE]
        change, refusal = self._mark
        # The journal of changes in state_dir may know numbers that must not be given again.
        given = {**numbers, "refusal_change": refusal}
        given["suppression_change"] = max(change, given["suppression_change"])
        store.execute("DELETE FROM sqlite_sequence")
        store.executemany("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", given.items())
        for part, octets in secrets.items():
            self._connections[part].execute("UPDATE secret SET octets = ?", (octets,))
        for trigger in self._triggers:
            store.execute(trigger)
        live_keys.name(store)

    async def commit(self) -> None:
        with _told():
            for connection in self._connections.values():
                connection.execute("COMMIT")
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                connection.close()
            for part in sorted(self._connections, reverse=True):  # the store itself is the last
                made, path = (
                    _beside(self._folder / self._path.name, part),
                    _beside(self._path, part),
                )
                with made.open("rb") as file:
                    os.fsync(file.fileno())
                give_to_owner_of(path.parent, made)
                made.replace(path)
            sync_folder(self._path.parent)


@asynccontextmanager
async def new_target(path: Path, state_dir: Path) -> AsyncIterator[SqliteTarget]:
    """Make a store that takes its place with `commit`. Raises StoreMisconfigured."""
    with _told(), _aside(path) as folder, ExitStack() as stack:
        aside = folder / path.name
        os.close(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        connections = {}
        for part in (_STORE, *sorted(BESIDE)):
            connections[part] = stack.enter_context(closing(_opened(aside, part)))
            if part == _STORE:
                migrate(connections[part], aside, lambda _: None)
            connections[part].execute("PRAGMA journal_mode = OFF")  # it is nobody's until the end
            connections[part].execute("PRAGMA synchronous = OFF")
        yield SqliteTarget(connections, folder, path, _journal_mark(state_dir))


def _journal_mark(state_dir: Path) -> Mark:
    try:
        return Journal(state_dir / FOLDER).end()[1]
    except JournalGap as error:
        raise StoreUnavailable(f"the journal of changes is damaged: {error}") from error


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A private folder beside a file to be; what a copy that was killed left in it goes."""
    if path.exists():
        raise StoreMisconfigured(
            f"{path}: there is a database already; right would be the name of a new file"
        )
    folder = path.with_name(f".{path.name}.copy")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreUnavailable(f"{path}: another copy to it is under way") from None
        for left in folder.iterdir():
            left.unlink()
        yield folder
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


@contextmanager
def _told() -> Iterator[None]:
    """Raise what callers know."""
    try:
        yield
    except sqlite3.Error as error:
        raise unavailable(error) from error


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(f'"{column}"' for column in columns)


def _quoted(text: str) -> str:
    doubled = text.replace("'", "''")
    return f"'{doubled}'"
