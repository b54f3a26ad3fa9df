"""SQLite, in WAL mode: one writer and any number of readers that never wait for it."""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from smtpproxy.store.keys import SuppressionKey, give_to_owner_of, load_key, load_or_create_key
from smtpproxy.store.protocols import StoreMisconfigured, StoreUnavailable
from smtpproxy.store.sqlite.connection import open_writer, unavailable
from smtpproxy.store.sqlite.schema import knows_a_key, migrate, register_key
from smtpproxy.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore", "open_sqlite"]


def open_sqlite(path: Path, state_dir: Path, timeout: float, *, read_only: bool) -> SqliteStore:
    """Open the database; unless `read_only`, make it, its key and its tables where missing.

    Raises:
        StoreMisconfigured: what is there cannot be used; the text says how to mend it.
        StoreUnavailable: another process holds the database.
    """
    try:
        if read_only:
            if not path.exists():
                raise StoreMisconfigured(
                    f"{path}: there is no database yet; smtpproxy serve makes it, or an import"
                )
            key = load_key(state_dir)
        else:
            _make_file(path)
            key = _make_ready(path, state_dir, timeout)
        return SqliteStore(path, key, timeout, read_only=read_only)
    except sqlite3.Error as error:
        raise _fault(error, path) from error
    except OSError as error:
        raise StoreMisconfigured(f"{path}: {error.strerror} ({error.filename})") from error


def _make_file(path: Path) -> None:
    """Make an empty file that only its owner can read: it will hold people's addresses."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        give_to_owner_of(path.parent, path)


def _make_ready(path: Path, state_dir: Path, timeout: float) -> SuppressionKey:
    """Bring tables and key into being; a new key only for a database that never had one."""
    with closing(open_writer(path, timeout)) as connection:
        migrate(connection, path, timeout)
        if knows_a_key(connection):
            return load_key(state_dir)
        key = load_or_create_key(state_dir)
        register_key(connection, key)
        return key


def _fault(error: sqlite3.Error, path: Path) -> StoreUnavailable:
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if primary == sqlite3.SQLITE_NOTADB:
        return StoreMisconfigured(f"{path}: not an SQLite database; store.url names another file")
    if primary in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return StoreMisconfigured(
            f"{path}: cannot be opened ({error}); the file and its folder must belong to the "
            "user that smtpproxy runs as"
        )
    return unavailable(error)
