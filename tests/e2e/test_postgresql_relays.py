"""Relays on one PostgreSQL: what has to be done once is done once, whichever relay does it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.parts import needs
from tests.kit.ports import wait_for
from tests.kit.postgres import PostgresCluster
from tests.kit.receiver import Receiver, receiver
from tests.kit.relay import RelayProcess
from tests.kit.relays import Relays
from tests.kit.upstream import FakeUpstream

pytestmark = needs("postgresql")


@pytest.fixture
def relays(tmp_path: Path, upstream: FakeUpstream) -> Iterator[Relays]:
    server = PostgresCluster()
    relays = Relays(tmp_path, upstream.address, server)
    yield relays
    relays.kill()
    server.stop()


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[Receiver]:
    with receiver(tmp_path) as running:
        yield running


def told(crm: Receiver) -> list[int]:
    return [change["seq"] for delivery in list(crm.deliveries) for change in delivery.changes]


def suppress(relay: RelayProcess, *people: str) -> None:
    for person in people:
        relay.must("suppress", "add", person, "--scope", "all", "--origin", "manual")


def test_a_webhook_of_two_relays_is_told_once(relays: Relays, crm: Receiver) -> None:
    config = {"webhook": [crm.table()]}
    one, two = relays.start("one", config), relays.start("two", config)
    listed = lambda: json.loads(one.must("webhook", "list", "--json"))  # noqa: E731
    wait_for(lambda: listed()[0]["position"] is not None, "the webhook to begin")
    people = [f"p{n}@people.example" for n in range(6)]
    suppress(one, *people[:3])
    suppress(two, *people[3:])
    wait_for(lambda: len(set(told(crm))) == 6, "all to be told")
    assert one.terminate() == 0
    suppress(two, "q@people.example")
    wait_for(lambda: len(set(told(crm))) == 7, "the other one to go on")
    assert len(told(crm)) == 7, "each of them once"
