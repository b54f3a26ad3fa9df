"""The mailbox's listener: one recipient per transaction, on disk before the 250."""

import asyncio
import re
import smtplib
import socket
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Literal, TypeVar

import pytest

from smtpproxy.mailbox.listener import Listener
from smtpproxy.settings import FeedbackSettings
from smtpproxy.store.maildir import Maildir
from tests.kit.ports import LOOPBACK

T = TypeVar("T")
BOUNCE = b"Subject: bounce\r\n\r\n..dots\r\n\xe9\r\n"


@pytest.fixture
def maildir(tmp_path: Path) -> Maildir:
    maildir = Maildir(tmp_path / "feedback")
    maildir.make()
    return maildir


@asynccontextmanager
async def door(
    maildir: Maildir, protocol: Literal["smtp", "lmtp"], failed: Callable[[], None] = lambda: None
) -> AsyncIterator[int]:
    sock = socket.create_server((LOOPBACK, 0))
    settings = FeedbackSettings("bounces.example", protocol=protocol, size_limit=100_000)
    ids = count()
    listener = Listener(
        settings,
        "relay.example",
        maildir,
        new_id=lambda: f"{next(ids):026}",
        arrived=lambda: None,
        failed=failed,
    )
    await listener.open(sock)
    yield sock.getsockname()[1]
    listener.close()


async def talk(port: int, protocol: str, work: Callable[[smtplib.SMTP], T]) -> T:
    def session() -> T:
        kind = smtplib.LMTP if protocol == "lmtp" else smtplib.SMTP
        with kind(LOOPBACK, port) as client:
            client.ehlo("mta.example")
            return work(client)

    return await asyncio.to_thread(session)


def deliver(client: smtplib.SMTP, content: bytes = BOUNCE, *, sender: str = "") -> Iterator[int]:
    yield client.mail(sender)[0]
    yield client.rcpt("b123@bounces.example")[0]
    yield client.rcpt("another@bounces.example")[0]
    yield client.data(content)[0]


@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
async def test_a_second_recipient_is_deferred(
    maildir: Maildir, protocol: Literal["smtp", "lmtp"]
) -> None:
    async with door(maildir, protocol) as port:
        assert await talk(port, protocol, lambda c: [*deliver(c)]) == [250, 250, 452, 250]
        codes = await talk(port, protocol, lambda c: [*deliver(c, sender="a@b.example")])
        assert codes == [250, 250, 452, 250]
    first, second = maildir.arrived(9, 1000)
    trace = b"Return-Path: <>\r\nDelivered-To: b123@bounces.example\r\n"
    assert first.content == trace + BOUNCE
    assert second.content.startswith(b"Return-Path: <a@b.example>\r\n")


async def test_a_report_that_cannot_be_written_stays_with_the_mta(
    maildir: Maildir, tmp_path: Path
) -> None:
    (tmp_path / "feedback/tmp").rmdir()
    failures: list[int] = []
    async with door(maildir, "lmtp", failed=lambda: failures.append(451)) as port:
        assert await talk(port, "lmtp", lambda c: [*deliver(c)]) == [250, 250, 452, 451]
        maildir.make()
        assert await talk(port, "lmtp", lambda c: [*deliver(c)]) == [250, 250, 452, 250]
    assert len(maildir.arrived(9, 1000)) == 1
    assert failures == [451]


def said(client: smtplib.SMTP, content: bytes) -> int:
    """The answer to the end of a message sent raw in uneven pieces."""
    client.mail("")
    client.rcpt("b123@bounces.example")
    client.putcmd("DATA")
    assert client.getreply()[0] == 354
    wire = re.sub(rb"(\A|(?<=\r\n))\.", b"..", content) + b".\r\n"
    assert client.sock is not None
    for at in range(0, len(wire), 7_001):
        client.sock.sendall(wire[at : at + 7_001])
    return client.getreply()[0]


LONG = 99_000  # octets; a report may have 100,000


@pytest.mark.parametrize(
    "body",
    [
        b"y" * LONG + b"\r\n",
        b"." * LONG + b"\r\n.\r\n..\r\nend\r\n",
        b"\r" * LONG + b"\r\n",
        b"\n.\n" * (LONG // 3) + b"\r\n.\r\n",
        b"y" * (64 * 1024 - 1) + b"\r\n.\r\n",
        b".\r\n" * 2_000 + b"y" * 70_000 + b"\r\n.y\r\n",
    ],
    ids=[
        "one line",
        "dots",
        "carriage returns",
        "line feeds",
        "at the buffer's end",
        "short first",
    ],
)
async def test_a_line_may_be_as_long_as_a_report(maildir: Maildir, body: bytes) -> None:
    """After a 500 the MTA would bounce the report to nobody, and it would be lost."""
    mail = b"Subject: x\r\n\r\n" + body
    async with door(maildir, "lmtp") as port:
        assert await talk(port, "lmtp", lambda c: [said(c, mail), said(c, mail)]) == [250, 250]
    found = [one.content.partition(b"Subject")[2] for one in maildir.arrived(9, 200_000)]
    assert found == [mail.partition(b"Subject")[2]] * 2


@pytest.mark.parametrize("content", [b"x\r\n" * 50_000, b"x" * 150_000 + b"\r\n"])
async def test_a_report_that_is_too_large_is_refused(maildir: Maildir, content: bytes) -> None:
    async with door(maildir, "lmtp") as port:
        assert await talk(port, "lmtp", lambda c: [said(c, content), said(c, BOUNCE)]) == [552, 250]
    assert len(maildir.arrived(9, 1000)) == 1


def endless(client: smtplib.SMTP) -> int:
    """The answer to a line of 8 MB."""
    client.mail("")
    client.rcpt("b123@bounces.example")
    client.putcmd("DATA")
    client.getreply()
    assert client.sock is not None
    piece = b"x" * 8_000
    for _ in range(1_000):
        client.sock.sendall(piece)
    client.sock.sendall(b"\r\n.\r\n")
    return client.getreply()[0]


async def test_an_endless_line_takes_no_more_memory_than_a_report(maildir: Maildir) -> None:
    async with door(maildir, "lmtp") as port:
        tracemalloc.start()
        try:
            assert await talk(port, "lmtp", endless) == 552
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert most < 2_000_000
