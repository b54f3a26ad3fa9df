"""The attacker is one client among many, and tries to take the whole relay."""

import json
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.events import Failed, Limited
from tests.intake.conftest import Listen
from tests.intake.listening import Client, Intake
from tests.intake.test_proxy_protocol import version_2
from tests.kit.messages import marketing
from tests.kit.mta import mta
from tests.kit.policy import policy_client
from tests.kit.ports import LOOPBACK, wait_for
from tests.kit.relay import RelayProcess, listener
from tests.kit.upstream import At, FakeUpstream, Reply

ATTACKER, OTHER, THIRD = "192.0.2.66", "192.0.2.1", "192.0.2.2"
SENDER = "news@shop.example"
CONSENT, CUSTOMER = "consent@people.example", "customer@people.example"
BEFORE = (f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{CONSENT}>")
TAKEN = "250 2.1.5 recipient ok"
SHARE_USED = "451 4.4.5 too many messages of this client under way; try later"
PROXIED: dict[str, Any] = {"proxy_protocol": True, "proxy_trusted": [LOOPBACK]}


def come(stack: ExitStack, intake: Intake, address: str) -> Client:
    client: Client = stack.enter_context(intake.client())
    client.send(version_2(address))
    client.greet()
    return client


def name_a_recipient(client: Client) -> str:
    client.send(*BEFORE)
    return client.replies(2)[1]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def limits(intake: Intake) -> list[tuple[str, str]]:
    return [(event.peer, event.limit) for event in intake.of(Limited)]


def test_it_cannot_hold_more_than_its_share(listen: Listen, stack: ExitStack) -> None:
    """Its sessions name a recipient and then stay silent, until others get 451."""
    upstream = {"max_connections": 4, "wait_timeout": "300ms", "hold_timeout": "1m"}
    intake = listen({"upstream": upstream}, **PROXIED)
    attack = [come(stack, intake, ATTACKER) for _ in range(8)]
    for client in attack:
        client.send(*BEFORE)
    answers = sorted(client.replies(2)[1] for client in attack)
    assert answers == [TAKEN] * 3 + [SHARE_USED] * 5
    assert name_a_recipient(come(stack, intake, OTHER)) == TAKEN
    assert limits(intake) == [(ATTACKER, "upstream_connections")] * 5
    assert intake.of(Failed) == []
    assert intake.pool.busy == 4


def test_the_share_is_configurable_and_an_ipv6_network_is_one_client(
    listen: Listen, stack: ExitStack
) -> None:
    upstream = {"max_connections": 8, "max_connections_per_address": 2, "wait_timeout": "200ms"}
    intake = listen({"upstream": upstream}, **PROXIED)
    clients = [come(stack, intake, f"2001:db8::{n}") for n in range(1, 5)]
    for client in clients:
        client.send(*BEFORE)
    answers = sorted(client.replies(2)[1] for client in clients)
    assert answers == [TAKEN] * 2 + [SHARE_USED] * 2


def test_waiting_clients_take_turns_with_it(listen: Listen, stack: ExitStack) -> None:
    """However many of its messages wait, another client is at most second in line."""
    upstream = {"max_connections": 1, "wait_timeout": "1m", "hold_timeout": "1m"}
    intake = listen({"upstream": upstream}, **PROXIED)
    first = come(stack, intake, ATTACKER)
    assert name_a_recipient(first) == TAKEN
    crowd = [come(stack, intake, ATTACKER) for _ in range(9)]
    other = come(stack, intake, OTHER)
    for waiting, client in enumerate((*crowd, other), 1):
        client.send(*BEFORE)
        wait_for(lambda: intake.pool.waiting == waiting, "it to wait")  # noqa: B023
    assert intake.pool.saturated
    assert first.say("RSET").startswith("250 ")
    assert crowd[0].replies(2)[1] == TAKEN
    assert crowd[0].say("RSET").startswith("250 ")
    assert other.replies(2)[1] == TAKEN


def test_a_client_that_gives_up_waiting_leaves_no_turn_behind(
    listen: Listen, stack: ExitStack
) -> None:
    upstream = {"max_connections": 1, "wait_timeout": "200ms", "hold_timeout": "1m"}
    intake = listen({"upstream": upstream}, **PROXIED)
    first = come(stack, intake, ATTACKER)
    assert name_a_recipient(first) == TAKEN
    crowd = [come(stack, intake, ATTACKER) for _ in range(50)]
    for client in crowd:
        client.send(*BEFORE)
    assert {client.replies(2)[1] for client in crowd} == {SHARE_USED}
    assert intake.pool.waiting == 0
    assert first.say("QUIT").startswith("221 ")
    assert name_a_recipient(come(stack, intake, OTHER)) == TAKEN


def test_it_does_not_hold_upstream_connections(
    listen: Listen, stack: ExitStack, upstream: FakeUpstream
) -> None:
    """NOOP keeps a session alive, but no connection to the upstream."""
    limit = {"max_connections": 1, "hold_timeout": "200ms", "wait_timeout": "10s"}
    intake = listen({"upstream": limit}, **PROXIED)
    attack = [come(stack, intake, f"192.0.2.{n}") for n in range(50, 55)]
    for client in attack:
        client.send(*BEFORE, "NOOP")
    assert {client.replies(3)[1] for client in attack} == {TAKEN}
    other = come(stack, intake, OTHER)
    assert name_a_recipient(other) == TAKEN
    assert other.say("DATA").startswith("354 ")
    assert other.say(marketing(), ".").startswith("250 ")
    assert len(upstream.messages) == 1
    assert {limit for _, limit in limits(intake)} == {"upstream_hold"}


@pytest.mark.parametrize("at", ["rcpt", "data", "content"])
def test_a_merely_slow_client_does_not_notice(
    listen: Listen, stack: ExitStack, upstream: FakeUpstream, at: str
) -> None:
    """Accepted recipients are repeated to the upstream before DATA."""
    intake = listen({"upstream": {"hold_timeout": "100ms"}})
    client = stack.enter_context(intake.client())
    client.greet()
    assert name_a_recipient(client) == TAKEN
    steps = {"rcpt": f"RCPT TO:<{CUSTOMER}>", "data": "DATA", "content": "X-Note: x"}
    body = marketing().removesuffix(b"\r\n")
    for step, line in steps.items():
        if step == at:
            wait_for(lambda: intake.pool.busy == 0, "the connection to be given back")
        if step == "content":
            client.send(line, body)
        else:
            assert client.say(line)[:3] in ("250", "354")
    assert client.say("", ".").startswith("250 ")
    (message,) = upstream.messages
    assert list(message.recipients) == [CONSENT, CUSTOMER]
    said = [line.partition(":")[0] for _, line in upstream.commands if line[:4] in RELAYED]
    begun = ["MAIL FROM", "RCPT TO"]
    again = begun if at == "rcpt" else [*begun, "RCPT TO"]
    before = begun if at == "rcpt" else [*begun, "RCPT TO"]
    assert said == [*before, "RSET", *again, *(["RCPT TO"] if at == "rcpt" else []), "DATA"]
    (decided,) = intake.records.decided
    assert [entry.address for entry in decided.recipients] == [CONSENT, CUSTOMER]


RELAYED = ("MAIL", "RCPT", "RSET", "DATA")


@pytest.mark.parametrize("step", ["mail", "rcpt"])
def test_a_recipient_refused_the_second_time_is_reported(
    listen: Listen, stack: ExitStack, upstream: FakeUpstream, step: str
) -> None:
    """The client was told that the recipient is accepted, so it must keep the message."""
    upstream.behaviours.append(At(step, Reply("550 5.1.1 gone"), nth=2))  # type: ignore[arg-type]
    intake = listen({"upstream": {"hold_timeout": "100ms"}})
    client = stack.enter_context(intake.client())
    client.greet()
    client.begin(CONSENT)
    wait_for(lambda: intake.pool.busy == 0, "the connection to be given back")
    assert client.say(marketing(), ".").startswith("451 4.4.0 ")
    assert upstream.messages == []
    assert intake.records.decided == []


def test_a_client_named_by_xclient_gets_a_session_of_its_own_again(
    listen: Listen, stack: ExitStack
) -> None:
    with FakeUpstream(keywords=("XCLIENT ADDR", "PIPELINING")) as upstream:
        config = {"upstream": {"address": upstream.address, "hold_timeout": "100ms"}}
        intake = listen(config, xclient_trusted=[LOOPBACK])
        client = stack.enter_context(intake.client())
        client.greet()
        client.say("XCLIENT ADDR=192.0.2.7")
        client.say("EHLO client.example")
        client.begin(CONSENT)
        wait_for(lambda: intake.pool.busy == 0, "the connection to be given back")
        assert client.say(marketing(), ".").startswith("250 ")
        told = [number for number, line in upstream.commands if line.startswith("XCLIENT")]
        assert len(set(told)) == 2


# refused recipients

STRANGER = "RCPT TO:<stranger{}@people.example>"
OFFERS: dict[str, Any] = {"streams": ["offers"], "default_stream": "offers"}
MANY_REFUSED = "452 4.5.3 too many recipients were refused; send the rest later"


@pytest.mark.parametrize("together", [1, 7, 300])
def test_refused_recipients_count_towards_the_limit(
    listen: Listen, stack: ExitStack, upstream: FakeUpstream, together: int
) -> None:
    """Those over it are neither judged nor recorded; accepted recipients are mailed."""
    intake = listen(max_refused_recipients=50, **OFFERS)
    client = stack.enter_context(intake.client())
    client.greet()
    assert name_a_recipient(client) == TAKEN
    asked = [STRANGER.format(n) for n in range(300)]
    replies = []
    for at in range(0, 300, together):
        client.send(*asked[at : at + together])
        replies += client.replies(len(asked[at : at + together]))
    assert {reply.partition(" <")[0] for reply in replies[:50]} == {"550 5.7.1"}
    assert replies[50:] == [MANY_REFUSED] * 250
    assert sum(len(decided.recipients) for decided in intake.records.decided) == 50
    assert limits(intake) == [(LOOPBACK, "refused_recipients")] * 250
    assert client.say("DATA").startswith("354 ")
    assert client.say(marketing(), ".").startswith("250 ")
    assert client.say(BEFORE[0]).startswith("250 ")
    assert client.say(asked[0]).startswith("550 "), "the next message has its own limit"


def test_a_connection_full_of_refusals_is_closed(listen: Listen, stack: ExitStack) -> None:
    intake = listen(max_refused_recipients=5, max_refused_per_connection=12, **OFFERS)
    client = stack.enter_context(intake.client())
    client.greet()
    for _ in range(3):
        assert client.say(BEFORE[0]).startswith("250 ")
        client.send(*[STRANGER.format(n) for n in range(20)], "RSET")
        assert client.replies(21)[-1].startswith("250 ")
    closing = "421 4.7.0 too many recipients were refused; closing the connection"
    assert client.say(BEFORE[0]) == closing
    assert client.rest() == []
    assert intake.wait_closed() == ["errors"]
    assert sum(len(decided.recipients) for decided in intake.records.decided) == 15


def test_recipients_asked_about_by_an_mta_are_limited_too(listen: Listen) -> None:
    milter = listen(protocol="milter", max_refused_recipients=3, **OFFERS)
    with mta(milter.port) as peer:
        peer.negotiate()
        peer.connect()
        for _ in range(2):
            peer.mail(SENDER)
            answers = [peer.rcpt(f"s{n}@people.example") for n in range(5)]
            assert [answer.reply[:3] for answer in answers] == ["550"] * 3 + ["452"] * 2
    policy = listen(protocol="policy", max_refused_recipients=3, **OFFERS)
    with policy_client(policy.port) as client:
        for _ in range(2):
            client.mail()
            answers = [client.rcpt(f"s{n}@people.example") for n in range(5)]
            assert [answer[:3] for answer in answers] == ["550"] * 3 + ["452"] * 2
    assert len(milter.records.decided) == len(policy.records.decided) == 6


def test_metrics_show_the_attack(upstream: FakeUpstream, tmp_path: Path) -> None:
    """/readyz stays 200: a load balancer would move the attacker to the next relay."""
    limit = {"max_connections": 3, "max_connections_per_address": 3, "hold_timeout": "1m"}
    receipts = listener("apps", "receipts", default="receipts")
    config = {"upstream": limit, "listener": [receipts], "web": {}}
    with RelayProcess(tmp_path, upstream.address, config) as relay, ExitStack() as stack:

        def pool() -> Any:
            with urllib.request.urlopen(f"{relay.url}/readyz", timeout=10) as response:
                return json.load(response)["upstream_pool"]

        assert pool() == {"state": "ok", "busy": 0, "limit": 3, "waiting": 0}
        for _ in range(5):
            connection = socket.create_connection((LOOPBACK, relay.port()), timeout=30)
            client = Client(stack.enter_context(connection))
            client.greet()
            client.send(*BEFORE)
        saturated = {"state": "saturated", "busy": 3, "limit": 3, "waiting": 2}
        wait_for(lambda: pool() == saturated, "the pool to be saturated")
        assert relay.metric("smtpproxy_upstream_waiting") == 2
        assert relay.metric("smtpproxy_upstream_saturated_workers") == 1
        assert relay.metric("smtpproxy_upstream_connections_limit") == 3


def test_slow_clients_and_turns_hold_no_connections(listen: Listen, stack: ExitStack) -> None:
    """Many come and go at once; the fixture checks that no connection is in use at the end."""
    limit = {"max_connections": 3, "hold_timeout": "50ms", "wait_timeout": "10s"}
    intake = listen({"upstream": limit}, **PROXIED)
    clients = [come(stack, intake, f"192.0.2.{n % 5}") for n in range(20)]
    for turn in range(3):
        for client in clients:
            client.send(*BEFORE)
        for client in clients:
            assert client.replies(2)[1] == TAKEN
        for number, client in enumerate(clients):
            if turn + number % 3 == 2:
                client.socket.close()
            else:
                assert client.say("RSET").startswith("250 ")
        clients = [client for n, client in enumerate(clients) if turn + n % 3 != 2]
        time.sleep(0.1)
    wait_for(lambda: intake.pool.busy == 0, "all to be given back")
