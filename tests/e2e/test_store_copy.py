"""A running relay's store is copied: the relay answers 451 until it uses the copy."""

import json
from datetime import UTC, datetime
from pathlib import Path

from tests.kit import postgres
from tests.kit.parts import needs
from tests.kit.relay import RelayProcess
from tests.kit.relays import answer
from tests.kit.store import address, fill_database
from tests.kit.upstream import FakeUpstream

pytestmark = needs("postgresql")


def test_a_relay_whose_store_was_copied_answers_451_until_it_uses_the_copy(
    tmp_path: Path, upstream: FakeUpstream
) -> None:
    old = f"sqlite://{tmp_path}/old.db"
    new = postgres.cluster().url(postgres.cluster().create(postgres.template()))
    people = address("consent"), address("withdrawn")
    (tmp_path / "one").mkdir()
    relay = RelayProcess(tmp_path / "one", upstream.address, {"store": {"url": old}})
    fill_database(old, relay.root / "state", datetime.now(UTC))
    relay.start()
    try:
        before = [answer(relay, one) for one in people]
        assert before[0] == 250
        told = json.loads(relay.must("store", "copy", old, new, "--json"))
        assert told["tables"]["contact"]["rows"] > 10
        assert {answer(relay, one) for one in people} == {451}
        order = ("suppress", "add", people[0], "--scope", "all", "--origin", "manual")
        code, _, stderr = relay.command(*order)
        assert code == 2
        assert "was copied to" in stderr
        assert "smtpproxy store reopen" in stderr
        relay.must("store", "reopen", old)
        assert [answer(relay, one) for one in people] == before
    finally:
        relay.kill()
