"""A database beside the store's that the mail path writes to, shared by workers."""

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import TypeVar

from smtpproxy.disk import exists, make_file, sync_path
from smtpproxy.store.records import StoreMisconfigured, StoreUnavailable
from smtpproxy.store.sql.rows import Row
from smtpproxy.store.sql.session import Session
from smtpproxy.store.sql.side_tables import SideTables
from smtpproxy.store.sqlite.connection import (
    checkpoint,
    empty_log,
    foreign_table,
    has_long_log,
    is_busy,
    unavailable,
    uri,
)
from smtpproxy.store.sqlite.side_tables import SIDE_TABLES
from smtpproxy.store.sqlite.watches import FileWatch

T = TypeVar("T")

_RETRY_SECONDS = 0.002
_CUT_SECONDS = 0.05
_CHECKPOINT_EVERY = 2_000  # commits
_LISTED_AT_ONCE = 500
_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    "PRAGMA wal_autocheckpoint = 0",
    "PRAGMA secure_delete = ON",
)
_SECRET = """
CREATE TABLE secret (octets BLOB NOT NULL);
INSERT INTO secret VALUES (randomblob(32));
"""


class _BeingMade(sqlite3.Error):
    """Another process has created the file, but not its tables yet."""


class _SideSession:
    """A `Session` that never lets another task of the event loop come in between."""

    __slots__ = ("_connection",)

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def fetch_all(self, sql: str, *values: object) -> list[Row]:
        return self._connection.execute(sql, values).fetchall()

    async def run(self, sql: str, *values: object) -> int:
        return self._connection.execute(sql, values).rowcount

    async def run_many(self, sql: str, values: Iterable[Row]) -> int:
        return max(self._connection.executemany(sql, values).rowcount, 0)


class _Transaction(_SideSession):
    """One transaction of a file, in fewer steps than a generator would take."""

    __slots__ = ("_file", "_flushed", "_writes")

    def __init__(self, file: "SideFile", *, writes: bool, flushed: bool = False) -> None:
        self._file = file
        self._writes = writes
        self._flushed = flushed

    async def __aenter__(self) -> Session:
        self._connection = await self._file.ask(_begin_to_write if self._writes else _begin_to_read)
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            if error is None:
                self._connection.execute("COMMIT")
                if self._writes:
                    self._file.committed()
                if self._flushed:
                    await self._file.flush()
            else:
                self._connection.rollback()
        except sqlite3.Error as failure:
            error = failure
        if isinstance(error, sqlite3.Error):
            self._file.close()
            raise unavailable(error) from error


@asynccontextmanager
async def _reading_nothing(tables: str) -> AsyncIterator[Session]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as empty:
        _make_tables(empty, tables)
        yield _SideSession(empty)


