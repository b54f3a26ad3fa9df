"""In every phase, a client that is as slow as possible is cut off in time."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.auth.users import empty, write
from smtpproxy.events import ConnectionClosed, ProxyHeaderRead, TlsHandshake
from tests.intake.conftest import Listen
from tests.intake.listening import Client, Intake
from tests.kit.certificates import Authority
from tests.kit.mta import encode, mta, strings
from tests.kit.ports import wait_for

TIMEOUT = "421 4.4.2 timeout; closing the connection"
BEFORE = ["MAIL FROM:<news@shop.example>", "RCPT TO:<consent@people.example>"]


@contextlib.contextmanager
def trickling(connection: socket.socket, octet: bytes = b"x") -> Iterator[None]:
    """Send an octet every 20 ms until the other side is gone or the test ends."""
    over = threading.Event()

    def send() -> None:
        with contextlib.suppress(OSError):
            while not over.wait(0.02):
                connection.sendall(octet)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def ended(intake: Intake, seconds: float = 30.0) -> str:
    wait_for(lambda: intake.of(ConnectionClosed), "the end of the session", timeout=seconds)
    return intake.of(ConnectionClosed)[0].cause


def before_greeting(client: Client) -> None:
    assert client.reply().startswith("220 ")


def in_command(client: Client) -> None:
    client.greet()
    client.send(b"NOOP ")


def between_commands(client: Client) -> None:
    client.greet()
    assert client.say(BEFORE[0]).startswith("250 ")


def in_transaction(client: Client) -> None:
    client.greet()
    client.send(*BEFORE)
    assert client.replies(2)[1].startswith("250 ")


def in_refused_chunk(client: Client) -> None:
    client.greet()
    client.send("BDAT 1000000000")


@pytest.mark.parametrize(
    "phase", [before_greeting, in_command, between_commands, in_transaction, in_refused_chunk]
)
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_slow_commands_are_cut_off(
    listen: Listen, phase: Callable[[Client], None], protocol: str
) -> None:
    intake = listen(command_timeout="300ms", data_timeout="30s", protocol=protocol)
    with intake.client() as client:
        if protocol == "lmtp":
            client.greet = lambda: greet_lmtp(client)  # type: ignore[method-assign]
        phase(client)
        with trickling(client.socket):
            assert client.rest() == [TIMEOUT]
            assert ended(intake) == "timeout"


def greet_lmtp(client: Client) -> None:
    assert client.reply().startswith("220 ")
    assert client.say("LHLO client.example").startswith("250 ")


@pytest.mark.parametrize("answered", ["AUTH LOGIN", "AUTH PLAIN", "AUTH SCRAM-SHA-256"])
def test_a_slow_auth_dialog_is_cut_off(listen: Listen, tmp_path: Path, answered: str) -> None:
    write(tmp_path / "users", empty())
    config = {"auth": {"users": str(tmp_path / "users")}}
    intake = listen(config, command_timeout="300ms", auth="required", auth_without_tls=True)
    with intake.client() as client:
        client.greet()
        assert client.say(answered).startswith("334")
        with trickling(client.socket, b"A"):
            assert client.rest() == [TIMEOUT]
            assert ended(intake) == "timeout"


def content(client: Client) -> None:
    client.begin()


def chunks(client: Client) -> None:
    client.send(*BEFORE, "BDAT 5", b"A: b\n", "BDAT 100000")
    assert client.replies(3)[2].startswith("250 ")


@pytest.mark.parametrize("phase", [content, chunks])
def test_content_below_the_lowest_rate_is_cut_off(
    listen: Listen, phase: Callable[[Client], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtpproxy.intake.client._UNHURRIED", 0.3)
    intake = listen(data_timeout="60s", min_data_rate=10_000)
    with intake.client() as client:
        client.greet()
        phase(client)
        with trickling(client.socket):
            assert client.rest() == [TIMEOUT]
            assert ended(intake) == "slow"


@pytest.mark.parametrize("rate", [0, 50])
def test_content_that_is_fast_enough_may_take_its_time(
    listen: Listen, rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtpproxy.intake.client._UNHURRIED", 0.2)
    intake = listen(min_data_rate=rate, streams=["receipts"], default_stream="receipts")
    with intake.client() as client:
        client.greet()
        client.begin()
        client.send("From: a@shop.example", "")
        for _ in range(12):
            client.send(b"x" * 30 + b"\r\n")
            time.sleep(0.05)
        assert client.say(".").startswith("250 ")


def test_a_slow_proxy_header_is_cut_off(listen: Listen) -> None:
    intake = listen(proxy_protocol=True, proxy_trusted=["127.0.0.1"], handshake_timeout="300ms")
    with intake.client() as client:
        client.send(b"PROXY UNKNOWN ")
        with trickling(client.socket):
            assert client.rest() == []
            wait_for(lambda: intake.of(ProxyHeaderRead), "the end of it")
    assert [event.outcome for event in intake.of(ProxyHeaderRead)] == ["timeout"]


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
def test_a_slow_tls_handshake_is_cut_off(listen: Listen, tmp_path: Path, tls: str) -> None:
    pair = Authority(tmp_path).issue("relay.example", file="server")
    keys: dict[str, Any] = {"certificate": str(pair.certificate), "private_key": str(pair.key)}
    intake = listen(tls=tls, handshake_timeout="300ms", **keys)
    with intake.client() as client:
        if tls == "starttls":
            client.greet()
            assert client.say("STARTTLS").startswith("220 ")
        client.send(b"\x16\x03\x01\x10\x00")  # the start of a record of 4,096 octets
        with trickling(client.socket):
            wait_for(lambda: intake.of(TlsHandshake), "the end of the handshake")
    assert [event.outcome for event in intake.of(TlsHandshake)] == ["timeout"]


def test_an_mta_that_leaves_answers_unread_is_not_read_from(listen: Listen) -> None:
    """So the answers waiting for it stay within bounds."""
    intake = listen(protocol="milter", command_timeout="500ms", data_timeout="30s")
    with mta(intake.port) as peer:
        peer.negotiate(steps=0)  # an MTA that wants every step answered
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        (session,) = intake.door._sessions
        sent = 0
        ours = session._transport.get_extra_info("socket")  # type: ignore[attr-defined]
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        peer.socket.settimeout(2)
        helo = encode("H", strings("client.example")) * 2_000
        with contextlib.suppress(OSError):
            for _ in range(2_000):
                peer.socket.sendall(helo)
                sent += 1
        assert ended(intake) == "timeout"
    assert sent < 500  # 20 MB: the kernel's own buffers take some


def test_a_client_that_never_hangs_up_after_quit_is_cut_off(listen: Listen) -> None:
    intake = listen()
    with intake.client() as client:
        client.greet()
        assert client.say("QUIT").startswith("221 ")
        assert ended(intake) == "quit"
        wait_for(lambda: not intake.door._sessions, "the session to be gone")
