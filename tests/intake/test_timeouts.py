"""How long a client may take for a command, for all of DATA, and to read its replies."""

import contextlib
import socket
import time
from pathlib import Path

import pytest

from smtpproxy.events import ConnectionClosed
from tests.intake.conftest import Listen
from tests.intake.listening import Client
from tests.kit.messages import marketing
from tests.kit.ports import wait_for
from tests.kit.upstream import At, Delay, FakeUpstream, Hold

TIMEOUT = "421 4.4.2 timeout; closing the connection"


def test_a_silent_client_times_out(listen: Listen) -> None:
    intake = listen(command_timeout="200ms")
    with intake.client() as client:
        assert client.rest() == ["220 relay.example ESMTP smtpproxy", TIMEOUT]
    assert intake.wait_closed() == ["timeout"]


def test_a_client_that_stops_between_commands_times_out(
    listen: Listen, upstream: FakeUpstream
) -> None:
    intake = listen(command_timeout="200ms")
    with intake.client() as client:
        client.greet()
        client.send("MAIL FROM:<news@shop.example>", "RCPT TO:<consent@people.example>")
        assert client.rest()[-1] == TIMEOUT
    assert intake.wait_closed() == ["timeout"]
    wait_for(lambda: "RSET" in [line for _, line in upstream.commands], "RSET to the upstream")


def test_each_command_has_its_own_timeout(listen: Listen) -> None:
    intake = listen(command_timeout="400ms")
    with intake.client() as client:
        client.greet()
        for _ in range(8):
            time.sleep(0.1)
            assert client.say("NOOP") == "250 2.0.0 OK"


def test_data_has_a_timeout_as_a_whole(listen: Listen, upstream: FakeUpstream) -> None:
    """It applies however busy the client is."""
    intake = listen(command_timeout="10s", data_timeout="300ms")
    with intake.client() as client:
        client.greet()
        client.begin()
        for _ in range(100):
            try:
                client.send("x" * 70)
            except OSError:
                break
            if intake.of(ConnectionClosed):
                break
            time.sleep(0.02)
        assert client.rest() == [TIMEOUT]
    assert intake.wait_closed() == ["timeout"]
    assert upstream.messages == []


def test_commands_may_be_slower_than_data_and_the_other_way_round(listen: Listen) -> None:
    intake = listen(command_timeout="300ms", data_timeout="10s")
    with intake.client() as client:
        client.greet()
        client.begin()
        time.sleep(0.6)
        assert client.say(marketing(), b".\r\n").startswith("250 ")
        assert client.rest() == [TIMEOUT]


def test_time_taken_by_the_upstream_is_not_counted_against_the_client(
    listen: Listen, upstream: FakeUpstream
) -> None:
    upstream.behaviours += [At("rcpt", Delay(0.6)), At("end", Delay(0.6))]
    intake = listen(command_timeout="300ms", data_timeout="300ms")
    with intake.client() as client:
        client.greet()
        client.begin()
        assert client.say(marketing(), b".\r\n").startswith("250 ")
        assert client.say("QUIT").startswith("221 ")
    assert intake.wait_closed() == ["quit"]


def flood(client: Client, data: bytes, most: int = 50_000_000) -> int:
    """Send until nothing more is accepted; return how much was."""
    sent = 0
    with contextlib.suppress(OSError):
        while sent < most:
            sent += client.socket.send(data)
    return sent


def connected(port: int) -> int:
    """The number of connected sockets of the listener, according to the kernel."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


def test_a_client_that_does_not_read_is_not_read_from(listen: Listen) -> None:
    """So the replies waiting for it stay within bounds."""
    intake = listen(command_timeout="30s")
    with intake.client(timeout=0.5) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.greet()
        assert flood(client, b"HELP\r\n" * 10_000) < 20_000_000
        (session,) = intake.door._sessions
        assert session._transport.get_write_buffer_size() < 1_000_000  # type: ignore[attr-defined]


def test_a_client_that_does_not_read_is_cut_off(listen: Listen) -> None:
    intake = listen(command_timeout="300ms")
    with intake.client(timeout=0.5) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.greet()
        flood(client, b"HELP\r\n" * 10_000)
        assert intake.wait_closed() == ["timeout"]
        wait_for(lambda: connected(intake.port) == 0, "the connection to be gone", timeout=20)


def test_a_client_that_does_not_read_and_quits_is_cut_off_too(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtpproxy.intake.session._FLUSH", 0.3)
    intake = listen()
    with intake.client(timeout=0.5) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.greet()
        client.begin()
        client.send(marketing(), b".\r\n" + b"HELP\r\n" * 20_000)
        client.socket.shutdown(socket.SHUT_WR)
        wait_for(lambda: connected(intake.port) == 0, "the connection to be gone", timeout=20)


def test_a_client_that_reads_late_gets_everything(listen: Listen) -> None:
    intake = listen(command_timeout="10s")
    with intake.client() as client:
        client.greet()
        client.send(b"HELP\r\n" * 40_000 + b"QUIT\r\n")
        time.sleep(0.3)
        assert len(client.rest()) == 2 * 40_000 + 1
    assert intake.wait_closed() == ["quit"]


def test_a_waiting_client_does_not_hold_up_another(listen: Listen, upstream: FakeUpstream) -> None:
    upstream.behaviours.append(At("end", Hold(), nth=1))
    intake = listen()
    with intake.client() as waiting, intake.client() as other:
        for client in (waiting, other):
            client.greet()
            client.begin()
        waiting.send(marketing(), b".\r\n")
        upstream.wait_held()
        assert other.say(marketing(), b".\r\n").startswith("250 ")
        upstream.release()
        assert waiting.reply().startswith("250 ")
