"""How sessions end: with a reason, nothing half done and nothing lost."""

import asyncio
import socket
import struct
import time
from pathlib import Path

import pytest

from smtpproxy.events import ConnectionClosed
from smtpproxy.process.listening import CannotListen
from smtpproxy.store.records import StoreUnavailable
from tests.intake.conftest import Listen
from tests.intake.listening import Intake
from tests.kit.messages import marketing
from tests.kit.mta import Mta, mta
from tests.kit.policy import policy_client
from tests.kit.ports import wait_for
from tests.kit.upstream import At, FakeUpstream, Hold

BARE_LF = "521 5.5.2 bare <LF> received; lines must end with <CR><LF>; closing the connection"
SHUTDOWN = "421 4.3.2 the connection ends for a restart or reload; reconnect"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch, listen: Listen) -> Intake:
    """A listener that lingers as long as in production."""
    intake = listen()
    monkeypatch.setattr("smtpproxy.intake.session._LINGER", 2.0)
    return intake


def test_a_refused_client_that_is_still_sending_can_read_the_reason(patient: Intake) -> None:
    """Closing at once would lose the reply, as the kernel resets a connection with unread data."""
    with patient.client() as client:
        client.greet()
        client.begin()
        client.send(b"a\nb\r\n")
        for _ in range(100):
            client.send(b"x" * 70_000 + b"\r\n")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.rest() == [BARE_LF]


def test_input_after_the_end_is_not_kept(patient: Intake) -> None:
    with patient.client() as client:
        client.greet()
        (session,) = patient.door._sessions
        client.send(b"NOOP\n")
        assert client.reply() == BARE_LF
        client.send(b"NOOP\r\n" * 100_000)
        assert session._engine.buffered == 0  # type: ignore[attr-defined]
        assert client.rest() == []


def test_pipelined_commands_are_answered_after_half_a_close(
    listen: Listen, upstream: FakeUpstream
) -> None:
    intake = listen(early_commands="permit")
    with intake.client() as client:
        client.send(
            "EHLO client.example",
            "MAIL FROM:<news@shop.example>",
            "RCPT TO:<consent@people.example>",
            "DATA",
            marketing() + b".\r\n",
            "NOOP",
        )
        client.socket.shutdown(socket.SHUT_WR)
        assert [line[:4] for line in client.rest() if line[3] == " "] == [
            "220 ", "250 ", "250 ", "250 ", "354 ", "250 ", "250 ",
        ]  # fmt: skip
    assert intake.wait_closed() == ["eof"]
    assert len(upstream.messages) == 1


def test_half_a_close_while_the_upstream_is_slow(listen: Listen, upstream: FakeUpstream) -> None:
    upstream.behaviours.append(At("end", Hold()))
    intake = listen()
    with intake.client() as client:
        client.greet()
        client.begin()
        client.send(marketing(), b".\r\n", "NOOP")
        client.socket.shutdown(socket.SHUT_WR)
        upstream.wait_held()
        upstream.release()
        assert [line[:9] for line in client.rest()] == ["250 2.0.0", "250 2.0.0"]


@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_is_gone_after_the_end_of_data(
    listen: Listen, upstream: FakeUpstream, reset: bool
) -> None:
    """Once the upstream may have accepted a message, it is finished and recorded."""
    upstream.behaviours.append(At("end", Hold()))
    intake = listen()
    with intake.client() as client:
        client.greet()
        client.begin()
        client.send(marketing(), b".\r\n")
        upstream.wait_held()
        if reset:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    time.sleep(0.1)
    upstream.release()
    upstream.wait_messages(1)
    intake.wait_closed()
    (decided,) = intake.records.decided
    (outcome,) = intake.records.relayed
    assert (outcome.id, outcome.code) == (decided.id, 250)


