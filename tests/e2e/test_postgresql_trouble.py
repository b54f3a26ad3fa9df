"""Two relays on a failing PostgreSQL pair, with a test for each row of the table in docs/store.md.

Whatever happens, mail gets a 451 in time and never passes, no acknowledged suppression is lost,
and the relays recover by themselves once it is over.
"""

import time
from collections.abc import Iterator
from functools import partial
from itertools import takewhile
from pathlib import Path

import pytest

from tests.kit.disk import fill, tiny_disk
from tests.kit.messages import marketing
from tests.kit.parts import needs
from tests.kit.ports import free_port, wait_for
from tests.kit.postgres import PostgresCluster
from tests.kit.postgres_pair import PostgresPair
from tests.kit.relay import REPOSITORY, RelayProcess
from tests.kit.relays import API, Relays, answer, suppress
from tests.kit.soak import only_at_length
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

pytestmark = [needs("postgresql"), pytest.mark.soak]

CONSENTING, GONE = address("consent"), address("unsubscribed")
IN_TIME = 6.0  # seconds for a reply of the relay, with a timeout of 1 s, on a busy machine


ROWS = {
    "The primary is gone, or its connections are refused": "test_the_network_is_cut",
    "The standby took over": "test_the_primary_is_killed_and_the_standby_takes_over",
    "The old primary comes back, and accepts writes": (
        "test_the_old_primary_comes_back_and_nobody_fenced_it"
    ),
    "The network is silent, or the machine hangs": "test_the_network_is_silent",
    "The standby is lost, and commits wait for it": (
        "test_the_standby_is_lost_and_commits_wait_for_it"
    ),
    "Commits stop waiting for a standby": (
        "test_commits_stop_waiting_for_a_standby_that_relays_require"
    ),
    "There are too many connections": "test_there_are_too_many_connections",
    "Locks are held, by migrations or by hand": "test_a_table_is_locked",
    "The disk is full": "test_the_disk_is_full",
    # In tests/store/test_postgresql.py:
    "Writers collide": "test_writers_wait_for_each_other_in_a_serializable_database",
    "It lost its tables, or the rights to them": "test_missing_tables_make_the_store_unavailable",
}
"""The failures in docs/store.md, and their tests."""


def test_each_row_of_the_table_has_its_test() -> None:
    text = (REPOSITORY / "docs" / "store.md").read_text()
    table = text.partition("| what goes wrong |")[2].partition("\n\n")[0]
    rows = [row.partition("|")[2].partition("|")[0] for row in table.splitlines()[2:]]
    assert [row.partition(" (")[0].strip() for row in rows] == sorted(ROWS, key=text.index)
    tests = Path(__file__).read_text() + (REPOSITORY / "tests/store/test_postgresql.py").read_text()
    assert all(f"def {test}(" in tests for test in ROWS.values())


class Trouble:
    """A pair with two relays; remembers whose suppression was acknowledged."""

    def __init__(self, pair: PostgresPair, relays: Relays) -> None:
        self.pair = pair
        self.relays = relays
        self.each = relays.all
        self.acknowledged: list[str] = []
        self._numbers = iter(range(1_000))

    def suppress(self) -> bool:
        """Suppress a new person who consented; return whether that was acknowledged."""
        person = f"consent+{next(self._numbers)}@people.example"
        begun = time.monotonic()
        acknowledged = suppress(self.each[0], person)
        assert time.monotonic() - begun < IN_TIME
        if acknowledged:
            self.acknowledged.append(person)
        return acknowledged

    def answers(self, recipient: str = CONSENTING) -> list[int]:
        """The reply of each relay, which must come in time."""
        found = []
        for relay in self.each:
            begun = time.monotonic()
            found.append(answer(relay, recipient))
            assert time.monotonic() - begun < IN_TIME
        return found

    def stops_all(self) -> None:
        """Check that nobody is mailed, and that no refusal claims a reason."""
        assert self.answers() == [451, 451]
        assert self.answers(GONE) == [451, 451]
        assert not self.suppress()

    def is_over(self) -> None:
        """Check that both relays recover by themselves and no acknowledged suppression is lost."""
        wait_for(lambda: self.answers() == [250, 250], "the relays to recover")
        assert self.answers(GONE) == [550, 550]
        wait_for(self.suppress, "writes to recover")
        for person in self.acknowledged:
            assert all(is_suppressed(relay, person) for relay in self.each), person


def is_suppressed(relay: RelayProcess, person: str) -> bool:
    """The reason tells: these people have no record."""
    code, text = relay.send(marketing(to=person), person)
    return code == 550 and "suppressed_manual" in text


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory, mta: FakeUpstream) -> Iterator[Trouble]:
    pair = PostgresPair()
    relays = Relays(tmp_path_factory.mktemp("relays"), mta.address, pair)
    for name in ("one", "two"):
        relays.start(name, API)
    yield Trouble(pair, relays)
    relays.kill()
    pair.stop()


