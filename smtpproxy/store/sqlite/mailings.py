"""Who was mailed when: counted on the mail path, across workers, in a database of its own.

A message is counted before it is put to the upstream and taken back if it is not taken:
then two workers can never both send the last one that a cap allows. What a crash leaves
behind counts, since the message may have been accepted.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from datetime import datetime
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from smtpproxy.policy.model import Mailing
from smtpproxy.store.key_file import give_to_owner_of
from smtpproxy.store.mailings import Mailed
from smtpproxy.store.protocols import StoreUnavailable
from smtpproxy.store.sqlite.connection import FileWatch, is_busy, unavailable, uri
from smtpproxy.store.sqlite.rows import from_micros, to_micros

T = TypeVar("T")

_KNOWN = """
SELECT at, stream FROM mailing WHERE person = ?1
UNION ALL SELECT at, NULL FROM first_mailing WHERE person = ?1 ORDER BY at
"""
_COUNT = "INSERT INTO mailing (person, at, id, stream) VALUES (?, ?, ?, ?)"
_COUNT_FIRST = "INSERT OR IGNORE INTO first_mailing (person, at, id) VALUES (?, ?, ?)"
_TAKE_BACK = "DELETE FROM mailing WHERE person = ? AND id = ?"
_TAKE_FIRST_BACK = "DELETE FROM first_mailing WHERE person = ? AND id = ?"
_NEXT_IS_FIRST = """
INSERT OR IGNORE INTO first_mailing (person, at, id)
SELECT person, at, id FROM mailing WHERE person = ?1 ORDER BY at LIMIT 1
"""
_OLDER = "SELECT count(*) FROM mailing WHERE at < ?"
_PRUNE = """
DELETE FROM mailing WHERE (person, at, id) IN
    (SELECT person, at, id FROM mailing WHERE at < ? LIMIT ?)
"""
_PRUNE_FIRST = """
DELETE FROM first_mailing WHERE person IN
    (SELECT person FROM first_mailing WHERE at < ? LIMIT ?)
