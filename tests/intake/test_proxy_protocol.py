"""The PROXY protocol: whose connection it is, and who may say so."""

import asyncio
import errno
import ipaddress
import os
import socket
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.events import ConnectionOpened, ConnectionRefused, ProxyHeaderRead
from smtpproxy.intake.accept import TrustedHosts
from tests.intake.conftest import Listen
from tests.intake.listening import Client, Intake
from tests.kit.certificates import Authority
from tests.kit.ports import wait_for

KEYS: dict[str, Any] = {"proxy_protocol": True, "proxy_trusted": ["127.0.0.0/8"]}
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 25\r\n"


def version_2(address: str, command: int = 0x21) -> bytes:
    packed = ipaddress.ip_address(address).packed
    body = packed + packed + b"\x30\x39\x00\x19" + b"\x04\x00\x02hi"
    family = 0x11 if len(packed) == 4 else 0x21
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", command, family, len(body)) + body


def outcomes(intake: Intake) -> list[str]:
    return [event.outcome for event in intake.of(ProxyHeaderRead)]


@pytest.mark.parametrize(
    ("header", "peer"),
    [
        (V1, "192.0.2.7"),
        (version_2("192.0.2.8"), "192.0.2.8"),
        (version_2("2001:db8::8"), "2001:db8::8"),
        (version_2("192.0.2.8", 0x20), "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    ],
)
@pytest.mark.parametrize("piece", [None, 1, 5])
def test_the_client_named_in_the_header_is_recorded(
    listen: Listen, header: bytes, peer: str, piece: int | None
) -> None:
    intake = listen(streams=["receipts"], default_stream="receipts", **KEYS)
    with intake.client() as client:
        for at in range(0, len(header), piece or len(header)):
            client.socket.sendall(header[at : at + (piece or len(header))])
        client.greet()
        client.begin()
        assert client.say("From: a@shop.example", "", "hello", ".").startswith("250 ")
    (decided,) = intake.records.decided
    assert decided.client.peer == peer
    assert [event.peer for event in intake.of(ConnectionOpened)] == [peer]


def test_commands_sent_with_the_header_are_not_lost(listen: Listen) -> None:
    intake = listen(early_commands="permit", **KEYS)
    with intake.client() as client:
        client.send(V1, "EHLO client.example", "QUIT")
        assert client.reply().startswith("220 ")
        assert client.replies(2)[1].startswith("221 ")


def test_an_untrusted_host_is_cut_off(listen: Listen) -> None:
    intake = listen(proxy_protocol=True, proxy_trusted=["10.0.0.0/8"])
    with intake.client() as client:
        client.send(V1)
        assert client.rest() == []
    wait_for(lambda: outcomes(intake) == ["untrusted"], "the refusal")
    assert intake.of(ConnectionOpened) == []


@pytest.mark.parametrize("data", [b"EHLO client.example\r\n", b"PROXY TCP4 x\r\n", b"\x16\x03"])
def test_a_connection_without_a_valid_header_is_closed(listen: Listen, data: bytes) -> None:
    intake = listen(**KEYS)
    with intake.client() as client:
        client.send(data)
        assert client.rest() == []
    wait_for(lambda: outcomes(intake) == ["malformed"], "the refusal")


def test_a_header_that_never_ends_is_cut_off(listen: Listen) -> None:
    intake = listen(handshake_timeout="200ms", **KEYS)
    with intake.client() as client:
        client.send(b"PROXY TCP4 192")
        assert client.rest() == []
    wait_for(lambda: outcomes(intake) == ["timeout"], "the refusal")


@pytest.mark.parametrize(
    ("networks", "peer", "trusted"),
    [
        (["192.0.2.0/24"], "192.0.2.9", True),
        (["192.0.2.0/24"], "::ffff:192.0.2.9", True),  # on a dual-stack socket
        (["192.0.2.0/24"], "2001:db8::1", False),
        (["2001:db8::/32", "192.0.2.9"], "2001:db8::1", True),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["unix"], "unix", True),
        (["::/0"], "unix", False),
        ([], "192.0.2.9", False),
    ],
)
def test_which_hosts_are_trusted(networks: list[str], peer: str, trusted: bool) -> None:
    assert (peer in TrustedHosts(networks)) is trusted


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOBUFS])
def test_a_connection_waits_while_the_system_is_out_of_files(listen: Listen, number: int) -> None:
    class Short:
        def __init__(self, listening: socket.socket) -> None:
            self.listening, self.fileno = listening, listening.fileno
            self.close = listening.close
            self.times = 2

        def accept(self) -> tuple[socket.socket, Any]:
            if self.times:
                self.times -= 1
                raise OSError(number, os.strerror(number))
            return self.listening.accept()

    intake = listen(**KEYS)
    acceptor: Any = intake.door._acceptor
    acceptor._socket = short = Short(acceptor._socket)
    began = time.monotonic()
    with intake.client() as client:
        client.send(V1)
        client.greet()
    assert short.times == 0
    assert time.monotonic() - began > 0.15, "the loop was kept busy"


