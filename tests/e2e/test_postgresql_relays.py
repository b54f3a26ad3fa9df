"""Relays on one PostgreSQL: what must happen once happens once, whichever relay does it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.parts import needs
from tests.kit.ports import wait_for
from tests.kit.receiver import Receiver, receiver
from tests.kit.relay import RelayProcess
from tests.kit.relays import Relays, answer
from tests.kit.store import address

pytestmark = needs("postgresql")


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[Receiver]:
    with receiver(tmp_path) as running:
        yield running


def told(crm: Receiver) -> list[int]:
    return [change["seq"] for delivery in list(crm.deliveries) for change in delivery.changes]


def suppress(relay: RelayProcess, *people: str) -> None:
    for person in people:
        relay.must("suppress", "add", person, "--scope", "all", "--origin", "manual")


def test_a_webhook_of_two_relays_is_called_once(relays: Relays, crm: Receiver) -> None:
    config = {"webhook": [crm.table()]}
    one, two = relays.start("one", config), relays.start("two", config)
    listed = lambda: json.loads(one.must("webhook", "list", "--json"))  # noqa: E731
    wait_for(lambda: listed()[0]["position"] is not None, "the webhook to begin")
    people = [f"p{n}@people.example" for n in range(6)]
    suppress(one, *people[:3])
    suppress(two, *people[3:])
    wait_for(lambda: len(set(told(crm))) == 6, "all to be told")
    wait_for(lambda: listed()[0]["position"] == max(told(crm)), "that to be noted")
    assert one.terminate() == 0
    suppress(two, "q@people.example")
    wait_for(lambda: len(set(told(crm))) == 7, "the other relay to take over")
    assert len(told(crm)) == 7, "each change once"


def test_locks_and_lost_connections_mean_451_in_time_and_pass(relays: Relays) -> None:
    one, two = relays.start("one"), relays.start("two")
    known, gone = address("consent"), address("unsubscribed")
    assert (answer(one, known), answer(two, gone)) == (250, 550)
    for table in ("suppression", "contact", "suppression_key"):
        with relays.locked(table):
            assert (answer(one, known), answer(two, gone)) == (451, 451), table
        assert (answer(one, known), answer(two, gone)) == (250, 550), table
    relays.sql(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE application_name = 'smtpproxy'"
    )
    assert answer(one, known) in (250, 451)
    assert answer(two, gone) in (550, 451)
    wait_for(lambda: answer(one, known) == 250, "the relay to recover")
    assert answer(two, gone) == 550
