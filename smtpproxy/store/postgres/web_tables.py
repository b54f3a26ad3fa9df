"""The web server's tables for all relays: answers to requests with an idempotency key, and counts
of recent confirmation mails."""

from collections.abc import Callable
from datetime import datetime, timedelta

from smtpproxy.store.answers import KEPT, MOST, UNFINISHED, KeptAnswer, RequestState
from smtpproxy.store.postgres.connection import SideTables, Target
from smtpproxy.store.sql.rows import to_micros
from smtpproxy.store.sql.side_tables import (
    COUNT_CONFIRMATION,
    FIND_ANSWER,
    FINISH_ANSWER,
    FORGET_ANSWER,
    GIVE_CONFIRMATION_BACK,
    PRUNE_ANSWERS,
    PRUNE_CONFIRMATIONS,
    keyed_hash,
    mailbox_hash,
)

_TRIM = """
DELETE FROM answer WHERE request IN
    (SELECT request FROM answer ORDER BY at DESC OFFSET ? FOR UPDATE SKIP LOCKED)
"""
_BEGIN = "INSERT INTO answer (request, asked, at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"


class PostgresAnswers(SideTables):
    """A `KeptAnswers`."""

    _part = "answers"

    def __init__(self, target: Target, now: Callable[[], datetime]) -> None:
        super().__init__(target)
        self._now = now

    async def begin(self, token: str, key: str, asked: bytes) -> RequestState | KeptAnswer:
        now, request, digest = self._now(), await self._request(token, key), await self._hash(asked)
        async with self._writing() as session:
            await session.run(PRUNE_ANSWERS, to_micros(now - KEPT), to_micros(now - UNFINISHED))
            await session.run(_TRIM, MOST)
            if await session.run(_BEGIN, request, digest, to_micros(now)):
                return "new"
            rows = await session.fetch_all(FIND_ANSWER, request)
        if not rows:  # it has just been removed
            return "running"
        known, body, version = rows[0]
        if known != digest:
            return "other"
        return "running" if body is None else KeptAnswer(body, version)

    async def finish(self, token: str, key: str, answer: KeptAnswer) -> None:
        request = await self._request(token, key)
        async with self._writing() as session:
            await session.run(FINISH_ANSWER, answer.body, answer.version, request)

    async def forget(self, token: str, key: str) -> None:
        request = await self._request(token, key)
        async with self._writing() as session:
            await session.run(FORGET_ANSWER, request)

    async def _request(self, token: str, key: str) -> bytes:
        return await self._hash(f"{token}\0{key}".encode())

    async def _hash(self, octets: bytes) -> bytes:
        return keyed_hash(octets, await self._secret())


# Processes take turns, as the limit for a day is for all people together.
_LOCK = "LOCK TABLE confirmation IN SHARE ROW EXCLUSIVE MODE"
_COUNTED = "SELECT count(*) FILTER (WHERE person = ?), count(*) FROM confirmation"
_DAY = timedelta(days=1)


class PostgresConfirmations(SideTables):
    """A `ConfirmationLimit`."""

    _part = "confirmations"

    async def take(self, address: str, at: datetime, *, per_address: int, per_day: int) -> bool:
        person = await self._person(address)
        async with self._writing() as session:
            await session.run(_LOCK)
            await session.run(PRUNE_CONFIRMATIONS, to_micros(at - _DAY))
            of_person, of_all = (await session.fetch_all(_COUNTED, person))[0]
            if of_person >= per_address or of_all >= per_day:
                return False
            await session.run(COUNT_CONFIRMATION, person, to_micros(at))
            return True

    async def give_back(self, address: str, at: datetime) -> None:
        person = await self._person(address)
        async with self._writing() as session:
            await session.run(GIVE_CONFIRMATION_BACK, person, to_micros(at))

    async def _person(self, address: str) -> bytes:
        return mailbox_hash(address, await self._secret())
