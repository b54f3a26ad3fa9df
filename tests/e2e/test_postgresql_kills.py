"""Two relays on a PostgreSQL pair under load, with parts killed all the time: whatever anybody was
told holds.

`make soak TESTS=tests/e2e/test_postgresql_kills.py`, with `SMTPPROXY_TEST_SEED` for the same kills
once more.
"""

import asyncio
import os
import random
import signal
import smtplib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from smtpproxy.settings import StoreSettings
from smtpproxy.store import open_store
from tests.kit.accounts import NUMBERED, Clients, faults, summary
from tests.kit.audit import records
from tests.kit.load import SmtpSink
from tests.kit.numbered import number_of
from tests.kit.parts import needs
from tests.kit.ports import LOOPBACK, wait_for
from tests.kit.postgres_pair import PostgresPair
from tests.kit.processes import descendants
from tests.kit.relay import RelayProcess
from tests.kit.relays import API, Relays, answer
from tests.kit.soak import only_at_length
from tests.kit.store import address, people

pytestmark = [
    needs("postgresql", "smtp-sink"),
    pytest.mark.soak,
    only_at_length,
]

KILLS = int(os.environ.get("SMTPPROXY_TEST_KILLS", "200"))
PEOPLE = [address(f"p{n}") for n in range(4_000)]


class World:
    """Everything that may be killed, each in its way, and restarted as an operator would."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.pair = PostgresPair()
        self.sinks = [SmtpSink(dump=True), SmtpSink(dump=True)]
        for sink in self.sinks:
            sink.start()
        self._relays = Relays(folder, self.sinks[0].address, self.pair)
        self._chance = chance
        config = {**API, "server": {"workers": 2}}
        config["token"] = [{**API["token"][0], "requests_per_minute": 100_000}]
        for name, sink in zip(("one", "two"), self.sinks, strict=True):
            self._relays.prepare(name, {**config, "upstream": {"address": sink.address}})
        _fill(self.pair.url(self._relays.name), self.relays[0].root / "state")
        for relay in self.relays:
            relay.start()

    @property
    def relays(self) -> list[RelayProcess]:
        return self._relays.all

    def kill_worker(self) -> None:
        self._kill_one(self._chance.choice(self.relays).workers)

    def kill_web(self) -> None:
        self._kill_one(self._chance.choice(self.relays).children("web"))

    def kill_relay(self) -> None:
        relay = self._chance.choice(self.relays)
        relay.kill()
        self._pause()
        _start(relay)

    def kill_sink(self) -> None:
        sink = self._chance.choice(self.sinks)
        sink.stop()
        self._pause()
        sink.start()

    def kill_primary(self) -> None:
        self.pair.primary.kill()
        self._pause()
        self.pair.primary.start()

    def kill_backend(self) -> None:
        """PostgreSQL then ends all other backends and recovers as after a crash."""
        self._kill_one(descendants(self.pair.primary.pid))

    def kill_standby(self) -> None:
        self.pair.standby.kill()
        self._pause()
        self.pair.standby.start()

    def fail_over(self) -> None:
        self.pair.fail_over()
        self._pause()
        self.pair.rejoin()

    def silence(self) -> None:
        network = self.pair.network[self.pair.primary]
        network.fall_silent()
        time.sleep(self._chance.uniform(0.5, 3.0))
        network.mend()

    def _kill_one(self, pids: list[int]) -> None:
        with suppress(ProcessLookupError, IndexError):
            os.kill(self._chance.choice(pids), signal.SIGKILL)

    def _pause(self) -> None:
        time.sleep(self._chance.uniform(0.0, 1.0))

    def at_sinks(self) -> Counter[int]:
        mails = [mail.message for sink in self.sinks for mail in sink.dumped()]
        return Counter(number_of(mail) for mail in mails if NUMBERED.encode() in mail)

    def stop(self) -> None:
        self._relays.kill()
        for sink in self.sinks:
            sink.stop()
        self.pair.stop()


def _fill(url: str, state_dir: Path) -> None:
    someone = people(datetime.now(UTC))["consent"].contact

    async def put() -> None:
        store = open_store(StoreSettings(url, timeout=30.0), state_dir)
        await store.put_contacts([replace(someone, address=each) for each in PEOPLE])
        await store.close()

    asyncio.run(put())


def _start(relay: RelayProcess) -> None:
    """Start like systemd: without its database the relay ends and is started again."""

    def starts() -> bool:
        with suppress(AssertionError):
            relay.start()
            return True
        relay.kill()
        return False

    wait_for(starts, "the relay to start", timeout=90, every=0.5)


def _recovers(relay: RelayProcess) -> None:
    wait_for(lambda: answer(relay, address("consent")) == 250, "the relay to recover", timeout=90)


def _not_suppressed(relay: RelayProcess, persons: list[str]) -> list[str]:
    found = []
    for some in (persons[at : at + 10] for at in range(0, len(persons), 10)):
        with smtplib.SMTP(LOOPBACK, relay.port(), timeout=60) as client:
            client.ehlo("client.example")
            client.mail("news@shop.example")
            found += [one for one in some if b"suppressed_manual" not in client.rcpt(one)[1]]
    return found


@pytest.fixture
def seed() -> int:
    return int(os.environ.get("SMTPPROXY_TEST_SEED") or random.randrange(2**32))


@pytest.fixture
def world(tmp_path: Path, seed: int) -> Iterator[World]:
    world = World(tmp_path, random.Random(seed))
    yield world
    world.stop()


@pytest.mark.timeout(3_600)
def test_whatever_anybody_was_told_holds(world: World, seed: int) -> None:
    print(f"SMTPPROXY_TEST_SEED={seed}")
    chance = random.Random(seed)
    ways: list[Callable[[], None]] = [
        world.kill_worker, world.kill_web, world.kill_relay, world.kill_sink, world.kill_primary,
        world.kill_backend, world.kill_standby, world.fail_over, world.silence,
    ]  # fmt: skip
    killed: Counter[str] = Counter()
    with Clients(world.relays, PEOPLE, seed) as clients:
        while killed.total() < KILLS:
            time.sleep(chance.uniform(0.05, 0.5))
            way = chance.choice(ways)
            way()
            killed[way.__name__] += 1
        for relay in world.relays:
            _recovers(relay)
        time.sleep(2)
    at_sinks = world.at_sinks()
    print(dict(killed), summary(clients, at_sinks), sep="\n")
    journals = [entry for relay in world.relays for entry in records(relay)]
    found = faults(clients, at_sinks, journals)
    assert not found, "\n".join([f"{len(found)} faults", *found[:20]])
    for relay in world.relays:
        assert _not_suppressed(relay, list(clients.acknowledged)) == []
    for relay in world.relays:
        relay.must("audit", "verify")
