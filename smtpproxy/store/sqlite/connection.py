"""Opening, writing and migrating the database file.

`user_version` is the number of the last migration that a database has had.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from pathlib import Path
from urllib.parse import quote

import aiosqlite

from smtpproxy.store.closed import closed_text, says_closed
from smtpproxy.store.records import StoreMisconfigured, StoreOutdated, StoreUnavailable
from smtpproxy.store.sql.migrations import numbered
from smtpproxy.store.sql.rows import Row
from smtpproxy.store.sqlite.moves import forget_changes
from smtpproxy.store.sqlite.watches import FileWatch

_READ_PRAGMAS = [
    # Mapped pages need no copy, and survive commits of other processes, which empty the private
    # cache. 2 GiB - 64 KiB is the most that SQLite maps.
    "PRAGMA mmap_size = 2147418112",
    "PRAGMA cache_size = -16384",
    "PRAGMA query_only = ON",
]
_WRITE_PRAGMAS = (
    "PRAGMA foreign_keys = ON",
    "PRAGMA cache_size = -65536",
    # People told "unsubscribed" stay unsubscribed, even after a power failure.
    "PRAGMA synchronous = FULL",
    "PRAGMA secure_delete = ON",  # erased means overwritten
    "PRAGMA wal_autocheckpoint = 0",  # `checkpoint` does it without losing anything
    "PRAGMA journal_size_limit = 67108864",
)


def uri(path: Path, *, read_only: bool) -> str:
    return f"file:{quote(os.fsencode(path))}?mode={'ro' if read_only else 'rw'}"


def open_reader(path: Path, timeout: float = 0.0) -> sqlite3.Connection:
    """Open for reading. On the event loop the timeout has to be 0, or all sessions would wait."""
    return _opened(path, _READ_PRAGMAS, read_only=True, timeout=timeout)


def open_writer(path: Path, timeout: float) -> sqlite3.Connection:
    return _opened(path, _WRITE_PRAGMAS, read_only=False, timeout=timeout)


def map_nothing() -> None:
    """Read without a memory map from now on, in this process and those that it forks.

    A page that the disk cannot read is then an error. A mapped one ends its reader with SIGBUS.
    """
    _READ_PRAGMAS[0] = "PRAGMA mmap_size = 0"


def _opened(
    path: Path, pragmas: Iterable[str], *, read_only: bool, timeout: float
) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri(path, read_only=read_only),
        uri=True,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=32,
    )
    try:
        for pragma in pragmas:
            connection.execute(pragma)
    except BaseException:
        connection.close()
        raise
    return connection


def checkpoint(path: Path, *, cut: bool = False) -> bool:
    """Move the log of a database into it, as far as readers allow; return whether all was moved.

    `cut`: also truncate the log. Waits for nobody. Raises sqlite3.Error.

    A process that writes all the time never lets the log end. So before it is truncated, writers
    are locked out while the little that came meanwhile is moved.

    We hold a read open during this. Without one, SQLite before 3.51.3 may lose commits of others:
    if a writer restarts the log just after a checkpoint has read its length, the new frames count
    as moved (www.sqlite.org/wal.html#walresetbug). While we read from the log, nobody restarts it;
    if we read none of it, because all is moved, nobody moves the frames that follow.
    """
    steps = [("BEGIN", "PASSIVE")]
    if cut:
        steps += [("BEGIN IMMEDIATE", "PASSIVE"), ("BEGIN", "TRUNCATE")]
    with closing(_not_waiting(path)) as connection, closing(_not_waiting(path)) as reader:
        for begin, mode in steps:
            reader.execute(begin)
            reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
            found = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
            reader.execute("ROLLBACK")
            locked, length, moved = found  # pages
            if locked or length - moved > _FEW_PAGES:  # an old reader may need them for long
                return False
        return bool(moved == length)


def _not_waiting(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(uri(path, read_only=False), uri=True, timeout=0, isolation_level=None)


def empty_log(path: Path) -> bool:
    """Move the log of a database into it, and truncate it; return whether that was possible.

    Raises sqlite3.Error.
    """
    try:
        return checkpoint(path, cut=True)
    except sqlite3.Error as error:
        if is_busy(error):
            return False
        raise


def has_long_log(path: Path) -> bool:
    """Return whether the log should be truncated. It is beside the target of a symbolic link.

    Raises OSError.
    """
    return os.stat(f"{os.path.realpath(path)}-wal").st_size > _LONG_LOG  # noqa: PTH116 - often


def is_busy(error: BaseException) -> bool:
    """Return whether another try may succeed: locked, being recovered, or lost a race."""
    return isinstance(error, sqlite3.Error) and (
        getattr(error, "sqlite_errorcode", 0) & 0xFF
        in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
    )


def unavailable(error: BaseException) -> StoreUnavailable:
    """Return the error to raise `from error` after a failed read or write."""
    if is_busy(error):
        return StoreUnavailable("another process holds the database")
    extended, name = getattr(error, "sqlite_errorcode", 0), getattr(error, "sqlite_errorname", "")
    code = extended & 0xFF
    if code == sqlite3.SQLITE_CONSTRAINT and says_closed(str(error)):
        return StoreUnavailable(str(error))
    if code == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE:
        return StoreUnavailable("the disk of the database is full; free some space")
    if code == sqlite3.SQLITE_IOERR:
        return StoreUnavailable(
            f"the database cannot be read or written ({name}): its disk may be full, over a quota"
            " or failing; see df, and the kernel's log"
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreUnavailable(  # SQLite says the same where the disk fails to read
            "the database is damaged, or its disk fails: see the kernel's log; if only the database"
            " is at fault, restore it from the backup"
        )
    return StoreUnavailable(f"the database failed{f' ({name})' if name else ''}")


_LONGEST_WAIT = 2_000_000  # seconds: the milliseconds have to fit into 31 bits
_RETRY_SECONDS = 0.002
_CUT_SECONDS = 0.02
_LONG_LOG = 32 * 1024 * 1024  # octets
_FEW_PAGES = 1_000


class SqliteSession:
    """A `Session` over an aiosqlite connection, which works on a thread."""

    __slots__ = ("_connection",)

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    async def fetch_all(self, sql: str, *values: object) -> list[Row]:
        return [tuple(row) for row in await self._connection.execute_fetchall(sql, values)]

    async def run(self, sql: str, *values: object) -> int:
        async with await self._connection.execute(sql, values) as cursor:
            changed: int = cursor.rowcount
            return max(changed, 0)

    async def run_many(self, sql: str, values: Iterable[Row]) -> int:
        async with await self._connection.executemany(sql, values) as cursor:
            changed: int = cursor.rowcount
            return max(changed, 0)


class SqliteWriter:
    """The only writing connection of a store, opened with the first write."""

    def __init__(
        self, path: Path, timeout: float, committed: Callable[[SqliteSession], Awaitable[None]]
    ) -> None:
        """`committed` is called after each commit, before its caller learns of it."""
        self._path = path
        self._timeout = timeout
        self._turn = asyncio.Lock()
        self._connection: aiosqlite.Connection | None = None
        self._watch: FileWatch | None = None
        self._committed = committed

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqliteSession]:
        """Raises StoreUnavailable if there is no write lock in time, or the write fails."""
        async with self._exclusive() as connection:
            try:
                await self._begin(connection)
                yield SqliteSession(connection)
                await connection.execute("COMMIT")
            except BaseException:  # a cancellation too: the thread still does what it was told
                await connection.rollback()
                raise
            await self._committed(SqliteSession(connection))
            await self._shorten_log()

    async def _begin(self, connection: aiosqlite.Connection) -> None:
        """Take the write lock. SQLite itself retries too rarely to get in between the batches of
        another process's import."""
        deadline = time.monotonic() + self._timeout
        await connection.execute("PRAGMA busy_timeout = 0")
        try:
            while True:
                try:
                    await connection.execute("BEGIN IMMEDIATE")
                    return
                except sqlite3.Error as error:
                    if not is_busy(error) or time.monotonic() > deadline:
                        raise
                await asyncio.sleep(_RETRY_SECONDS)
        finally:
            wait = int(min(self._timeout, _LONGEST_WAIT) * 1000)
            await connection.execute(f"PRAGMA busy_timeout = {wait}")

    @asynccontextmanager
    async def _exclusive(self) -> AsyncIterator[aiosqlite.Connection]:
        """Reserve the connection, as transactions of several tasks must not mix."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._turn.acquire()
        except TimeoutError as error:
            raise StoreUnavailable("other writes hold the database") from error
        try:
            yield await self._current()
        except (sqlite3.Error, OSError) as error:
            raise unavailable(error) from error
        finally:
            self._turn.release()

    async def _current(self) -> aiosqlite.Connection:
        if self._watch is not None and not self._watch.same():
            await self.close()
        if self._connection is None:
            self._watch = FileWatch(self._path)
            connect = partial(open_writer, self._path, self._timeout)
            try:
                self._connection = await aiosqlite.Connection(connect, iter_chunk_size=1000)
            except RuntimeError as error:  # the system has no thread left
                raise StoreUnavailable(str(error)) from error
        return self._connection

    async def _shorten_log(self) -> None:
        """Truncate a long log; the commit is valid even if this fails."""
        with suppress(sqlite3.Error, OSError):
            if has_long_log(self._path):
                await asyncio.to_thread(empty_log, self._path)

    async def purge_log(self) -> None:
        """Move the log into the database and truncate it, unless a reader prevents it for long.

        SQLite itself would wait for the reader with the write lock, and block everybody else.
        """
        deadline = time.monotonic() + self._timeout
        with suppress(StoreUnavailable):
            while time.monotonic() < deadline:
                async with self._exclusive():
                    if await asyncio.to_thread(empty_log, self._path):
                        return
                await asyncio.sleep(_CUT_SECONDS)

    async def close(self) -> None:
        if self._connection is not None:
            connection, self._connection, self._watch = self._connection, None, None
            await connection.close()


def migrations() -> tuple[str, ...]:
    """Return the SQL of every migration, in order."""
    return numbered("smtpproxy.store.sqlite")


def version_of(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def migrate(
    connection: sqlite3.Connection, path: Path, then: Callable[[sqlite3.Connection], None]
) -> None:
    """Migrate the database in one transaction; safe if two processes start at once.

    `then` runs in the same transaction. An unfinished copy of the store is given up.

    Raises:
        StoreMisconfigured: the database is newer than the program.
    """
    connection.execute("PRAGMA journal_mode = WAL")
    scripts = migrations()
    check_not_newer(connection, path)
    check_open(connection, path)
    if version_of(connection) == len(scripts):
        return
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        check_not_newer(connection, path)
        forget_changes(connection)
        for script in scripts[version_of(connection) :]:
            for statement in _statements(script):
                connection.execute(statement)
        then(connection)
        connection.execute(f"PRAGMA user_version = {len(scripts)}")


def check_not_newer(connection: sqlite3.Connection, path: Path) -> None:
    version, known = version_of(connection), len(migrations())
    if version > known:
        raise StoreMisconfigured(
            f"{path}: made by a newer smtpproxy (the database has version {version}, this "
            f"program knows {known}); run that release, or restore an older backup"
        )


def check_ours(connection: sqlite3.Connection, path: Path) -> None:
    """Raise StoreMisconfigured for a database in which another program has tables, and we none.

    Other programs number their databases by `user_version` too.
    """
    found = foreign_table(connection, "suppression_key")
    if found is not None:
        raise StoreMisconfigured(
            f"{path}: the database of another program, with {found[:40]!r};"
            " name a new file in store.url"
        )


def foreign_table(connection: sqlite3.Connection, ours: str) -> str | None:
    """Return a name in a database that lacks the table `ours`; None if it has that, or nothing."""
    names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
    return None if ours in names else next(iter(names), None)


def check_open(connection: sqlite3.Connection, path: Path) -> None:
    """Raise StoreMisconfigured for a database that was copied to another one, which replaces it."""
    place = moved_to(connection)
    if place is not None:
        raise StoreMisconfigured(closed_text(f"sqlite://{path}", place))


def moved_to(connection: sqlite3.Connection) -> str | None:
    """Return where a closed database was copied to, or None."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'moved_to'").fetchone():
        return str(connection.execute("SELECT place FROM moved_to").fetchone()[0])
    return None


def check_up_to_date(connection: sqlite3.Connection, path: Path) -> None:
    check_not_newer(connection, path)
    check_open(connection, path)
    version, known = version_of(connection), len(migrations())
    if version < known:
        raise StoreOutdated(
            f"{path}: the database has version {version}, this program needs {known}; "
            "start smtpproxy serve, or any command that writes, to bring it up to date"
        )


def _statements(script: str) -> Iterator[str]:
    """Split a script into statements, keeping the semicolons inside a trigger."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
