"""A relay and its commands behind PgBouncer, in session and in transaction mode."""

import smtplib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from tests.kit import postgres
from tests.kit.messages import marketing
from tests.kit.parts import needs
from tests.kit.pgbouncer import PgBouncer
from tests.kit.relays import Relays, answer
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

pytestmark = needs("postgresql", "pgbouncer")


@pytest.fixture
def relays(tmp_path: Path, upstream: FakeUpstream) -> Iterator[Relays]:
    relays = Relays(tmp_path, upstream.address, postgres.cluster())
    yield relays
    relays.kill()
    relays.server.drop(relays.name)


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_everything_works_as_without_it(
    relays: Relays, upstream: FakeUpstream, mode: Literal["session", "transaction"]
) -> None:
    prepares = mode == "session"
    with PgBouncer(relays.server, mode) as pooler:
        url = pooler.url(relays.name)
        relay = relays.prepare("one", url=url, prepared_statements=prepares)
        relays.sql("UPDATE schema_version SET version = version - 1")  # the release before
        code, said, _ = relay.command("check")
        assert code == 2
        assert "smtpproxy migrate brings it up to date" in said
        relays.sql("UPDATE schema_version SET version = version + 1")
        assert "up to date" in relay.must("migrate")
        assert relay.command("check")[0] == 0
        relay.start()
        known, gone = address("consent"), address("unsubscribed")
        assert (answer(relay, known), answer(relay, gone)) == (250, 550)
        with smtplib.SMTP("127.0.0.1", relay.port(), timeout=30) as client:
            client.ehlo()
            client.mail("news@shop.example")
            assert client.rcpt(known)[0] == 250
            relay.must("suppress", "add", known, "--scope", "all", "--origin", "complaint")
            assert client.data(marketing(to=known))[0] == 550
        assert answer(relay, known) == 550
        relay.must("suppress", "remove", known, "--all", "--reason", "added by mistake")
        assert answer(relay, known) == 250
        relay.must("purge")
        relay.must("contact", "export")
        assert len(upstream.messages) == 2
