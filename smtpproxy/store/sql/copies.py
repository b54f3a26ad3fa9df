"""The ledger of copies delivered before the final answer to the client."""

from collections.abc import Callable, Collection
from datetime import datetime, timedelta

from smtpproxy.store.sql.rows import to_micros
from smtpproxy.store.sql.side_tables import SideTable, SideTables, keyed_hash

_KEPT = timedelta(days=5)
"""As long as mail servers commonly retry (RFC 5321 4.5.4.1: at least 4 to 5 days)."""
_MOST = 1_000_000
"""Copies kept; the oldest go first."""
_PRUNE_EVERY = 1_000  # copies noted
_PRUNED_AT_ONCE = 500

_FIND = "SELECT recipient FROM copy WHERE message = ?1 AND at > ?2 AND recipient IN ?"
_NOTE = """
INSERT INTO copy (message, recipient, at) VALUES (?, ?, ?)
ON CONFLICT (message, recipient) DO UPDATE SET at = excluded.at
"""
_FORGET = "DELETE FROM copy WHERE message = ? AND recipient = ?"
_PRUNE = """
DELETE FROM copy WHERE (message, recipient) IN (
    SELECT message, recipient FROM copy WHERE at < ? ORDER BY at LIMIT ?
    /*FOR UPDATE SKIP LOCKED*/
)
"""
_TRIM = """
DELETE FROM copy WHERE (message, recipient) IN (
    SELECT message, recipient FROM copy
    WHERE at < (SELECT at FROM copy ORDER BY at DESC LIMIT 1 OFFSET ?)
    /*FOR UPDATE SKIP LOCKED*/
)
"""


class CopyLedger(SideTable):
    """Keeps the forward paths that have their copy of a message, across workers and crashes.

    A message is identified by its reverse path and the digest of its original content; `digest`
    is called only when needed. Entries are removed with the final answer to the client, or after
    5 days. They are flushed: the loss of one would mean a second copy. Methods raise
    StoreUnavailable, and whatever `digest` raises.
    """

    def __init__(self, tables: SideTables, now: Callable[[], datetime]) -> None:
        super().__init__(tables)
        self._now = now
        self._noted = 0

    async def find(
        self, reverse_path: str, digest: Callable[[], bytes], forward_paths: Collection[str]
    ) -> frozenset[str]:
        """Return which of the forward paths have their copy."""
        if not await self._tables.hold_any("copy"):
            return frozenset()  # nearly always, without hashing the content
        message, paths = await self._hashed(reverse_path, digest, forward_paths)
        since = to_micros(self._now() - _KEPT)
        async with self._tables.reading() as session:
            found = await self._tables.fetch_in(session, _FIND, list(paths), message, since)
        return frozenset(paths[recipient] for (recipient,) in found)

    async def note(self, reverse_path: str, digest: Callable[[], bytes], forward_path: str) -> None:
        """Record that a forward path has its copy."""
        message, (recipient,) = await self._hashed(reverse_path, digest, [forward_path])
        now = self._now()
        self._noted += 1
        async with self._tables.writing(flushed=True) as session:
            await session.run(_NOTE, message, recipient, to_micros(now))
            if self._noted % _PRUNE_EVERY == 1:
                await session.run(_PRUNE, to_micros(now - _KEPT), _PRUNED_AT_ONCE)
                await session.run(_TRIM, _MOST - 1)

    async def forget(
        self, reverse_path: str, digest: Callable[[], bytes], forward_paths: Collection[str]
    ) -> None:
        """Remove those that the client has its final answer about; others may be in another
        transaction."""
        if await self._tables.hold_any("copy"):
            message, paths = await self._hashed(reverse_path, digest, forward_paths)
            async with self._tables.writing() as session:
                await session.run_many(_FORGET, [(message, path) for path in sorted(paths)])

    async def prune(self) -> None:
        """Remove those whose client never came back for its answer."""
        if self._tables.exist():
            await self._in_steps(_PRUNE, self._now() - _KEPT)

    async def _hashed(
        self, reverse_path: str, digest: Callable[[], bytes], forward_paths: Collection[str]
    ) -> tuple[bytes, dict[bytes, str]]:
        """Return the hash of a message, and the forward paths by their hashes."""
        key = await self._tables.hash_key()
        message = keyed_hash(_octets(reverse_path) + b"\0" + digest(), key)
        return message, {keyed_hash(_octets(path), key): path for path in forward_paths}


def _octets(path: str) -> bytes:
    """Encode an SMTP path as it came."""
    return path.encode("utf-8", "surrogateescape")
