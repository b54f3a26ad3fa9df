"""What relays ask each other about messages that came back."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

import msgspec

from smtpproxy.store.feedback import ANSWERED_FOR, ASKED_FOR, SentMessage
from smtpproxy.store.postgres.connection import Counts
from smtpproxy.store.sql.rows import to_micros

_ASK = """
INSERT INTO asked_message (id, at)
SELECT id, ?2 FROM unnest(?1::text[]) AS wanted (id) ORDER BY id ON CONFLICT DO NOTHING
"""
_TOLD = "SELECT id, answer FROM asked_message WHERE id = ANY (?) AND answer IS NOT NULL"
# What is asked for is looked up by its id, whatever the planner knows: it is little, and mostly
# nothing. A plan made while there were few decisions would go through all of them, every second.
ASKED = """
SELECT DISTINCT id FROM (SELECT id FROM asked_message WHERE answered_at IS NULL OFFSET 0) AS wanted
CROSS JOIN LATERAL (SELECT relay FROM decision WHERE decision.id = wanted.id OFFSET 0) AS known
WHERE known.relay = ? ORDER BY id LIMIT ?
"""
_ANSWER = """
UPDATE asked_message SET answer = ?, relay = ?, answered_at = ?
WHERE id = ? AND answered_at IS NULL
"""
_USED = "DELETE FROM asked_message WHERE id = ANY (?)"
_OLD = "DELETE FROM asked_message WHERE at < ? OR answered_at < ?"


class PostgresAskedMessages(Counts):
    """An `AskedMessages`. What is lost in a crash is asked again."""

    _part = "journals"

    async def ask(self, ids: Collection[str], at: datetime) -> Mapping[str, SentMessage]:
        wanted = list(ids)
        async with self._counting() as session:
            await session.run(_ASK, wanted, to_micros(at))
            found = await session.fetch_all(_TOLD, wanted)
        return {id: msgspec.json.decode(answer, type=SentMessage) for id, answer in found}

    async def asked(self, relay: str, limit: int) -> Sequence[str]:
        async with self._asking() as session:
            return [id for (id,) in await session.fetch_all(ASKED, relay, limit)]

    async def answer(
        self, relay: str, messages: Mapping[str, SentMessage | None], at: datetime
    ) -> None:
        async with self._counting() as session:
            for id, message in sorted(messages.items()):
                text = None if message is None else msgspec.json.encode(message).decode()
                await session.run(_ANSWER, text, relay, to_micros(at), id)

    async def used(self, ids: Collection[str]) -> None:
        async with self._counting() as session:
            await session.run(_USED, list(ids))

    async def forget(self, now: datetime) -> None:
        async with self._counting() as session:
            await session.run(_OLD, to_micros(now - ASKED_FOR), to_micros(now - ANSWERED_FOR))
