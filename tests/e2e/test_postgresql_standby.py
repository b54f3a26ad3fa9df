"""A relay that answers RCPT from a PostgreSQL standby, but never makes its last check there."""

import json
import smtplib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kit.messages import marketing
from tests.kit.parts import needs
from tests.kit.ports import wait_for
from tests.kit.postgres import PostgresCluster
from tests.kit.relay import RelayProcess
from tests.kit.relays import Relays, answer
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

pytestmark = needs("postgresql")


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


@pytest.fixture
def server(primary: PostgresCluster) -> PostgresCluster:
    return primary


def reading(relays: Relays, standby: PostgresCluster, name: str = "one") -> RelayProcess:
    relay = relays.prepare(name, max_replica_lag="0.5s", replica_url=standby.url(relays.name))
    relay.start()
    assert answer(relay, address("consent")) == 250
    wait_for(lambda: used(relay), "the standby to be read from")
    return relay


def used(relay: RelayProcess) -> bool:
    return status(relay)["used"] is True


def reads(relay: RelayProcess) -> int:
    return int(status(relay)["reads"].get("standby", 0))


def status(relay: RelayProcess) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(relay.must("status", "--json"))["replica"]
    return found


@contextmanager
def cut_off(standby: PostgresCluster) -> Iterator[None]:
    """Keep the standby answering but cut off from new commits."""
    standby.sql("postgres", "SELECT pg_wal_replay_pause()")
    try:
        yield
    finally:
        standby.sql("postgres", "SELECT pg_wal_replay_resume()")


def test_a_suppression_unknown_to_the_standby_is_obeyed(
    relays: Relays, standby: PostgresCluster, upstream: FakeUpstream
) -> None:
    relay = reading(relays, standby)
    known, gone = address("consent"), address("unsubscribed")
    before = reads(relay)
    assert (answer(relay, known), answer(relay, gone)) == (250, 550)
    assert reads(relay) == before + 2
    mailed = len(upstream.messages)
    with cut_off(standby), smtplib.SMTP("127.0.0.1", relay.port(), timeout=30) as client:
        client.ehlo()
        client.mail("news@shop.example")
        assert client.rcpt(known)[0] == 250
        relay.must("suppress", "add", known, "--scope", "all", "--origin", "complaint")
        assert client.data(marketing(to=known))[0] == 550
        wait_for(lambda: not used(relay), "the relay to notice the lag")
        assert answer(relay, known) == 550
        assert status(relay)["lag_seconds"] > 0.5
        assert "not read from" in relay.must("status")
    assert len(upstream.messages) == mailed
    wait_for(lambda: used(relay), "it to be read from again")
    assert answer(relay, known) == 550
    relay.must("suppress", "remove", known, "--all", "--reason", "added by mistake")
    assert answer(relay, known) == 250  # at once, whatever the standby has by then


def test_commands_report_the_state_of_the_standby(
    relays: Relays, primary: PostgresCluster, standby: PostgresCluster, tmp_path: Path
) -> None:
    relay = relays.prepare("one", replica_url=standby.url(relays.name))

    def told(url: str) -> tuple[str, int, str]:
        relay.config["store"]["replica_url"] = url
        relay.write_config()
        _, found, _ = relay.command("doctor", "--only", "replica", "--json")
        (finding,) = json.loads(found)["findings"]
        code, stdout, stderr = relay.command("check")
        return finding["status"], code, stdout + stderr

    own = standby.url(relays.name)
    wait_for(lambda: told(own)[0] == "pass", "it to have all")
    assert told(own)[1] == 0
    state, code, text = told(primary.url(relays.name) + "&application_name=second")
    assert (state, code) == ("warn", 0)
    assert "names a primary, not a standby; RCPT is answered from the primary meanwhile" in text
    state, code, text = told(own.replace(str(standby.root), str(tmp_path)))
    assert (state, code) == ("warn", 0)
    state, code, text = told(standby.url(relays.name, user="nobody"))
    assert (state, code) == ("warn", 0)
    assert "store.replica_url: the database refuses the login" in text
    with cut_off(standby):
        relay.must("suppress", "add", "x@people.example", "--scope", "all", "--origin", "manual")
        state, code, text = told(own)
        assert (state, code) == ("warn", 0)
        assert "more than 1 s behind the primary" in text
    other = relays.server.create()
    wait_for(lambda: told(standby.url(other))[:2] == ("fail", 2), "it to have that database too")
    text = told(standby.url(other))[2]
    assert f"store.replica_url: database {other}, store.url has {relays.name}" in text
    another = PostgresCluster(own_identifier=True)
    try:
        state, code, text = told(another.url("postgres"))
    finally:
        another.stop()
    assert (state, code) == ("fail", 2)
    assert "a server of another database (system identifier" in text