@pytest.mark.parametrize(
    "so_far",
    [
        ("MAIL FROM:<news@shop.example>",),
        ("MAIL FROM:<news@shop.example>", "RCPT TO:<consent@people.example>"),
        ("MAIL FROM:<news@shop.example>", "RCPT TO:<consent@people.example>", "DATA"),
        (
            "MAIL FROM:<news@shop.example>",
            "RCPT TO:<consent@people.example>",
            "DATA",
            marketing() + b".\r",
        ),
    ],
    ids=["mail", "rcpt", "data", "content"],
)
def test_a_client_that_is_gone_before_the_end_of_data(
    listen: Listen, upstream: FakeUpstream, so_far: tuple[str | bytes, ...]
) -> None:
    intake = listen(early_commands="permit")
    with intake.client() as client:
        client.greet()
        client.send(*so_far)
        client.replies(min(len(so_far), 3))
    assert intake.wait_closed() == ["eof"]
    assert intake.records.decided == []
    assert upstream.messages == []
    with intake.client() as client:  # and the upstream connection is clean
        client.greet()
        client.begin("customer@people.example")
        assert client.say(marketing(), b".\r\n").startswith("250 ")
    assert [message.recipients for message in upstream.messages] == [("customer@people.example",)]


def test_closed_sessions_report_their_duration(listen: Listen) -> None:
    intake = listen()
    with intake.client() as client:
        client.greet()
        time.sleep(0.2)
        client.say("QUIT")
    intake.wait_closed()
    (closed,) = intake.of(ConnectionClosed)
    assert (closed.listener, closed.peer, closed.cause) == ("apps", "127.0.0.1", "quit")
    assert 0.15 < closed.seconds < 5


# draining


def test_a_drain_finishes_messages_and_ends_idle_sessions(
    listen: Listen, upstream: FakeUpstream
) -> None:
    """Idle sessions get 421, one in mid-transaction finishes, and nobody new gets in."""
    upstream.behaviours.append(At("end", Hold()))
    intake = listen()
    with intake.client() as idle, intake.client() as fresh, intake.client() as busy:
        with intake.client() as slow:
            idle.greet()
            assert fresh.reply().startswith("220 ")
            for client in (busy, slow):
                client.greet()
                client.begin()
            busy.send(marketing(), b".\r\n")
            upstream.wait_held()
            drained = intake.call(intake.door.drain())
            assert idle.rest() == [SHUTDOWN]
            assert fresh.rest() == [SHUTDOWN]
            with pytest.raises(ConnectionRefusedError), intake.client():
                pass
            assert not drained.done()
            upstream.release()
            assert busy.reply().startswith("250 ")
            assert busy.rest() == [SHUTDOWN]
            slow.send(marketing(), b".\r\n")
            assert slow.reply().startswith("250 ")
            assert slow.rest() == [SHUTDOWN]
        drained.result(30)
    assert len(upstream.messages) == 2
    assert set(intake.wait_closed(4)) == {"shutdown"}


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("NOOP", SHUTDOWN),
        ("MAIL FROM:<news@shop.example>", SHUTDOWN),
        ("RSET", "250 2.0.0 OK"),
        ("QUIT", "221 2.0.0 bye"),
    ],
)
def test_a_client_pool_learns_of_the_drain_before_its_next_message(
    listen: Listen, upstream: FakeUpstream, command: str, reply: str
) -> None:
    """JavaMail checks with NOOP; PHPMailer sends RSET after each message and must not get it."""
    intake = listen()
    with intake.client() as client:
        client.greet()
        client.begin()
        assert client.say(marketing(), b".\r\n").startswith("250 ")
        drained = intake.call(intake.door.drain())
        wait_for(lambda: intake.door.draining, "the drain")
        assert client.say(command) == reply
        drained.result(30)


def test_a_client_that_connects_at_the_last_moment_may_send_a_message(
    listen: Listen, upstream: FakeUpstream
) -> None:
    """Its QUIT gets 221: after a 421 it might think that the message was lost."""
    intake = listen()
    with intake.client() as before, intake.client() as last:
        for client in (before, last):
            client.greet()
        before.begin()
        assert before.say(marketing(), b".\r\n").startswith("250 ")
        drained = intake.call(intake.door.drain())
        wait_for(lambda: intake.door.draining, "the drain")
        assert before.say("MAIL FROM:<news@shop.example>") == SHUTDOWN
        last.begin()
        assert last.say(marketing(), b".\r\n").startswith("250 ")
        assert last.say("QUIT").startswith("221 ")
        drained.result(30)
    assert len(upstream.messages) == 2


