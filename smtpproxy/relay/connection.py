"""One connection to the upstream: commands out, replies in, in order, and its errors."""

import asyncio
import re
import ssl
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any, cast

from msgspec import Struct

from smtpproxy.first_address import Place
from smtpproxy.mail.reply import Reply
from smtpproxy.relay.exchange import ContentSent, Exchange
from smtpproxy.waiting import NEVER, Deadline, Deadlines, Pending
from smtpproxy.wire.client import Capabilities, ReplyError, ReplyReader
from smtpproxy.wire.commands import ClientInfo
from smtpproxy.wire.forwarding import xclient_command


class UpstreamError(Exception):
    """A failure of the upstream; the text is private, `reply` is for the client.

    Always temporary: the client keeps the message and tries again.
    """

    reply = Reply.of(451, "4.4.0", "the next mail server did not answer as it should; try later")
    listens = True
    heard_at = NEVER  # when the last address that answered refused a connection


class UpstreamUnreachable(UpstreamError):
    """No connection could be made."""

    reply = Reply.of(451, "4.4.1", "the next mail server cannot be reached; try later")
    listens = False


class UpstreamFull(UpstreamError):
    """The upstream greets with 421: it accepts no more connections (RFC 5321 section 3.8)."""

    reply = Reply.of(451, "4.4.1", "the next mail server accepts no more connections; try later")


class UpstreamInsecure(UpstreamError):
    """The upstream has no TLS, or no certificate that is valid for its name."""

    reply = Reply.of(451, "4.7.5", "no secure connection to the next mail server; try later")


class UpstreamLost(UpstreamError):
    """The connection ended during a transaction."""

    reply = Reply.of(451, "4.4.2", "connection to the next mail server lost; try later")


class UpstreamClosing(UpstreamLost):
    """The upstream answers a command with 421, and closes the connection (RFC 5321 section 3.8)."""


class UpstreamTimeout(UpstreamError):
    """The upstream did not answer in time."""

    reply = Reply.of(451, "4.4.2", "the next mail server did not answer in time; try later")


NO_MORE = (UpstreamFull, UpstreamUnreachable, UpstreamLost)
"""How opening a connection fails if the upstream accepts no more; its queue may be full, too."""

_RSET = b"RSET\r\n"
_QUIT = b"QUIT\r\n"
_MOST_RESETS = 10  # without a message; after more, Postfix slows down (smtpd_soft_error_limit)
_HELO_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Za-z:.]+\]")


class StartTls(Struct, frozen=True):
    """STARTTLS is required, with a certificate that is valid for `name`."""

    context: ssl.SSLContext
    name: str


