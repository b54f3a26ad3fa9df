"""Whole relays with people in their store, each shared by the tests of a file."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.kit.postgres import PostgresCluster, cluster
from tests.kit.relay import RelayProcess
from tests.kit.relays import Relays
from tests.kit.store import fill_database
from tests.kit.upstream import FakeUpstream

StartFilled = Callable[..., RelayProcess]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartFilled]:
    """Start relays that know the people of tests/kit/store.py: `filled(address, config)`."""
    started: list[RelayProcess] = []

    def start(upstream: str, config: Mapping[str, Any] | None = None) -> RelayProcess:
        process = RelayProcess(tmp_path_factory.mktemp("relay"), upstream, config)
        state = Path(process.config["server"]["state_dir"])
        fill_database(process.config["store"]["url"], state, datetime.now(UTC))
        started.append(process)
        process.start()
        return process

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def server() -> Iterator[PostgresCluster]:
    """A PostgreSQL for one test, which may kill it."""
    server = PostgresCluster()
    yield server
    server.stop()


@pytest.fixture
def relays(tmp_path: Path, server: PostgresCluster, upstream: FakeUpstream) -> Iterator[Relays]:
    """Starts relays that share a database."""
    relays = Relays(tmp_path, upstream.address, server)
    yield relays
    relays.kill()


@pytest.fixture
def calm_relays(tmp_path: Path, upstream: FakeUpstream) -> Iterator[Relays]:
    """Starts relays that share a database on the PostgreSQL that no test kills."""
    relays = Relays(tmp_path, upstream.address, cluster())
    yield relays
    relays.kill()
    cluster().drop(relays.name)


@pytest.fixture(scope="module")
def mta() -> Iterator[FakeUpstream]:
    """A fake upstream for all tests of a file, which look only at new `messages`."""
    with FakeUpstream() as server:
        yield server
