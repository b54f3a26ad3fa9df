"""Reads from a standby: its lag is measured honestly, and nothing stale counts."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

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


class Versions:
    """A lag fed with the versions of a primary and a standby, 0.1 s apart."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lag = Lag(1.0)

    def primary(self, number: int, commit: str = "") -> None:
        self.now += 0.1
        self.lag.primary_has((number, commit or str(number)), self.now)

    def standby(self, number: int, commit: str = "") -> bool:
        """Whether an answer of that version is accepted."""
        self.now += 0.1
        said = (number, commit or str(number))
        self.lag.standby_has(said, self.now)
        return self.lag.accepts(said, self.now)

    @property
    def seconds(self) -> float | None:
        found = self.lag.seconds(self.now)
        return None if found is None else round(found, 3)


def test_the_lag_is_unknown_until_both_servers_have_answered() -> None:
    versions = Versions()
    assert versions.seconds is None
    assert not versions.standby(5)
    assert versions.seconds is None
    versions.primary(5)
    assert versions.standby(5)
    assert versions.seconds == 0.0


def test_the_standby_of_an_idle_primary_is_not_behind() -> None:
    versions = Versions()
    for _ in range(100):
        versions.primary(7)
        assert versions.standby(7)
        assert versions.seconds == 0.0


def test_a_standby_cut_off_is_behind_from_the_next_commit() -> None:
    versions = Versions()
    versions.primary(7)
    assert versions.standby(7)
    versions.primary(8)
    assert versions.standby(7)  # what it lacks is at most 0.2 s old
    assert versions.seconds == 0.3
    versions.now += 1.0
    assert not versions.standby(7)
    for number in range(9, 900):
        versions.primary(number)
    assert versions.seconds == pytest.approx(0.1 + versions.now - 0.2, abs=0.2)
    assert not versions.standby(7)
    versions.primary(900)
    assert versions.standby(900)
    assert versions.seconds == 0.0


def test_a_standby_a_few_commits_behind_is_accepted() -> None:
    versions = Versions()
    for number in range(1, 200):
        versions.primary(number)
        if number > 4:
            assert versions.standby(number - 3)
    assert versions.seconds == pytest.approx(0.7, abs=0.2)
    assert len(versions.lag._seen) <= 60


def test_without_news_of_the_primary_no_standby_is_accepted() -> None:
    versions = Versions()
    versions.primary(7)
    versions.now += 1.0
    assert not versions.standby(7)
    assert versions.seconds == 0.0  # it lacks nothing that is known


def test_a_standby_with_commits_unknown_to_the_primary_is_refused() -> None:
    versions = Versions()
    versions.primary(9)
    assert versions.standby(9)
    versions.primary(8, "of the server that took over")
    assert not versions.standby(9)
    versions.primary(9, "of the server that took over")
    assert not versions.standby(9)
    assert versions.standby(9, "of the server that took over")


def test_an_overtaken_answer_is_ignored() -> None:
    versions = Versions()
    versions.primary(9)
    versions.lag.primary_has((8, "8"), 0.05)
    assert versions.standby(9)
    assert versions.seconds == 0.0


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
        """Whether a provisional read finds a suppression."""
        facts, _ = await self.store.read(EARLY)
        return ANNA in facts

    async def until(self, condition: Callable[[ReplicaState], bool]) -> None:
        """Read until the state meets the condition."""
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
async def test_only_provisional_reads_use_the_standby(
    following: Following,
) -> None:
    store = following.store
    assert not await following.by_standby()  # its lag is unknown so far
    await following.until(lambda state: state.in_use)
    assert await following.by_standby()
    before = following.state.reads
    _, said = await store.read(EARLY)
    assert await store.version() == said  # so that nothing has to be read again
    await store.read(Lookups((ANNA,)))
    after = following.state.reads
    assert (after["standby"], after["primary"]) == (before["standby"] + 1, before["primary"] + 2)
    await asyncio.sleep(1.0)  # idle for longer than the lag allowed
    assert await following.by_standby()
    assert following.state.lag == 0.0


@needs("postgresql")
async def test_a_standby_that_stops_following_is_dropped_at_the_lag_limit(
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
        if following.state.in_use:  # it is still within the limit
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
async def test_the_primary_answers_in_time_if_the_standby_hangs(following: Following) -> None:
    await following.until(lambda state: state.in_use)
    following.standby.signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(1.8):  # the timeout is 2 s
            assert not await following.suppressed()
        assert not following.state.in_use
        assert not await following.by_standby()
    finally:
        following.standby.signal(signal.SIGCONT)
    await following.until(lambda state: state.in_use)


@needs("postgresql")
async def test_a_promoted_standby_is_not_read(tmp_path: Path, primary: PostgresCluster) -> None:
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
