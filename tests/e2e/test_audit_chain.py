"""The chain of the audit log under load, with workers killed and a person erased."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.kit.audit import folder, records, relayed
from tests.kit.journal import segments
from tests.kit.load import SmtpSink
from tests.kit.messages import message
from tests.kit.numbered import NumberedLoad
from tests.kit.parts import needs
from tests.kit.ports import wait_for
from tests.kit.relay import RelayProcess, listener

pytestmark = needs("smtp-sink")


@pytest.fixture
def relay(filled: Callable[..., RelayProcess]) -> Iterator[RelayProcess]:
    till = listener("till", "receipts", default="receipts")
    with SmtpSink() as sink:
        yield filled(sink.address, {"server": {"workers": 2}, "listener": [till]})


def verified(relay: RelayProcess, *arguments: str, code: int = 0) -> Any:
    found, stdout, stderr = relay.command("audit", "verify", "--json", *arguments)
    assert found == code, stdout + stderr
    return json.loads(stdout)


def everything(relay: RelayProcess) -> bytes:
    return b"".join(path.read_bytes() for path in segments(folder(relay)))


def test_the_chain_holds_whatever_happens_to_the_relay(relay: RelayProcess) -> None:
    with NumberedLoad(relay.port(), sessions=6) as load:
        load.wait_accepted(200)
        assert verified(relay)["decisions"] >= 200
        os.kill(relay.workers[0], signal.SIGKILL)
        load.wait_accepted(200)
        relay.kill()
    relay.start()
    with NumberedLoad(relay.port(), messages=50) as load:
        load.finish()
    assert relay.terminate() == 0
    found = verified(relay, "--anchors", str(relay.root / "relay.log"))
    assert found["sound"]
    assert found["decisions"] == len(records(relay))
    assert found["compared"] >= 2, "the log must have the first and last anchors"
    assert found["heads"].keys() <= {"0", "1"}, "restarted workers must continue the same chain"


def test_a_person_is_erased_while_the_relay_is_busy(relay: RelayProcess) -> None:
    """Nobody else's mail is delayed, lost or missing from the record."""
    paul = b"paul@people.example"
    relay.send(message(), paul.decode(), sender="orders@shop.example")
    before = len(segments(folder(relay)))
    with NumberedLoad(relay.port(), sessions=6) as load:
        load.wait_accepted(100)
        assert paul in everything(relay)
        out = relay.must("contact", "erase", paul.decode())
        assert "\naudit log: 1 row is pseudonymised\n" in out
        load.wait_accepted(100)
        fates = load.stop()
    assert {fate.code for fate in fates} == {250}
    assert paul not in everything(relay)
    assert len(segments(folder(relay))) > before, "the relay must continue in new files"
    assert len(relayed(records(relay))) == len(fates) + 1
    wait_for(lambda: all(r.outcome for r in relayed(records(relay))), "the outcomes on record")
    found = verified(relay)
    assert (found["sound"], found["erased"]) == (True, 1)
