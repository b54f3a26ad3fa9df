"""The record of feedback reports, in a database beside the store's."""

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from smtpproxy.store.feedback import HandingOn, HeardEvent, ReadReport, Waiting
from smtpproxy.store.sql.rows import from_micros, to_micros
from smtpproxy.store.sql.side_tables import (
    HAND_ON_LATER,
    HANDED_ON,
    HOW_FULL,
    PURGE_HEARD,
    REPORTS_OF_PERSON,
    person_hash,
)
from smtpproxy.store.sqlite.side_file import SideFile

T = TypeVar("T")

# Times are microseconds since 1970 in UTC; a person is a keyed hash of the canonical address.
TABLES = """
CREATE TABLE report (
    id TEXT PRIMARY KEY,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    why TEXT NOT NULL,       -- empty, but of what is kept: it may quote the report
    kept INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX report_at ON report (at);
CREATE INDEX report_kept ON report (at) WHERE kept;
CREATE TABLE concerned (
    person BLOB NOT NULL,
    report TEXT NOT NULL,
    PRIMARY KEY (person, report)
) WITHOUT ROWID;
CREATE INDEX concerned_report ON concerned (report);
CREATE TABLE event (
    key BLOB PRIMARY KEY,
    at INTEGER NOT NULL      -- what lasts is dated later, so that it stays for longer
) WITHOUT ROWID;
CREATE INDEX event_at ON event (at);
CREATE TABLE mailbox_full (
    person BLOB NOT NULL,
    key BLOB NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (person, key)
) WITHOUT ROWID;
CREATE TABLE hand_on (
    key BLOB PRIMARY KEY,
    report TEXT NOT NULL,
    decision TEXT NOT NULL,
    since INTEGER NOT NULL,
    tries INTEGER NOT NULL,
    due INTEGER              -- NULL: it is done
) WITHOUT ROWID;
CREATE INDEX hand_on_due ON hand_on (due) WHERE due IS NOT NULL;
CREATE TABLE total (
    kind TEXT NOT NULL,
    stream TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (kind, stream)
) WITHOUT ROWID;
"""
_REPORT = "INSERT OR IGNORE INTO report VALUES (?, ?, ?, ?, ?)"
_CONCERNED = "INSERT OR IGNORE INTO concerned VALUES (?, ?)"
_EVENT = "INSERT OR IGNORE INTO event VALUES (?, ?)"
_COUNT = "INSERT INTO total VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET n = n + 1"
_HAND_ON = "INSERT OR IGNORE INTO hand_on VALUES (?, ?, ?, ?, 0, ?)"
_DUE = """
SELECT key, report, decision, since, tries FROM hand_on
WHERE due <= ? ORDER BY due, since, report LIMIT ?
"""
_FULL = "INSERT OR IGNORE INTO mailbox_full VALUES (?, ?, ?)"
_KEPT = """
SELECT id, at, kind, why FROM report WHERE kept AND substr(id, 1, length(?1)) = ?1 ORDER BY at, id
"""
_COUNTS = """
SELECT (SELECT count(*) FROM report WHERE kept),
       (SELECT count(*) FROM hand_on WHERE due IS NOT NULL)
"""
_KEEP = """
UPDATE report SET why = CASE WHEN kept AND why != '' THEN why || '; ' ELSE '' END || ?, kept = 1
WHERE id = ?
"""
# Bounces that are still to be forwarded stay.
_OLD = """
SELECT id FROM report
WHERE at < ? AND id NOT IN (SELECT report FROM hand_on WHERE due IS NOT NULL)
ORDER BY at LIMIT 1000
"""
_AT_ONCE = 500


