"""One connection to the upstream: commands out, replies in, in order."""

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

from smtpproxy.events import Emit, UpstreamReplied
from smtpproxy.mail.reply import Reply
from smtpproxy.relay.deadlines import Deadlines
from smtpproxy.relay.errors import UpstreamError, UpstreamInsecure, UpstreamLost, UpstreamTimeout
from smtpproxy.wire.client import Capabilities, ReplyError, ReplyReader
from smtpproxy.wire.forwarding import Told, xclient_command

_REPLIED = {
    2: UpstreamReplied("2xx"),
    3: UpstreamReplied("3xx"),
    4: UpstreamReplied("4xx"),
    5: UpstreamReplied("5xx"),
}
_NO_REPLY = UpstreamReplied("none")
_RSET = b"RSET\r\n"
_QUIT = b"QUIT\r\n"
_BATCH = 64 * 1024
_HELO_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Za-z:.]+\]")


@dataclass(frozen=True, slots=True)
class StartTls:
    """STARTTLS is asked for, and the certificate must be good for `name`."""

    context: ssl.SSLContext
    name: str


class UpstreamConnection(asyncio.Protocol):
    """An SMTP connection as its client. Use `open` once, then `exchange` and `write`."""

    def __init__(self, deadlines: Deadlines, emit: Emit, closed: Callable[[], None]) -> None:
        self.capabilities = Capabilities()
        self.used = False  # a transaction was begun on it before
        self.private = False  # it is another client's: see `introduce`
        self.client = ""  # whose message it is used for: see UpstreamPool.acquire
        self.idle_since = 0.0
        self._loop = asyncio.get_running_loop()
        self._deadlines = deadlines
        self._deadline = deadlines.watch(self._expired)
        self._emit = emit
        self._closed = closed
        self._reader = ReplyReader()
        self._greeting: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting: deque[asyncio.Future[Reply]] = deque((self._greeting,))
        self._transport: asyncio.WriteTransport | None = None
        self._reset: asyncio.Future[Reply] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._paused = False
        self._error: UpstreamError | None = None

    @property
    def alive(self) -> bool:
        return self._error is None and self._transport is not None

    async def open(self, hostname: str, patience: float, tls: StartTls | None = None) -> None:
        """Read the greeting and say EHLO (HELO where EHLO is not known), once more inside `tls`.

        Raises UpstreamError when the upstream does not greet with 220, UpstreamInsecure when
        it has no TLS that is good.
        """
        self._deadline.at = self._deadlines.now() + patience
        reply = await self._greeting
        if reply.code == 220:
            reply = await self._hello(hostname, patience)
            if reply.code == 250 and tls is not None:
                await self._start_tls(tls, patience)
                reply = await self._hello(hostname, patience)
            if reply.code == 250:
                self.capabilities = Capabilities.of(reply)
                return
        self.close()
        raise UpstreamError(f"upstream greets with {reply}")

    async def introduce(self, told: Told, hostname: str, patience: float) -> None:
        """Go on as another client, where the upstream lets us: nobody else's mail goes here then.

        Raises UpstreamError.
        """
        command = xclient_command(told, self.capabilities.xclient)
        reply = await self.command(command, patience)
        if reply.code != 220:
            return  # it does not believe us: then the mail comes from us
        self.private = True
        name = told.helo if told.helo and _HELO_NAME.fullmatch(told.helo) else hostname
        reply = await self._hello(name, patience)
        if reply.code != 250:
            self.close()
            raise UpstreamError(f"upstream greets the client it was told of with {reply}")

    async def _hello(self, hostname: str, patience: float) -> Reply:
        reply = await self.command(f"EHLO {hostname}\r\n".encode(), patience)
        if 500 <= reply.code < 600:
            reply = await self.command(f"HELO {hostname}\r\n".encode(), patience)
        self.capabilities = Capabilities.of(reply)
        return reply

    async def _start_tls(self, tls: StartTls, patience: float) -> None:
        """Nothing goes on in clear: whoever takes STARTTLS out of the reply gets no mail."""
        if "STARTTLS" not in self.capabilities.keywords:
            self.close()
            raise UpstreamInsecure("upstream does not offer STARTTLS")
        reply = await self.command(b"STARTTLS\r\n", patience)
        if reply.code != 220 or self._transport is None:
            self.close()
            raise UpstreamInsecure(f"upstream answers STARTTLS with {reply}")
        self._reader = ReplyReader()  # what came in clear behind the reply is forgotten
        try:
            secured = await self._loop.start_tls(
                self._transport,
                self,
                tls.context,
                server_hostname=tls.name,
                ssl_handshake_timeout=patience,
                ssl_shutdown_timeout=1.0,
            )
        except (ssl.SSLError, OSError) as error:
            self.close()
            raise UpstreamInsecure(f"TLS with the upstream: {error}") from error
        if secured is None or self._error is not None:
            raise UpstreamInsecure("upstream went away in the TLS handshake")
        self._transport = secured

    async def command(self, data: bytes, patience: float) -> Reply:
        return await self.send(data, 1, patience)[0]

    def send(self, data: bytes, replies: int, patience: float) -> list[asyncio.Future[Reply]]:
        """Write commands at once; return one future for each reply that is due.

        A future raises UpstreamError when its reply will not come.
        """
        futures = self.expect(replies, patience)
        if self._transport is not None and self._error is None:
            self._transport.write(data)
        return futures

    def expect(self, replies: int, patience: float) -> list[asyncio.Future[Reply]]:
        futures = [self._loop.create_future() for _ in range(replies)]
        if self._error is not None:
            for future in futures:
                future.set_exception(self._error)
                future.add_done_callback(_ignore)
        else:
            self._waiting.extend(futures)
            self._deadline.at = self._deadlines.now() + patience
        return futures

    async def write(self, pieces: Iterable[bytes], patience: float) -> None:
        """Write content, waiting whenever the upstream is slower than we are."""
        batch: list[bytes] = []
        size = 0
        for piece in pieces:
            batch.append(piece)
            size += len(piece)
            if size >= _BATCH:
                await self._write_batch(batch, patience)
                batch, size = [], 0
        if batch:
            await self._write_batch(batch, patience)

    async def _write_batch(self, batch: list[bytes], patience: float) -> None:
        if self._error is not None or self._transport is None:
            raise self._error or UpstreamLost("not connected")
        self._transport.writelines(batch)
        if self._paused:
            self._deadline.at = self._deadlines.now() + patience
            self._writable = self._loop.create_future()
            await self._writable

    def reset(self, patience: float) -> None:
        """End the open transaction; nobody waits for the reply.

        An upstream that refuses may have kept the transaction: then the connection is closed.
        """
        (self._reset,) = self.send(_RSET, 1, patience)
        self._reset.add_done_callback(self._was_reset)

    def _was_reset(self, reply: asyncio.Future[Reply]) -> None:
        if not reply.cancelled() and reply.exception() is None and reply.result().code >= 300:
            self._fail(UpstreamLost(f"upstream answers RSET with {reply.result()}"))

    async def settled(self) -> None:
        """Wait for the reply to RSET, for an upstream that takes one command at a time."""
        if self._reset is not None:
            await self._reset
            self._reset = None

    def quit(self) -> None:
        if self._transport is not None and self._error is None:
            self._transport.write(_QUIT)
        self.close()

    def close(self) -> None:
        self._fail(UpstreamLost("closed by the relay"))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            replies = self._reader.receive_data(data)
        except ReplyError as error:
            self._fail(UpstreamError(str(error)))
            return
        for reply in replies:
            if not self._waiting:
                self._fail(UpstreamLost(f"unasked: {reply}"))
                return
            self._emit(_REPLIED[reply.code // 100])
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(reply)
        if not self._waiting:
            self._deadline.at = float("inf")

    def eof_received(self) -> None:
        self._fail(UpstreamLost("upstream closed the connection"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(UpstreamLost(f"connection lost: {exc}"))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def _expired(self) -> None:
        self._fail(UpstreamTimeout("no reply in time"))

    def _fail(self, error: UpstreamError) -> None:
        if self._error is not None:
            return
        self._error = error
        self._deadlines.forget(self._deadline)
        if self._waiting:
            self._emit(_NO_REPLY)
        for future in self._waiting:
            if not future.done():
                future.set_exception(error)
                future.add_done_callback(_ignore)
        self._waiting.clear()
        if self._writable is not None and not self._writable.done():
            self._writable.set_exception(error)
        if self._transport is not None:
            self._transport.close()
        self._closed()


def _ignore(future: asyncio.Future[Reply]) -> None:
    """Take the outcome, so that asyncio does not report it as never retrieved."""
    if not future.cancelled():
        future.exception()
