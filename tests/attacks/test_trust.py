"""The attacker wants to be believed. Trust belongs to the socket's peer, for one protocol."""

import re
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.auth.users import empty, write
from smtpproxy.config import ConfigError, parse
from smtpproxy.config.warnings import warnings
from smtpproxy.events import Authentication, ConnectionOpened
from tests.intake.conftest import Listen
from tests.intake.listening import Client, Intake
from tests.intake.test_proxy_protocol import version_2
from tests.kit.haproxy import Haproxy
from tests.kit.messages import marketing
from tests.kit.mta import mta
from tests.kit.parts import needs
from tests.kit.policy import policy_client
from tests.kit.ports import LOOPBACK, free_port
from tests.kit.relay import relay_config
from tests.kit.toml import to_toml

HERE = [LOOPBACK]
SENDER = "MAIL FROM:<news@shop.example>"
NO_PASSWORD = "530 5.7.0 authentication required; send AUTH first"
NOT_OFFERED = "550 5.7.0 {} is for trusted hosts only"


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    write(tmp_path / "users", empty())
    return {"auth": {"users": str(tmp_path / "users")}}


def offered(client: Client) -> dict[str, str]:
    """What EHLO offers, by keyword."""
    client.send("EHLO attacker.example")
    lines = [client.line()]
    while lines[-1][3:4] == "-":
        lines.append(client.line())
    return {line[4:].partition(" ")[0]: line[4:].partition(" ")[2] for line in lines[1:]}


