"""Suppressions from many requests share one commit."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import pytest

from smtpproxy.policy.model import Origin
from smtpproxy.store.records import StoreUnavailable, SuppressionEntry
from smtpproxy.web.wishes import GroupCommit
from tests.kit.store import TrialStore

T0 = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)


@pytest.fixture
async def store() -> AsyncIterator[TrialStore]:
    found = TrialStore()
    yield found
    await found.close()


class SlowDisk:
    """A store whose every commit takes a while."""

    def __init__(self, store: TrialStore) -> None:
        self.store = store
        self.commits = 0
        self.broken = False

    async def suppress(self, entries: Sequence[SuppressionEntry]) -> Sequence[datetime | None]:
        self.commits += 1
        await asyncio.sleep(0)
        if self.broken:
            raise StoreUnavailable("the disk is full")
        return await self.store.suppress(entries)


def entry(number: int, name: str | None = None) -> SuppressionEntry:
    return SuppressionEntry(
        name or f"p{number}@people.example", "marketing", Origin.UNSUBSCRIBE, T0
    )


async def test_waiting_requests_share_a_commit(store: TrialStore) -> None:
    disk = SlowDisk(store)
    commits = GroupCommit(lambda: disk)  # type: ignore[arg-type, return-value]
    stood = await asyncio.gather(*(commits.add([entry(n)]) for n in range(300)))
    assert stood == [[None]] * 300
    assert disk.commits <= 2
    assert (await store.counts())[1]["marketing", "unsubscribe"] == 300


async def test_a_person_twice_in_one_commit_is_added_once(store: TrialStore) -> None:
    commits = GroupCommit(lambda: store)
    stood = await asyncio.gather(*(commits.add([entry(1)]) for _ in range(3)))
    assert stood == [[None], [T0], [T0]]


async def test_a_failing_disk_fails_all_waiting_requests_but_no_later_one(
    store: TrialStore,
) -> None:
    disk = SlowDisk(store)
    disk.broken = True
    commits = GroupCommit(lambda: disk)  # type: ignore[arg-type, return-value]
    answers = await asyncio.gather(
        *(commits.add([entry(n)]) for n in range(9)), return_exceptions=True
    )
    assert {type(answer) for answer in answers} == {StoreUnavailable}
    disk.broken = False
    assert await commits.add([entry(1)]) == [None]


async def test_an_invalid_entry_does_not_fail_the_others(store: TrialStore) -> None:
    commits = GroupCommit(lambda: store)
    void = "hmac:00000000:" + "0" * 32 + ":" + "0" * 64
    answers = await asyncio.gather(
        commits.add([entry(1)]),
        commits.add([entry(2, void)]),
        commits.add([entry(3)]),
        return_exceptions=True,
    )
    assert answers[0] == answers[2] == [None]
    assert isinstance(answers[1], ValueError)


async def test_a_client_that_hangs_up_does_not_stop_the_others(store: TrialStore) -> None:
    commits = GroupCommit(lambda: store)
    gone = asyncio.create_task(commits.add([entry(1)]))
    stays = asyncio.create_task(commits.add([entry(2)]))
    await asyncio.sleep(0)
    gone.cancel()
    assert await stays == [None]
