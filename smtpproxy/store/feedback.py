"""The record of feedback by mail: the reports and events read, so that nothing is done twice; the
reports a person has to look at; the bounces still to be forwarded; and the messages that relays ask
each other about."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from msgspec import Struct

from smtpproxy.events import Client
from smtpproxy.store.sql.rows import Row, from_micros, record_of, to_micros
from smtpproxy.store.sql.session import Session
from smtpproxy.store.sql.side_tables import AHEAD, SideTable, SideTables, person_hash

_LASTING = timedelta(days=3 * 366)
UNKNOWN = "unknown"
"""The stream of feedback that is about none of ours."""


class HeardEvent(Struct, frozen=True):
    """One event of feedback, identified by `key`.

    `lasting`: it is kept as long as consents commonly last, not only as long as reports.
    """

    key: bytes
    kind: str  # of `feedback_total`
    stream: str
    lasting: bool = False

    def dated(self, at: datetime) -> datetime:
        """Return the time to record it under: a lasting event is dated later, so that it stays."""
        return at + _LASTING if self.lasting else at


class ReadReport(Struct, frozen=True):
    """A report that was read. `id` is the name of its file in the maildir."""

    id: str
    at: datetime  # when it came
    kind: str
    why: str
    kept: bool = False  # it could not be understood: a person has to look at it
    people: tuple[str, ...] = ()  # whom it concerns, canonical or key texts
    events: tuple[HeardEvent, ...] = ()
    relay: str = ""  # the host that has the file, when read; empty: the only one, or unknown
    hand_on: bytes = b""  # the key of a bounce to forward; of several with the same, one is
    decision: str = ""  # that the bounce is about


class HandingOn(Struct, frozen=True):
    """A bounce that is due to be forwarded."""

    key: bytes
    report: str
    decision: str
    since: datetime
    tries: int


class Waiting(NamedTuple):
    """How many reports are waiting."""

    kept: int  # for a person
    hand_on: int  # to be forwarded
    elsewhere: int  # for the record of a message from another relay


ANSWERED_FOR = timedelta(hours=1)
"""How long an answer is kept at most; normally the relay that asked removes it after use."""
ASKED_FOR = timedelta(days=6)
"""How long a question is kept: a day longer than anybody waits."""


class SentMessage(Struct, frozen=True):
    """A message as recorded in a journal, without the addresses of people erased since."""

    client: Client
    reverse_path: str  # as the client gave it
    recipients: tuple[str, ...]  # canonical


# In PostgreSQL, `mailbox` is the relay that has the file of a report. If another one removes the
# report, it stays as `erased` until that relay has removed the file.
_REPORT = "INSERT INTO report VALUES (?, ?, ?, ?, ?/*, ?*/) ON CONFLICT DO NOTHING"
_HAND_ON = "INSERT INTO hand_on VALUES (?, ?, ?, ?, 0, ?/*, ?*/) ON CONFLICT DO NOTHING"
_DUE = """
SELECT key, report, decision, since, tries FROM hand_on
WHERE (due <= ? OR due > ?) /*AND mailbox = ?*/ ORDER BY due, since, report LIMIT ?
"""
_KEPT = """
SELECT id, at, kind, why, /*coalesce(journal.host, mailbox) ||*/ ''
FROM report /*LEFT JOIN journal ON journal.relay = mailbox*/
WHERE kept /*= 1*/ AND substr(id, 1, length(CAST(?1 AS TEXT))) = ?1 ORDER BY at, id
"""
_COUNTS = """
SELECT (SELECT count(*) FROM report WHERE kept /*= 1*/),
       (SELECT count(*) FROM hand_on WHERE due IS NOT NULL),
       0 /*+ (SELECT count(*) FROM asked_message WHERE answer IS NULL)*/
"""
_KEEP = """
UPDATE report SET kept = 1,
    why = CASE WHEN kept = 1 AND why <> '' THEN why || '; ' ELSE '' END || ?
