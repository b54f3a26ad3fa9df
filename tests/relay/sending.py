"""Send messages through an upstream pool, to an upstream that a test scripts."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from msgspec import Struct

from smtpproxy.mail.reply import Reply
from smtpproxy.relay.mail_parameters import MailParameters
from smtpproxy.relay.pool import UpstreamPool
from smtpproxy.relay.transaction import UpstreamTransaction
from smtpproxy.relay.upstream_limit import Table, Workers
from smtpproxy.settings import Address, TcpAddress, UpstreamSettings
from smtpproxy.waiting import Deadlines
from smtpproxy.wire.commands import Rcpt
from tests.kit.ports import LOOPBACK

SENDER = "news@shop.example"
JEANNE = "jeanne@people.example"
CONTENT = b"Subject: x\r\n\r\nbody\r\n"


class Pool(UpstreamPool):
    """A pool and the events it emitted."""

    def __init__(self, address: Address | int, table: Table | None = None, **settings: Any) -> None:
        """`table` is shared by the workers of a relay."""
        self.replies: defaultdict[int, int] = defaultdict(int)
        if isinstance(address, int):
            address = TcpAddress(LOOPBACK, address)
        deadlines = Deadlines(asyncio.get_running_loop(), resolution=0.02)
        super().__init__(
            UpstreamSettings(address, **settings),
            "relay.example",
            deadlines,
            self.replies,
            None if table is None else Workers(table, deadlines.now),
        )


@asynccontextmanager
async def pooled(address: Address | int, **settings: Any) -> AsyncIterator[Pool]:
    """A pool that checks at its end that no message holds a connection."""
    pool = Pool(address, **settings)
    yield pool
    assert pool.busy == 0, "a connection was never returned"
    pool.close()


class Sent(Struct, frozen=True):
    """The replies to one message; `final` is None if no recipient was accepted."""

    recipients: list[Reply]
    final: Reply | None

    @property
    def last(self) -> Reply:
        return self.final or self.recipients[-1]


async def send(
    pool: UpstreamPool,
    *recipients: str,
    content: Iterable[bytes] = (CONTENT,),
    mail: MailParameters | None = None,
) -> Sent:
    """Send a message as the pipeline does; raises UpstreamError."""
    transaction = UpstreamTransaction(pool, mail or MailParameters(SENDER))
    replies = await transaction.recipients([Rcpt(path) for path in recipients or (JEANNE,)])
    if not transaction.accepted:
        transaction.abort()
        return Sent(replies, None)
    final = await transaction.begin_data() or await transaction.send_content(content)
    return Sent(replies, final or await transaction.send_content(()))


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    """Serve on loopback; yield the port."""
    tasks: set[asyncio.Task[Any]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, LOOPBACK, 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, replies: Sequence[bytes]
) -> None:
    """Greet, then answer each line of input in turn."""
    writer.write(b"220 upstream.example\r\n")
    for reply in replies:
        await reader.readuntil(b"\r\n")
        writer.write(reply)


EHLO = b"250-upstream.example\r\n250-SIZE 52428800\r\n250 PIPELINING\r\n"
OK = b"250 2.0.0 ok\r\n"
GO_ON = b"354 go on\r\n"
TO_DATA = [EHLO, OK, OK, GO_ON]
"""The replies to EHLO, MAIL, RCPT and DATA."""
