"""The counts of messages and feedback by stream, and the trials of campaigns."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from smtpproxy.mail.address import widened
from smtpproxy.policy.breaker import Feedback, Tally
from smtpproxy.policy.campaign import Campaign
from smtpproxy.store.sql.rows import Row, record_of, to_micros
from smtpproxy.store.sql.session import Session
from smtpproxy.store.sql.side_tables import (
    AHEAD,
    SideTable,
    SideTables,
    keyed_hash,
    person_hash,
)

_SENT = "sent"
_COUNT = """
INSERT INTO stream_count (stream, kind, at, n) VALUES (?, ?, ?, ?)
ON CONFLICT (stream, kind, at) DO UPDATE SET n = stream_count.n + excluded.n
"""
_FIRST = "SELECT min(at) FROM stream_count WHERE stream = ? AND kind = 'sent'"
_HEARD = """
INSERT INTO heard (person, at) VALUES (?1, ?2)
ON CONFLICT (person) DO UPDATE SET at = excluded.at WHERE heard.at <= ?3
"""
"""Changes no row if a person was heard after ?3."""
_SUMS = """
SELECT kind, CAST(sum(n) AS BIGINT) FROM stream_count WHERE stream = ? AND at > ? GROUP BY kind
"""
_CORRECT = """
INSERT INTO stream_count (stream, kind, at, n)
SELECT stream, kind, CAST(?1 AS BIGINT), CAST(sum(n) AS BIGINT) FROM stream_count WHERE at > ?2
GROUP BY stream, kind
ON CONFLICT (stream, kind, at) DO UPDATE SET n = stream_count.n + excluded.n
"""
_FORGET_AHEAD = "DELETE FROM stream_count WHERE at > ?"
_CORRECT_HEARD = "UPDATE heard SET at = ?1 WHERE at > ?2"
_PRUNE = ("DELETE FROM stream_count WHERE at < ?", "DELETE FROM heard WHERE at < ?")

_CAMPAIGN = "key, people, strangers, dead, full_at, dead_at"
_FIND_CAMPAIGN = f"SELECT {_CAMPAIGN}, seen_at FROM campaign WHERE key = ?"
_LOCK_CAMPAIGN = f"{_FIND_CAMPAIGN} /*FOR UPDATE*/"
_CAMPAIGNS = f"""
SELECT {_CAMPAIGN} FROM campaign WHERE stream = ? AND full_at IS NOT NULL
ORDER BY full_at DESC LIMIT 100
"""
_TRIED_SINCE = f"""
SELECT stream, {_CAMPAIGN} FROM campaign
WHERE people >= ?1 AND (full_at IS NULL OR full_at >= ?2 OR dead_at >= ?2)
ORDER BY coalesce(full_at, seen_at)
"""
# Without OFFSET 0, PostgreSQL may look through the people of all campaigns, from the oldest on.
_BEGAN = """
SELECT min(id) FROM (SELECT id FROM campaign_person WHERE campaign = ? /*OFFSET 0*/) AS counted
"""
_NEW_CAMPAIGN = """
INSERT INTO campaign (key, stream, people, strangers, dead, seen_at) VALUES (?, ?, 0, 0, 0, ?)
ON CONFLICT DO NOTHING
"""
_SEEN_CAMPAIGN = "UPDATE campaign SET seen_at = ? WHERE key = ?"
_TRY = """
INSERT INTO campaign_person (campaign, person, id, dead) VALUES (?, ?, ?, 0) ON CONFLICT DO NOTHING
"""
_UNTRY = "DELETE FROM campaign_person WHERE campaign = ? AND person = ? AND id = ? AND dead = 0"
_TRIED = """
UPDATE campaign SET people = people + CAST(?2 AS BIGINT), strangers = strangers + ?3,
    full_at = CASE WHEN people + CAST(?2 AS BIGINT) >= ?4 THEN CAST(?5 AS BIGINT) END
WHERE key = ?1
"""
_UNTRIED = """
UPDATE campaign SET people = people - CAST(?2 AS BIGINT),
    strangers = CASE WHEN strangers > ?3 THEN strangers - ?3 ELSE 0 END,
    full_at = CASE WHEN people - CAST(?2 AS BIGINT) >= ?4 OR strangers = 0 THEN full_at END