WHERE id = ? /*AND NOT erased*/
"""
_SETTLE = "UPDATE report SET kept = 0, why = '' WHERE id = ? AND kept = 1 RETURNING at"
# Without the bounces that are still to be forwarded.
_OLD = """
SELECT id FROM report WHERE (at < ? /*OR erased*/) /*AND mailbox = ?*/
AND id NOT IN (SELECT report FROM hand_on WHERE due IS NOT NULL /*AND hand_on.report = report.id*/)
ORDER BY at LIMIT ?
"""
_REMOVE = "DELETE FROM report WHERE id = ? /*AND mailbox = ?*/"
_HIDE = "UPDATE report SET erased = TRUE, kept = 0, why = '' WHERE id = ?"
_REMOVE_REST = (
    "DELETE FROM concerned WHERE report = ?",
    "UPDATE hand_on SET due = NULL WHERE report = ?",
)
_ORPHANS = "DELETE FROM report WHERE at < ? RETURNING id"
_CONCERNED = "INSERT INTO concerned (person, report) VALUES (?, ?) ON CONFLICT DO NOTHING"
_EVENT = "INSERT INTO event (key, at) VALUES (?, ?) ON CONFLICT DO NOTHING"
_COUNT = """
INSERT INTO total (kind, stream, n) VALUES (?, ?, 1)
ON CONFLICT (kind, stream) DO UPDATE SET n = total.n + 1
"""
_FULL = "INSERT INTO mailbox_full (person, key, at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_CORRECT_FULL = "UPDATE mailbox_full SET at = ?1 WHERE at > ?2"
_HOW_FULL = "SELECT count(*) FROM mailbox_full WHERE person = ? AND at > ?"
_HANDED_ON = "UPDATE hand_on SET due = NULL WHERE key = ?"
_HAND_ON_LATER = "UPDATE hand_on SET due = ?, tries = tries + 1 WHERE key = ?"
_OF_PERSON = "SELECT report FROM concerned WHERE person = ?"
_ABOUT = """
SELECT id, at, kind FROM report JOIN concerned ON concerned.report = report.id WHERE person = ?
"""
_PURGE = (
    "DELETE FROM event WHERE at < ?",
    "DELETE FROM mailbox_full WHERE at < ?",
    "DELETE FROM hand_on WHERE since < ? AND due IS NULL",
)
_ORPHANED = timedelta(days=30)
_AT_ONCE, _ALL = 1_000, 2**62


class FeedbackLog(SideTable):
    """Shared by all that read reports. Methods raise StoreUnavailable.

    It is flushed: an acknowledged report is on record. The files of reports are in the maildir of
    one relay: it alone forwards and removes them.
    """

    def __init__(self, tables: SideTables, *mailbox: str) -> None:
        """`mailbox` is the id of that relay, in a database that several share."""
        super().__init__(tables)
        self._mailbox = mailbox

    async def known(self, keys: Collection[bytes]) -> frozenset[bytes]:
        """Return which of these events are already recorded."""
        query = "SELECT key FROM event WHERE key IN ?"
        async with self._tables.reading() as session:
            found = await self._tables.fetch_in(session, query, list(keys))
        return frozenset(key for (key,) in found)

    async def note(self, reports: Sequence[ReadReport]) -> None:
        """Record reports in one commit. Known ones stay unchanged, and count once."""
        secret = await self._tables.hash_key()
        async with self._tables.writing(flushed=True) as session:
            for one in reports:
                at = to_micros(one.at)
                row = (one.id, at, one.kind, one.why if one.kept else "", one.kept, *self._mailbox)
                await session.run(_REPORT, *row)
                people = [(person_hash(person, secret), one.id) for person in one.people]
                await session.run_many(_CONCERNED, people)
                for event in one.events:
                    await _heard(session, event, one.at)
                if one.hand_on:
                    due = (one.hand_on, one.id, one.decision, at, at, *self._mailbox)
                    await session.run(_HAND_ON, *due)

    async def note_full(self, person: str, key: bytes, at: datetime, since: datetime) -> int:
        """Record a full mailbox, once for each key; return how often it was full `since` a time."""
        who = person_hash(person, await self._tables.hash_key())
        async with self._tables.writing(flushed=True) as session:
            await session.run(_FULL, who, key, to_micros(at))
            return int((await session.fetch_all(_HOW_FULL, who, to_micros(since)))[0][0])

    async def missing(self, ids: Collection[str]) -> frozenset[str]:
        """Return which of these reports are not on record; none if the record itself is lost."""
        query = "SELECT id FROM report WHERE id IN ?"
        async with self._tables.reading() as session:
            found = await self._tables.fetch_in(session, query, list(ids))
        lost = frozenset(ids) - {id for (id,) in found}
        return lost if await self._tables.hold_any("report") else frozenset()

    async def kept(self, *, beginning: str = "") -> Sequence[ReadReport]:
        """Return the reports for a person whose ids have that prefix, oldest first."""
        async with self._tables.reading() as session:
            found = await session.fetch_all(_KEPT, beginning)
        return [
            ReadReport(id, from_micros(at), kind, why, kept=True, relay=relay)
            for id, at, kind, why, relay in found
        ]

    async def looked_at(self, id: str, person: str | None, event: HeardEvent | None) -> None:
        """Record what somebody found in a kept report: whom it concerns, and what it means."""
        secret = await self._tables.hash_key()
        async with self._tables.writing(flushed=True) as session:
            for (at,) in await session.fetch_all(_SETTLE, id):
                if person is not None:
                    await session.run(_CONCERNED, person_hash(person, secret), id)
                if event is not None:
                    await _heard(session, event, from_micros(at))

    async def due(self, now: datetime, limit: int) -> Sequence[HandingOn]:
        """Return bounces whose next try is due, oldest first.

        No pause lasts a day: a later date comes from a clock that was ahead.
        """
        async with self._tables.reading() as session:
            far = to_micros(now + timedelta(days=1))
            values = (to_micros(now), far, *self._mailbox, limit)
            found = await session.fetch_all(_DUE, *values)
        return [record_of(HandingOn, row) for row in found]

    async def handed_on(self, key: bytes) -> None:
        """Record that the upstream has the bounce, or never will."""
        async with self._tables.writing(flushed=True) as session:
            await session.run(_HANDED_ON, key)

    async def hand_on_later(self, key: bytes, at: datetime) -> None:
        """Record that a try failed; the next one is due at `at`."""
        async with self._tables.writing(flushed=True) as session:
            await session.run(_HAND_ON_LATER, to_micros(at), key)

    async def keep(self, id: str, why: str) -> None:
        """Keep a report for a person to look at; `why` says what could not be done."""
        async with self._tables.writing(flushed=True) as session:
            await session.run(_KEEP, why, id)

    async def correct(self, now: datetime) -> None:
        """Move mailboxes that were recorded as full while a clock was ahead to the present."""
        if self._tables.exist():
            async with self._tables.writing() as session:
                await session.run(_CORRECT_FULL, to_micros(now), to_micros(now + AHEAD))

    async def totals(self) -> Mapping[tuple[str, ...], float]:
        """Return the number of events ever recorded, by kind and stream."""
        async with self._tables.reading() as session:
            found = await session.fetch_all("SELECT kind, stream, n FROM total")
        return {(kind, stream): n for kind, stream, n in found}

    async def counts(self) -> Waiting:
        async with self._tables.reading() as session:
            return Waiting(*(await session.fetch_all(_COUNTS))[0])

    async def purge(self, before: datetime, *, dry_run: bool = False) -> Sequence[str]:
        """Forget older reports; return their ids."""
        limit = to_micros(before)
        if dry_run:
            async with self._tables.reading() as session:
                return await self._old(session, limit, _ALL)
        if not self._tables.exist():
            return ()
        gone: list[str] = []
        some = None
        while some is None or some:
            async with self._tables.writing() as session:
                some = await self._old(session, limit, _AT_ONCE)
                await self._remove(session, some)
            gone += some
        async with self._tables.writing() as session:
            if self._mailbox:  # of relays that were removed
                rows = await session.fetch_all(_ORPHANS, to_micros(before - _ORPHANED))
                await self._remove(session, [id for (id,) in rows])
            for statement in _PURGE:
                await session.run(statement, limit)
        return gone

    async def remove(self, ids: Collection[str]) -> None:
        """Forget these reports; their events stay on record."""
        if ids:
            async with self._tables.writing(flushed=True) as session:
                await self._remove(session, ids)

    async def about(self, address: str) -> Sequence[ReadReport]:
        """Return the reports that concern a person."""
        if not self._tables.exist():
            return ()
        who = person_hash(address, await self._tables.hash_key())
        async with self._tables.reading() as session:
            found = await session.fetch_all(_ABOUT, who)
        return [ReadReport(id, from_micros(at), kind, "") for id, at, kind in found]

    async def forget(self, address: str) -> Sequence[str]:
        """Erase a person; return the ids of the reports that concern them."""
        if not self._tables.exist():
            return ()
        who = person_hash(address, await self._tables.hash_key())
        async with self._tables.writing(flushed=True) as session:
            ids = [id for (id,) in await session.fetch_all(_OF_PERSON, who)]
            await self._remove(session, ids)
            await session.run("DELETE FROM mailbox_full WHERE person = ?", who)
        await self._tables.purge_log()
        return ids

    async def _old(self, session: Session, before: int, most: int) -> list[str]:
        return [id for (id,) in await session.fetch_all(_OLD, before, *self._mailbox, most)]

    async def _remove(self, session: Session, ids: Collection[str]) -> None:
        """Delete reports; their events stay recorded."""
        rows: list[Row] = [(id,) for id in ids]
        await session.run_many(_REMOVE, [(*row, *self._mailbox) for row in rows])
        for statement in (*([_HIDE] if self._mailbox else ()), *_REMOVE_REST):
            await session.run_many(statement, rows)


async def _heard(session: Session, event: HeardEvent, at: datetime) -> None:
    """Count an event, unless it is already recorded."""
    if await session.run(_EVENT, event.key, to_micros(event.dated(at))):
        await session.run(_COUNT, event.kind, event.stream)