"""
_FORGET = ("DELETE FROM mailing WHERE person = ?", "DELETE FROM first_mailing WHERE person = ?")
_PRUNED_AT_ONCE = 5_000  # rows: other writers wait no longer than for these
_RETRY_SECONDS = 0.002
_CHECKPOINT_EVERY = 2_000  # commits


class SqliteMailings:
    """A `MailingLog`, and the reading of it. Opened with the first use, on the event loop."""

    def __init__(self, database: Path, timeout: float, *, read_only: bool = False) -> None:
        self._path = database.with_name(f"{database.stem}-mailings.db")
        self._timeout = timeout
        self._read_only = read_only
        self._connection: sqlite3.Connection | None = None
        self._watch: FileWatch | None = None
        self._secret = b""
        self._commits = 0
        self._checkpoint: asyncio.Task[None] | None = None

    async def reserve(
        self, id: str, stream: str, addresses: Iterable[str], at: datetime
    ) -> Mapping[str, Mailed]:
        moment = to_micros(at)

        def count(connection: sqlite3.Connection) -> dict[str, Mailed]:
            persons = {address: self._person(address) for address in addresses}
            known = {address: _known(connection, person) for address, person in persons.items()}
            connection.executemany(_COUNT, [(p, moment, id, stream) for p in persons.values()])
            connection.executemany(_COUNT_FIRST, [(p, moment, id) for p in persons.values()])
            return known

        return await self._write(count)

    async def release(self, id: str, addresses: Iterable[str]) -> None:
        def take_back(connection: sqlite3.Connection) -> None:
            for person in map(self._person, addresses):
                connection.execute(_TAKE_BACK, (person, id))
                if connection.execute(_TAKE_FIRST_BACK, (person, id)).rowcount:
                    connection.execute(_NEXT_IS_FIRST, (person,))

        await self._write(take_back)

    async def known(self, addresses: Sequence[str]) -> Mapping[str, Mailed]:
        """Return what is known of each address; nothing where there is no database yet."""
        if self._connection is None and not self._path.exists():
            return {}

        def read(connection: sqlite3.Connection) -> dict[str, Mailed]:
            return {address: _known(connection, self._person(address)) for address in addresses}

        return await self._ask(read)

    async def prune(
        self, before: datetime, *, first_before: datetime, dry_run: bool = False
    ) -> int:
        """Remove what is older, in small steps; return how many messages."""
        if not self._path.exists():
            return 0
        if dry_run:
            return await self._ask(_counted(_OLDER, (to_micros(before),)))
        removed = 0
        for statement, moment in ((_PRUNE, before), (_PRUNE_FIRST, first_before)):
            values = (to_micros(moment), _PRUNED_AT_ONCE)
            while some := await self._write(_changed(statement, values)):
                removed += some if statement is _PRUNE else 0
        return removed

    async def forget(self, address: str) -> None:
        """Erase a person."""

        def erase(connection: sqlite3.Connection) -> None:
            for statement in _FORGET:
                connection.execute(statement, (self._person(address),))

        if self._path.exists():
            await self._write(erase)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = self._watch = None

    def _person(self, address: str) -> bytes:
        return blake2b(address.encode(), digest_size=16, key=self._secret).digest()

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` as one transaction. Commits are not flushed: losing power loses some."""

        def transaction(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN IMMEDIATE")
            try:
                done = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            return done

        done = await self._ask(transaction)
        self._commits += 1
        if self._commits % _CHECKPOINT_EVERY == 0:
            self._checkpoint = asyncio.create_task(asyncio.to_thread(self._empty_log))
        return done

    async def _ask(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` now; while the database is locked, try again from the event loop.

        Raises StoreUnavailable.
        """
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                return work(self._current())
            except (sqlite3.Error, OSError) as error:
                if not is_busy(error):
                    self.close()
                    raise unavailable(error) from error
                if time.monotonic() > deadline:
                    raise StoreUnavailable("other writes hold the count of mailings") from error
            await asyncio.sleep(_RETRY_SECONDS)

    def _current(self) -> sqlite3.Connection:
        if self._watch is not None and not self._watch.same():
            self.close()
        if self._connection is None:
            self._connection = _opened(self._path, read_only=self._read_only)
            self._watch = FileWatch(self._path)
            (self._secret,) = self._connection.execute("SELECT octets FROM secret").fetchone()
        return self._connection

    def _empty_log(self) -> None:
        """Move the log into the database, on a thread: it waits for the disk."""
        with suppress(sqlite3.Error), closing(sqlite3.connect(self._path, timeout=0)) as other:
            other.execute("PRAGMA wal_checkpoint(PASSIVE)")


def _known(connection: sqlite3.Connection, person: bytes) -> Mailed:
    found = connection.execute(_KNOWN, (person,)).fetchall()
    if not found:
        return Mailed()
    return Mailed(
        tuple([Mailing(stream, from_micros(at)) for at, stream in found if stream is not None]),
        from_micros(found[0][0]),
    )


def _changed(statement: str, values: tuple[object, ...]) -> Callable[[sqlite3.Connection], int]:
    return lambda connection: connection.execute(statement, values).rowcount


def _counted(query: str, values: tuple[object, ...]) -> Callable[[sqlite3.Connection], int]:
    return lambda connection: int(connection.execute(query, values).fetchone()[0])


def _opened(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open the database; unless `read_only`, make it where it is missing, for its owner alone."""
    if read_only:
        source = uri(path, read_only=True)
        return sqlite3.connect(source, uri=True, timeout=0, isolation_level=None)
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
            _make_tables(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _make_tables(connection: sqlite3.Connection) -> None:
    script = files("smtpproxy.store.sqlite").joinpath("mailings.sql").read_text("utf-8")
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not connection.execute("PRAGMA user_version").fetchone()[0]:  # another was first
            for statement in script.split(";\n"):
                connection.execute(statement)
            connection.execute("PRAGMA user_version = 1")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
