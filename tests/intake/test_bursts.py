"""Input that arrives in several reads before the session's task has run."""

import asyncio
import time
from itertools import pairwise
from typing import Any, cast

import pytest

from smtpproxy.core.effects import Steps, StoreVersion
from smtpproxy.core.services import StreamTable
from smtpproxy.events import Event, Stage
from smtpproxy.intake.listener import Listener
from smtpproxy.intake.smtp import SmtpSession
from smtpproxy.mail.reply import Reply
from smtpproxy.relay.content import Content, Spool
from smtpproxy.settings import (
    ListenerSettings,
    ServerSettings,
    Settings,
    StoreSettings,
    TcpAddress,
    UpstreamSettings,
)
from smtpproxy.waiting import Deadlines
from smtpproxy.wire.commands import Rcpt


class Wire(asyncio.Transport):
    """A transport that keeps what the session writes."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.reading = True

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return None if name == "socket" else ("192.0.2.1", 4000)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        pass


class Told:
    """A transaction that answers each recipient with its own name."""

    instances: list["Told"]

    def __init__(self, *_: Any) -> None:
        self.content = 0
        self.spent: dict[Stage, float] = {}
        Told.instances.append(self)

    def recipients(self, asked: list[Rcpt]) -> Steps[list[Reply]]:
        yield from StoreVersion()
        return [Reply.of(250, "2.1.5", rcpt.forward_path) for rcpt in asked]

    def message(self, content: Content, client_is_there: object) -> Steps[list[Reply]]:
        yield from StoreVersion()
        self.content = content.size
        return [Reply.of(250, "2.0.0", "taken")]

    def abort(self) -> None:
        pass


@pytest.fixture
async def session(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[SmtpSession, Wire]:
    listener = ListenerSettings("apps", TcpAddress("127.0.0.1", 2525), early_commands="permit")
    server = ServerSettings("relay.example", tmp_path)
    settings = Settings(
        server,
        (listener,),
        UpstreamSettings(TcpAddress("127.0.0.1", 25)),
        StoreSettings("sqlite:///x"),
    )
    events: list[Event] = []

    class Services:
        hostname = "relay.example"
        emit = events.append
        ticks = time.monotonic

    monkeypatch.setattr("smtpproxy.intake.client.RelayTransaction", Told)
    Told.instances = []

    def unexpected(error: Exception) -> None:
        raise error

    return SmtpSession(
        Listener(
            listener,
            server,
            cast(Any, Services),
            {StoreVersion: lambda _: asyncio.sleep(0)},  # which takes an iteration of the loop
            StreamTable(settings),
            Deadlines(asyncio.get_running_loop()),
            Spool(tmp_path, 1000),
            unexpected=unexpected,
        )
    ), Wire()


async def turns(count: int = 12) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("size", [1, 7, 30, 10_000])
async def test_nothing_is_lost_when_several_reads_precede_the_task(
    session: tuple[SmtpSession, Wire], size: int
) -> None:
    protocol, wire = session
    protocol.connection_made(wire)
    await turns()
    dialog = (
        b"EHLO a.example\r\nMAIL FROM:<a@a.example>\r\nRCPT TO:<one@b.example>\r\n"
        b"RCPT TO:<two@b.example>\r\nRCPT TO:<three@b.example>\r\nNOOP\r\nRSET\r\n"
        b"MAIL FROM:<a@a.example>\r\nRCPT TO:<four@b.example>\r\n"
    )
    for start in range(0, len(dialog), size):  # all in one iteration of the loop
        protocol.data_received(dialog[start : start + size])
    await turns()
    replies = wire.written.decode().split("\r\n")
    assert [line for line in replies if "@b.example" in line] == [
        "250 2.1.5 one@b.example",
        "250 2.1.5 two@b.example",
        "250 2.1.5 three@b.example",
        "250 2.1.5 four@b.example",
    ]
    content = b"DATA\r\nSubject: x\r\n\r\nhello\r\n.\r\nNOOP\r\nQUIT\r\n"
    for start in range(0, len(content), size):
        protocol.data_received(content[start : start + size])
    await turns()
    assert wire.written.endswith(b"250 2.0.0 taken\r\n250 2.0.0 OK\r\n221 2.0.0 bye\r\n"), (
        wire.written[-200:]
    )
    assert Told.instances[-1].content == len(b"Subject: x\r\n\r\nhello\r\n")


async def test_reading_stops_while_a_client_is_far_ahead(
    session: tuple[SmtpSession, Wire],
) -> None:
    """What it sends meanwhile would stay in memory."""
    protocol, wire = session
    protocol.connection_made(wire)
    await turns()
    protocol.data_received(b"EHLO a.example\r\n")
    protocol.data_received(b"MAIL FROM:<a@a.example>\r\nRCPT TO:<one@b.example>\r\n")
    noops = (b"NOOP %s\r\n" % (b"x" * 500)) * 120
    for _ in range(4):
        protocol.data_received(noops)
    assert wire.reading
    protocol.data_received(noops)
    assert not wire.reading
    await turns()
    assert wire.reading
    assert wire.written.count(b"250 2.0.0 OK\r\n") == 600


async def test_a_client_that_left_replies_unread_gets_them_later(
    session: tuple[SmtpSession, Wire],
) -> None:
    protocol, wire = session
    protocol.connection_made(wire)
    await turns()
    protocol.data_received(b"EHLO a.example\r\n")
    protocol.pause_writing()
    assert not wire.reading
    before = wire.written
    protocol.data_received(b"NOOP\r\n")  # it was already under way
    assert wire.written == before
    protocol.resume_writing()
    assert wire.reading
    assert wire.written == before + b"250 2.0.0 OK\r\n"


async def test_other_clients_get_their_turn_between_pipelined_recipients(
    session: tuple[SmtpSession, Wire],
) -> None:
    """Each costs a store read and a record, while a command costs microseconds."""
    protocol, wire = session
    protocol._listener.perform = lambda _: None  # every effect is answered at once
    protocol.connection_made(wire)
    await turns()
    protocol.data_received(b"EHLO a.example\r\n")
    once = b"MAIL FROM:<a@a.example>\r\nRCPT TO:<one@b.example>\r\nRSET\r\n"
    protocol.data_received(once * 300)
    judged = [len(Told.instances)]
    while judged[-1] < 300:
        await asyncio.sleep(0)
        judged.append(len(Told.instances))
    assert max(after - before for before, after in pairwise([0, *judged])) <= 25
