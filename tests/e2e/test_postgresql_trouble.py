"""Two relays on a PostgreSQL pair in trouble, a test for each row of the table in docs/store.md.

Whatever happens, mail is answered 451 in time and never passed, no suppression that was
acknowledged is lost, and once it is over the relays go on by themselves.
"""

import time
from collections.abc import Iterator

import pytest

from tests.kit.parts import needs
from tests.kit.ports import wait_for
from tests.kit.postgres_pair import PostgresPair
from tests.kit.relays import API, Relays, answer, suppress
from tests.kit.soak import SOAK
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

pytestmark = [needs("postgresql"), pytest.mark.soak]
at_length = pytest.mark.skipif(not SOAK, reason="goes with make soak")

CONSENTING, GONE = address("consent"), address("unsubscribed")
IN_TIME = 6.0  # seconds for a reply of the relay, with a timeout of 1 s, on a busy machine


class Trouble:
    """A pair and two relays on it; who was acknowledged to be suppressed is remembered."""

    def __init__(self, pair: PostgresPair, relays: Relays) -> None:
        self.pair = pair
        self.relays = relays.all
        self.acknowledged = [GONE]
        self._numbers = iter(range(1_000))

    def suppress(self) -> bool:
        """Suppress somebody new who consented; whether that was acknowledged."""
        person = f"consent+{next(self._numbers)}@people.example"
        begun = time.monotonic()
        acknowledged = suppress(self.relays[0], person)
        assert time.monotonic() - begun < IN_TIME
        if acknowledged:
            self.acknowledged.append(person)
        return acknowledged

    def answers(self, recipient: str = CONSENTING) -> list[int]:
        """What each relay says, in time."""
        found = []
        for relay in self.relays:
            begun = time.monotonic()
            found.append(answer(relay, recipient))
            assert time.monotonic() - begun < IN_TIME
        return found

    def stops_all(self) -> None:
        """Nobody is mailed, and who may not be is not told so."""
        assert self.answers() == [451, 451]
        assert self.answers(GONE) == [451, 451]
        assert not self.suppress()

    def is_over(self) -> None:
        """Both relays go on by themselves, and nothing that was acknowledged is lost."""
        wait_for(lambda: self.answers() == [250, 250], "the relays to recover")
        for person in self.acknowledged:
            assert self.answers(person) == [550, 550], person
        wait_for(self.suppress, "writes to recover")
        assert self.answers(self.acknowledged[-1]) == [550, 550]


@pytest.fixture(scope="module")
def trouble(tmp_path_factory: pytest.TempPathFactory, mta: FakeUpstream) -> Iterator[Trouble]:
    pair = PostgresPair()
    relays = Relays(tmp_path_factory.mktemp("relays"), mta.address, pair)
    for name in ("one", "two"):
        relays.start(name, API)
    yield Trouble(pair, relays)
    relays.kill()
    pair.stop()


@pytest.fixture(autouse=True)
def as_usual(trouble: Trouble) -> None:
    assert trouble.suppress()
    trouble.is_over()


def test_the_old_primary_comes_back_and_nobody_fenced_it(trouble: Trouble) -> None:
    """It is the first of the URL's hosts, lets anybody write, and does not know who objected."""
    pair = trouble.pair
    assert pair.primary is pair.servers[0]
    pair.fail_over()
    trouble.is_over()
    old, (one, two) = pair.standby, trouble.relays
    old.start()
    assert trouble.answers() == [250, 250], "they know the new one"
    pair.end_connections()
    wait_for(lambda: trouble.answers() == [451, 451], "the relays to meet the old one")
    assert trouble.answers(trouble.acknowledged[-1]) == [451, 451]
    assert not trouble.suppress()
    one.kill()
    code, _, stderr = one.command("serve")
    assert (code, "is an old primary, on timeline" in stderr) == (1, True), stderr
    assert "is an old primary, on timeline" in two.output
    old.kill()  # it is fenced
    one.start()
    trouble.is_over()
    pair.rejoin()


@at_length
def test_the_primary_is_killed_and_the_standby_takes_over(trouble: Trouble) -> None:
    trouble.pair.primary.kill()
    trouble.stops_all()
    trouble.pair.fail_over()
    trouble.is_over()
    trouble.pair.rejoin()
    trouble.is_over()


@at_length
def test_the_network_is_silent(trouble: Trouble) -> None:
    network = trouble.pair.network[trouble.pair.primary]
    network.fall_silent()
    trouble.stops_all()
    network.mend()
    trouble.is_over()


@at_length
def test_the_network_is_cut(trouble: Trouble) -> None:
    network = trouble.pair.network[trouble.pair.primary]
    network.cut()
    trouble.stops_all()
    network.mend()
    trouble.is_over()


@at_length
def test_the_standby_is_lost_and_commits_wait_for_it(trouble: Trouble) -> None:
    trouble.pair.standby.kill()
    assert trouble.answers() == [250, 250], "what is known goes on to hold"
    assert trouble.answers(GONE) == [550, 550]
    assert not trouble.suppress()
    assert not trouble.suppress()
    assert trouble.answers() == [250, 250]
    trouble.pair.standby.start()
    trouble.is_over()
