"""The record of feedback reports of all relays, and the messages they ask each other about."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from smtpproxy.store.feedback import (
    ANSWERED_FOR,
    ASKED_FOR,
    HandingOn,
    HeardEvent,
    ReadReport,
    SentMessage,
    Waiting,
)
from smtpproxy.store.postgres.connection import SideTables, Target
from smtpproxy.store.postgres.session import PostgresSession
from smtpproxy.store.sql.rows import from_micros, to_micros
from smtpproxy.store.sql.side_tables import (
    HAND_ON_LATER,
    HANDED_ON,
    HOW_FULL,
    PURGE_HEARD,
    REPORTS_OF_PERSON,
    person_hash,
)

_REPORT = "INSERT INTO report VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
_CONCERNED = """
INSERT INTO concerned (person, report) SELECT person, ?2 FROM unnest(?1::bytea[]) AS told (person)
ON CONFLICT DO NOTHING
"""
_EVENT = "INSERT INTO event VALUES (?, ?) ON CONFLICT DO NOTHING"
_COUNT = """
INSERT INTO total VALUES (?, ?, 1) ON CONFLICT (kind, stream) DO UPDATE SET n = total.n + 1
"""
_HAND_ON = "INSERT INTO hand_on VALUES (?, ?, ?, ?, 0, ?, ?) ON CONFLICT DO NOTHING"
_DUE = """
SELECT key, report, decision, since, tries FROM hand_on
WHERE mailbox = ? AND due <= ? ORDER BY due, since, report LIMIT ?
"""
_FULL = "INSERT INTO mailbox_full VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_KEPT = """
SELECT id, at, kind, why, coalesce(journal.host, mailbox)
FROM report LEFT JOIN journal ON journal.relay = mailbox
WHERE kept = 1 AND starts_with(id, ?) ORDER BY at, id
"""
_COUNTS = """
SELECT (SELECT count(*) FROM report WHERE kept = 1),
       (SELECT count(*) FROM hand_on WHERE due IS NOT NULL),
       (SELECT count(*) FROM asked_message WHERE answer IS NULL)
