"""What streams sent, and what was heard of that, beside the database."""

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

from smtpproxy.mail.address import widened
from smtpproxy.policy.breaker import Heard, Tally
from smtpproxy.policy.campaign import Campaign
from smtpproxy.store.sql.rows import optional_moment, to_micros
from smtpproxy.store.sql.windows import WINDOW_PARTS, window_part, window_part_width
from smtpproxy.store.sqlite.side_file import SideFile

# Times are microseconds since 1970 in UTC. `kind` is "sent", or one of `Heard`; `at` is the
# beginning of the part of the window that the messages were sent in. A person is a keyed hash of
# stream, kind and mailbox.
TABLES = """
CREATE TABLE stream_count (
    stream TEXT NOT NULL,
    kind TEXT NOT NULL,
    at INTEGER NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (stream, kind, at)
) WITHOUT ROWID;
CREATE INDEX stream_count_at ON stream_count (at);
CREATE TABLE heard (
    person BLOB PRIMARY KEY,
    at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX heard_at ON heard (at);
CREATE TABLE campaign (
    key TEXT PRIMARY KEY,
    stream TEXT NOT NULL,
    people INTEGER NOT NULL,
    strangers INTEGER NOT NULL,
    dead INTEGER NOT NULL,
    full_at INTEGER,
    dead_at INTEGER,
    seen_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE campaign_person (
    campaign TEXT NOT NULL,
    person BLOB NOT NULL,
    id TEXT NOT NULL,      -- of the decision
    dead INTEGER NOT NULL,
    PRIMARY KEY (campaign, person)
) WITHOUT ROWID;
CREATE INDEX campaign_person_id ON campaign_person (id);
"""
_SENT = "sent"
_COUNT = """
INSERT INTO stream_count (stream, kind, at, n) VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET n = n + excluded.n
"""
_FIRST = "SELECT min(at) FROM stream_count WHERE stream = ? AND kind = 'sent'"
_HEARD_BEFORE = "SELECT 1 FROM heard WHERE person = ? AND at > ?"
_HEARD = "INSERT OR REPLACE INTO heard (person, at) VALUES (?, ?)"
_SUMS = "SELECT kind, sum(n) FROM stream_count WHERE stream = ? AND at > ? GROUP BY kind"
_PRUNE = ("DELETE FROM stream_count WHERE at < ?", "DELETE FROM heard WHERE at < ?")
_PRUNE_CAMPAIGNS = (
    "DELETE FROM campaign WHERE seen_at < ?",
    "DELETE FROM campaign_person WHERE campaign NOT IN (SELECT key FROM campaign)",
)
_CAMPAIGN = "key, people, strangers, dead, full_at, dead_at"
_FIND_CAMPAIGN = f"SELECT {_CAMPAIGN}, seen_at FROM campaign WHERE key = ?"
_CAMPAIGNS = f"""
SELECT {_CAMPAIGN} FROM campaign WHERE stream = ? AND full_at IS NOT NULL
ORDER BY full_at DESC LIMIT 100
"""
_TRIED_SINCE = f"""
SELECT stream, {_CAMPAIGN} FROM campaign
WHERE people >= ? AND coalesce(max(full_at, dead_at), full_at, {2**62}) >= ?
ORDER BY coalesce(full_at, seen_at)
"""
_BEGAN = "SELECT min(id) FROM campaign_person WHERE campaign = ?"
_NEW_CAMPAIGN = "INSERT OR IGNORE INTO campaign VALUES (?, ?, 0, 0, 0, NULL, NULL, ?)"
_SEEN_CAMPAIGN = "UPDATE campaign SET seen_at = ? WHERE key = ?"
_TRY = "INSERT OR IGNORE INTO campaign_person VALUES (?, ?, ?, 0)"
_TRIED = """
UPDATE campaign SET people = people + ?2, strangers = strangers + ?3,
    full_at = CASE WHEN people + ?2 >= ?4 THEN ?5 END
WHERE key = ?1
"""
_BOUNCED = """
UPDATE campaign_person SET dead = 1 WHERE id = ? AND person = ? AND dead = 0 RETURNING campaign
"""
_DEAD = """
UPDATE campaign SET dead = dead + 1,
    dead_at = CASE WHEN dead_at IS NULL AND dead + 1 >= ?3 AND (dead + 1) * 1000000 >= ?2 * people
        THEN ?4 ELSE dead_at END
WHERE key = ?1
"""
_RELEASE = """
UPDATE campaign SET strangers = 0, dead = 0, dead_at = NULL WHERE stream = ? AND full_at IS NOT NULL
"""
_TRIM_CAMPAIGNS = """
DELETE FROM campaign WHERE key IN
    (SELECT key FROM campaign ORDER BY seen_at DESC LIMIT -1 OFFSET ?)
"""
_MOST_CAMPAIGNS, _TRIM_EVERY = 10_000, 1_000
_SEEN_AGAIN = 3_600_000_000  # microseconds


