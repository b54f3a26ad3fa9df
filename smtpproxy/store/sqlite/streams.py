"""The counts of messages and feedback by stream, in a database beside the store's."""

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from smtpproxy.policy.breaker import Feedback, Tally
from smtpproxy.policy.campaign import Campaign
from smtpproxy.store.sql import stream_counts as sql
from smtpproxy.store.sql.rows import to_micros
from smtpproxy.store.sql.side_tables import person_hash
from smtpproxy.store.sql.stream_counts import WINDOW_PARTS, window_part, window_part_width
from smtpproxy.store.sqlite.side_file import SideFile

# Times are microseconds since 1970 in UTC. `kind` is "sent", or one of `Feedback`; `at` is the
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
_COUNT = """
INSERT INTO stream_count (stream, kind, at, n) VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET n = n + excluded.n
"""
_UNTRY = "DELETE FROM campaign_person WHERE campaign = ? AND person = ? AND id = ? AND dead = 0"
_TRY = "INSERT OR IGNORE INTO campaign_person VALUES (?, ?, ?, 0)"


class SqliteStreamCounts:
    """A `StreamCounts`. Opened with the first use, on the event loop."""

    def __init__(self, database: Path, timeout: float, *, read_only: bool = False) -> None:
        path = database.with_name(f"{database.stem}-streams.db")
        self._file = SideFile(path, TABLES, timeout, read_only=read_only)
        self._tried_ones = 0  # new campaigns since the last trimming

    async def add_messages(self, messages: Mapping[str, int], at: datetime, window: float) -> None:
        part = window_part(at, window)
        rows = [(stream, sql.SENT, part, n) for stream, n in messages.items()]
        await self._file.write(lambda c: c.executemany(_COUNT, rows))

    async def add_heard(
        self,
        stream: str,
        kind: Feedback,
        person: str,
        sent_at: datetime,
        at: datetime,
        window: float,
    ) -> bool:
        part, width = window_part(sent_at, window), window_part_width(window)
        since = part - width * WINDOW_PARTS

        def add(connection: sqlite3.Connection) -> bool:
            (first,) = connection.execute(sql.FIRST, (stream,)).fetchone()
            if first is None:  # workers add what they sent only once a second
                first = window_part(at, window)
            if part < first - width:  # its message is not among those counted
                return False
            key = sql.hash_of_heard(stream, kind, person, self._file.secret)
            if not connection.execute(sql.HEARD, (key, part, since)).rowcount:
                return False
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
            self._tried_ones += connection.execute(sql.NEW_CAMPAIGN, (key, stream, moment)).rowcount
            if self._tried_ones >= sql.TRIM_EVERY:  # a new name for each message fills no disk
                self._tried_ones = 0
                connection.execute(sql.TRIM_CAMPAIGNS, (sql.MOST_CAMPAIGNS,))
                connection.execute(sql.FORGET_PEOPLE)
            *known, seen = connection.execute(sql.FIND_CAMPAIGN, (key,)).fetchone()
            before = sql.read_campaign(known)
            if seen < moment - sql.SEEN_AGAIN:
                connection.execute(sql.SEEN_CAMPAIGN, (moment, key))
            if before.full_at is None:
                new = [
                    stranger
                    for address, stranger in people.items()
                    if connection.execute(_TRY, (key, self._tried(address), id)).rowcount
                ]
                connection.execute(sql.TRIED, (key, len(new), sum(new), most, moment))
            return before

        return await self._file.write(count)

    async def uncount_campaign(
        self, key: str, id: str, people: Mapping[str, bool], most: int
    ) -> None:
        def uncount(connection: sqlite3.Connection) -> None:
            gone = [
                stranger
                for address, stranger in people.items()
                if connection.execute(_UNTRY, (key, self._tried(address), id)).rowcount
            ]
            connection.execute(sql.UNTRIED, (key, len(gone), sum(gone), most))

        await self._file.write(uncount)

    async def campaign_bounced(
        self, id: str, person: str, at: datetime, share: int, least: int
    ) -> None:
        def bounce(connection: sqlite3.Connection) -> None:
            found = connection.execute(sql.BOUNCED, (id, self._tried(person))).fetchall()
            for (campaign,) in found:
                connection.execute(sql.DEAD, (campaign, share, least, to_micros(at)))

        await self._file.write(bounce)

    async def campaign(self, key: str) -> Campaign:
        if not self._file.exists():
            return Campaign(key)
        found = await self._file.ask(lambda c: c.execute(sql.FIND_CAMPAIGN, (key,)).fetchone())
        return Campaign(key) if found is None else sql.read_campaign(found[:-1])

    async def campaigns(self, stream: str) -> Sequence[Campaign]:
        if not self._file.exists():
            return ()
        return await self._file.ask(
            lambda c: list(map(sql.read_campaign, c.execute(sql.CAMPAIGNS, (stream,))))
        )

    async def tried_since(self, since: datetime, least: int) -> Sequence[tuple[str, Campaign]]:
        if not self._file.exists():
            return ()
        values = (least, to_micros(since))
        found = await self._file.ask(lambda c: c.execute(sql.TRIED_SINCE, values).fetchall())
        return [(stream, sql.read_campaign(row)) for stream, *row in found]

    async def campaign_began(self, key: str) -> str | None:
        if not self._file.exists():
            return None
        (began,) = await self._file.ask(lambda c: c.execute(sql.BEGAN, (key,)).fetchone())
        return None if began is None else str(began)

    async def release_campaigns(self, stream: str) -> int:
        if not self._file.exists():
            return 0
        return await self._file.write(lambda c: c.execute(sql.RELEASE, (stream,)).rowcount)

    async def tallies(self, streams: Mapping[str, datetime]) -> Mapping[str, Tally]:
        if not self._file.exists():
            return {}

        def read(connection: sqlite3.Connection) -> dict[str, Tally]:
            return {
                name: sql.read_tally(connection.execute(sql.SUMS, (name, to_micros(since))))
                for name, since in streams.items()
            }

        return await self._file.ask(read)

    async def prune(self, before: datetime) -> int:
        limit = (to_micros(before),)
        if not self._file.exists():
            return 0

        def prune(connection: sqlite3.Connection) -> int:
            removed = sum(connection.execute(query, limit).rowcount for query in sql.PRUNE)
            if connection.execute(sql.PRUNE_CAMPAIGNS, limit).rowcount:
                connection.execute(sql.FORGET_PEOPLE)
            return removed

        return await self._file.write(prune)

    def close(self) -> None:
        self._file.close()

    def _tried(self, address: str) -> bytes:
        return person_hash(address, self._file.secret)
