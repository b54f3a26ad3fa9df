"""Reads from a standby: how far it is behind is measured honestly, and nothing stale counts."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.policy.model import Lookups
from smtpproxy.store import open_store
from smtpproxy.store.postgres.replica import Lag
from smtpproxy.store.records import ReplicaState
from smtpproxy.store.sql.store import Store
from tests.kit import postgres
from tests.kit.parts import needs
from tests.kit.postgres import PostgresCluster
from tests.store.conftest import Database
from tests.store.contract import ANNA, entry

EARLY = Lookups((ANNA,), provisional=True)


class Told:
    """A lag that is told of a primary's and a standby's versions, second by second."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lag = Lag(1.0)

    def primary(self, number: int, commit: str = "") -> None:
        self.now += 0.1
        self.lag.primary_has((number, commit or str(number)), self.now)

    def standby(self, number: int, commit: str = "") -> bool:
        """Whether the answer is accepted."""
        self.now += 0.1
        said = (number, commit or str(number))
        self.lag.standby_has(said, self.now)
        return self.lag.accepts(said, self.now)

    @property
    def seconds(self) -> float | None:
        found = self.lag.seconds(self.now)
        return None if found is None else round(found, 3)


def test_nobody_knows_how_far_behind_a_standby_is_before_both_have_answered() -> None:
    told = Told()
    assert told.seconds is None
    assert not told.standby(5)
    assert told.seconds is None
    told.primary(5)
    assert told.standby(5)
    assert told.seconds == 0.0


def test_a_standby_of_a_primary_that_is_idle_is_not_behind() -> None:
    told = Told()
    for _ in range(100):
        told.primary(7)
        assert told.standby(7)
        assert told.seconds == 0.0


def test_a_standby_that_is_cut_off_is_behind_from_the_next_commit_on() -> None:
    told = Told()
    told.primary(7)
    assert told.standby(7)
    told.primary(8)
    assert told.standby(7)  # it lacks what is 0.2 s old at the most
    assert told.seconds == 0.3
    told.now += 1.0
    assert not told.standby(7)
    for number in range(9, 900):
        told.primary(number)
    assert told.seconds == pytest.approx(0.1 + told.now - 0.2, abs=0.2)
    assert not told.standby(7)
    told.primary(900)
    assert told.standby(900)
    assert told.seconds == 0.0


def test_a_standby_that_follows_some_commits_behind_is_accepted() -> None:
    told = Told()
    for number in range(1, 200):
        told.primary(number)
        if number > 4:
            assert told.standby(number - 3) is (number > 4)
    assert told.seconds == pytest.approx(0.7, abs=0.2)
    assert len(told.lag._seen) <= 60


def test_without_news_of_the_primary_no_standby_is_new_enough() -> None:
    told = Told()
    told.primary(7)
    told.now += 1.0
    assert not told.standby(7)
    assert told.seconds == 0.0  # nothing is known that it lacks


def test_a_standby_with_commits_that_the_primary_has_not_is_of_another_history() -> None:
    told = Told()
    told.primary(9)
    assert told.standby(9)
    told.primary(8, "of the server that took over")
    assert not told.standby(9)
    told.primary(9, "of the server that took over")
    assert not told.standby(9)
    assert told.standby(9, "of the server that took over")


def test_an_answer_that_was_overtaken_says_nothing_new() -> None:
    told = Told()
    told.primary(9)
    told.lag.primary_has((8, "8"), 0.05)
    assert told.standby(9)
    assert told.seconds == 0.0


# with real servers


@pytest.fixture(scope="module")
def primary() -> Iterator[PostgresCluster]:
    server = PostgresCluster()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def standby(primary: PostgresCluster) -> Iterator[PostgresCluster]:
    server = PostgresCluster(standby_of=primary)
    yield server
    server.stop()


