"""The attacker sends octets that are not UTF-8, wherever an MTA or a client may put them."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.intake.conftest import Listen
from tests.intake.listening import Client
from tests.kit.audit import records
from tests.kit.messages import marketing
from tests.kit.mta import encode, mta, strings
from tests.kit.policy import request
from tests.kit.ports import LOOPBACK
from tests.kit.relay import RelayProcess, listener
from tests.kit.upstream import At, FakeUpstream, Raw

ALLOWED = "consent@people.example"
ODD = b"caf\xe9\xff\xc3"
"""Latin-1, an octet that never occurs in UTF-8, and the start of a character."""
SEEN = "caf\\xe9\\xff\\xc3"


def macros(letter: str, **told: bytes) -> bytes:
    pairs = [part for name, value in told.items() for part in (name.encode(), value)]
    return encode("D", letter.encode() + strings(*pairs))


@pytest.fixture(scope="module")
def mta_relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    with FakeUpstream() as upstream:
        listeners = [
            listener("milter", "receipts", default="receipts", protocol="milter"),
            listener("policy", "receipts", default="receipts", protocol="policy"),
            listener("apps", "receipts", default="receipts", xclient_trusted=[LOOPBACK]),
        ]
        root = tmp_path_factory.mktemp("octets")
        with RelayProcess(root, upstream.address, {"listener": listeners}) as relay:
            yield relay


@pytest.mark.parametrize("where", ["helo", "login", "queue_id", "name", "address", "sender"])
def test_at_a_milter_listener(mta_relay: RelayProcess, where: str) -> None:
    relay = mta_relay
    odd = {where: ODD}
    helo, queue_id = odd.get("helo", b"client.example"), odd.get("queue_id", b"4QID")
    login, host = odd.get("login", b"shop"), odd.get("name", b"client.example")
    address = odd.get("address", b"192.0.2.9")
    sender = ODD + b"@shop.example" if where == "sender" else b"news@shop.example"
    with mta(relay.port("milter")) as peer:
        peer.negotiate()
        peer.send(encode("C", host + b"\0" + b"4\x10\xe1" + address + b"\0"))
        peer.send(encode("H", helo + b"\0"))
        peer.send(macros("M", i=queue_id, auth_authen=login))
        peer.send(encode("M", b"<" + sender + b">\0"))
        answer = peer.rcpt(ALLOWED)
        assert answer.final == "c", answer
        outcome = peer.message(marketing(), queue_id=queue_id)  # type: ignore[arg-type]
        assert outcome.final == "c", outcome
    decided = records(relay)[-1].decided
    client = decided.client
    shown = {"helo": client.helo, "login": client.login, "queue_id": client.queue_id}
    shown |= {"address": client.peer, "sender": decided.reverse_path.removesuffix("@shop.example")}
    assert shown.get(where, SEEN) == SEEN
    told(relay)


@pytest.mark.parametrize(
    "where",
    ["helo_name", "sasl_username", "queue_id", "client_address", "instance", "sender", "recipient"],
)
def test_at_a_policy_listener(mta_relay: RelayProcess, where: str) -> None:
    relay = mta_relay
    with socket.create_connection((LOOPBACK, relay.port("policy")), timeout=10) as connection:
        said = request(
            **{where: "WHERE"}, **({} if where == "recipient" else {"recipient": ALLOWED})
        )
        odd = ODD + b"@shop.example" if where in ("sender", "recipient") else ODD
        connection.sendall(said.replace(b"WHERE", odd))
        answer = connection.makefile("rb").readline().decode()
    if where == "recipient":
        assert answer.startswith("action=553 5.1.3 ")
        return
    assert answer == "action=DUNNO\n"
    told(relay)


def test_at_an_smtp_listener(mta_relay: RelayProcess) -> None:
    """In XCLIENT, and in the upstream's reply."""
    relay = mta_relay
    with socket.create_connection((LOOPBACK, relay.port("apps")), timeout=10) as connection:
        client = Client(connection)
        client.greet()
        said = "XCLIENT ADDR=192.0.2.7 NAME=caf+E9 HELO=caf+E9+FF LOGIN=caf+E9"
        assert client.say(said).startswith("220 ")
        assert client.say(b"EHLO caf\xe9\r\n") == "501 5.5.2 a command must be ASCII or UTF-8"
        client.say("EHLO client.example")
        client.begin(ALLOWED)
        assert client.say(marketing(), ".").startswith("250 ")
    told(relay)


def test_in_an_upstreams_reply(listen: Listen, tmp_path: Path) -> None:
    with FakeUpstream(At("end", Raw(b"250 2.0.0 caf\xe9\xff\r\n"))) as upstream:
        receipts = listener("apps", "receipts", default="receipts")
        with RelayProcess(tmp_path, upstream.address, {"listener": [receipts]}) as relay:
            code, _ = relay.send(marketing(), ALLOWED)
            assert code == 250
            told(relay)


def told(relay: RelayProcess) -> None:
    """Check that the record can be read and explained, and that the log has no traceback."""
    decided = records(relay)[-1].decided
    for command in ("audit show {}", "audit show {} --json", "explain --id {}"):
        relay.must(*command.format(decided.id).split())
    assert "Traceback" not in relay.output
    assert "internal error" not in relay.output
