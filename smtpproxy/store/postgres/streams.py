"""The counts of messages and feedback by stream, for all relays."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import count

from smtpproxy.policy.breaker import Feedback, Tally
from smtpproxy.policy.campaign import Campaign
from smtpproxy.store.postgres.connection import SideTables, Target
from smtpproxy.store.sql import stream_counts as sql
from smtpproxy.store.sql.rows import to_micros
from smtpproxy.store.sql.side_tables import person_hash
from smtpproxy.store.sql.stream_counts import WINDOW_PARTS, window_part, window_part_width

_COUNT = """
INSERT INTO stream_count (stream, kind, at, n)
SELECT stream, ?3, ?4, n FROM unnest(?1::text[], ?2::bigint[]) AS sent (stream, n) ORDER BY stream
ON CONFLICT (stream, kind, at) DO UPDATE SET n = stream_count.n + excluded.n
"""
_TRY = """
INSERT INTO campaign_person (campaign, person, id, dead)
SELECT ?1, person, ?3, 0 FROM unnest(?2::bytea[]) AS tried (person)
ON CONFLICT DO NOTHING RETURNING person
"""
_UNTRY = """
DELETE FROM campaign_person
WHERE campaign = ?1 AND person = ANY (?2::bytea[]) AND id = ?3 AND dead = 0 RETURNING person
"""


class PostgresStreamCounts(SideTables):
    """A `StreamCounts`."""

    _part = "streams"

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._tried_ones = count(1)  # new campaigns

    async def add_messages(self, messages: Mapping[str, int], at: datetime, window: float) -> None:
        part = window_part(at, window)
        async with self._writing() as session:
            await session.run(_COUNT, list(messages), list(messages.values()), sql.SENT, part)

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
        key = sql.hash_of_heard(stream, kind, person, await self._secret())
        async with self._writing() as session:
            first = (await session.fetch_all(sql.FIRST, stream))[0][0]
            if first is None:  # workers add what they sent only once a second
                first = window_part(at, window)
            if part < first - width:  # its message is not among those counted
                return False
            # Of two concurrent reports one waits here, and then finds what the other wrote.
            if not await session.run(sql.HEARD, key, part, part - width * WINDOW_PARTS):
                return False
            await session.run(_COUNT, [stream], [1], kind, max(part, first))
            return True

    async def count_campaign(
        self, stream: str, key: str, id: str, people: Mapping[str, bool], at: datetime, most: int
    ) -> Campaign:
        moment = to_micros(at)
        secret = await self._secret()
        tried = {person_hash(one, secret): stranger for one, stranger in people.items()}
        async with self._writing() as session:
            new = await session.run(sql.NEW_CAMPAIGN, key, stream, moment)
            if new and next(self._tried_ones) % sql.TRIM_EVERY == 0:
                # A new name for each message must not fill the disk.
                await session.run(sql.TRIM_CAMPAIGNS, sql.MOST_CAMPAIGNS)
                await session.run(sql.FORGET_PEOPLE)
            *known, seen = (await session.fetch_all(f"{sql.FIND_CAMPAIGN} FOR UPDATE", key))[0]
            before = sql.read_campaign(known)
            if seen < moment - sql.SEEN_AGAIN:
                await session.run(sql.SEEN_CAMPAIGN, moment, key)
            if before.full_at is None:
                found = await session.fetch_all(_TRY, key, list(tried), id)
                strangers = sum(tried[person] for (person,) in found)
                await session.run(sql.TRIED, key, len(found), strangers, most, moment)
            return before

    async def uncount_campaign(
        self, key: str, id: str, people: Mapping[str, bool], most: int
    ) -> None:
        secret = await self._secret()
        tried = {person_hash(one, secret): stranger for one, stranger in people.items()}
        async with self._writing() as session:
            await session.fetch_all(f"{sql.FIND_CAMPAIGN} FOR UPDATE", key)
            gone = await session.fetch_all(_UNTRY, key, list(tried), id)
            strangers = sum(tried[person] for (person,) in gone)
            await session.run(sql.UNTRIED, key, len(gone), strangers, most)

    async def campaign_bounced(
        self, id: str, person: str, at: datetime, share: int, least: int
    ) -> None:
        who = person_hash(person, await self._secret())
        async with self._writing() as session:
            for (campaign,) in await session.fetch_all(sql.BOUNCED, id, who):
                await session.run(sql.DEAD, campaign, share, least, to_micros(at))

    async def campaign(self, key: str) -> Campaign:
        async with self._reading() as session:
            found = await session.fetch_all(sql.FIND_CAMPAIGN, key)
        return sql.read_campaign(found[0][:-1]) if found else Campaign(key)

    async def campaigns(self, stream: str) -> Sequence[Campaign]:
        async with self._reading() as session:
            return list(map(sql.read_campaign, await session.fetch_all(sql.CAMPAIGNS, stream)))

    async def tried_since(self, since: datetime, least: int) -> Sequence[tuple[str, Campaign]]:
        async with self._reading() as session:
            found = await session.fetch_all(sql.TRIED_SINCE, least, to_micros(since))
        return [(stream, sql.read_campaign(row)) for stream, *row in found]

    async def campaign_began(self, key: str) -> str | None:
        async with self._reading() as session:
            began: str | None = (await session.fetch_all(sql.BEGAN, key))[0][0]
            return began

    async def release_campaigns(self, stream: str) -> int:
        async with self._writing() as session:
            return await session.run(sql.RELEASE, stream)

    async def tallies(self, streams: Mapping[str, datetime]) -> Mapping[str, Tally]:
        tallies = {}
        async with self._reading() as session:
            for name, since in streams.items():
                found = await session.fetch_all(sql.SUMS, name, to_micros(since))
                tallies[name] = sql.read_tally(found)
        return tallies

    async def prune(self, before: datetime) -> int:
        limit = to_micros(before)
        async with self._writing() as session:
            removed = sum([await session.run(query, limit) for query in sql.PRUNE])
            if await session.run(sql.PRUNE_CAMPAIGNS, limit):
                await session.run(sql.FORGET_PEOPLE)
            return removed