class Following:
    """A store that reads from a standby."""

    def __init__(
        self, folder: Path, primary: PostgresCluster, standby: PostgresCluster, lag: float
    ) -> None:
        self.primary, self.standby = primary, standby
        self.name = primary.create()
        postgres.migrated(primary.url(self.name), folder)
        settings = Database(folder, primary.url(self.name)).settings()
        settings = replace(settings, replica_url=standby.url(self.name), max_replica_lag=lag)
        self.store: Store = open_store(settings, folder)

    @property
    def state(self) -> ReplicaState:
        state = self.store.replica()
        assert state is not None
        return state

    async def suppressed(self) -> bool:
        """Whether a provisional read says so."""
        facts, _ = await self.store.read(EARLY)
        return ANNA in facts

    async def until(self, condition: Callable[[ReplicaState], bool]) -> None:
        """Read until the state is like that."""
        async with asyncio.timeout(20):
            while not condition(self.state):
                await self.store.read(EARLY)
                await asyncio.sleep(0.02)

    async def by_standby(self) -> bool:
        """Whether the standby answers a provisional read."""
        before = self.state.reads.get("standby", 0)
        await self.store.read(EARLY)
        return self.state.reads.get("standby", 0) > before


@pytest.fixture
async def following(
    tmp_path: Path, primary: PostgresCluster, standby: PostgresCluster
) -> AsyncIterator[Following]:
    made = await asyncio.to_thread(Following, tmp_path, primary, standby, 0.6)
    yield made
    await made.store.close()


@needs("postgresql")
async def test_what_is_asked_again_is_read_from_the_standby_and_all_else_is_not(
    following: Following,
) -> None:
    store = following.store
    assert not await following.by_standby()  # nobody knows yet how far behind it is
    await following.until(lambda state: state.in_use)
    assert await following.by_standby()
    before = following.state.reads
    _, said = await store.read(EARLY)
    assert await store.version() == said  # so nothing has to be read again
    await store.read(Lookups((ANNA,)))
    after = following.state.reads
    assert (after["standby"], after["primary"]) == (before["standby"] + 1, before["primary"] + 2)
    await asyncio.sleep(1.0)  # idle for longer than it may be behind
    assert await following.by_standby()
    assert following.state.lag == 0.0


@needs("postgresql")
async def test_a_standby_that_does_not_hear_of_commits_is_not_read_for_longer_than_its_limit(
    following: Following,
) -> None:
    store, standby = following.store, following.standby
    await following.until(lambda state: state.in_use)
    standby.sql("postgres", "SELECT pg_wal_replay_pause()")
    try:
        _, before = await store.read(EARLY)
        await store.add_suppressions([entry()])
        assert ANNA in await store.facts(Lookups((ANNA,)))  # the primary knows at once
        assert await store.version() != before
        _, again = await store.read(EARLY)
        if following.state.in_use:  # it may be as much behind
            assert again == before
        await asyncio.sleep(0.7)
        assert await following.suppressed()
        await following.until(lambda state: not state.in_use)
        assert await following.suppressed()
        lag = following.state.lag
        assert lag is not None
        assert lag > 0.5
    finally:
        standby.sql("postgres", "SELECT pg_wal_replay_resume()")
    await following.until(lambda state: state.in_use and state.lag == 0.0)
    assert await following.by_standby()
    assert await following.suppressed()


@needs("postgresql")
async def test_where_the_standby_hangs_the_primary_answers_in_time(following: Following) -> None:
    await following.until(lambda state: state.in_use)
    following.standby.signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(1.8):  # of 2 seconds
            assert not await following.suppressed()
        assert not following.state.in_use
        assert not await following.by_standby()
    finally:
        following.standby.signal(signal.SIGCONT)
    await following.until(lambda state: state.in_use)


@needs("postgresql")
async def test_a_standby_that_took_over_is_not_read_and_its_commits_are_others(
    tmp_path: Path, primary: PostgresCluster
) -> None:
    own = await asyncio.to_thread(partial(PostgresCluster, standby_of=primary))
    following = await asyncio.to_thread(Following, tmp_path, primary, own, 0.6)
    store = following.store
    try:
        await following.until(lambda state: state.in_use)
        own.sql("postgres", "SELECT pg_promote()")
        await following.until(lambda state: not state.in_use)
        assert not await following.by_standby()
        await store.add_suppressions([entry()])
        version: Any = await store.version()
        own.sql(following.name, "UPDATE store_state SET version = version + 1")
        other = Database(tmp_path, own.url(following.name)).open()
        said: Any = await other.version()
        await other.close()
        assert said[0] == version[0]
        assert said != version
    finally:
        await store.close()
        own.stop()
