"""What streams sent from all relays, and what was heard of that."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from itertools import count

from smtpproxy.mail.address import widened
from smtpproxy.policy.breaker import Heard, Tally
from smtpproxy.policy.campaign import Campaign
from smtpproxy.store.postgres.connection import Counts, Target
from smtpproxy.store.sql.rows import Row, optional_moment, to_micros
from smtpproxy.store.sql.windows import WINDOW_PARTS, window_part, window_part_width

_SENT = "sent"
_COUNT = """
INSERT INTO stream_count (stream, kind, at, n)
SELECT stream, ?3, ?4, n FROM unnest(?1::text[], ?2::bigint[]) AS sent (stream, n) ORDER BY stream
ON CONFLICT (stream, kind, at) DO UPDATE SET n = stream_count.n + excluded.n
"""
_FIRST = "SELECT min(at) FROM stream_count WHERE stream = ? AND kind = 'sent'"
_HEARD = """
INSERT INTO heard (person, at) VALUES (?1, ?2)
ON CONFLICT (person) DO UPDATE SET at = excluded.at WHERE heard.at <= ?3
"""
_SUMS = """
SELECT kind, CAST(sum(n) AS BIGINT) FROM stream_count WHERE stream = ? AND at > ? GROUP BY kind
"""
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
WHERE people >= ? AND (full_at IS NULL OR greatest(full_at, dead_at) >= ?)
ORDER BY coalesce(full_at, seen_at)
"""
_BEGAN = "SELECT min(id) FROM campaign_person WHERE campaign = ?"
_NEW_CAMPAIGN = """
INSERT INTO campaign (key, stream, people, strangers, dead, seen_at) VALUES (?, ?, 0, 0, 0, ?)
ON CONFLICT DO NOTHING
"""
_SEEN_CAMPAIGN = "UPDATE campaign SET seen_at = ? WHERE key = ?"
_TRY = """
INSERT INTO campaign_person (campaign, person, id, dead)
SELECT ?1, person, ?3, 0 FROM unnest(?2::bytea[]) AS tried (person)
ON CONFLICT DO NOTHING RETURNING person
"""
_TRIED = """
UPDATE campaign SET people = people + ?2::bigint, strangers = strangers + ?3,
    full_at = CASE WHEN people + ?2::bigint >= ?4 THEN ?5::bigint END
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
DELETE FROM campaign WHERE key IN (SELECT key FROM campaign ORDER BY seen_at DESC OFFSET ?)
"""
_MOST_CAMPAIGNS, _TRIM_EVERY = 10_000, 1_000
_SEEN_AGAIN = 3_600_000_000  # microseconds


class PostgresStreamCounts(Counts):
    """A `StreamCounts`."""

    _part = "streams"

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._tried_ones = count(1)  # new campaigns

    async def add_messages(self, messages: Mapping[str, int], at: datetime, window: float) -> None:
        part = window_part(at, window)
        async with self._counting() as session:
            await session.run(_COUNT, list(messages), list(messages.values()), _SENT, part)

    async def add_heard(
        self, stream: str, kind: Heard, person: str, sent_at: datetime, at: datetime, window: float
    ) -> bool:
        part, width = window_part(sent_at, window), window_part_width(window)
        key = await self._person(stream, kind, person)
        async with self._counting() as session:
            first = (await session.fetch_all(_FIRST, stream))[0][0]
            if first is None:  # workers say once a second what they sent
                first = window_part(at, window)
            if part < first - width:  # its message is not among those counted
                return False
            # Of two who say it at once, one waits here, and finds what the other wrote.
            if not await session.run(_HEARD, key, part, part - width * WINDOW_PARTS):
                return False
            await session.run(_COUNT, [stream], [1], kind, max(part, first))
            return True

    async def count_campaign(
        self, stream: str, key: str, id: str, people: Mapping[str, bool], at: datetime, most: int
    ) -> Campaign:
        moment = to_micros(at)
        tried = {await self._tried(address): stranger for address, stranger in people.items()}
        async with self._counting() as session:
            new = await session.run(_NEW_CAMPAIGN, key, stream, moment)
            if new and next(self._tried_ones) % _TRIM_EVERY == 0:
                # Who names each message otherwise fills no disk.
                await session.run(_TRIM_CAMPAIGNS, _MOST_CAMPAIGNS)
                await session.run(_PRUNE_CAMPAIGNS[1])
            *known, seen = (await session.fetch_all(f"{_FIND_CAMPAIGN} FOR UPDATE", key))[0]
            before = _read(tuple(known))
            if seen < moment - _SEEN_AGAIN:
                await session.run(_SEEN_CAMPAIGN, moment, key)
            if before.full_at is None:
                found = await session.fetch_all(_TRY, key, list(tried), id)
                strangers = sum(tried[person] for (person,) in found)
                await session.run(_TRIED, key, len(found), strangers, most, moment)
            return before

    async def campaign_bounced(
        self, id: str, person: str, at: datetime, share: int, least: int
    ) -> None:
        who = await self._tried(person)
        async with self._counting() as session:
            for (campaign,) in await session.fetch_all(_BOUNCED, id, who):
                await session.run(_DEAD, campaign, share, least, to_micros(at))

    async def campaign(self, key: str) -> Campaign:
        async with self._asking() as session:
            found = await session.fetch_all(_FIND_CAMPAIGN, key)
        return _read(found[0][:-1]) if found else Campaign(key)

    async def campaigns(self, stream: str) -> Sequence[Campaign]:
        async with self._asking() as session:
            return [_read(row) for row in await session.fetch_all(_CAMPAIGNS, stream)]

    async def tried_since(self, since: datetime, least: int) -> Sequence[tuple[str, Campaign]]:
        async with self._asking() as session:
            found = await session.fetch_all(_TRIED_SINCE, least, to_micros(since))
        return [(stream, _read(tuple(row))) for stream, *row in found]

    async def campaign_began(self, key: str) -> str | None:
        async with self._asking() as session:
            began: str | None = (await session.fetch_all(_BEGAN, key))[0][0]
            return began

    async def release_campaigns(self, stream: str) -> int:
        async with self._counting() as session:
            return await session.run(_RELEASE, stream)

    async def tallies(self, streams: Mapping[str, datetime]) -> Mapping[str, Tally]:
        tallies = {}
        async with self._asking() as session:
            for name, since in streams.items():
                found: dict[str, int] = dict(await session.fetch_all(_SUMS, name, to_micros(since)))
                sent = found.pop(_SENT, 0)
                tallies[name] = Tally(sent, {Heard(kind): n for kind, n in found.items()})
        return tallies

    async def prune(self, before: datetime) -> int:
        limit = to_micros(before)
        async with self._counting() as session:
            removed = sum([await session.run(query, limit) for query in _PRUNE])
            if await session.run(_PRUNE_CAMPAIGNS[0], limit):
                await session.run(_PRUNE_CAMPAIGNS[1])
            return removed

    async def _tried(self, address: str) -> bytes:
        return blake2b(address.encode(), digest_size=16, key=await self._secret()).digest()

    async def _person(self, stream: str, kind: Heard, person: str) -> bytes:
        """By the mailbox: whoever subscribes it under many tags is one all the same."""
        mailbox = widened(person) if "@" in person else person
        octets = f"{stream}\0{kind}\0{mailbox}".encode()
        return blake2b(octets, digest_size=16, key=await self._secret()).digest()


def _read(row: Row) -> Campaign:
    key, people, strangers, dead, full_at, dead_at = row
    return Campaign(
        key, people, strangers, dead, optional_moment(full_at), optional_moment(dead_at)
    )
