"""A store in SQLite, in WAL mode: one writer, and any number of readers that never wait for it.

The mail path reads on the event loop; everything else runs on a thread.
"""

import sqlite3
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, nullcontext
from datetime import UTC, datetime
from pathlib import Path

import aiosqlite

from smtpproxy.disk import exists, is_dir, make_file
from smtpproxy.policy.model import Facts, Lookups
from smtpproxy.settings import PartnerSettings
from smtpproxy.store.change_journal import FOLDER, files
from smtpproxy.store.key_files import load_or_create_keys, load_partners
from smtpproxy.store.keys import Partner
from smtpproxy.store.records import (
    NoStoreYet,
    StoreInaccessible,
    StoreMisconfigured,
    StoreUnavailable,
)
from smtpproxy.store.sql.live_keys import LiveKeys
from smtpproxy.store.sql.mailings import MailingLog
from smtpproxy.store.sql.rows import to_micros
from smtpproxy.store.sql.session import Session
from smtpproxy.store.sql.store import Store
from smtpproxy.store.sql.stream_counts import StreamCounts
from smtpproxy.store.sqlite import live_keys
from smtpproxy.store.sqlite.connection import (
    SqliteSession,
    SqliteWriter,
    check_ours,
    is_busy,
    migrate,
    migrations,
    open_reader,
    open_writer,
    unavailable,
    version_of,
)
from smtpproxy.store.sqlite.journaling import ChangeFollower
from smtpproxy.store.sqlite.moves import locked_for_migration
from smtpproxy.store.sqlite.reader import SqliteReader
from smtpproxy.store.sqlite.side_file import SideFile, missing_column
from smtpproxy.store.sqlite.statements import DIALECT

_RESTRICT = """
INSERT INTO refusal_change (at, contact, action, purpose) VALUES (?, ?, 'restricted', ?)
"""


class SqliteStore(Store):
    """A `Store` in one SQLite file, for one process and one event loop: open it after a fork."""

    _dialect = DIALECT
    _reader: SqliteReader

    def __init__(
        self,
        path: Path,
        state_dir: Path,
        timeout: float,
        *,
        partners: Sequence[Partner] = (),
        read_only: bool = False,
    ) -> None:
        self._path = path
        self._state_dir = state_dir
        self._timeout = timeout
        self._read_only = read_only
        self._keys = LiveKeys(path, state_dir)
        self._writer = SqliteWriter(path, timeout, ChangeFollower(state_dir, self._keys).follow)
        self._partners = partners
        self._reader = SqliteReader(path, state_dir, timeout, partners)
        self._mailings = MailingLog(SideFile(path, "mailings", timeout, read_only=read_only))
        self._stream_counts = StreamCounts(SideFile(path, "streams", timeout, read_only=read_only))

    async def facts(self, lookups: Lookups) -> Facts:
        await self.version()  # which reads the pauses
        return await super().facts(lookups)

    async def trim_changes(self, before: datetime, *, webhooks: Collection[str] = ()) -> int:
        async with self._writing() as session:  # the journal has these
            await session.run("DELETE FROM refusal_change WHERE at < ?", to_micros(before))
        return await super().trim_changes(before, webhooks=webhooks)

    def _transaction(self) -> AbstractAsyncContextManager[Session]:
        return self._writer.transaction()

    async def _purge_log(self) -> None:
        await self._writer.purge_log()

    @asynccontextmanager
    async def _reading(self, *, snapshot: bool = False) -> AsyncIterator[Session]:
        """Open a separate connection, on a thread; it may write temporary tables."""

        def connect() -> sqlite3.Connection:
            connection = open_reader(self._path, self._timeout)
            connection.execute("PRAGMA query_only = OFF")  # the file itself is read-only
            return connection

        try:
            async with aiosqlite.Connection(connect, iter_chunk_size=1_000) as connection:
                if snapshot:
                    await connection.execute("BEGIN")
                yield SqliteSession(connection)
        except sqlite3.Error as error:
            raise unavailable(error) from error

    async def _restricted(self, session: Session, tags: Sequence[tuple[int, str]]) -> None:
        rows = [(to_micros(datetime.now(UTC)), *tag) for tag in tags]
        await session.run_many(_RESTRICT, rows)

    async def _keys_changed(self, session: Session) -> None:
        await live_keys.rename(session)

    async def close(self) -> None:
        self._reader.close()
        self._mailings.close()
        self._stream_counts.close()
        await self._writer.close()