class SqliteFeedback:
    """A `FeedbackLog`. Opened with the first use, on the event loop."""

    def __init__(self, database: Path, timeout: float) -> None:
        path = database.with_name(f"{database.stem}-feedback.db")
        self._file = SideFile(path, TABLES, timeout)

    async def known(self, keys: Collection[bytes]) -> frozenset[bytes]:
        asked = list(keys)

        def find(connection: sqlite3.Connection) -> frozenset[bytes]:
            found = [
                row[0]
                for some in _slices(asked)
                for row in connection.execute(
                    f"SELECT key FROM event WHERE key IN ({_places(some)})", some
                )
            ]
            return frozenset(found)

        return await self._file.ask(find) if self._file.exists() else frozenset()

    async def note(self, reports: Sequence[ReadReport]) -> None:
        def note(connection: sqlite3.Connection) -> None:
            for one in reports:
                at = to_micros(one.at)
                why = one.why if one.kept else ""
                connection.execute(_REPORT, (one.id, at, one.kind, why, one.kept))
                connection.executemany(
                    _CONCERNED, [(self._person(person), one.id) for person in one.people]
                )
                for event in one.events:
                    _heard(connection, event, one.at)
                if one.hand_on:
                    connection.execute(_HAND_ON, (one.hand_on, one.id, one.decision, at, at))

        await self._file.ask(lambda _: None)  # the secret comes with the file
        await self._file.write(note)

    async def note_full(self, person: str, key: bytes, at: datetime, since: datetime) -> int:
        await self._file.ask(lambda _: None)
        who = self._person(person)

        def note(connection: sqlite3.Connection) -> int:
            connection.execute(_FULL, (who, key, to_micros(at)))
            return int(connection.execute(HOW_FULL, (who, to_micros(since))).fetchone()[0])

        return await self._file.write(note)

    async def missing(self, ids: Collection[str]) -> frozenset[str]:
        if not self._file.exists():
            return frozenset()
        asked = list(ids)

        def find(connection: sqlite3.Connection) -> frozenset[str]:
            found = {
                row[0]
                for some in _slices(asked)
                for row in connection.execute(
                    f"SELECT id FROM report WHERE id IN ({_places(some)})", some
                )
            }
            return frozenset(asked) - found

        return await self._file.ask(find)

    async def kept(self, *, beginning: str = "") -> Sequence[ReadReport]:
        if not self._file.exists():
            return ()
        found = await self._file.ask(lambda c: c.execute(_KEPT, (beginning,)).fetchall())
        return [
            ReadReport(id, from_micros(at), kind, why, kept=True) for id, at, kind, why in found
        ]

    async def looked_at(self, id: str, person: str | None, event: HeardEvent | None) -> None:
        await self._file.ask(lambda _: None)

        def settle(connection: sqlite3.Connection) -> None:
            found = connection.execute("SELECT at FROM report WHERE id = ? AND kept", (id,))
            row = found.fetchone()
            if row is None:
                return
            connection.execute("UPDATE report SET kept = 0, why = '' WHERE id = ?", (id,))
            if person is not None:
                connection.execute(_CONCERNED, (self._person(person), id))
            if event is not None:
                _heard(connection, event, from_micros(row[0]))

        await self._file.write(settle)

    async def due(self, now: datetime, limit: int) -> Sequence[HandingOn]:
        if not self._file.exists():
            return ()
        found = await self._file.ask(lambda c: c.execute(_DUE, (to_micros(now), limit)).fetchall())
        return [
            HandingOn(key, report, decision, from_micros(since), tries)
            for key, report, decision, since, tries in found
        ]

    async def handed_on(self, key: bytes) -> None:
        await self._file.write(lambda c: c.execute(HANDED_ON, (key,)))

    async def hand_on_later(self, key: bytes, at: datetime) -> None:
        await self._file.write(lambda c: c.execute(HAND_ON_LATER, (to_micros(at), key)))

    async def keep(self, id: str, why: str) -> None:
        await self._file.write(lambda c: c.execute(_KEEP, (why, id)))

    async def totals(self) -> Mapping[tuple[str, ...], float]:
        if not self._file.exists():
            return {}
        found = await self._file.ask(lambda c: c.execute("SELECT * FROM total").fetchall())
        return {(kind, stream): n for kind, stream, n in found}

    async def counts(self) -> Waiting:
        if not self._file.exists():
            return Waiting(0, 0, 0)
        kept, due = await self._file.ask(lambda c: c.execute(_COUNTS).fetchone())
        return Waiting(kept, due, 0)

    async def purge(self, before: datetime, *, dry_run: bool = False) -> Sequence[str]:
        if not self._file.exists():
            return ()
        limit = (to_micros(before),)
        if dry_run:
            query = _OLD.replace("LIMIT 1000", "")
            return [row[0] for row in await self._file.ask(lambda c: c.execute(query, limit))]
        gone: list[str] = []

        def remove(connection: sqlite3.Connection) -> list[str]:
            ids = [row[0] for row in connection.execute(_OLD, limit)]
            _remove(connection, ids)
            return ids

        while ids := await self._file.write(remove):
            gone += ids

        def trim(connection: sqlite3.Connection) -> None:
            for statement in PURGE_HEARD:
                connection.execute(statement, limit)

        await self._file.write(trim)
        return gone

    async def remove(self, ids: Collection[str]) -> None:
        if ids:
            await self._file.write(lambda c: _remove(c, list(ids)))

    async def forget(self, address: str) -> Sequence[str]:
        if not self._file.exists():
            return ()
        await self._file.ask(lambda _: None)
        who = (self._person(address),)

        def erase(connection: sqlite3.Connection) -> list[str]:
            ids = [row[0] for row in connection.execute(REPORTS_OF_PERSON, who)]
            _remove(connection, ids)
            connection.execute("DELETE FROM mailbox_full WHERE person = ?", who)
            return ids

        return await self._file.write(erase)

    def close(self) -> None:
        self._file.close()

    def _person(self, address: str) -> bytes:
        return person_hash(address, self._file.secret)


def _heard(connection: sqlite3.Connection, event: HeardEvent, at: datetime) -> None:
    """Count an event, unless it is already recorded."""
    if connection.execute(_EVENT, (event.key, to_micros(event.dated(at)))).rowcount:
        connection.execute(_COUNT, (event.kind, event.stream))


def _remove(connection: sqlite3.Connection, ids: Sequence[str]) -> None:
    """Delete reports; their events stay recorded."""
    names = [(id,) for id in ids]
    connection.executemany("DELETE FROM report WHERE id = ?", names)
    connection.executemany("DELETE FROM concerned WHERE report = ?", names)
    connection.executemany("UPDATE hand_on SET due = NULL WHERE report = ?", names)


def _slices(values: Sequence[T]) -> list[Sequence[T]]:
    return [values[at : at + _AT_ONCE] for at in range(0, len(values), _AT_ONCE)]


def _places(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))