BALANCER = """
defaults
    mode tcp
    timeout connect 10s
    timeout client 30s
    timeout server 30s
listen smtp
    bind 127.0.0.1:{port}
    server relay 127.0.0.1:{relay} send-proxy-v2
"""
HEADERS = {
    "unknown": b"PROXY UNKNOWN\r\n",
    "local": version_2(LOOPBACK, 0x20),
    "the balancer itself": b"PROXY TCP4 127.0.0.1 127.0.0.1 1 25\r\n",
    "the balancer itself, mapped": version_2("::ffff:127.0.0.1"),
    "a host that may send XCLIENT": b"PROXY TCP4 192.0.2.7 127.0.0.1 1 25\r\n",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_clients_behind_a_proxy_header_may_not_name_themselves(
    listen: Listen, config: dict[str, Any], header: bytes
) -> None:
    intake = listen(
        config,
        proxy_protocol=True,
        proxy_trusted=HERE,
        xclient_trusted=["192.0.2.0/24"],
        login_trusted=["192.0.2.7"],
        auth="required",
        auth_without_tls=True,
    )
    with intake.client() as client:
        client.send(header)
        assert client.reply().startswith("220 ")
        assert not offered(client).keys() & {"XCLIENT", "XFORWARD"}
        for verb, command in [("XCLIENT", "LOGIN=anybody"), ("XFORWARD", "ADDR=192.0.2.1")]:
            assert client.say(f"{verb} {command}") == NOT_OFFERED.format(verb)
        assert client.say(SENDER) == NO_PASSWORD


@needs("haproxy")
def test_a_client_on_the_balancers_own_host_is_not_trusted(
    listen: Listen, config: dict[str, Any], tmp_path: Path
) -> None:
    keys = {"auth": "required", "auth_without_tls": True}
    intake = listen(config, proxy_protocol=True, proxy_trusted=HERE, **keys)
    port = free_port()
    balanced = BALANCER.format(port=port, relay=intake.port)
    with (
        Haproxy(balanced, port),
        socket.create_connection((LOOPBACK, port), timeout=10) as connection,
    ):
        client = Client(connection)
        assert client.reply().startswith("220 ")
        assert "XCLIENT" not in offered(client)
        assert client.say("XCLIENT LOGIN=anybody") == NOT_OFFERED.format("XCLIENT")
        assert client.say(SENDER) == NO_PASSWORD


def test_trust_for_xclient_does_not_cover_logins(listen: Listen, config: dict[str, Any]) -> None:
    config["credential"] = [{"user": "shop", "senders": ["@shop.example"]}]
    intake = listen(config, xclient_trusted=HERE, auth="required", auth_without_tls=True)
    with intake.client() as client:
        client.reply()
        assert "LOGIN" not in offered(client)["XCLIENT"].split()
        assert client.say("XCLIENT ADDR=192.0.2.7 LOGIN=shop").startswith("220 ")
        offered(client)
        assert client.say(SENDER) == NO_PASSWORD


def test_an_untrusted_login_is_not_recorded(listen: Listen) -> None:
    streams = {"streams": ["receipts"], "default_stream": "receipts"}
    intake = listen(xclient_trusted=HERE, **streams)
    with intake.client() as client:
        client.reply()
        offered(client)
        assert client.say("XFORWARD ADDR=192.0.2.9").startswith("250 ")
        client.say("XCLIENT ADDR=192.0.2.7 LOGIN=boss")  # which discards what XFORWARD said
        offered(client)
        client.begin()
        assert client.say("From: a@shop.example", "", "hello", ".").startswith("250 ")
    (decided,) = intake.records.decided
    assert (decided.client.peer, decided.client.login) == ("192.0.2.7", "")


def test_an_address_that_xclient_names_gains_nothing(listen: Listen) -> None:
    """Nor does it lose anything: only the socket's peer may speak for others."""
    intake = listen(xclient_trusted=["192.0.2.7"])
    with intake.client() as client:
        client.reply()
        assert "XCLIENT" not in offered(client)
        assert client.say("XCLIENT ADDR=192.0.2.7") == NOT_OFFERED.format("XCLIENT")


def test_a_client_gone_before_accept_is_not_taken_for_a_unix_socket(
    listen: Listen, config: dict[str, Any]
) -> None:
    """The kernel no longer knows the address but still delivers the data."""
    keys = {"auth": "optional", "auth_without_tls": True, "early_commands": "permit"}
    intake = listen(config, xclient_trusted=["unix"], **keys)

    async def come_and_go() -> None:  # on the listener's loop, which accepts nobody meanwhile
        with socket.create_connection((LOOPBACK, intake.port)) as client:
            client.sendall(b"EHLO attacker.example\r\nAUTH PLAIN AGEAYg==\r\n")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    intake.call(come_and_go()).result(10)
    assert intake.wait_closed() == ["error"]
    assert {event.peer for event in intake.of(Authentication)} <= {"unknown"}
    assert [event.peer for event in intake.of(ConnectionOpened)] == ["unknown"]


def test_trust_for_xclient_does_not_cover_a_proxy_header(listen: Listen) -> None:
    intake = listen(proxy_protocol=True, proxy_trusted=["192.0.2.7"], xclient_trusted=HERE)
    with intake.client() as client:
        client.send(b"PROXY TCP4 192.0.2.7 127.0.0.1 1 25\r\n")
        assert client.rest() == []


# logins reported by MTAs


@pytest.fixture
def asked(listen: Listen, config: dict[str, Any]) -> Callable[..., Intake]:
    """A listener for MTAs, with a credential for the stream of receipts."""
    config["credential"] = [{"user": "app", "default_stream": "receipts", "streams": ["receipts"]}]
    config["credential"] += [{"certificate": "ab" * 32, "streams": ["receipts"]}]

    def start(protocol: str, **keys: Any) -> Intake:
        streams = {"streams": ["offers", "receipts"], "default_stream": "offers"}
        return listen(config, protocol=protocol, **streams, **keys)

    return start


@pytest.mark.parametrize(
    ("believed", "login"), [([], ""), (["192.0.2.7"], ""), (HERE, "app"), (None, "app")]
)
def test_an_mta_can_report_a_login(
    asked: Callable[..., Intake], believed: list[str] | None, login: str
) -> None:
    keys = {} if believed is None else {"login_trusted": believed}
    intake = asked("milter", **keys)
    with mta(intake.port) as peer:
        peer.negotiate()
        peer.connect("192.0.2.7")
        peer.mail("news@shop.example", **{"{auth_authen}": "app"})
        peer.rcpt("consent@people.example")
        peer.message(marketing())
    intake = asked("policy", **keys)
    with policy_client(intake.port) as client:
        client.mail(sasl_username="app", client_address="192.0.2.7")
        client.rcpt("complained@people.example")
        client.mail(ccert_fingerprint="ab" * 32, client_address="192.0.2.7")
        client.rcpt("complained@people.example")
    logins = {decided.client.login for decided in intake.records.decided}
    assert logins == ({"app", f"certificate:{'ab' * 32}"} if login else {""})


# what `check` reports


def faults(root: Path, **keys: Any) -> list[str]:
    document = relay_config(root, "127.0.0.1:25", {"auth": {"users": str(root / "users")}})
    document["listener"][0] |= keys
    try:
        parse(to_toml(document), "x.toml")
    except ConfigError as error:
        return list(error.faults)
    return []


PROXIED = {"proxy_protocol": True, "auth": "required", "auth_without_tls": True}


@pytest.mark.parametrize(
    "keys",
    [
        PROXIED | {"proxy_trusted": HERE, "xclient_trusted": HERE},
        PROXIED | {"proxy_trusted": HERE, "xclient_trusted": ["127.0.0.0/8"]},
        PROXIED | {"proxy_trusted": ["::/1"], "xclient_trusted": ["::1"]},
        PROXIED | {"proxy_trusted": ["unix"], "xclient_trusted": ["unix"]},
        {"xclient_trusted": ["0.0.0.0/0"]},
        {"xclient_trusted": ["::/0"], "login_trusted": ["::/0"]},
        {"xclient_trusted": ["0.0.0.0/1", "128.0.0.0/1"]},
        {"login_trusted": HERE},
        {"xclient_trusted": ["192.0.2.7"], "login_trusted": ["192.0.2.0/24"]},
        {"proxy_trusted": HERE},
        {"trusted": HERE},
    ],
)
def test_check_refuses_settings_that_admit_clients_without_a_password(
    tmp_path: Path, keys: dict[str, Any]
) -> None:
    assert faults(tmp_path, **keys)


def test_the_key_of_earlier_versions_is_recognised(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, trusted=HERE)
    assert re.search(r'"apps"\.trusted: .*proxy_trusted.*xclient_trusted.*login_trusted', fault)


def test_check_warns_of_networks_that_need_no_password(tmp_path: Path) -> None:
    document = relay_config(tmp_path, "127.0.0.1:25")
    keys = {"xclient_trusted": ["10.0.0.0/24"], "login_trusted": ["10.0.0.0/24"]}
    document["listener"][0] |= keys
    told = [text for text in warnings(parse(to_toml(document), "x.toml")) if "_trusted" in text]
    assert told == [
        'listener "apps".login_trusted: anyone who takes an address of 10.0.0.0/24 needs no'
        " password: name individual hosts"
    ]
