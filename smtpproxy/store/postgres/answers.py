"""What was answered to requests with an idempotency key, for all relays on one database."""

from collections.abc import Callable
from datetime import datetime

from smtpproxy.store.answers import KEPT, MOST, UNFINISHED, Begun, KeptAnswer
from smtpproxy.store.postgres.connection import Counts, Target
from smtpproxy.store.sql.rows import to_micros
from smtpproxy.store.sql.side_tables import (
    FIND_ANSWER,
    FINISH_ANSWER,
    FORGET_ANSWER,
    PRUNE_ANSWERS,
    keyed_hash,
)

_TRIM = """
DELETE FROM answer WHERE request IN
    (SELECT request FROM answer ORDER BY at DESC OFFSET ? FOR UPDATE SKIP LOCKED)
"""
_BEGIN = "INSERT INTO answer (request, asked, at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"


class PostgresAnswers(Counts):
    """A `KeptAnswers`."""

    _part = "answers"

    def __init__(self, target: Target, now: Callable[[], datetime]) -> None:
        super().__init__(target)
        self._now = now

    async def begin(self, token: str, key: str, asked: bytes) -> Begun | KeptAnswer:
        now, request, digest = self._now(), await self._request(token, key), await self._hash(asked)
        async with self._counting() as session:
            await session.run(PRUNE_ANSWERS, to_micros(now - KEPT), to_micros(now - UNFINISHED))
            await session.run(_TRIM, MOST)
            if await session.run(_BEGIN, request, digest, to_micros(now)):
                return "new"
            rows = await session.fetch_all(FIND_ANSWER, request)
        if not rows:  # it was forgotten just now
            return "running"
        known, body, version = rows[0]
        if known != digest:
            return "other"
        return "running" if body is None else KeptAnswer(body, version)

    async def finish(self, token: str, key: str, answer: KeptAnswer) -> None:
        request = await self._request(token, key)
        async with self._counting() as session:
            await session.run(FINISH_ANSWER, answer.body, answer.version, request)

    async def forget(self, token: str, key: str) -> None:
        request = await self._request(token, key)
        async with self._counting() as session:
            await session.run(FORGET_ANSWER, request)

    async def _request(self, token: str, key: str) -> bytes:
        return await self._hash(f"{token}\0{key}".encode())

    async def _hash(self, octets: bytes) -> bytes:
        return keyed_hash(octets, await self._secret())