"""
_KEEP = """
UPDATE report SET why = CASE WHEN kept = 1 AND why <> '' THEN why || '; ' ELSE '' END || ?, kept = 1
WHERE id = ? AND NOT erased
"""
# Bounces that are still to be forwarded stay.
_OLD = """
SELECT id FROM report WHERE mailbox = ?3 AND (erased OR at < ?1)
AND NOT EXISTS (SELECT 1 FROM hand_on WHERE hand_on.report = report.id AND due IS NOT NULL)
ORDER BY at LIMIT ?2
"""
_REMOVE = (
    "DELETE FROM report WHERE id = ANY (?1) AND mailbox = ?2",
    "UPDATE report SET erased = TRUE, kept = 0, why = '' WHERE id = ANY (?1)",
    "DELETE FROM concerned WHERE report = ANY (?1)",
    "UPDATE hand_on SET due = NULL WHERE report = ANY (?1)",
)
# Reports of a relay that was removed.
_ORPHANS = "DELETE FROM report WHERE at < ? RETURNING id"
_ORPHANED = timedelta(days=30)
_AT_ONCE, _ALL = 1_000, 2**62


class PostgresFeedback(SideTables):
    """A `FeedbackLog`. It is flushed: an acknowledged report is on record.

    The files of reports are in the maildir of one relay, `mailbox`: it alone forwards and removes
    them.
    """

    def __init__(self, target: Target, mailbox: str) -> None:
        super().__init__(target)
        self._mailbox = mailbox

    _part = "feedback"

    async def known(self, keys: Collection[bytes]) -> frozenset[bytes]:
        async with self._reading() as session:
            found = await session.fetch_all("SELECT key FROM event WHERE key = ANY (?)", list(keys))
        return frozenset(key for (key,) in found)

    async def note(self, reports: Sequence[ReadReport]) -> None:
        secret = await self._secret()
        async with self._writing(flushed=True) as session:
            for one in reports:
                at = to_micros(one.at)
                why = one.why if one.kept else ""
                await session.run(_REPORT, one.id, at, one.kind, why, one.kept, self._mailbox)
                people = [person_hash(person, secret) for person in one.people]
                await session.run(_CONCERNED, people, one.id)
                for event in one.events:
                    await _heard(session, event, one.at)
                if one.hand_on:
                    await session.run(
                        _HAND_ON, one.hand_on, one.id, one.decision, at, at, self._mailbox
                    )

    async def note_full(self, person: str, key: bytes, at: datetime, since: datetime) -> int:
        who = person_hash(person, await self._secret())
        async with self._writing(flushed=True) as session:
            await session.run(_FULL, who, key, to_micros(at))
            return int((await session.fetch_all(HOW_FULL, who, to_micros(since)))[0][0])

    async def missing(self, ids: Collection[str]) -> frozenset[str]:
        async with self._reading() as session:
            ((any_at_all,),) = await session.fetch_all("SELECT EXISTS (SELECT 1 FROM report)")
            found = await session.fetch_all("SELECT id FROM report WHERE id = ANY (?)", list(ids))
        return frozenset(ids) - {id for (id,) in found} if any_at_all else frozenset()

    async def kept(self, *, beginning: str = "") -> Sequence[ReadReport]:
        async with self._reading() as session:
            found = await session.fetch_all(_KEPT, beginning)
        return [
            ReadReport(id, from_micros(at), kind, why, kept=True, relay=relay)
            for id, at, kind, why, relay in found
        ]

    async def looked_at(self, id: str, person: str | None, event: HeardEvent | None) -> None:
        secret = await self._secret()
        async with self._writing(flushed=True) as session:
            settled = "UPDATE report SET kept = 0, why = '' WHERE id = ? AND kept = 1 RETURNING at"
            for (at,) in await session.fetch_all(settled, id):
                if person is not None:
                    await session.run(_CONCERNED, [person_hash(person, secret)], id)
                if event is not None:
                    await _heard(session, event, from_micros(at))

    async def due(self, now: datetime, limit: int) -> Sequence[HandingOn]:
        async with self._reading() as session:
            found = await session.fetch_all(_DUE, self._mailbox, to_micros(now), limit)
        return [
            HandingOn(key, report, decision, from_micros(since), tries)
            for key, report, decision, since, tries in found
        ]

    async def handed_on(self, key: bytes) -> None:
        async with self._writing(flushed=True) as session:
            await session.run(HANDED_ON, key)

    async def hand_on_later(self, key: bytes, at: datetime) -> None:
        async with self._writing(flushed=True) as session:
            await session.run(HAND_ON_LATER, to_micros(at), key)

    async def keep(self, id: str, why: str) -> None:
        async with self._writing(flushed=True) as session:
            await session.run(_KEEP, why, id)

    async def totals(self) -> Mapping[tuple[str, ...], float]:
        async with self._reading() as session:
            found = await session.fetch_all("SELECT kind, stream, n FROM total")
        return {(kind, stream): n for kind, stream, n in found}

    async def counts(self) -> Waiting:
        async with self._reading() as session:
            return Waiting(*(await session.fetch_all(_COUNTS))[0])

    async def purge(self, before: datetime, *, dry_run: bool = False) -> Sequence[str]:
        limit = to_micros(before)
        if dry_run:
            async with self._reading() as session:
                return [id for (id,) in await session.fetch_all(_OLD, limit, _ALL, self._mailbox)]
        gone: list[str] = []
        most = limit, _AT_ONCE, self._mailbox
        while True:
            async with self._writing() as session:
                ids = [id for (id,) in await session.fetch_all(_OLD, *most)]
                await self._remove(session, ids)
            gone += ids
            if not ids:
                break
        async with self._writing() as session:
            orphans = await session.fetch_all(_ORPHANS, to_micros(before - _ORPHANED))
            await self._remove(session, [id for (id,) in orphans])
            for statement in PURGE_HEARD:
                await session.run(statement, limit)
        return gone

    async def remove(self, ids: Collection[str]) -> None:
        async with self._writing(flushed=True) as session:
            await self._remove(session, list(ids))

    async def forget(self, address: str) -> Sequence[str]:
        who = person_hash(address, await self._secret())
        async with self._writing(flushed=True) as session:
            ids = [id for (id,) in await session.fetch_all(REPORTS_OF_PERSON, who)]
            await self._remove(session, ids)
            await session.run("DELETE FROM mailbox_full WHERE person = ?", who)
        return ids

    async def _remove(self, session: PostgresSession, ids: Sequence[str]) -> None:
        """Delete reports; their events stay recorded."""
        for statement in _REMOVE:
            await session.run(statement, ids, self._mailbox)


async def _heard(session: PostgresSession, event: HeardEvent, at: datetime) -> None:
    """Count an event, unless it is already recorded."""
    if await session.run(_EVENT, event.key, to_micros(event.dated(at))):
        await session.run(_COUNT, event.kind, event.stream)


_ASK = """
INSERT INTO asked_message (id, at)
SELECT id, ?2 FROM unnest(?1::text[]) AS wanted (id) ORDER BY id ON CONFLICT DO NOTHING
"""
_ANSWERS = "SELECT id, answer FROM asked_message WHERE id = ANY (?) AND answer IS NOT NULL"
# OFFSET 0 makes the planner look the few wanted messages up by id. A plan made while there were few
# decisions would otherwise read all of them, every second.
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
_OLD_QUESTIONS = "DELETE FROM asked_message WHERE at < ? OR answered_at < ?"


class PostgresAskedMessages(SideTables):
    """An `AskedMessages`. A question lost in a crash is asked again."""

    _part = "journals"

    async def ask(self, ids: Collection[str], at: datetime) -> Mapping[str, SentMessage]:
        wanted = list(ids)
        async with self._writing() as session:
            await session.run(_ASK, wanted, to_micros(at))
            found = await session.fetch_all(_ANSWERS, wanted)
        return {id: msgspec.json.decode(answer, type=SentMessage) for id, answer in found}

    async def asked(self, relay: str, limit: int) -> Sequence[str]:
        async with self._reading() as session:
            return [id for (id,) in await session.fetch_all(ASKED, relay, limit)]

    async def answer(
        self, relay: str, messages: Mapping[str, SentMessage | None], at: datetime
    ) -> None:
        async with self._writing() as session:
            for id, message in sorted(messages.items()):
                text = None if message is None else msgspec.json.encode(message).decode()
                await session.run(_ANSWER, text, relay, to_micros(at), id)

    async def used(self, ids: Collection[str]) -> None:
        async with self._writing() as session:
            await session.run(_USED, list(ids))

    async def forget(self, now: datetime) -> None:
        async with self._writing() as session:
            await session.run(
                _OLD_QUESTIONS, to_micros(now - ASKED_FOR), to_micros(now - ANSWERED_FOR)
            )
