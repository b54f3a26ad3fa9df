"""Backups of databases: taking one while others write, checking it, and preparing its restore."""

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime
from errno import ENOSPC
from os import strerror
from pathlib import Path
from urllib.parse import quote

from smtpproxy.policy.breaker import MARKETING, RESTORE
from smtpproxy.store.change_journal import Mark
from smtpproxy.store.key_files import load_keys
from smtpproxy.store.records import StoreMisconfigured
from smtpproxy.store.sql.live_keys import live_ring
from smtpproxy.store.sql.rows import to_micros
from smtpproxy.store.sqlite import live_keys
from smtpproxy.store.sqlite.connection import (
    check_not_newer,
    migrations,
    unavailable,
    uri,
    version_of,
)

_LOCK_TIMEOUT = 30.0  # seconds
# IGNORE: an earlier hold has an earlier position, from where changes are still missing.
_HOLD = "INSERT OR IGNORE INTO stream_pause (subject, at, cause, reason) VALUES (?, ?, ?, ?)"
_NOTE = """
INSERT INTO stream_event (at, subject, action, cause, reports, messages, bound)
VALUES (?, ?, 'paused', ?, 0, 0, 0)
"""
_COUNTS = """
SELECT coalesce(sum(iif(kind = 'contact', n, 0)), 0), coalesce(sum(iif(kind = 'contact', 0, n)), 0)
FROM tally
"""
_BEYOND = 1_000_000
"""How many numbers of changes are skipped after a restore. Some above the known ones were used, and
a reader of the log must not mistake a new change for one that it has seen."""


def snapshot(source: Path, target: Path) -> None:
    """Copy a database from one snapshot, while others write to it; `target` must not exist.

    Raises StoreUnavailable, OSError.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with (
            closing(
                sqlite3.connect(uri(source, read_only=True), uri=True, timeout=_LOCK_TIMEOUT)
            ) as one,
            closing(sqlite3.connect(target, isolation_level=None)) as other,
        ):
            one.backup(other)  # in one step: one snapshot, and nobody waits for it
            other.execute("PRAGMA journal_mode = DELETE")  # a single file
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:  # only target is written
            raise OSError(ENOSPC, strerror(ENOSPC), str(target)) from error
        raise unavailable(error) from error


def integrity(path: Path) -> str:
    """Return `ok`, or the faults that SQLite finds in a database that nobody writes."""
    try:
        with closing(_unwritten(path)) as connection:
            found = connection.execute("PRAGMA integrity_check(3)").fetchall()
    except sqlite3.Error as error:
        return str(error)
    return "; ".join(str(row[0]) for row in found)


def proven_keys(path: Path, key_folder: Path) -> Mapping[int, str]:
    """Return the fingerprints of the live keys of a copy of the store, by version.

    Raises StoreMisconfigured if the folder lacks one, or the copy is of a newer release.
    """
    with closing(_unwritten(path)) as connection:
        check_not_newer(connection, path)
        wanted = live_keys.live(connection)
        live_ring(load_keys(key_folder, alone=True), wanted, path)
    return dict(wanted)


def counts(path: Path) -> tuple[int, int, int]:
    """Return the version of a copy of the store, and its numbers of contacts and suppressions."""
    with closing(_unwritten(path)) as connection:
        contacts, suppressions = connection.execute(_COUNTS).fetchone()
        return version_of(connection), contacts, suppressions


def hold(path: Path, at: datetime, position: str, mark: Mark) -> None:
    """Hold back all marketing in a copy before it is restored.

    `position` is where the replay of the journal has to start, and `mark` that of the journal's
    end. Raises StoreMisconfigured, OSError.
    """
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            if not 0 < version_of(connection) <= len(migrations()):
                raise StoreMisconfigured(f"{path}: not a database of smtpproxy")
            connection.execute("BEGIN IMMEDIATE")
            moment = to_micros(at)
            connection.execute(_HOLD, (MARKETING, moment, RESTORE, position))
            for table, seen in zip(("suppression_change", "refusal_change"), mark, strict=True):
                _skip_numbers(connection, table, seen)
            connection.execute(_NOTE, (moment, MARKETING, RESTORE))
            connection.execute("COMMIT")
            connection.execute("PRAGMA journal_mode = WAL")  # read-only processes rely on it
    except sqlite3.Error as error:
        raise StoreMisconfigured(f"{path}: cannot be restored ({error})") from error


def _skip_numbers(connection: sqlite3.Connection, table: str, seen: int) -> None:
    (used,) = connection.execute(
        "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = ?", (table,)
    ).fetchone()
    connection.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
    beyond = max(used, seen) + _BEYOND
    connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, beyond))


def _unwritten(path: Path) -> sqlite3.Connection:
    """Open a database that nobody writes, so that SQLite creates no files beside it."""
    return sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro&immutable=1", uri=True)