class UpstreamConnection(asyncio.Protocol):
    """An SMTP client's connection. Call `open` once, then `exchange` and `send_content`."""

    BATCH = 64 * 1024  # octets of content that are written at once

    def __init__(
        self, deadlines: Deadlines, replies: defaultdict[int, int], closed: Callable[[], None]
    ) -> None:
        self.capabilities = Capabilities()
        self.alive = False
        self.used = False  # the upstream took a message on it: MAIL was answered
        self.resets = 0  # since the last message
        self.private = False  # it is one client's: see `introduce`
        self.place: Place = "", 0  # where it leads
        self.client = ""  # it is in use for: see UpstreamPool.acquire
        self.wanted_since = NEVER  # when its message began to wait for one
        self.turn_at = 0.0  # when its client last had to continue
        self.idle_since = 0.0
        self._loop = asyncio.get_running_loop()
        self._deadlines = deadlines
        self._deadline = Deadline(self._expired)  # active once connected
        self._replies = replies
        self._closed = closed
        self._reader = ReplyReader()
        self._greeting: Exchange[list[Reply]] = Exchange(Pending.settle)
        self._waiting: deque[Exchange[Any]] = deque((self._greeting,))
        self._transport: asyncio.WriteTransport  # once connected
        self._reset: Exchange[None] | None = None
        self._held: Callable[[], None] | None = None  # called if a hold takes too long
        # Content that waits for the upstream to read:
        self._writing: tuple[Iterator[bytes], ContentSent, float] | None = None
        self._paused = False
        self._error: UpstreamError | None = None

    @property
    def due(self) -> float:
        """When the next answer of the upstream is due, at the latest."""
        return self._deadline.at if self._waiting else NEVER

    async def open(self, hostname: str, timeout: float, tls: StartTls | None = None) -> None:
        """Read the greeting and send EHLO (HELO if EHLO is refused), and again inside `tls`.

        Raises UpstreamError if the upstream does not greet with 220, UpstreamInsecure if it has no
        valid TLS.
        """
        self._deadline.at = self._deadlines.now() + timeout
        (reply,) = await self._greeting
        if reply.code == 220:
            reply = await self._hello(hostname, timeout)
            if reply.code == 250 and tls is not None:
                await self._start_tls(tls, timeout)
                reply = await self._hello(hostname, timeout)
            if reply.code == 250:
                self.capabilities = Capabilities.of(reply)
                return
        self.close()
        failure = UpstreamFull if reply.code == 421 else UpstreamError
        raise failure(f"upstream greets with {reply}")

    async def introduce(self, client: ClientInfo, hostname: str, timeout: float) -> None:
        """Continue as another client, if permitted; the connection is then only for its mail.

        Raises UpstreamError.
        """
        command = xclient_command(client, self.capabilities.xclient)
        self.private = True  # even if nobody waits for the reply
        reply = await self.command(command, timeout)
        if reply.code == 220:
            name = client.helo if client.helo and _HELO_NAME.fullmatch(client.helo) else hostname
            reply = await self._hello(name, timeout)
            if reply.code != 250:
                self.close()
        elif reply.code != 421:
            self.private = False  # it does not trust us: the mail comes from us
            return
        if reply.code != 250:
            failure = UpstreamClosing if reply.code == 421 else UpstreamError
            raise failure(f"upstream answers XCLIENT or EHLO after it with {reply}")

    async def _hello(self, hostname: str, timeout: float) -> Reply:
        reply = await self.command(f"EHLO {hostname}\r\n".encode(), timeout)
        if 500 <= reply.code < 600:
            reply = await self.command(f"HELO {hostname}\r\n".encode(), timeout)
        self.capabilities = Capabilities.of(reply)
        return reply

    async def _start_tls(self, tls: StartTls, timeout: float) -> None:
        """Change to TLS, or fail: removing STARTTLS from the reply must gain nothing."""
        if "STARTTLS" not in self.capabilities.keywords:
            self.close()
            raise UpstreamInsecure("upstream does not offer STARTTLS")
        reply = await self.command(b"STARTTLS\r\n", timeout)
        if reply.code != 220:
            self.close()
            failure = UpstreamFull if reply.code == 421 else UpstreamInsecure
            raise failure(f"upstream answers STARTTLS with {reply}")
        if self._error is not None:  # a handshake would never end
            raise UpstreamInsecure(f"after the answer to STARTTLS: {self._error}")
        try:
            secured = await self._loop.start_tls(
                self._transport,
                self,
                tls.context,
                server_hostname=tls.name,
                ssl_handshake_timeout=timeout,
                ssl_shutdown_timeout=1.0,
            )
        except (ssl.SSLError, OSError) as error:
            self.close()
            raise UpstreamInsecure(f"TLS with the upstream: {error}") from error
        if secured is None or self._error is not None:
            raise UpstreamInsecure("upstream went away during the TLS handshake")
        self._transport = secured

    async def command(self, data: bytes, timeout: float) -> Reply:
        """Send one command and wait for its reply. Raises UpstreamError."""
        exchange: Exchange[list[Reply]] = Exchange(Pending.settle)
        self.exchange(data, exchange, timeout)
        (reply,) = await exchange
        return reply

    def exchange(self, data: bytes, exchange: Exchange[Any], timeout: float) -> None:
        """Write commands in one go; their replies are due within `timeout` seconds."""
        if self._error is not None:
            self.end_hold()
            exchange.answered(exchange, [], self._error)
            return
        self._held = None
        self._waiting.append(exchange)
        self._deadline.at = self._deadlines.now() + timeout
        self._transport.write(data)

    def send_content(self, pieces: Iterator[bytes], end: ContentSent, timeout: float) -> None:
        """Write content, waiting whenever the upstream is slower; if it gets to the end, the reply
        to that is due. An exception from the content becomes the answer."""
        self._writing = None
        try:
            batch: list[bytes] = []
            size = 0
            for piece in pieces:
                batch.append(piece)
                size += len(piece)
                if size >= self.BATCH:
                    self._write(batch)
                    batch, size = [], 0
                    if self._paused:
                        break
            if batch:
                self._write(batch)
            if self._paused:
                self._writing = pieces, end, timeout
            elif end.unended:
                end.settle(None)
            else:
                self._waiting.append(end)
        except Exception as error:
            end.lost(error)
            return
        self._deadline.at = self._deadlines.now() + timeout

    def _write(self, batch: list[bytes]) -> None:
        if self._error is not None:
            raise self._error
        self._transport.writelines(batch)

    def hold(self, seconds: float, over: Callable[[], None]) -> None:
        """Keep the connection during the client's turn; call `over` if that takes longer, even if
        the connection is lost, which keeps its place in the pool until then.

        The next command ends the hold, as does `end_hold`.
        """
        self._held = over
        self.turn_at = self._deadlines.now()
        self._deadline.at = self.turn_at + seconds
        if self._error is not None:
            self._deadlines.add(self._deadline)

    def end_hold(self) -> None:
        if self._held is None:
            return
        self._held = None
        if self._error is None:
            self._deadline.at = NEVER
        else:
            self._deadlines.forget(self._deadline)

    def reset(self, timeout: float) -> None:
        """End the open transaction; nobody waits for the reply.

        If the upstream refuses, it may have kept the transaction, so the connection is closed.
        """
        self.resets += 1
        if self.resets >= _MOST_RESETS:
            self.quit()
            return
        self._reset = Exchange[None](self._reset_answered)
        self.exchange(_RSET, self._reset, timeout)

    def _reset_answered(
        self, reset: Exchange[None], replies: list[Reply], error: Exception | None
    ) -> None:
        if self._reset is reset:
            self._reset = None  # it refers to us
        if error is None and replies[0].code >= 300:
            error = lost = UpstreamLost(f"upstream answers RSET with {replies[0]}")
            self._fail(lost)
        reset.settle(None, error)

    async def settled(self) -> None:
        """Wait for the reply to RSET, for an upstream that takes one command at a time."""
        if self._reset is not None:
            await self._reset

    def quit(self) -> None:
        if self.alive:
            self._transport.write(_QUIT)
        self.close()

    def close(self) -> None:
        self.end_hold()
        self._fail(UpstreamLost("closed by the relay"))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._deadlines.add(self._deadline)
        self._transport = cast(asyncio.WriteTransport, transport)
        self.alive = True

    def data_received(self, data: bytes) -> None:
        """Read replies. Unsolicited input, even half a line, must not count as the reply to a later
        command, so it ends the connection."""
        waiting, counts, reader = self._waiting, self._replies, self._reader
        if not waiting and self._writing is None:
            self._fail(UpstreamLost(f"unsolicited: {data[:80]!r}"))
            return
        try:
            replies = reader.receive_data(data)
        except ReplyError as error:
            self._fail(UpstreamError(str(error)))
            return
        answered: list[Exchange[Any]] = []
        for reply in replies:
            if not waiting:
                self._fail(UpstreamLost(f"unsolicited: {reply}"))
                break
            code, exchange = reply.code, waiting[0]
            counts[code // 100] += 1
            its = exchange.replies
            its.append(reply)
            if len(its) == exchange.count or code == 421:
                answered.append(waiting.popleft())
        if answered and not waiting:
            self._deadline.at = NEVER
            if reader.line or reader.texts:
                self._fail(UpstreamLost("unsolicited: half a reply"))
        failed = self._error
        for exchange in answered:  # only now, when unsolicited input has been found
            lost = self._error
            if lost is not None and lost is not failed:  # in `answered` of an earlier one
                exchange.lost(lost)
                continue
            try:
                exchange.answered(exchange, exchange.replies, None)
            except Exception as fault:
                exchange.fail(fault)

    def eof_received(self) -> None:
        self._fail(UpstreamLost("upstream closed the connection"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(UpstreamLost(f"connection lost: {exc}"))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._writing is None:
            return
        if self._reader.line or self._reader.texts:
            self._fail(UpstreamLost("unsolicited: half a reply"))
        else:
            self._writing[1].slow = True
            self.send_content(*self._writing)

    def _expired(self) -> None:
        held = self._held
        if held is not None:
            self.end_hold()
            held()
            return
        if self.alive:
            self._transport.abort()  # unread output would keep the socket open for ever
        self._fail(UpstreamTimeout("no reply in time"))

    def _fail(self, error: UpstreamError) -> None:
        if self._error is not None:
            return
        connected, self.alive = self.alive, False
        self._error = error
        if self._held is None:
            self._deadlines.forget(self._deadline)
        if self._waiting:
            self._replies[0] += 1
        waiting, writing = list(self._waiting), self._writing
        self._waiting.clear()
        self._writing = None
        if connected:
            self._transport.close()
        self._closed()
        for exchange in waiting:
            exchange.lost(error)
        if writing is not None:
            writing[1].lost(error)
