"""HAProxy in front of smtpproxy, as in docs/deploy/haproxy.md."""

import contextlib
import socket
import tomllib
from collections.abc import Callable, Iterator

import pytest

from tests.deploy.recipes.clients import arrived, send, session
from tests.kit.audit import records
from tests.kit.haproxy import Haproxy
from tests.kit.messages import marketing, message
from tests.kit.pages import blocks
from tests.kit.parts import needs
from tests.kit.ports import LOOPBACK, free_port, wait_for
from tests.kit.relay import RelayProcess, greets
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

pytestmark = needs("haproxy")

CLIENT = "127.0.0.9"


@pytest.fixture(scope="module")
def pair(
    filled: Callable[..., RelayProcess], mta: FakeUpstream
) -> Iterator[tuple[RelayProcess, Haproxy]]:
    front, behind, web = free_port(), free_port(), free_port()
    toml, config = blocks(
        "deploy/haproxy.md",
        {
            "127.0.0.1:2525": f"{LOOPBACK}:{front}",
            "127.0.0.1:2526": f"{LOOPBACK}:{behind}",
            "127.0.0.1:10025": mta.address,
            "127.0.0.1:8025": f"{LOOPBACK}:{web}",
            "port 8025": f"port {web}",
        },
    )
    relay = filled(mta.address, tomllib.loads(toml))
    with Haproxy(config, front) as proxy:
        wait_for(lambda: greets(front), "the check to succeed")
        yield relay, proxy


def test_the_client_is_recorded_and_gets_the_reason_of_a_refusal(
    pair: tuple[RelayProcess, Haproxy], mta: FakeUpstream
) -> None:
    relay, proxy = pair
    with session(proxy.port, CLIENT) as client:
        mail = marketing(message_id="<good@shop.example>")
        assert send(client, mail, address("consent"))[0] == 250
        code, text = send(client, marketing(), address("withdrawn"))
        assert (code, text[:5]) == (550, "5.7.1")
    (got,) = arrived(mta, "<good@shop.example>")
    assert CLIENT.encode() in got.data.partition(b"\r\n\r\n")[0]
    assert {record.decided.client.peer for record in records(relay)[-2:]} == {CLIENT}


def test_a_large_message_passes(pair: tuple[RelayProcess, Haproxy], mta: FakeUpstream) -> None:
    mail = message(
        stream="receipts", message_id="<large@shop.example>", body=("x" * 78 + "\r\n") * 50_000
    )
    with session(pair[1].port, CLIENT) as client:
        assert send(client, mail, "stranger@people.example")[0] == 250
    (got,) = arrived(mta, "<large@shop.example>")
    assert got.data.endswith(mail.partition(b"\r\n\r\n")[2])


def test_a_connection_that_names_no_client_is_rejected(pair: tuple[RelayProcess, Haproxy]) -> None:
    relay, _ = pair
    with socket.create_connection((LOOPBACK, relay.port()), timeout=20) as connection:
        connection.sendall(b"EHLO client.example\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""
    wait_for(
        lambda: relay.metric("smtpproxy_proxy_headers_total", outcome="malformed"), "the count"
    )


def test_version_1_of_the_protocol_works_too(pair: tuple[RelayProcess, Haproxy]) -> None:
    relay, proxy = pair
    front = free_port()
    config = (proxy.root / "haproxy.cfg").read_text()
    assert "send-proxy-v2" in config
    config = config.replace("send-proxy-v2", "send-proxy").replace(str(proxy.port), str(front))
    with Haproxy(config, front), session(front, CLIENT) as client:
        assert send(client, marketing(), address("consent"))[0] == 250
    assert records(relay)[-1].decided.client.peer == CLIENT


def test_a_draining_relay_is_taken_out(pair: tuple[RelayProcess, Haproxy]) -> None:
    """Keep this test last: smtpproxy is not started again."""
    relay, proxy = pair
    assert relay.terminate() == 0
    wait_for(lambda: not greets(proxy.port), "the relay to be out")