@pytest.mark.parametrize("turns", [0, 1])
def test_the_drain_waits_for_a_client_just_accepted(listen: Listen, turns: int) -> None:
    async def drained_too_soon(address: tuple[str, int]) -> bool:
        with socket.create_connection(address):
            for _ in range(turns):
                await asyncio.sleep(0)
            drained = asyncio.create_task(intake.door.drain())
            await asyncio.wait([drained], timeout=0.2)
            was_drained = drained.done()
            await asyncio.sleep(0.1)
            left = bool(intake.door._sessions)
        await drained
        return was_drained and left

    intake = listen()
    with intake.client() as before:
        address = before.socket.getpeername()
    intake.wait_closed(1)
    assert not intake.call(drained_too_soon(address)).result(10)


def test_a_client_that_connects_during_the_drain_is_turned_away(
    listen: Listen, upstream: FakeUpstream
) -> None:
    """Its connection was waiting to be accepted."""
    intake = listen()
    with intake.client() as busy:
        busy.greet()
        busy.begin()
        intake.door.draining, intake.door._drained_from = True, 0.0
        with intake.client() as late:
            assert late.rest() == ["421 4.3.2 the relay is shutting down; try again later"]
        assert busy.say(marketing(), b".\r\n").startswith("250 ")
        assert busy.rest() == [SHUTDOWN]


def test_a_stuck_session_is_cut_after_the_drain_timeout(
    listen: Listen, upstream: FakeUpstream
) -> None:
    intake = listen({"server": {"drain_timeout": "300ms"}})
    upstream.behaviours.append(At("end", Hold()))
    with intake.client() as stuck, intake.client() as waiting:
        for client in (stuck, waiting):
            client.greet()
            client.begin()
        waiting.send(marketing(), b".\r\n")
        upstream.wait_held()
        drained = intake.call(intake.door.drain())
        assert stuck.rest() == [SHUTDOWN]
        assert waiting.rest() == [SHUTDOWN]
        drained.result(10)
        upstream.release()
    intake.wait_closed(2)


@pytest.mark.parametrize("protocol", ["milter", "policy"])
def test_an_mta_is_told_to_wait_when_its_answer_would_outlast_the_drain(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    streams = {"streams": ["offers"], "default_stream": "offers"}
    intake = listen({"server": {"drain_timeout": "200ms"}}, protocol=protocol, **streams)
    asked, drained = asyncio.Event(), asyncio.Event()

    async def read(*_: object) -> None:
        asked.set()
        await drained.wait()
        raise StoreUnavailable("locked")

    async def drain() -> None:
        await asked.wait()
        await intake.door.drain()
        drained.set()

    monkeypatch.setattr(intake.store, "read", read)
    ended = intake.call(drain())
    with mta(intake.port) if protocol == "milter" else policy_client(intake.port) as peer:
        if isinstance(peer, Mta):
            peer.negotiate()
            peer.connect()
            peer.mail("news@shop.example")
            answer = peer.rcpt("consent@people.example").reply
        else:
            answer = peer.rcpt("consent@people.example")
        assert answer == "451 4.3.0 temporary_failure"
        assert peer.socket.recv(100) == b""
    ended.result(10)
    assert intake.wait_closed() == ["shutdown"]


# other sockets


def test_a_listener_on_a_unix_socket(
    listen: Listen, upstream: FakeUpstream, tmp_path: Path
) -> None:
    intake = listen(address=f"unix:{tmp_path}/intake.sock")
    with intake.client() as client:
        client.greet()
        client.begin()
        assert client.say(marketing(), b".\r\n").startswith("250 ")
        assert client.say("QUIT").startswith("221 ")
        assert client.rest() == []
    (message,) = upstream.messages
    assert message.data.startswith(b"Received: from client.example (unix)\r\n")
    (decided,) = intake.records.decided
    assert decided.client.peer == "unix"


def test_a_unix_socket_left_by_a_dead_relay_is_replaced(listen: Listen, tmp_path: Path) -> None:
    path = tmp_path / "intake.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    intake = listen(address=f"unix:{path}")
    with intake.client() as client:
        client.greet()


def test_a_unix_socket_in_use_is_left_alone(
    listen: Listen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtpproxy.process.listening._TAKEN_FOR", 0.1)
    address = f"unix:{tmp_path}/intake.sock"
    first = listen(address=address)
    with pytest.raises(CannotListen, match=r'"apps" cannot listen on unix:.*: stop the program'):
        listen(address=address)
    with first.client() as client:
        client.greet()
