"""Observe mode: the mail passes, and what would have happened is on record."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.kit.audit import records
from tests.kit.messages import marketing, message
from tests.kit.relay import STREAMS, RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

StartFilled = Callable[..., RelayProcess]

TRIAL = {"name": "trial", "class": "marketing", "purpose": "offers", "mode": "observe"}


def listeners() -> list[dict[str, Any]]:
    return [
        listener("apps", "offers", "receipts", default="offers"),
        listener("trial", "trial", default="trial"),
        listener("both", "trial", "offers", default="trial"),
        listener("strangers"),
    ]


@pytest.fixture(scope="module")
def observing(mta: FakeUpstream, filled: StartFilled) -> RelayProcess:
    everything = {"policy": {"mode": "observe"}, "web": {}, "stream": [*STREAMS, TRIAL]}
    return filled(mta.address, {"listener": listeners(), **everything})


@pytest.fixture(scope="module")
def enforcing(mta: FakeUpstream, filled: StartFilled) -> RelayProcess:
    """A relay that observes only the stream `trial`."""
    return filled(mta.address, {"listener": listeners(), "stream": [*STREAMS, TRIAL], "web": {}})


def observed(relay: RelayProcess, stream: str, reason: str) -> float:
    return relay.metric("smtpproxy_observed_refusals_total", stream=stream, reason=reason)


def check_passes(
    relay: RelayProcess, mta: FakeUpstream, mail: bytes, *names: str, via: str
) -> None:
    before = len(mta.messages)
    code, text = relay.send(mail, *map(address, names), listener=via)
    assert (code, text) == (250, "2.0.0 queued as FAKE")
    (passed,) = mta.messages[before:]
    assert passed.recipients == tuple(map(address, names))


def test_everything_passes_and_is_counted(observing: RelayProcess, mta: FakeUpstream) -> None:
    check_passes(observing, mta, marketing(), "consent", "withdrawn", "complained", via="apps")
    assert observed(observing, "offers", "consent_withdrawn") == 1
    assert observed(observing, "offers", "suppressed_complaint") == 1
    assert observing.metric("smtpproxy_undecided_total") == 0
    assert observing.metric("smtpproxy_observe_mode", stream="offers") == 1
    *_, entry = records(observing, recipient=address("complained"))
    assert (entry.decided.observed, entry.decided.relayed) == (True, True)
    reasons = [recipient.verdict.reason for recipient in entry.decided.recipients]
    assert reasons == ["none", "consent_withdrawn", "suppressed_complaint"]


def test_faulty_messages_pass_too(observing: RelayProcess, mta: FakeUpstream) -> None:
    check_passes(observing, mta, message(), "consent", via="apps")
    assert observed(observing, "offers", "unsubscribe_missing") == 1
    check_passes(observing, mta, message(sender="X <x@elsewhere.example>"), "desk", via="apps")
    assert observed(observing, "offers", "sender_not_permitted") == 1
    check_passes(observing, mta, marketing(), "stranger", via="strangers")
    assert observed(observing, "default", "no_record") == 1


def test_a_single_stream_can_be_observed(enforcing: RelayProcess, mta: FakeUpstream) -> None:
    check_passes(enforcing, mta, marketing(), "withdrawn", "stranger", via="trial")
    assert observed(enforcing, "trial", "consent_withdrawn") == 1
    assert observed(enforcing, "trial", "no_record") == 1
    *_, entry = records(enforcing, stream="trial")
    assert (entry.decided.observed, entry.decided.relayed) == (True, True)


def test_the_other_streams_stay_enforced(enforcing: RelayProcess, mta: FakeUpstream) -> None:
    before = len(mta.messages)
    code, text = enforcing.send(marketing(), address("withdrawn"), listener="apps")
    assert code == 550
    assert "consent_withdrawn" in text
    # An observed default stream lets recipients through at RCPT, not the message at the end.
    code, text = enforcing.send(marketing(stream="offers"), address("withdrawn"), listener="both")
    assert code == 550
    assert re.search(r"consent_withdrawn \(stream offers\)", text)
    assert len(mta.messages) == before
    assert observed(enforcing, "offers", "consent_withdrawn") == 0
    check_passes(enforcing, mta, marketing(), "withdrawn", via="both")