def test_limits_count_the_named_client(listen: Listen) -> None:
    intake = listen(max_connections_per_address=1, **KEYS)
    with intake.client() as first, intake.client() as second, intake.client() as third:
        first.send(version_2("192.0.2.1"))
        first.greet()
        second.send(version_2("192.0.2.1"))
        assert second.rest() == ["421 4.3.2 too many connections; try again later"]
        third.send(version_2("192.0.2.2"))
        third.greet()
    assert [event.peer for event in intake.of(ConnectionRefused)] == ["192.0.2.1"]


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_tls_after_a_header(listen: Listen, tmp_path: Path, tls: str) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("relay.example")
    intake = listen(tls=tls, certificate=str(pair.certificate), private_key=str(pair.key), **KEYS)
    with intake.client() as client:
        client.send(version_2("192.0.2.9"))
        if tls == "implicit":
            client.secure(authority.client_context())
            client.greet()
        else:
            client.greet()
            client.starttls(authority.client_context())
        assert client.say("QUIT").startswith("221 ")
    assert [event.peer for event in intake.of(ConnectionOpened)] == ["192.0.2.9"]


@pytest.mark.parametrize("sent", [b"", V1[:5]])
def test_a_client_accepted_as_the_drain_begins_may_still_send_its_header(
    listen: Listen, sent: bytes
) -> None:
    """A balancer sends it just after connecting and knows nothing of the drain."""

    async def drain_behind(waiting: socket.socket) -> asyncio.Task[None]:
        # In one iteration of the loop: so far only the kernel has accepted the connection.
        waiting.connect(address)
        waiting.sendall(sent)
        task = asyncio.create_task(intake.door.drain())
        await asyncio.sleep(0.05)
        return task

    async def ended(task: asyncio.Task[None]) -> None:
        await task

    intake = listen(streams=["receipts"], default_stream="receipts", **KEYS)
    with intake.client() as before:
        address = before.socket.getpeername()
    with socket.socket() as connection:
        connection.settimeout(10)
        client = Client(connection)
        drained = intake.call(drain_behind(connection)).result(10)
        with pytest.raises(ConnectionRefusedError), intake.client():
            pass
        connection.sendall(V1[len(sent) :])
        client.greet()
        client.begin()
        assert client.say("From: a@shop.example", "", "hello", ".").startswith("250 ")
        intake.call(ended(drained)).result(10)


def test_draining_closes_connections_without_a_header(listen: Listen) -> None:
    intake = listen(**KEYS)
    with intake.client() as waiting, intake.client() as inside:
        inside.send(V1)
        inside.greet()
        waiting.send(b"PROXY ")
        wait_for(lambda: len(intake.door._acceptor._waiting) == 1, "the first")  # type: ignore[union-attr]
        intake.call(intake.door.drain()).result(10)
        assert waiting.rest() == []
        assert inside.rest() == ["421 4.3.2 the connection ends for a restart or reload; reconnect"]
