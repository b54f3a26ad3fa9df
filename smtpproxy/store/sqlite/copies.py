"""Which recipients have their copy of a message, in a database of its own."""

import sqlite3
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from hashlib import blake2b
from pathlib import Path

from smtpproxy.store.sqlite.rows import to_micros
from smtpproxy.store.sqlite.side_file import SideFile

KEPT = timedelta(days=5)
"""For as long as mail servers commonly retry (RFC 5321 4.5.4.1: at least 4 to 5 days)."""

MOST = 1_000_000
"""Copies that are kept: the oldest go first."""

_ANY = "SELECT EXISTS (SELECT 1 FROM copy)"
_FIND = "SELECT recipient FROM copy WHERE message = ? AND at > ?"
_NOTE = "INSERT INTO copy VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET at = excluded.at"
_FORGET = "DELETE FROM copy WHERE message = ? AND recipient = ?"
_EXPIRE = """
DELETE FROM copy WHERE (message, recipient) IN
    (SELECT message, recipient FROM copy WHERE at < ? ORDER BY at LIMIT 500)
"""
_TRIM = """
DELETE FROM copy WHERE (message, recipient) IN
    (SELECT message, recipient FROM copy ORDER BY at LIMIT
        max(0, (SELECT count(*) FROM copy) - ?))
"""
_TRIM_EVERY = 1_000  # copies noted


class SqliteCopies:
    """A `CopyLedger`. Opened with the first use, on the event loop."""

    def __init__(self, database: Path, timeout: float, now: Callable[[], datetime]) -> None:
        path = database.with_name(f"{database.stem}-copies.db")
        self._file = SideFile(path, "copies.sql", timeout)
        self._now = now
        self._noted = 0

    async def find(
        self, reverse_path: str, digest: Callable[[], bytes], forward_paths: Collection[str]
    ) -> frozenset[str]:
        if not self._file.is_there() or not await self._file.ask(_holds_any):
            return frozenset()  # as nearly always: nothing is hashed for it
        since = to_micros(self._now() - KEPT)
        message = self._message(reverse_path, digest)
        found = await self._file.ask(lambda c: c.execute(_FIND, (message, since)).fetchall())
        have = {recipient for (recipient,) in found}
        return frozenset(path for path in forward_paths if self._hash(_octets(path)) in have)

    async def note(self, reverse_path: str, digest: Callable[[], bytes], forward_path: str) -> None:
        await self._file.ask(lambda _: None)  # the secret comes with the file
        message, now = self._message(reverse_path, digest), self._now()
        recipient = self._hash(_octets(forward_path))
        self._noted += 1

        def note(connection: sqlite3.Connection) -> None:
            connection.execute(_NOTE, (message, recipient, to_micros(now)))
            if self._noted % _TRIM_EVERY == 1:
                connection.execute(_EXPIRE, (to_micros(now - KEPT),))
                connection.execute(_TRIM, (MOST,))

        await self._file.write(note)

    async def forget(
        self, reverse_path: str, digest: Callable[[], bytes], forward_paths: Collection[str]
    ) -> None:
        if self._file.is_there() and await self._file.ask(_holds_any):
            message = self._message(reverse_path, digest)
            rows = [(message, self._hash(_octets(path))) for path in forward_paths]
            await self._file.write(lambda c: c.executemany(_FORGET, rows))

    def close(self) -> None:
        self._file.close()

    def _message(self, reverse_path: str, digest: Callable[[], bytes]) -> bytes:
        return self._hash(_octets(reverse_path) + b"\0" + digest())

    def _hash(self, octets: bytes) -> bytes:
        return blake2b(octets, digest_size=16, key=self._file.secret).digest()


def _octets(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def _holds_any(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute(_ANY).fetchone()[0])
