"""The ledger of copies that wait for a final answer: whichever relay the client asks next."""

from collections.abc import Callable, Collection
from datetime import datetime

from smtpproxy.store.counters import COPIES_KEPT
from smtpproxy.store.postgres.connection import Counts, Target
from smtpproxy.store.sql.rows import to_micros
from smtpproxy.store.sql.side_tables import ANY_COPY, keyed_hash, path_octets

_FIND = "SELECT recipient FROM copy WHERE message = ? AND recipient = ANY (?) AND at > ?"
_NOTE = """
INSERT INTO copy (message, recipient, at) VALUES (?, ?, ?)
ON CONFLICT (message, recipient) DO UPDATE SET at = excluded.at
"""
_FORGET = "DELETE FROM copy WHERE message = ? AND recipient = ANY (?)"
_EXPIRE = """
DELETE FROM copy WHERE (message, recipient) IN
    (SELECT message, recipient FROM copy WHERE at < ? ORDER BY at LIMIT 500 FOR UPDATE SKIP LOCKED)
"""
_EXPIRE_EVERY = 1_000  # copies noted


class PostgresCopies(Counts):
    """A `CopyLedger`. Unlike the counts, a copy that is noted is flushed: its loss would be a
    second copy."""

    _part = "copies"

    def __init__(self, target: Target, now: Callable[[], datetime]) -> None:
        super().__init__(target)
        self._now = now
        self._noted = 0

    async def find(
        self, reverse_path: str, digest: Callable[[], bytes], forward_paths: Collection[str]
    ) -> frozenset[str]:
        if not await self._holds_any():
            return frozenset()  # as nearly always: nothing is hashed for it
        since = to_micros(self._now() - COPIES_KEPT)
        paths = {await self._hash(path_octets(path)): path for path in forward_paths}
        message = await self._message(reverse_path, digest)
        async with self._asking() as session:
            found = await session.fetch_all(_FIND, message, list(paths), since)
        return frozenset(paths[recipient] for (recipient,) in found)

    async def note(self, reverse_path: str, digest: Callable[[], bytes], forward_path: str) -> None:
        message, now = await self._message(reverse_path, digest), self._now()
        recipient = await self._hash(path_octets(forward_path))
        self._noted += 1
        async with self._counting(flushed=True) as session:
            await session.run(_NOTE, message, recipient, to_micros(now))
            if self._noted % _EXPIRE_EVERY == 1:
                await session.run(_EXPIRE, to_micros(now - COPIES_KEPT))

    async def forget(
        self, reverse_path: str, digest: Callable[[], bytes], forward_paths: Collection[str]
    ) -> None:
        if await self._holds_any():
            message = await self._message(reverse_path, digest)
            recipients = [await self._hash(path_octets(path)) for path in forward_paths]
            async with self._counting() as session:
                await session.run(_FORGET, message, recipients)

    async def _holds_any(self) -> bool:
        async with self._asking() as session:
            return bool((await session.fetch_all(ANY_COPY))[0][0])

    async def _message(self, reverse_path: str, digest: Callable[[], bytes]) -> bytes:
        return await self._hash(path_octets(reverse_path) + b"\0" + digest())

    async def _hash(self, octets: bytes) -> bytes:
        return keyed_hash(octets, await self._secret())