WHERE key = ?1
"""
"""With 0 strangers it stays full: an operator may have released the campaign."""
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
_PRUNE_CAMPAIGNS = "DELETE FROM campaign WHERE seen_at < ?"
_TRIM_CAMPAIGNS = f"""
DELETE FROM campaign WHERE key IN
    (SELECT key FROM campaign ORDER BY seen_at DESC LIMIT {2**62} OFFSET ?)
"""
_FORGET_PEOPLE = "DELETE FROM campaign_person WHERE campaign NOT IN (SELECT key FROM campaign)"
_FORGET = "DELETE FROM campaign_person WHERE person = ?"

MOST_CAMPAIGNS, TRIM_EVERY = 10_000, 1_000
_SEEN_AGAIN = 3_600_000_000  # microseconds
_WINDOW_PARTS = 1_000
"""Parts of a window. One that is not wholly within it, or wholly after a resume, is not counted."""


class StreamCounts(SideTable):
    """Counts by stream, across workers and restarts. Methods raise StoreUnavailable."""

    def __init__(self, tables: SideTables) -> None:
        super().__init__(tables)
        self._new_campaigns = 0  # since the last trimming

    async def add_messages(self, messages: Mapping[str, int], at: datetime, window: float) -> None:
        """Count messages that streams sent, one for each recipient.

        `window` (seconds) is the longest period that will be queried.
        """
        part = _window_part(at, window)
        async with self._tables.writing() as session:
            rows = [(stream, _SENT, part, n) for stream, n in sorted(messages.items())]
            await session.run_many(_COUNT, rows)

    async def add_heard(
        self,
        stream: str,
        kind: Feedback,
        person: str,
        sent_at: datetime,
        at: datetime,
        window: float,
    ) -> bool:
        """Count feedback `at` a time on a message of `sent_at`; return whether it counts.

        It does not if the person was already counted for that within the window, or if the message
        is not among those counted, and not so new that it soon will be. `person` is a canonical
        address or a key text.
        """
        # A message sent while a clock was ahead counts as of now.
        part, width = _window_part(min(sent_at, at), window), _window_part_width(window)
        mailbox = widened(person) if "@" in person else person  # with any plus-tag it counts once
        octets = f"{stream}\0{kind}\0{mailbox}".encode()
        key = keyed_hash(octets, await self._tables.hash_key())
        async with self._tables.writing() as session:
            first = (await session.fetch_all(_FIRST, stream))[0][0]
            if first is None:  # workers add what they sent only once a second
                first = _window_part(at, window)
            if part < first - width:  # its message is not among those counted
                return False
            # Of two concurrent reports one waits here, and then finds what the other wrote.
            if not await session.run(_HEARD, key, part, part - width * _WINDOW_PARTS):
                return False
            await session.run(_COUNT, stream, kind, max(part, first), 1)
            return True

    async def count_campaign(
        self, stream: str, key: str, id: str, people: Mapping[str, bool], at: datetime, most: int
    ) -> Campaign:
        """Count people for a campaign while it has fewer than `most`.

        `people` are canonical addresses, each counted once, with True for strangers; `id` is that
        of the decision. Returns the campaign as it was before. Atomic across workers.
        """
        moment = to_micros(at)
        secret = await self._tables.hash_key()
        async with self._tables.writing() as session:
            self._new_campaigns += await session.run(_NEW_CAMPAIGN, key, stream, moment)
            if self._new_campaigns >= TRIM_EVERY:  # new names in each message fill no disk
                self._new_campaigns = 0
                await session.run(_TRIM_CAMPAIGNS, MOST_CAMPAIGNS)
                await session.run(_FORGET_PEOPLE)
            ((*known, seen),) = await session.fetch_all(_LOCK_CAMPAIGN, key)
            before = record_of(Campaign, known)
            if seen < moment - _SEEN_AGAIN:
                await session.run(_SEEN_CAMPAIGN, moment, key)
            if before.full_at is None:
                new = await _change(session, _TRY, key, id, people, secret)
                await session.run(_TRIED, key, *new, most, moment)
            return before

    async def uncount_campaign(
        self, key: str, id: str, people: Mapping[str, bool], most: int
    ) -> None:
        """Undo the count of people by that id, who were not mailed.

        With fewer than `most` people the campaign is on trial again.
        """
        secret = await self._tables.hash_key()
        async with self._tables.writing() as session:
            await session.fetch_all(_LOCK_CAMPAIGN, key)
            gone = await _change(session, _UNTRY, key, id, people, secret)
            await session.run(_UNTRIED, key, *gone, most)

    async def campaign_bounced(
        self, id: str, person: str, at: datetime, share: int, least: int
    ) -> None:
        """Record a dead address, if a campaign counted the person by that id.

        The campaign is marked once there are at least `least` of them, and that share of its people
        (parts per million).
        """
        who = person_hash(person, await self._tables.hash_key())
        async with self._tables.writing() as session:
            for (campaign,) in await session.fetch_all(_BOUNCED, id, who):
                await session.run(_DEAD, campaign, share, least, to_micros(at))

    async def campaign(self, key: str) -> Campaign:
        async with self._tables.reading() as session:
            found = await session.fetch_all(_FIND_CAMPAIGN, key)
        return record_of(Campaign, found[0][:-1]) if found else Campaign(key)

    async def campaigns(self, stream: str) -> Sequence[Campaign]:
        """Return the campaigns of a stream that had enough people, the newest first."""
        async with self._tables.reading() as session:
            found = await session.fetch_all(_CAMPAIGNS, stream)
        return [record_of(Campaign, row) for row in found]

    async def tried_since(self, since: datetime, least: int) -> Sequence[tuple[str, Campaign]]:
        """Return the campaigns that `least` people got, each with its stream.

        Those that had enough people before `since` are left out.
        """
        async with self._tables.reading() as session:
            found = await session.fetch_all(_TRIED_SINCE, least, to_micros(since))
        return [(stream, record_of(Campaign, row)) for stream, *row in found]

    async def campaign_began(self, key: str) -> str | None:
        """Return the id of the first decision that was counted for a campaign."""
        async with self._tables.reading() as session:
            began: str | None = (await session.fetch_all(_BEGAN, key))[0][0]
            return began

    async def release_campaigns(self, stream: str) -> int:
        """Delete the findings about a stream's campaigns; return for how many."""
        if not self._tables.exist():
            return 0
        async with self._tables.writing() as session:
            return await session.run(_RELEASE, stream)

    async def tallies(self, streams: Mapping[str, datetime]) -> Mapping[str, Tally]:
        """Return each stream's messages since a time, and the feedback on them."""
        async with self._tables.reading() as session:
            return {
                name: _read_tally(await session.fetch_all(_SUMS, name, to_micros(since)))
                for name, since in streams.items()
            }

    async def correct(self, now: datetime) -> None:
        """Move what was counted while a clock was ahead to the present: it would count until
        then."""
        if self._tables.exist():
            moments = to_micros(now), to_micros(now + AHEAD)
            async with self._tables.writing() as session:
                await session.run(_CORRECT, *moments)
                await session.run(_FORGET_AHEAD, moments[1])
                await session.run(_CORRECT_HEARD, *moments)

    async def forget(self, address: str) -> None:
        """Erase a person from the campaigns, which name the decision: it would lead to the line of
        the audit log that no longer names them. The campaigns' counts stay."""
        if self._tables.exist():
            person = person_hash(address, await self._tables.hash_key())
            async with self._tables.writing() as session:
                await session.run(_FORGET, person)
            await self._tables.purge_log()

    async def prune(self, before: datetime) -> int:
        """Remove older rows; return how many."""
        if not self._tables.exist():
            return 0
        limit = to_micros(before)
        async with self._tables.writing() as session:
            removed = sum([await session.run(query, limit) for query in _PRUNE])
            if await session.run(_PRUNE_CAMPAIGNS, limit):
                await session.run(_FORGET_PEOPLE)
            return removed


async def _change(
    session: Session, sql: str, key: str, id: str, people: Mapping[str, bool], secret: bytes
) -> tuple[int, int]:
    """Run `sql` for each person; return how many it changed, and how many of them are strangers."""
    rows: dict[bool, list[Row]] = {False: [], True: []}
    for address, stranger in people.items():
        rows[stranger].append((key, person_hash(address, secret), id))
    strangers = await session.run_many(sql, rows[True])
    return strangers + await session.run_many(sql, rows[False]), strangers


def _read_tally(rows: Iterable[Row]) -> Tally:
    found: dict[str, int] = dict(rows)
    return Tally(found.pop(_SENT, 0), {Feedback(kind): n for kind, n in found.items()})


def _window_part_width(window: float) -> int:
    """Return the microseconds of one part of the window."""
    return max(1, int(timedelta(seconds=window / _WINDOW_PARTS) / timedelta(microseconds=1)))


def _window_part(at: datetime, window: float) -> int:
    """Return the start of the part that a time is in."""
    moment = to_micros(at)
    return moment - moment % _window_part_width(window)