@pytest.fixture
def trouble(lasting: Trouble) -> Trouble:
    """A healthy pair with relays; whatever a test starts ends with it."""
    for relay in lasting.each:
        if not relay.alive:
            relay.start()
    assert lasting.suppress()
    lasting.is_over()
    return lasting


def test_the_primary_is_killed_and_the_standby_takes_over(trouble: Trouble) -> None:
    trouble.pair.primary.kill()
    trouble.stops_all()
    trouble.pair.fail_over()
    trouble.is_over()
    trouble.pair.rejoin()
    trouble.is_over()


@only_at_length
def test_the_old_primary_comes_back_and_nobody_fenced_it(trouble: Trouble) -> None:
    """It is the URL's first host, accepts writes, and does not know who objected."""
    pair = trouble.pair
    if pair.primary is not pair.servers[0]:
        pair.fail_over()
        pair.rejoin()
    pair.fail_over()
    trouble.is_over()
    old, one = pair.standby, trouble.each[0]
    old.start()
    assert trouble.answers() == [250, 250], "they must know the new primary"
    pair.end_connections()
    trouble.is_over()
    one.kill()
    one.start()  # it tries the old one first
    trouble.is_over()
    assert "is an old primary, on timeline" in one.output
    pair.network[pair.primary].cut()
    trouble.stops_all()
    one.kill()
    code, _, stderr = one.command("serve")
    assert (code, "is an old primary, on timeline" in stderr) == (1, True), stderr
    pair.network[pair.primary].mend()
    old.kill()  # it is fenced
    one.start()
    trouble.is_over()
    pair.rejoin()


def test_the_primary_falls_silent_and_the_standby_takes_over(trouble: Trouble) -> None:
    """Its machine is dead: nothing answers from its address, not even with an error."""
    old = trouble.pair.network[trouble.pair.primary]
    old.fall_silent()
    trouble.stops_all()
    trouble.pair.fail_over()
    trouble.is_over()
    trouble.each[0].kill()
    trouble.each[0].start()
    trouble.is_over()
    old.mend()
    trouble.pair.rejoin()
    trouble.is_over()


@only_at_length
def test_the_network_is_silent(trouble: Trouble) -> None:
    network = trouble.pair.network[trouble.pair.primary]
    network.fall_silent()
    trouble.stops_all()
    network.mend()
    trouble.is_over()


@only_at_length
def test_the_network_is_cut(trouble: Trouble) -> None:
    network = trouble.pair.network[trouble.pair.primary]
    network.cut()
    trouble.stops_all()
    network.mend()
    trouble.is_over()


@only_at_length
def test_the_standby_is_lost_and_commits_wait_for_it(trouble: Trouble) -> None:
    trouble.pair.standby.kill()
    assert trouble.answers() == [250, 250], "known suppressions must still hold"
    assert trouble.answers(GONE) == [550, 550]
    assert not trouble.suppress()
    assert not trouble.suppress()
    assert trouble.answers() == [250, 250]
    trouble.pair.standby.start()
    trouble.is_over()


@only_at_length
def test_there_are_too_many_connections(trouble: Trouble) -> None:
    network = trouble.pair.network[trouble.pair.primary]
    network.cut()  # the relays lose theirs, and others are faster
    with trouble.pair.primary.crowded():
        network.mend()
        trouble.stops_all()
    trouble.is_over()


@only_at_length
@pytest.mark.parametrize("table", ["store_state", "suppression"])
def test_a_table_is_locked(trouble: Trouble, table: str) -> None:
    with trouble.relays.locked(table):
        trouble.stops_all()
    trouble.is_over()


@only_at_length
def test_commits_stop_waiting_for_a_standby_that_relays_require(trouble: Trouble) -> None:
    for relay in trouble.each:
        relay.terminate()
        relay.config["store"]["require_synchronous"] = True
        relay.write_config()
        relay.start()
    trouble.is_over()
    trouble.pair.fail_over()
    trouble.stops_all()
    trouble.pair.rejoin()
    trouble.is_over()


@only_at_length
@needs("tmpfs")
def test_the_disk_is_full(tmp_path: Path, mta: FakeUpstream) -> None:
    """Known suppressions still hold, and no new one is acknowledged."""
    server = PostgresCluster(port=free_port())
    with tiny_disk(server.root / "small", "16m") as disk:
        server.own(disk)
        relays = Relays(tmp_path, mta.address, server)
        relays.sql(
            f"CREATE TABLESPACE small LOCATION '{disk}'",
            f"ALTER DATABASE {relays.name} SET default_tablespace = small",
        )
        relay = relays.start("one", API)
        filler = fill(disk)
        people = [f"consent+{n}@people.example" for n in range(2_000)]
        taken = list(takewhile(partial(suppress, relay), people))
        assert len(taken) < len(people)
        assert answer(relay, CONSENTING) == 250
        assert answer(relay, GONE) == 550
        assert all(is_suppressed(relay, person) for person in taken[-20:])
        filler.unlink()
        assert suppress(relay, people[len(taken)])
        relays.kill()
        server.stop()