class SqliteStreamCounts:
    """A `StreamCounts`. Opened with the first use, on the event loop."""

    def __init__(self, database: Path, timeout: float, *, read_only: bool = False) -> None:
        path = database.with_name(f"{database.stem}-streams.db")
        self._file = SideFile(path, TABLES, timeout, read_only=read_only)
        self._tried_ones = 0  # new campaigns since the last trimming

    async def add_messages(self, messages: Mapping[str, int], at: datetime, window: float) -> None:
        part = window_part(at, window)
        rows = [(stream, _SENT, part, n) for stream, n in messages.items()]
        await self._file.write(lambda c: c.executemany(_COUNT, rows))

    async def add_heard(
        self, stream: str, kind: Heard, person: str, sent_at: datetime, at: datetime, window: float
    ) -> bool:
        part, width = window_part(sent_at, window), window_part_width(window)
        since = part - width * WINDOW_PARTS

        def add(connection: sqlite3.Connection) -> bool:
            (first,) = connection.execute(_FIRST, (stream,)).fetchone()
            if first is None:  # workers say once a second what they sent
                first = window_part(at, window)
            if part < first - width:  # its message is not among those counted
                return False
            key = self._person(stream, kind, person)
            if connection.execute(_HEARD_BEFORE, (key, since)).fetchone() is not None:
                return False
            connection.execute(_HEARD, (key, part))
            connection.execute(_COUNT, (stream, kind, max(part, first), 1))
            return True

        return await self._file.write(add)

    async def count_campaign(
        self,
        stream: str,
        key: str,
        id: str,
        people: Mapping[str, bool],
        at: datetime,
        most: int,
    ) -> Campaign:
        moment = to_micros(at)

        def count(connection: sqlite3.Connection) -> Campaign:
            self._tried_ones += connection.execute(_NEW_CAMPAIGN, (key, stream, moment)).rowcount
            if self._tried_ones >= _TRIM_EVERY:  # who names each message otherwise fills no disk
                self._tried_ones = 0
                connection.execute(_TRIM_CAMPAIGNS, (_MOST_CAMPAIGNS,))
                connection.execute(_PRUNE_CAMPAIGNS[1])
            *known, seen = connection.execute(_FIND_CAMPAIGN, (key,)).fetchone()
            before = _read_campaign(known)
            if seen < moment - _SEEN_AGAIN:
                connection.execute(_SEEN_CAMPAIGN, (moment, key))
            if before.full_at is None:
                new = [
                    stranger
                    for address, stranger in people.items()
                    if connection.execute(_TRY, (key, self._tried(address), id)).rowcount
                ]
                connection.execute(_TRIED, (key, len(new), sum(new), most, moment))
            return before

        return await self._file.write(count)

    async def campaign_bounced(
        self, id: str, person: str, at: datetime, share: int, least: int
    ) -> None:
        def bounce(connection: sqlite3.Connection) -> None:
            found = connection.execute(_BOUNCED, (id, self._tried(person))).fetchall()
            for (campaign,) in found:
                connection.execute(_DEAD, (campaign, share, least, to_micros(at)))

        await self._file.write(bounce)

    async def campaign(self, key: str) -> Campaign:
        if not self._file.is_there():
            return Campaign(key)
        found = await self._file.ask(lambda c: c.execute(_FIND_CAMPAIGN, (key,)).fetchone())
        return Campaign(key) if found is None else _read_campaign(found[:-1])

    async def campaigns(self, stream: str) -> Sequence[Campaign]:
        if not self._file.is_there():
            return ()
        return await self._file.ask(
            lambda c: [_read_campaign(row) for row in c.execute(_CAMPAIGNS, (stream,)).fetchall()]
        )

    async def tried_since(self, since: datetime, least: int) -> Sequence[tuple[str, Campaign]]:
        if not self._file.is_there():
            return ()
        values = (least, to_micros(since))
        found = await self._file.ask(lambda c: c.execute(_TRIED_SINCE, values).fetchall())
        return [(stream, _read_campaign(row)) for stream, *row in found]

    async def campaign_began(self, key: str) -> str | None:
        if not self._file.is_there():
            return None
        (began,) = await self._file.ask(lambda c: c.execute(_BEGAN, (key,)).fetchone())
        return None if began is None else str(began)

    async def release_campaigns(self, stream: str) -> int:
        if not self._file.is_there():
            return 0
        return await self._file.write(lambda c: c.execute(_RELEASE, (stream,)).rowcount)

    async def tallies(self, streams: Mapping[str, datetime]) -> Mapping[str, Tally]:
        if not self._file.is_there():
            return {}

        def read(connection: sqlite3.Connection) -> dict[str, Tally]:
            return {name: _tally(connection, name, since) for name, since in streams.items()}

        return await self._file.ask(read)

    async def prune(self, before: datetime) -> int:
        limit = (to_micros(before),)
        if not self._file.is_there():
            return 0

        def prune(connection: sqlite3.Connection) -> int:
            removed = sum(connection.execute(query, limit).rowcount for query in _PRUNE)
            if connection.execute(_PRUNE_CAMPAIGNS[0], limit).rowcount:
                connection.execute(_PRUNE_CAMPAIGNS[1])
            return removed

        return await self._file.write(prune)

    def close(self) -> None:
        self._file.close()

    def _tried(self, address: str) -> bytes:
        return blake2b(address.encode(), digest_size=16, key=self._file.secret).digest()

    def _person(self, stream: str, kind: Heard, person: str) -> bytes:
        """By the mailbox: whoever subscribes it under many tags is one all the same."""
        mailbox = widened(person) if "@" in person else person
        octets = f"{stream}\0{kind}\0{mailbox}".encode()
        return blake2b(octets, digest_size=16, key=self._file.secret).digest()


def _read_campaign(row: Sequence[Any]) -> Campaign:
    key, people, strangers, dead, full_at, dead_at = row
    return Campaign(
        key, people, strangers, dead, optional_moment(full_at), optional_moment(dead_at)
    )


def _tally(connection: sqlite3.Connection, stream: str, since: datetime) -> Tally:
    found = dict(connection.execute(_SUMS, (stream, to_micros(since))).fetchall())
    return Tally(found.pop(_SENT, 0), {Heard(kind): n for kind, n in found.items()})
