"""Refusals link to help, at every intake, within the line length of RFC 5321."""

from typing import Any

import pytest
from msgspec.structs import replace

from smtpproxy.core.explanation import recall
from smtpproxy.sinks.audit.reader import Record
from tests.intake.conftest import Listen
from tests.intake.listening import Intake
from tests.kit.messages import marketing, message
from tests.kit.mta import mta
from tests.kit.policy import policy_client
from tests.kit.relay import STREAMS

HELP = "https://consent.example.com/why"
CONFIG = {"policy": {"help_url": f"{HELP}/"}}
CERTAIN = {"streams": ["offers"], "default_stream": "offers"}
WITHDRAWN = "withdrawn@people.example"
NAMED = f"550 5.7.1 <{WITHDRAWN}> refused: consent_withdrawn (stream offers) id="
LONG = f"{'x' * 64}@{'y' * 61}.{'y' * 61}.{'y' * 57}.example"


def helping(reply: str, reason: str) -> bool:
    """Whether the reply ends with the id and the page's address, in a valid line."""
    before, _, url = reply.partition(" see ")
    assert len(reply) + len("\r\n") <= 511
    assert len(before.rpartition(" id=")[2]) == 26
    return url == f"{HELP}/{reason}"


@pytest.fixture(params=["smtp", "lmtp"])
def relay(request: pytest.FixtureRequest, listen: Listen) -> tuple[Intake, str]:
    return listen(CONFIG, protocol=request.param, **CERTAIN), request.param


def test_refusals_by_the_relay_link_to_help(relay: tuple[Intake, str]) -> None:
    intake, protocol = relay
    with intake.client() as client:
        client.reply()
        client.say("LHLO client.example" if protocol == "lmtp" else "EHLO client.example")
        client.say("MAIL FROM:<news@shop.example>")
        reply = client.say(f"RCPT TO:<{WITHDRAWN}>")
        assert reply.startswith(NAMED)
        assert helping(reply, "consent_withdrawn")
        assert client.say("RCPT TO:<consent@people.example>").startswith("250 ")
        assert client.say("DATA").startswith("354 ")
        reply = client.say(message(), b".\r\n")
        assert reply.startswith("550 5.7.0 refused: unsubscribe_missing (stream offers) id=")
        assert helping(reply, "unsubscribe_missing")
    assert [one.help_url for one in intake.records.decided] == [HELP, HELP]


def test_recorded_replies_keep_their_link(listen: Listen) -> None:
    """Whatever the configuration says later."""
    intake = listen(CONFIG, **CERTAIN)
    with intake.client() as client:
        client.greet()
        client.say("MAIL FROM:<news@shop.example>")
        told = client.say(f"RCPT TO:<{WITHDRAWN}>")
        client.say("RCPT TO:<consent@people.example>")
        client.say("DATA")
        told_of_all = client.say(message(), b".\r\n")
    explained = recall([Record(one) for one in intake.records.decided], {})
    assert str(explained.recipients[0].reply) == told
    assert str(explained.message_reply) == told_of_all
    before = [Record(replace(one, help_url="")) for one in intake.records.decided]
    assert " see " not in str(recall(before, {}).recipients[0].reply)


def test_a_refusal_of_several_at_the_end_links_to_help(listen: Listen) -> None:
    intake = listen(CONFIG)
    with intake.client() as client:
        client.greet()
        client.say("MAIL FROM:<news@shop.example>")
        for name in ("withdrawn", "nothing", "consent"):
            assert client.say(f"RCPT TO:<{name}@people.example>").startswith("250 ")
        assert client.say("DATA").startswith("354 ")
        reply = client.say(marketing(), b".\r\n")
    assert f"<{WITHDRAWN}> consent_withdrawn, <nothing@people.example> consent_missing" in reply
    assert helping(reply, "consent_withdrawn")


def test_refusals_by_the_milter_link_to_help(listen: Listen) -> None:
    milter = listen(CONFIG, protocol="milter", **CERTAIN)
    with mta(milter.port) as peer:
        peer.negotiate()
        peer.connect()
        peer.mail("news@shop.example")
        reply = peer.rcpt(WITHDRAWN).reply
        assert reply.startswith(NAMED)
        assert helping(reply, "consent_withdrawn")


def test_refusals_by_policy_delegation_link_to_help(listen: Listen) -> None:
    policy = listen(CONFIG, protocol="policy", **CERTAIN)
    with policy_client(policy.port) as peer:
        peer.mail()
        action = peer.rcpt(WITHDRAWN)
        assert action.startswith(NAMED)
        assert helping(action, "consent_withdrawn")


@pytest.mark.parametrize("protocol", ["smtp", "lmtp", "milter", "policy"])
@pytest.mark.parametrize(("name", "fits"), [("o" * 10, True), ("o" * 60, False)])
def test_a_line_that_would_be_too_long_omits_the_link(
    listen: Listen, protocol: str, name: str, fits: bool
) -> None:
    """The recipient's address is still given in full."""
    url = "https://" + "h" * 60 + "." + "h" * 55 + ".com"
    config: dict[str, Any] = {"policy": {"help_url": url}, "stream": [{**STREAMS[0], "name": name}]}
    intake = listen(config, protocol=protocol, streams=[name], default_stream=name)
    if protocol == "policy":
        with policy_client(intake.port) as peer:
            peer.mail()
            reply = peer.rcpt(LONG)
    elif protocol == "milter":
        with mta(intake.port) as sender:
            sender.negotiate()
            sender.connect()
            sender.mail("news@shop.example")
            reply = sender.rcpt(LONG).reply
    else:
        with intake.client() as client:
            client.reply()
            client.say("LHLO c.example" if protocol == "lmtp" else "EHLO c.example")
            client.say("MAIL FROM:<news@shop.example>")
            reply = client.say(f"RCPT TO:<{LONG}>")
    assert f"<{LONG}> refused: no_record (stream {name}) id=" in reply
    assert len(reply) + 2 <= 511
    assert reply.endswith(f" see {url}/no_record") == fits
    assert (" see " in reply) == fits
