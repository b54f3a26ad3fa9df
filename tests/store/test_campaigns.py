"""Campaigns on trial, counted by several processes until they have enough people."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from smtpproxy.policy.campaign import Campaign
from smtpproxy.store import open_stream_counts
from smtpproxy.store.sql import stream_counts
from smtpproxy.store.sql.stream_counts import StreamCounts
from tests.store.conftest import Database

T0 = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
SHARE, LEAST = 50_000, 3


@pytest.fixture
def here(any_database: Database) -> StreamCounts:
    return any_database.part(open_stream_counts(any_database.settings()))


@pytest.fixture
def there(any_database: Database) -> StreamCounts:
    return any_database.part(open_stream_counts(any_database.settings()))


def people(*numbers: int, strangers: int = 0) -> dict[str, bool]:
    return {f"p{n}@people.example": n < strangers for n in numbers}


async def count(
    counts: StreamCounts, who: dict[str, bool], id: str = "A", at: datetime = T0
) -> Campaign:
    return await counts.count_campaign("offers", "spring", id, who, at, 10)


async def test_two_processes_count_one_campaign_until_it_has_enough(
    here: StreamCounts, there: StreamCounts
) -> None:
    assert await count(here, people(*range(6), strangers=4)) == Campaign("spring")
    assert await count(there, people(*range(3, 9)), "B") == Campaign("spring", 6, 4)
    # people already counted are not counted again, so that a retry costs nothing
    assert await count(here, people(8), "C") == Campaign("spring", 9, 4)
    assert await count(here, people(9), "D", T0 + HOUR) == Campaign("spring", 9, 4)
    full = Campaign("spring", 10, 4, full_at=T0 + HOUR)
    assert await count(there, people(*range(20, 40), strangers=40), "E") == full
    assert await count(here, people(50)) == full
    assert await here.campaigns("offers") == [full]
    assert await here.campaigns("news") == []


async def test_people_who_were_not_mailed_are_not_counted(
    here: StreamCounts, there: StreamCounts
) -> None:
    await count(here, people(*range(10), strangers=5))
    await there.uncount_campaign("spring", "B", people(0, 1, strangers=2), 10)  # another message
    full = Campaign("spring", 10, 5, full_at=T0)
    assert await here.campaign("spring") == full
    await there.uncount_campaign("spring", "A", people(0, 1, 9, strangers=1), 10)
    await there.uncount_campaign("spring", "A", people(0, strangers=1), 10)  # already uncounted
    assert await here.campaign("spring") == Campaign("spring", 7, 4)
    await count(there, people(0, 1, 9, strangers=1), "C", T0 + HOUR)
    assert await here.campaign("spring") == Campaign("spring", 10, 5, full_at=T0 + HOUR)
    # a released campaign has no second trial
    assert await here.release_campaigns("offers") == 1
    await here.uncount_campaign("spring", "A", people(3, strangers=4), 10)
    assert await here.campaign("spring") == Campaign("spring", 9, 0, full_at=T0 + HOUR)


async def test_concurrent_messages_overshoot_by_one_each_at_most(
    here: StreamCounts, there: StreamCounts
) -> None:
    known = await asyncio.gather(
        *(count((here, there)[n % 2], people(n), str(n)) for n in range(50))
    )
    assert sum(each.full_at is None for each in known) == 10


async def test_dead_addresses_count_by_message_id(here: StreamCounts, there: StreamCounts) -> None:
    await count(here, people(*range(10)))
    at = T0 + HOUR
    for id, person in [("A", 0), ("A", 0), ("B", 1), ("A", 99), ("A", 1)]:
        await there.campaign_bounced(id, f"p{person}@people.example", at, SHARE, LEAST)
    assert await count(here, people(20)) == Campaign("spring", 10, dead=2, full_at=T0)
    await here.campaign_bounced("A", "p2@people.example", at, SHARE, LEAST)
    await here.campaign_bounced("A", "p3@people.example", at + HOUR, SHARE, LEAST)
    assert await count(here, people(20)) == Campaign("spring", 10, dead=4, full_at=T0, dead_at=at)


async def test_a_release_forgets_the_findings(here: StreamCounts) -> None:
    await count(here, people(*range(10), strangers=10))
    await here.count_campaign("offers", "young", "Z", people(1, strangers=9), T0, 10)
    assert await here.release_campaigns("news") == 0
    assert await here.release_campaigns("offers") == 1
    assert await count(here, people(20)) == Campaign("spring", 10, full_at=T0)
    young = await here.count_campaign("offers", "young", "Z", people(2), T0, 10)
    assert young.strangers == 1  # its trial continues


async def test_a_new_name_for_each_message_does_not_fill_the_disk(
    here: StreamCounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_counts, "MOST_CAMPAIGNS", 20)
    monkeypatch.setattr(stream_counts, "TRIM_EVERY", 10)
    for n in range(65):
        at = T0 + timedelta(seconds=n)
        await here.count_campaign("offers", f"c{n}", str(n), people(n), at, 10)
    known = [n for n in range(65) if (await here.campaign(f"c{n}")).people]
    assert known[-1] == 64
    assert 20 <= len(known) <= 30


async def test_no_campaign_leads_from_an_erased_person_to_a_decision(
    any_database: Database, here: StreamCounts
) -> None:
    await count(here, people(*range(10)))
    await any_database.open().erase_contact("p1@people.example", at=T0)
    for n in range(3):
        await here.campaign_bounced("A", f"p{n}@people.example", T0, SHARE, LEAST)
    assert await here.campaign("spring") == Campaign("spring", 10, dead=2, full_at=T0)


async def test_a_campaign_is_remembered_while_it_is_in_use(here: StreamCounts) -> None:
    await count(here, people(*range(10)))
    await count(here, people(20), at=T0 + 3 * HOUR)
    await here.prune(T0 + 2 * HOUR)
    assert (await count(here, people(20), at=T0 + 3 * HOUR)).full_at == T0
    await here.prune(T0 + 5 * HOUR)
    assert await count(here, people(0)) == Campaign("spring")  # it is new, and so are its people
    assert (await count(here, people(1))).people == 1


async def test_campaigns_on_trial_are_listed_with_their_start(here: StreamCounts) -> None:
    assert not await here.tried_since(T0, 1)
    assert await here.campaign_began("spring") is None
    await count(here, people(*range(6)), "B")
    await count(here, people(6), "A")
    tried = [("offers", Campaign("spring", 7))]
    assert list(await here.tried_since(T0 + HOUR, 7)) == tried, "it is still on trial"
    assert not await here.tried_since(T0, 8)
    assert await here.campaign_began("spring") == "A"
    await count(here, people(*range(7, 10)), at=T0 + HOUR)
    assert len(await here.tried_since(T0 + HOUR, 7)) == 1
    assert not await here.tried_since(T0 + 2 * HOUR, 7)
    for n in range(3):
        await here.campaign_bounced("B", f"p{n}@people.example", T0 + 2 * HOUR, SHARE, LEAST)
    ((_, late),) = await here.tried_since(T0 + 2 * HOUR, 7)
    assert (late.full_at, late.dead_at) == (T0 + HOUR, T0 + 2 * HOUR)
