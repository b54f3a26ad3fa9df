"""Copies of databases: taken while they are written, proven, and prepared to take their place."""

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
from smtpproxy.store.protocols import StoreMisconfigured
from smtpproxy.store.sql.live_keys import chosen
from smtpproxy.store.sql.rows import to_micros
from smtpproxy.store.sqlite import live_keys
from smtpproxy.store.sqlite.connection import (
    check_not_newer,
    migrations,
    unavailable,
    uri,
    version_of,
)

_PATIENCE = 30.0  # seconds for a lock
# One that waits already began earlier: what it lacks is still missing.
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
"""Numbers of changes that are left out after a restore: those that nobody knows of were used too,
and whoever reads the log must not take a new one for one that it has seen."""


def snapshot(source: Path, target: Path) -> None:
    """Copy a database as it is at one moment, while others write to it; `target` is new.

    Raises StoreUnavailable, OSError.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with (
            closing(
                sqlite3.connect(uri(source, read_only=True), uri=True, timeout=_PATIENCE)
            ) as one,
            closing(sqlite3.connect(target, isolation_level=None)) as other,
        ):
            one.backup(other)  # in one step: its read holds one moment, and nobody waits for it
            other.execute("PRAGMA journal_mode = DELETE")  # one file is all of it
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:  # the source only is read
            raise OSError(ENOSPC, strerror(ENOSPC), str(target)) from error
        raise unavailable(error) from error


def integrity(path: Path) -> str:
    """Return `ok`, or what SQLite finds wrong with a database that nobody writes."""
    try:
        with closing(_unwritten(path)) as connection:
            found = connection.execute("PRAGMA integrity_check(3)").fetchall()
    except sqlite3.Error as error:
        return str(error)
    return "; ".join(str(row[0]) for row in found)


def proven_keys(path: Path, key_folder: Path) -> Mapping[int, str]:
    """Return the live keys of a copy of the store, each a fingerprint by its version.

    Raises StoreMisconfigured: its keys are not those in the folder, or it is of a newer program.
    """
    with closing(_unwritten(path)) as connection:
        check_not_newer(connection, path)
        wanted = live_keys.live(connection)
        chosen(load_keys(key_folder, alone=True), wanted, path)
    return dict(wanted)


def counts(path: Path) -> tuple[int, int, int]:
    """Return the version of a copy of the store, and how many contacts and suppressions it has."""
    with closing(_unwritten(path)) as connection:
        contacts, suppressions = connection.execute(_COUNTS).fetchone()
        return version_of(connection), contacts, suppressions


def hold(path: Path, at: datetime, position: str, mark: Mark) -> None:
    """Hold back all marketing in a copy that is about to take its place.

    `position` is from where the journal has to be replayed, `mark` that of its end here. Raises
    StoreMisconfigured, OSError.
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
            connection.execute("PRAGMA journal_mode = WAL")  # as whoever only reads expects it
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
    """Open what nobody writes, without the files that SQLite would make beside it."""
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)
