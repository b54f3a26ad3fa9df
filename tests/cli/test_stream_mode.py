"""`smtpproxy stream enforce` and `observe`: confirmed, written, and kept after a restart."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from smtpproxy.cli import main
from smtpproxy.cli.stream import NOT_RUNNING
from smtpproxy.config import load
from tests.cli.conftest import Bench
from tests.cli.stored import Stored
from tests.kit import messages, store
from tests.kit.relay import RelayProcess
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def mode(stored: Stored, stream: str) -> str:
    return str(load(stored.config_path).streams[stream].mode)


@pytest.mark.parametrize(
    ("answer", "becomes"), [("y\n", "observe"), ("n\n", "enforce"), ("", "enforce")]
)
def test_a_change_must_be_confirmed(stored: Stored, answer: str, becomes: str) -> None:
    arguments = ["stream", "observe", "offers", "--config", str(stored.config_path)]
    result = CliRunner().invoke(main, arguments, input=answer)
    assert mode(stored, "offers") == becomes
    assert "even to people who refused it" in result.stderr
    assert '[[stream]] offers: mode = "observe", was "enforce"' in result.stderr
    if becomes == "observe":
        assert result.exit_code == 0
        assert NOT_RUNNING in result.stdout
        assert "even to people" not in result.stdout, "it was already said before the question"
        assert stored.json("stream", "enforce", "offers", "--yes")["reloaded"] is False
    else:
        assert result.exit_code == 1
        assert "\nError: nothing was changed" in result.stderr


def test_a_mode_that_is_already_set_changes_nothing(stored: Stored) -> None:
    before = stored.config_path.read_bytes()
    assert "already" in stored.run("stream", "enforce", "offers", "--yes").stdout
    assert stored.json("stream", "enforce", "offers", "--yes")["changes"] == []
    assert stored.config_path.read_bytes() == before
    assert "there is no stream 'offer'" in stored.run("stream", "enforce", "offer", code=2).stderr


def test_from_observing_to_enforcing(tmp_path: Path) -> None:
    """The whole path: an observing relay reports what is ready, and then refuses."""
    with FakeUpstream() as upstream:
        relay = RelayProcess(tmp_path, upstream.address, {"policy": {"mode": "observe"}})
        bench = Bench(relay)
        bench.store(lambda people: store.fill(people, people, datetime.now(UTC)))
        with relay:
            for _ in range(20):
                assert relay.send(messages.marketing(), address("consent"))[0] == 250
            assert relay.send(messages.marketing(), address("complained"))[0] == 250
            out, _ = bench.run("stream", "enforce", "offers", "--yes", code=0)
            assert "offers: ready" in out
            assert "Of 21 recipients seen, 1 would not have been mailed" in out
            assert "The running relay has read it" in out
            assert relay.send(messages.marketing(), address("consent"))[0] == 250
            code, text = relay.send(messages.marketing(), address("complained"))
            assert (code, "suppressed_complaint" in text) == (550, True)
            data = bench.json("stream", "observe", "offers", "--yes", code=0)
            assert (data["written"], data["reloaded"]) == (True, True)
            assert data["changes"] == [
                {"table": "[[stream]] offers", "before": "enforce", "after": "observe"}
            ]
            assert relay.send(messages.marketing(), address("complained"))[0] == 250


def test_a_relay_with_another_configuration_is_not_reported_as_changed(tmp_path: Path) -> None:
    with FakeUpstream() as upstream, RelayProcess(tmp_path, upstream.address) as relay:
        copy = tmp_path / "copy.toml"
        copy.write_bytes(relay.config_path.read_bytes())
        arguments = ["stream", "observe", "offers", "--yes", "--config", str(copy)]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 1
        assert "uses a different file" in result.stdout
        assert "goes on as before" in result.stderr