class SideFile(SideTables):
    """Such a database, for one event loop. It is created with the first write."""

    def __init__(
        self, database: Path, part: str, timeout: float, *, read_only: bool = False
    ) -> None:
        self._secret = b""
        self._path = part_path(database, part)
        self._tables = SIDE_TABLES[part]
        self._timeout = timeout
        self._read_only = read_only
        self._connection: sqlite3.Connection | None = None
        self._watch: FileWatch | None = None
        self._commits = 0
        self._checkpoint: asyncio.Task[None] | None = None

    def exist(self) -> bool:
        """Raises StoreUnavailable."""
        try:
            return self._connection is not None or exists(self._path)
        except OSError as error:
            raise unavailable(error) from error

    async def hash_key(self) -> bytes:
        return await self.ask(lambda _: self._secret)

    async def fetch_in(
        self, session: Session, sql: str, values: Sequence[object], *first: object
    ) -> list[Row]:
        rows: list[Row] = []
        for start in range(0, len(values), _LISTED_AT_ONCE):
            some = values[start : start + _LISTED_AT_ONCE]
            places = ", ".join(f"?{n}" for n in range(len(first) + 1, len(first) + len(some) + 1))
            rows += await session.fetch_all(sql.replace("IN ?", f"IN ({places})"), *first, *some)
        return rows

    def writing(self, *, flushed: bool = False) -> AbstractAsyncContextManager[Session]:
        """Unless they are flushed, a power cut loses the last commits."""
        return _Transaction(self, writes=True, flushed=flushed)

    def reading(self) -> AbstractAsyncContextManager[Session]:
        return _Transaction(self, writes=False) if self.exist() else _reading_nothing(self._tables)

    async def hold_any(self, table: str) -> bool:
        query = f"SELECT EXISTS (SELECT 1 FROM {table})"
        return self.exist() and await self.ask(lambda c: bool(c.execute(query).fetchone()[0]))

    async def purge_log(self) -> None:
        """Truncate the log, unless a reader prevents it for long."""
        deadline = time.monotonic() + self._timeout
        with suppress(sqlite3.Error, OSError):
            while not await asyncio.to_thread(empty_log, self._path):
                if time.monotonic() > deadline:
                    return
                await asyncio.sleep(_CUT_SECONDS)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = self._watch = None

    def committed(self) -> None:
        """Count a commit; empty the log after many."""
        self._commits += 1
        if self._commits % _CHECKPOINT_EVERY == 0:
            self._checkpoint = asyncio.create_task(asyncio.to_thread(self._empty_log))

    async def flush(self) -> None:
        """Write what is committed to the disk. Raises StoreUnavailable."""
        try:
            await asyncio.to_thread(self._flush_log)
        except OSError as error:
            raise unavailable(error) from error

    def _flush_log(self) -> None:
        sync_path(Path(f"{os.path.realpath(self._path)}-wal"))  # beside the target of a link

    async def ask(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` now; while the database is locked, retry from the event loop.

        Raises StoreUnavailable.
        """
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                return work(self._current())
            except (sqlite3.Error, OSError) as error:
                if not is_busy(error) and not isinstance(error, _BeingMade):
                    self.close()
                    raise unavailable(error) from error
                if time.monotonic() > deadline:
                    raise StoreUnavailable(f"other writes hold {self._path.name}") from error
            await asyncio.sleep(_RETRY_SECONDS)

    def _current(self) -> sqlite3.Connection:
        if self._watch is not None and not self._watch.same():
            self.close()
        if self._connection is None:
            self._connection = opened(self._path, self._tables, read_only=self._read_only)
            self._watch = FileWatch(self._path)
            (self._secret,) = self._connection.execute("SELECT octets FROM secret").fetchone()
        return self._connection

    def _empty_log(self) -> None:
        """Move the log into the database; runs on a thread, as it waits for the disk."""
        with suppress(sqlite3.Error, OSError):
            if has_long_log(self._path):
                empty_log(self._path)
            else:
                checkpoint(self._path)


def _begin_to_write(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.execute("BEGIN IMMEDIATE")
    return connection


def _begin_to_read(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Begin with a read: no later one in the transaction finds the database locked."""
    connection.execute("BEGIN")
    try:
        connection.execute("SELECT 1 FROM secret").fetchone()
    except BaseException:
        connection.rollback()
        raise
    return connection


def opened(path: Path, tables: str, *, read_only: bool) -> sqlite3.Connection:
    """Open the database; unless `read_only`, create it if missing, for its owner only.

    Raises StoreMisconfigured for that of another program or of a preview, which stays as it is.
    """
    if not read_only and not exists(path):
        make_file(path)
    connection = sqlite3.connect(
        uri(path, read_only=read_only), uri=True, timeout=0, isolation_level=None
    )
    try:
        found = foreign_table(connection, "secret")
        if found is not None:
            raise StoreMisconfigured(
                f"{path}: the database of another program, with {found[:40]!r}; move it away, or"
                " name another place in store.url"
            )
        if not read_only:
            for pragma in _PRAGMAS:
                connection.execute(pragma)
        if not connection.execute("PRAGMA user_version").fetchone()[0]:
            if read_only:
                raise _BeingMade(f"{path.name} is being made")
            _make_tables(connection, tables)
        missing = missing_column(connection, (tables,))
        if missing is not None:
            raise StoreMisconfigured(
                f"{path}: made by a preview of smtpproxy, or altered: {missing} is missing. Move"
                " the file away; docs/operations.md says what is lost without it"
            )
    except BaseException:
        connection.close()
        raise
    return connection


def missing_column(connection: sqlite3.Connection, scripts: Iterable[str]) -> str | None:
    """Return a column that these scripts make and the database lacks, or None."""
    with closing(sqlite3.connect(":memory:")) as made:
        for script in scripts:
            made.executescript(script)
        return min(_columns(made) - _columns(connection), default=None)


def _columns(connection: sqlite3.Connection) -> set[str]:
    found = connection.execute(
        "SELECT one.name || '.' || of_it.name FROM sqlite_master AS one,"
        " pragma_table_info(one.name) AS of_it WHERE one.type = 'table'"
    )
    return {name for (name,) in found}


def side_file_faults(database: Path) -> Iterator[str]:
    """Say which files beside the store's cannot be used. None of them need exist."""
    for part, tables in SIDE_TABLES.items():
        path = part_path(database, part)
        try:
            if exists(path):
                opened(path, tables, read_only=True).close()
        except _BeingMade:
            pass
        except StoreMisconfigured as error:
            yield str(error)
        except (sqlite3.Error, OSError) as error:
            if not is_busy(error):
                yield f"{path}: {unavailable(error)}"


def part_path(database: Path, part: str) -> Path:
    """Return the file of a part of a store; of the store itself, if `part` is empty."""
    return database.with_name(f"{database.stem}-{part}.db") if part else database


def _make_tables(connection: sqlite3.Connection, tables: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        if not connection.execute("PRAGMA user_version").fetchone()[0]:  # another was first
            for statement in f"{_SECRET}{tables}".split(";\n"):
                connection.execute(statement)
            connection.execute("PRAGMA user_version = 1")
