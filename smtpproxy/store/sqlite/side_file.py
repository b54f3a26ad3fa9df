"""A database beside the store's that the mail path writes to, shared by workers.

Its loss costs counts but no proof, so commits are not flushed. It is created with the first use.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from smtpproxy.store.counters import COPIES_KEPT
from smtpproxy.store.key_files import give_to_owner_of
from smtpproxy.store.protocols import StoreUnavailable
from smtpproxy.store.sql.rows import to_micros
from smtpproxy.store.sql.side_tables import ANY_COPY, keyed_hash, path_octets
from smtpproxy.store.sqlite.connection import (
    checkpoint,
    empty_log,
    has_long_log,
    is_busy,
    unavailable,
    uri,
)
from smtpproxy.store.sqlite.watches import FileWatch

T = TypeVar("T")

_RETRY_SECONDS = 0.002
_CHECKPOINT_EVERY = 2_000  # commits
_SECRET = """
CREATE TABLE secret (octets BLOB NOT NULL);
INSERT INTO secret VALUES (randomblob(32));
"""


class _BeingMade(sqlite3.Error):
    """Another process has created the file, but not its tables yet."""


class SideFile:
    """Such a database, for one event loop. `tables` is the SQL that creates its tables.

    `secret` is a key for hashes, stored in the database, and known whenever `work` runs.
    """

    def __init__(self, path: Path, tables: str, timeout: float, *, read_only: bool = False) -> None:
        self.secret = b""
        self._path = path
        self._tables = tables
        self._timeout = timeout
        self._read_only = read_only
        self._connection: sqlite3.Connection | None = None
        self._watch: FileWatch | None = None
        self._commits = 0
        self._checkpoint: asyncio.Task[None] | None = None

    def exists(self) -> bool:
        return self._connection is not None or self._path.exists()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = self._watch = None

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` as one transaction. Commits are not flushed: a power failure loses some."""

        def transaction(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN IMMEDIATE")
            try:
                done = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            return done

        done = await self.ask(transaction)
        self._commits += 1
        if self._commits % _CHECKPOINT_EVERY == 0:
            self._checkpoint = asyncio.create_task(asyncio.to_thread(self._empty_log))
        return done

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
            (self.secret,) = self._connection.execute("SELECT octets FROM secret").fetchone()
        return self._connection

    def _empty_log(self) -> None:
        """Move the log into the database; runs on a thread, as it waits for the disk."""
        with suppress(sqlite3.Error, OSError):
            if has_long_log(self._path):
                empty_log(self._path)
            else:
                checkpoint(self._path)


def opened(path: Path, tables: str, *, read_only: bool) -> sqlite3.Connection:
    """Open the database; unless `read_only`, create it if missing, for its owner only."""
    if read_only:
        return _opened_to_read(path)
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            give_to_owner_of(path.parent, path)
    connection = sqlite3.connect(
        uri(path, read_only=False), uri=True, timeout=0, isolation_level=None
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA secure_delete = ON")
        if not connection.execute("PRAGMA user_version").fetchone()[0]:
            _make_tables(connection, tables)
    except BaseException:
        connection.close()
        raise
    return connection


def _opened_to_read(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri(path, read_only=True), uri=True, timeout=0, isolation_level=None
    )
    try:
        if not connection.execute("PRAGMA user_version").fetchone()[0]:
            raise _BeingMade(f"{path.name} is being made")
    except BaseException:
        connection.close()
        raise
    return connection


def _make_tables(connection: sqlite3.Connection, tables: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not connection.execute("PRAGMA user_version").fetchone()[0]:  # another was first
            for statement in f"{_SECRET}{tables}".split(";\n"):
                connection.execute(statement)
            connection.execute("PRAGMA user_version = 1")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


MOST = 1_000_000
"""Copies kept; the oldest go first."""

COPY_TABLES = """
CREATE TABLE copy (
    message BLOB NOT NULL,   -- keyed hash of reverse path and content
    recipient BLOB NOT NULL, -- keyed hash of the forward path
    at INTEGER NOT NULL,     -- microseconds since 1970
    PRIMARY KEY (message, recipient)
) WITHOUT ROWID;
CREATE INDEX copy_at ON copy (at);
"""
_FIND_COPY = "SELECT 1 FROM copy WHERE message = ? AND recipient = ? AND at > ?"
_NOTE_COPY = "INSERT INTO copy VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET at = excluded.at"
_FORGET_COPY = "DELETE FROM copy WHERE message = ? AND recipient = ?"
_EXPIRE_COPIES = """
DELETE FROM copy WHERE (message, recipient) IN
    (SELECT message, recipient FROM copy WHERE at < ? ORDER BY at LIMIT 500)
"""
_TRIM_COPIES = """
DELETE FROM copy WHERE (message, recipient) IN
    (SELECT message, recipient FROM copy ORDER BY at LIMIT
        max(0, (SELECT count(*) FROM copy) - ?))
"""
_TRIM_COPIES_EVERY = 1_000  # copies noted


class SqliteCopies:
    """A `CopyLedger`. Opened with the first use, on the event loop."""

    def __init__(self, database: Path, timeout: float, now: Callable[[], datetime]) -> None:
        path = database.with_name(f"{database.stem}-copies.db")
        self._file = SideFile(path, COPY_TABLES, timeout)
        self._now = now
        self._noted = 0

    async def find(
        self, reverse_path: str, digest: Callable[[], bytes], forward_paths: Collection[str]
    ) -> frozenset[str]:
        if not self._file.exists() or not await self._file.ask(_holds_any):
            return frozenset()  # nearly always, without hashing the content
        since = to_micros(self._now() - COPIES_KEPT)
        message = self._message(reverse_path, digest)

        def has(connection: sqlite3.Connection, path: str) -> bool:
            row = (message, self._hash(path_octets(path)), since)
            return connection.execute(_FIND_COPY, row).fetchone() is not None

        return await self._file.ask(
            lambda c: frozenset(path for path in forward_paths if has(c, path))
        )

    async def note(self, reverse_path: str, digest: Callable[[], bytes], forward_path: str) -> None:
        await self._file.ask(lambda _: None)  # the secret comes with the file
        message, now = self._message(reverse_path, digest), self._now()
        recipient = self._hash(path_octets(forward_path))
        self._noted += 1

        def note(connection: sqlite3.Connection) -> None:
            connection.execute(_NOTE_COPY, (message, recipient, to_micros(now)))
            if self._noted % _TRIM_COPIES_EVERY == 1:
                connection.execute(_EXPIRE_COPIES, (to_micros(now - COPIES_KEPT),))
                connection.execute(_TRIM_COPIES, (MOST,))

        await self._file.write(note)

    async def forget(
        self, reverse_path: str, digest: Callable[[], bytes], forward_paths: Collection[str]
    ) -> None:
        if self._file.exists() and await self._file.ask(_holds_any):
            message = self._message(reverse_path, digest)
            rows = [(message, self._hash(path_octets(path))) for path in forward_paths]
            await self._file.write(lambda c: c.executemany(_FORGET_COPY, rows))

    def close(self) -> None:
        self._file.close()

    def _message(self, reverse_path: str, digest: Callable[[], bytes]) -> bytes:
        return self._hash(path_octets(reverse_path) + b"\0" + digest())

    def _hash(self, octets: bytes) -> bytes:
        return keyed_hash(octets, self._file.secret)


def _holds_any(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute(ANY_COPY).fetchone()[0])
