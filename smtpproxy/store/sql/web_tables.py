"""The web server's tables: answers to requests with an idempotency key, so that a retry has no
further effect, and the number of recent confirmation mails."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal

from msgspec import Struct

from smtpproxy.store.sql.rows import to_micros
from smtpproxy.store.sql.side_tables import AHEAD, SideTable, SideTables, keyed_hash, mailbox_hash

_KEPT = timedelta(hours=24)
_UNFINISHED = timedelta(minutes=10)
"""How long a request without an answer counts as running."""
_MOST = 20_000
"""Answers kept; the oldest go first."""

_PRUNE = "DELETE FROM answer WHERE at < ? OR (body IS NULL AND at < ?)"
_CORRECT = "UPDATE answer SET at = ?1 WHERE at > ?2"
_TRIM = """
DELETE FROM answer WHERE request IN (
    SELECT request FROM answer
    WHERE at < (SELECT at FROM answer ORDER BY at DESC LIMIT 1 OFFSET ?)
    /*FOR UPDATE SKIP LOCKED*/
)
"""
_BEGIN = "INSERT INTO answer (request, asked, at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_FIND = "SELECT asked, body, version FROM answer WHERE request = ?"
_FINISH = "UPDATE answer SET body = ?, version = ? WHERE request = ?"
_FORGET = "DELETE FROM answer WHERE request = ? AND body IS NULL"

RequestState = Literal["new", "running", "other"]
"""A new request; one that is running; another request already has the key."""


class KeptAnswer(Struct, frozen=True):
    body: bytes
    version: str | None = None  # of the object in it, if that has one


class KeptAnswers(SideTable):
    """Answers of the API by token and key of the request, for clients that missed them.

    A power failure loses the last ones; repeated requests are then carried out again. Methods raise
    StoreUnavailable.
    """

    def __init__(self, tables: SideTables, now: Callable[[], datetime]) -> None:
        super().__init__(tables)
        self._now = now

    async def begin(self, token: str, key: str, asked: bytes) -> RequestState | KeptAnswer:
        """Return the kept answer, or the state. After `new`, call `finish` or `forget`."""
        now, request = self._now(), await self._request(token, key)
        digest = keyed_hash(asked, await self._tables.hash_key())
        async with self._tables.writing() as session:
            # Of a clock that was ahead, these would be the newest, or running, until that day.
            await session.run(_CORRECT, to_micros(now), to_micros(now + AHEAD))
            await session.run(_PRUNE, to_micros(now - _KEPT), to_micros(now - _UNFINISHED))
            await session.run(_TRIM, _MOST - 1)
            if await session.run(_BEGIN, request, digest, to_micros(now)):
                return "new"
            rows = await session.fetch_all(_FIND, request)
        if not rows:  # it has just been removed
            return "running"
        known, body, version = rows[0]
        if known != digest:
            return "other"
        return "running" if body is None else KeptAnswer(body, version)

    async def finish(self, token: str, key: str, answer: KeptAnswer) -> None:
        request = await self._request(token, key)
        async with self._tables.writing() as session:
            await session.run(_FINISH, answer.body, answer.version, request)

    async def forget(self, token: str, key: str) -> None:
        """Drop a request that was not carried out, so that it can be repeated."""
        request = await self._request(token, key)
        async with self._tables.writing() as session:
            await session.run(_FORGET, request)

    async def prune(self) -> None:
        """Remove what is too old, also where no request comes any more."""
        if self._tables.exist():
            now = self._now()
            async with self._tables.writing() as session:
                await session.run(_PRUNE, to_micros(now - _KEPT), to_micros(now - _UNFINISHED))

    async def _request(self, token: str, key: str) -> bytes:
        return keyed_hash(f"{token}\0{key}".encode(), await self._tables.hash_key())


# Processes take turns, as the daily limit covers all people together; in SQLite they do anyway.
_LOCK = "/*LOCK TABLE confirmation IN SHARE ROW EXCLUSIVE MODE*/"
_PRUNE_CONFIRMATIONS = "DELETE FROM confirmation WHERE at <= ?"
_CORRECT_CONFIRMATIONS = "UPDATE confirmation SET at = ?1 WHERE at > ?2"
_COUNTED = "SELECT count(*) FILTER (WHERE person = ?), count(*) FROM confirmation"
_COUNT = "INSERT INTO confirmation (person, at) VALUES (?, ?)"
_GIVE_BACK = "DELETE FROM confirmation WHERE person = ? AND at = ?"
_DAY = timedelta(days=1)


class ConfirmationLimit(SideTable):
    """Counts the relay's own mail to people, across processes. Methods raise StoreUnavailable."""

    async def take(self, address: str, at: datetime, *, per_address: int, per_day: int) -> bool:
        """Count a mail before it is sent to a canonical address.

        Returns False and counts nothing if a limit for 24 hours, for this address or for all
        together, is reached. All spellings of one mailbox count together.
        """
        person = mailbox_hash(address, await self._tables.hash_key())
        async with self._tables.writing() as session:
            await session.run(_LOCK)
            await session.run(_PRUNE_CONFIRMATIONS, to_micros(at - _DAY))
            # Counted while a clock was ahead, these would count until that day.
            await session.run(_CORRECT_CONFIRMATIONS, to_micros(at), to_micros(at + AHEAD))
            of_person, of_all = (await session.fetch_all(_COUNTED, person))[0]
            if of_person >= per_address or of_all >= per_day:
                return False
            await session.run(_COUNT, person, to_micros(at))
            return True

    async def prune(self, at: datetime) -> None:
        """Remove what no limit counts, also where no mail is sent any more."""
        if self._tables.exist():
            async with self._tables.writing() as session:
                await session.run(_PRUNE_CONFIRMATIONS, to_micros(at - _DAY))

    async def give_back(self, address: str, at: datetime) -> None:
        """Undo the count of a mail that was not sent."""
        person = mailbox_hash(address, await self._tables.hash_key())
        async with self._tables.writing() as session:
            await session.run(_GIVE_BACK, person, to_micros(at))
