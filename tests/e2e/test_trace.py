"""The Received field that the relay adds, and mail loops."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.kit.audit import records
from tests.kit.messages import message
from tests.kit.parts import needs
from tests.kit.ports import wait_for
from tests.kit.postfix import PostfixInstance
from tests.kit.relay import RelayProcess, listener
from tests.kit.upstream import FakeUpstream


def till() -> list[dict[str, Any]]:
    return [listener("till", "receipts", default="receipts")]


@pytest.fixture(scope="module")
def relay(mta: FakeUpstream, filled: Callable[..., RelayProcess]) -> RelayProcess:
    return filled(mta.address, {"listener": till()})


def test_it_names_a_single_recipient_and_the_decision(
    relay: RelayProcess, mta: FakeUpstream
) -> None:
    relay.send(message(message_id="<one@shop.example>"), "Jeanne@People.example")
    found = re.match(
        rb"Received: from client\.example \(\[127\.0\.0\.1\]\)\r\n"
        rb"\tby relay\.example \(smtpproxy\) with ESMTP id ([0-9A-Z]{26})\r\n"
        rb"\tfor <Jeanne@People\.example>;\r\n",
        mta.messages[-1].data,
    )
    assert found is not None, mta.messages[-1].data
    (entry,) = [e for e in records(relay) if e.decided.message_id == "<one@shop.example>"]
    assert entry.decided.id == found[1].decode()


def test_it_does_not_name_several_recipients(relay: RelayProcess, mta: FakeUpstream) -> None:
    """A blind copy stays blind."""
    relay.send(message(), "jeanne@people.example", "blind@people.example")
    trace = mta.messages[-1].data.partition(b"From: ")[0]
    assert mta.messages[-1].recipients == ("jeanne@people.example", "blind@people.example")
    assert b"smtpproxy" in trace
    assert b"blind" not in trace
    assert b"for <" not in trace


def hops(count: int) -> bytes:
    field = b"Received: from a.example by b.example;\r\n\tMon, 5 Jan 2026 09:00:00 +0000\r\n"
    return field * count + message()


def test_a_message_in_a_loop_is_refused(relay: RelayProcess, mta: FakeUpstream) -> None:
    before = len(mta.messages)
    code, text = relay.send(hops(100), "jeanne@people.example")
    assert (code, text[:5]) == (554, "5.4.6")
    assert len(mta.messages) == before
    assert relay.send(hops(99), "jeanne@people.example")[0] == 250
    assert len(mta.messages) == before + 1


@needs("postfix")
def test_a_real_loop_ends(filled: Callable[..., RelayProcess]) -> None:
    """A Postfix whose relayhost is the relay whose upstream is that Postfix."""
    (door,) = till()
    with PostfixInstance(relayhost=door["address"], main={"hopcount_limit": "1000"}) as looping:
        filled(looping.address, {"listener": [door]})
        looping.submit(message(), "orders@shop.example", ["jeanne@people.example"])
        wait_for(
            lambda: "said: 554 5.4.6 mail loop" in looping.log,
            "the end of the loop",
            timeout=60,
        )
        rounds = looping.log.count("to=<jeanne@people.example>")
        assert 40 <= rounds <= 60  # each adds one or two Received fields
        looping.wait_empty()