__all__ = ["SqliteStore", "check_there", "make", "open_sqlite"]


def open_sqlite(
    path: Path,
    state_dir: Path,
    timeout: float,
    *,
    partners: Sequence[PartnerSettings] = (),
    read_only: bool,
) -> SqliteStore:
    """Open the database; unless `read_only`, create it, its key and its tables if missing.

    Raises:
        StoreMisconfigured: it cannot be used as it is; the text says how to fix it.
        StoreUnavailable: another process holds the database.
    """
    shared = load_partners(partners)
    _check_no_folder(path)
    deadline = time.monotonic() + timeout
    while True:
        try:
            if read_only:
                _check_made(path, state_dir)
            else:
                make(path, state_dir, timeout)
            return SqliteStore(path, state_dir, timeout, partners=shared, read_only=read_only)
        except sqlite3.Error as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise _fault(error, path) from error
            time.sleep(0.01)  # another process is just starting or ending
        except OSError as error:
            raise StoreInaccessible(f"{path}: {error.strerror} ({error.filename})") from error


def _refuse_loss(path: Path, state_dir: Path) -> None:
    """Refuse to begin anew where the journal of changes shows that there was a database.

    An empty one would let mail through to everybody who has refused it, wherever the law needs no
    consent.
    """
    if exists(path) and path.stat().st_size:
        return
    journal = [file for file in files(state_dir / FOLDER) if file.stat().st_size]
    if journal:
        state = "is empty" if exists(path) else "is not there"
        raise StoreMisconfigured(
            f"{path}: the database {state}, but {journal[-1]} has changes of it: it was lost, or"
            " store.url names another place. Restore a backup (smtpproxy restore). Without one,"
            " move the changes-*.ndjson there elsewhere; who has refused mail is then unknown"
        )


def _check_no_folder(path: Path) -> None:
    if is_dir(path):
        raise StoreMisconfigured(f"{path}: a folder, not a database; check the file in store.url")


def check_there(path: Path, state_dir: Path) -> None:
    """Raises NoStoreYet, StoreMisconfigured for something else, StoreUnavailable, OSError."""
    _check_no_folder(path)
    try:
        _check_made(path, state_dir)
    except sqlite3.Error as error:
        raise _fault(error, path) from error


def _check_made(path: Path, state_dir: Path) -> None:
    """Refuse a database that does not exist, or that is still being created and has no key."""
    _refuse_loss(path, state_dir)
    if exists(path):
        with closing(open_reader(path)) as connection:
            check_ours(connection, path)
            if version_of(connection) < len(migrations()):
                _check_can_migrate(connection, path)
            if version_of(connection) and live_keys.knows_a_key(connection):
                return
    raise NoStoreYet(f"{path}: there is no database yet; smtpproxy serve or an import creates it")


def make(path: Path, state_dir: Path, timeout: float) -> None:
    """Create file, tables and key, if missing; a key only for a database that never had one."""
    _refuse_loss(path, state_dir)
    make_file(path)
    with closing(open_writer(path, timeout)) as connection:
        check_ours(connection, path)
        behind = version_of(connection) < len(migrations())
        if behind:
            _check_can_migrate(connection, path)
        with locked_for_migration(path) if behind else nullcontext():
            migrate(connection, path, live_keys.name)
        if not live_keys.knows_a_key(connection):
            live_keys.register(connection, load_or_create_keys(state_dir))


def _check_can_migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Raise StoreMisconfigured for a database with fewer columns than its version says.

    No migration fits that of a preview, from before the first release.
    """
    missing = missing_column(connection, migrations()[: version_of(connection)])
    if missing is not None:
        raise StoreMisconfigured(
            f"{path}: made by a preview of smtpproxy, or altered: {missing} is missing. Export"
            " contacts and suppressions with the program that made it, move the file away, and"
            " import them again"
        )


def _fault(error: sqlite3.Error, path: Path) -> StoreUnavailable:
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if primary == sqlite3.SQLITE_NOTADB:
        return StoreMisconfigured(f"{path}: not an SQLite database; check the file in store.url")
    if primary in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return StoreInaccessible(
            f"{path}: cannot be opened ({error}); the file and its folder must belong to the "
            "user that smtpproxy runs as"
        )
    return unavailable(error)
