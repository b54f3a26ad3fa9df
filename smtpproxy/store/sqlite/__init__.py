"""SQLite, in WAL mode: one writer and any number of readers that never wait for it."""

import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

from smtpproxy.store.keys import SuppressionKey, give_to_owner_of, load_key, load_or_create_key
from smtpproxy.store.protocols import StoreInaccessible, StoreMisconfigured, StoreUnavailable
from smtpproxy.store.sqlite.connection import is_busy, open_reader, open_writer, unavailable
from smtpproxy.store.sqlite.schema import knows_a_key, migrate, register_key, version_of
from smtpproxy.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore", "open_sqlite"]


def open_sqlite(path: Path, state_dir: Path, timeout: float, *, read_only: bool) -> SqliteStore:
    """Open the database; unless `read_only`, make it, its key and its tables where missing.

    Raises:
        StoreMisconfigured: what is there cannot be used; the text says how to mend it.
        StoreUnavailable: another process holds the database.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            key = _key_of(path, state_dir) if read_only else _made(path, state_dir, timeout)
            return SqliteStore(path, key, timeout, read_only=read_only)
        except sqlite3.Error as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise _fault(error, path) from error
            time.sleep(0.01)  # another process starts or ends just now
        except OSError as error:
            raise StoreInaccessible(f"{path}: {error.strerror} ({error.filename})") from error


def _key_of(path: Path, state_dir: Path) -> SuppressionKey:
    """Load the key of a database that is there; one that is only being made has none yet."""
    if path.exists():
        with closing(open_reader(path)) as connection:
            if version_of(connection) and knows_a_key(connection):
                return load_key(state_dir)
    raise StoreInaccessible(
        f"{path}: there is no database yet; smtpproxy serve makes it, or an import"
    )


def _made(path: Path, state_dir: Path, timeout: float) -> SuppressionKey:
    """Bring file, tables and key into being; a new key only for a database that never had one."""
    _make_file(path)
    with closing(open_writer(path, timeout)) as connection:
        migrate(connection, path)
        if knows_a_key(connection):
            return load_key(state_dir)
        key = load_or_create_key(state_dir)
        register_key(connection, key)
        return key


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
