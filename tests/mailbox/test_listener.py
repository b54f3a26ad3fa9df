"""The door of the mailbox: one recipient in a transaction, durable before the 250."""

import asyncio
import smtplib
import socket
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
async def door(maildir: Maildir, protocol: Literal["smtp", "lmtp"]) -> AsyncIterator[int]:
    sock = socket.create_server((LOOPBACK, 0))
    settings = FeedbackSettings("bounces.example", protocol=protocol, size_limit=100_000)
    ids = count()
    listener = Listener(
        settings, "relay.example", maildir, new_id=lambda: f"{next(ids):026}", arrived=lambda: None
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
async def test_one_recipient_and_the_second_is_told_to_come_again(
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


async def test_what_cannot_be_written_is_the_mtas_still(maildir: Maildir, tmp_path: Path) -> None:
    (tmp_path / "feedback/tmp").rmdir()
    async with door(maildir, "lmtp") as port:
        assert await talk(port, "lmtp", lambda c: [*deliver(c)]) == [250, 250, 452, 451]
        maildir.make()
        assert await talk(port, "lmtp", lambda c: [*deliver(c)]) == [250, 250, 452, 250]
    assert len(maildir.arrived(9, 1000)) == 1


async def test_what_is_too_large_is_refused_and_long_lines_are_taken(maildir: Maildir) -> None:
    async with door(maildir, "lmtp") as port:
        large = b"x\r\n" * 50_000
        assert await talk(port, "lmtp", lambda c: [*deliver(c, large)]) == [250, 250, 452, 552]
        long = b"Subject: x\r\n\r\n" + b"y" * 30_000 + b"\r\n"
        assert await talk(port, "lmtp", lambda c: [*deliver(c, long)]) == [250, 250, 452, 250]
    (one,) = maildir.arrived(9, 100_000)
    assert one.content.endswith(long)
