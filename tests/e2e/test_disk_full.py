"""No space for the record or for the body: 451 or 452, and nothing passes unrecorded."""

import smtplib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.audit import outcome, records, relayed
from tests.kit.disk import fill, tiny_disk
from tests.kit.messages import marketing, message
from tests.kit.parts import needs
from tests.kit.ports import LOOPBACK, wait_for
from tests.kit.relay import RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

pytestmark = needs("tmpfs")

Start = Callable[..., RelayProcess]


def config(state: Path, **more: Any) -> dict[str, Any]:
    return {
        "server": {"state_dir": str(state)},
        "store": {"url": f"sqlite://{state}/smtpproxy.db"},
        "listener": [
            listener("till", "receipts", default="receipts"),
            listener("shop", "offers", default="offers"),
        ],
        "web": {},
        **more,
    }


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture(params=["audit", "."], ids=["audit-alone", "with-the-store"])
def small(request: pytest.FixtureRequest, state: Path) -> Iterator[Path]:
    """A small disk for the journal, or for the whole state."""
    with tiny_disk(state / request.param, "1m") as disk:
        yield disk


def receipt(relay: RelayProcess) -> tuple[int, str]:
    return relay.send(
        message(), "jeanne@people.example", listener="till", sender="orders@shop.example"
    )


def until_refused(relay: RelayProcess) -> int:
    """Send until the journal's last page is full; return how many were accepted."""
    for count in range(50):
        code, text = receipt(relay)
        if code != 250:
            assert (code, text) == (451, "4.3.0 temporary_failure")
            return count
    raise AssertionError("the disk does not get full")


def test_nothing_passes_without_its_record(
    small: Path, state: Path, filled: Start, upstream: FakeUpstream
) -> None:
    relay = filled(upstream.address, config(state))
    assert receipt(relay)[0] == 250
    filler = fill(small)
    taken = 1 + until_refused(relay)
    assert receipt(relay) == (451, "4.3.0 temporary_failure")
    # Nor is anybody refused without a record.
    code, text = relay.send(marketing(), address("withdrawn"), listener="shop")
    assert (code, text) == (451, "4.3.0 temporary_failure")
    assert len(upstream.messages) == taken
    assert relay.metric("smtpproxy_failures_total", part="audit") == 3
    filler.unlink()
    assert receipt(relay)[0] == 250
    code, text = relay.send(marketing(), address("withdrawn"), listener="shop")
    assert (code, "consent_withdrawn" in text) == (550, True)
    assert len(upstream.messages) == taken + 1

    def outcomes() -> list[int | None]:
        return [outcome(entry) for entry in relayed(records(relay))]

    # The journal has whole lines only, and the outcomes from the time without space.
    wait_for(lambda: outcomes() == [250] * (taken + 1), "every outcome")


def test_observe_mode_lets_the_mail_pass_without_its_record(
    state: Path, filled: Start, upstream: FakeUpstream
) -> None:
    with tiny_disk(state / "audit", "256k") as disk:
        relay = filled(upstream.address, config(state, policy={"mode": "observe"}))
        filler = fill(disk)
        for _ in range(10):
            assert receipt(relay)[0] == 250
        assert len(upstream.messages) == 10
        lost = relay.metric("smtpproxy_failures_total", part="audit")
        assert lost >= 1
        filler.unlink()
        assert receipt(relay)[0] == 250
        wait_for(lambda: len(relayed(records(relay))) == 11 - lost, "the records")


def large() -> bytes:
    return message(body="x" * 76 + "\r\n") + (b"y" * 76 + b"\r\n") * 40_000


def test_a_body_without_room_is_deferred(
    state: Path, filled: Start, upstream: FakeUpstream
) -> None:
    with tiny_disk(state / "spool", "8m") as disk:
        relay = filled(upstream.address, config(state))
        filler = fill(disk)
        with smtplib.SMTP(LOOPBACK, relay.port("till"), timeout=30) as client:
            client.ehlo()
            for mail, expected in ((large(), 452), (message(), 250)):
                client.mail("orders@shop.example")
                client.rcpt("jeanne@people.example")
                code, text = client.data(mail)
                assert code == expected, text
        assert len(upstream.messages) == 1
        assert relay.metric("smtpproxy_failures_total", part="spool") == 1
        filler.unlink()
        code, _ = relay.send(large(), "jeanne@people.example", listener="till")
        assert code == 250
        assert upstream.messages[-1].data.endswith(large().partition(b"\r\n\r\n")[2])
        # The spool is empty again.
        assert list(disk.iterdir()) == []
