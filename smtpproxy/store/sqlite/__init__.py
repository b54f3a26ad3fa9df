"""SQLite, in WAL mode: one writer and any number of readers that never wait for it."""

import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from smtpproxy.settings import PartnerSettings
from smtpproxy.store.key_files import give_to_owner_of, load_or_create_keys, load_partner_key
from smtpproxy.store.protocols import (
    NoStoreYet,
    StoreInaccessible,
    StoreMisconfigured,
    StoreUnavailable,
)
from smtpproxy.store.sqlite import live_keys
from smtpproxy.store.sqlite.connection import (
    is_busy,
    migrate,
    open_reader,
    open_writer,
    unavailable,
    version_of,
)
from smtpproxy.store.sqlite.reader import Partner
from smtpproxy.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore", "make", "open_sqlite"]


def open_sqlite(
    path: Path,
    state_dir: Path,
    timeout: float,
    *,
    partners: Sequence[PartnerSettings] = (),
    read_only: bool,
) -> SqliteStore:
    """Open the database; unless `read_only`, make it, its key and its tables where missing.

    Raises:
        StoreMisconfigured: what is there cannot be used; the text says how to fix it.
        StoreUnavailable: another process holds the database.
    """
    shared = [Partner(one.name, load_partner_key(one.key_file)) for one in partners]
    deadline = time.monotonic() + timeout
    while True:
        try:
            if read_only:
                _check_there(path)
            else:
                make(path, state_dir, timeout)
            return SqliteStore(path, state_dir, timeout, partners=shared, read_only=read_only)
        except sqlite3.Error as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise _fault(error, path) from error
            time.sleep(0.01)  # another process starts or ends just now
        except OSError as error:
            raise StoreInaccessible(f"{path}: {error.strerror} ({error.filename})") from error


def _check_there(path: Path) -> None:
    """Refuse a database that is not there, or only being made and without a key."""
    if path.exists():
        with closing(open_reader(path)) as connection:
            if version_of(connection) and live_keys.knows_a_key(connection):
                return
    raise NoStoreYet(f"{path}: there is no database yet; smtpproxy serve makes it, or an import")


def make(path: Path, state_dir: Path, timeout: float) -> None:
    """Bring file, tables and key into being; a new key only for a database that never had one."""
    _make_file(path)
    with closing(open_writer(path, timeout)) as connection:
        migrate(connection, path, live_keys.name)
        if not live_keys.knows_a_key(connection):
            live_keys.register(connection, load_or_create_keys(state_dir))


def _make_file(path: Path) -> None:
    """Make an empty file that only its owner can read: it will hold people's addresses."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        give_to_owner_of(path.parent, path)


def _fault(error: sqlite3.Error, path: Path) -> StoreUnavailable:
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if primary == sqlite3.SQLITE_NOTADB:
        return StoreMisconfigured(f"{path}: not an SQLite database; store.url names another file")
    if primary in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return StoreInaccessible(
            f"{path}: cannot be opened ({error}); the file and its folder must belong to the "
            "user that smtpproxy runs as"
        )
    return unavailable(error)
