"""Serves HTTP, with limits on connections and on the time that clients may take.

uvicorn limits only the time of idle connections, and answers 503 to everybody once there are
many. Here the client that has kept the server waiting longest is closed for a new one.
"""

import asyncio
import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, cast

import h11
import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from smtpproxy.auth import network_of
from smtpproxy.open_files import room_for_clients
from smtpproxy.waiting import wait_for_accepted
from smtpproxy.web.api.uploads import EXTEND_TIME
from smtpproxy.web.rates import forwarded_client

MOST = 1_000  # connections
PER_ADDRESS = 100  # connections waiting for their client
GRACE = 1.0  # seconds each may wait before PER_ADDRESS applies, so that bursts are served
KEEP_ALIVE = 5  # seconds between two requests
PROXY_KEEP_ALIVE = 180.0
"""The same for a trusted proxy, longer than most keep an idle connection: a POST that crosses with
our close is lost, and its client gets 502."""
FIRST_WITHIN = 2.0  # seconds for a first request to begin once the server is stopping

Phase = Literal["idle", "header", "body", "answer", "unread"]
WITHIN: dict[Phase, float] = {"idle": KEEP_ALIVE, "header": 10.0, "body": 30.0, "unread": 30.0}
"""Seconds for the whole phase, not for each octet; answering is not limited."""

_LOG_EVERY = 1.0  # seconds

log = structlog.get_logger(__name__)


class ConnectionTable:
    """The open connections; those waiting for their client longest come first.

    `trusts` returns whether a peer's address is that of a proxy for many clients. `PER_ADDRESS`
    then applies to each client in its X-Forwarded-For, which is not read from anybody else.
    """

    def __init__(self, trusts: Callable[[str], bool] = lambda peer: False) -> None:
        self.trusts = trusts
        self.open = 0
        self._room = room_for_clients()
        self._of: Counter[str] = Counter()
        self._waiting: dict[str, dict[HttpConnection, float]] = {}
        self._logged: dict[str, float] = {}

    def opened(self, address: str) -> bool:
        """Admit a connection, closing another if need be; False if all others are busy."""
        if self.open >= min(MOST, self._room):
            longest = self._of_the_most_crowded()
            if longest is None:
                return False
            longest.end("crowded")
        self.open += 1
        self.counted(address)
        return True

    def counted(self, address: str) -> None:
        """Count a connection for an address; above the limit, close its longest waiting one."""
        self._of[address] += 1
        if self._of[address] > PER_ADDRESS and not self.trusts(address):
            now = asyncio.get_running_loop().time()
            for connection, since in self._waiting.get(address, {}).items():
                if now - since >= GRACE:
                    connection.end("crowded")
                return

    def uncounted(self, connection: "HttpConnection", address: str) -> None:
        self.settled(connection, address)
        self._of[address] -= 1
        if not self._of[address]:
            del self._of[address]

    def waits(self, connection: "HttpConnection", address: str) -> None:
        """Note that the connection now waits for its client."""
        self.settled(connection, address)
        self._waiting.setdefault(address, {})[connection] = asyncio.get_running_loop().time()

    def settled(self, connection: "HttpConnection", address: str) -> None:
        """Note that the connection no longer waits for its client."""
        waiting = self._waiting.get(address)
        if waiting is not None and waiting.pop(connection, None) is not None and not waiting:
            del self._waiting[address]

    def log_closed(self, cause: str, peer: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._logged.get(cause, -_LOG_EVERY) >= _LOG_EVERY:
            self._logged[cause] = now
            log.warning("http connection ended", cause=cause, peer=peer, open=self.open)

    def _of_the_most_crowded(self) -> "HttpConnection | None":
        """Return the longest waiting connection of the address with the most connections."""
        if not self._waiting:
            return None
        crowded = max(self._waiting, key=lambda each: (self._of[each], -self._since_longest(each)))
        return next(iter(self._waiting[crowded]))

    def _since_longest(self, address: str) -> float:
        return next(iter(self._waiting[address].values()))


class HttpConnection(H11Protocol):
    """uvicorn's connection, with a time limit for everything that the client has to do."""

    def __init__(self, *args: Any, table: ConnectionTable, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table = table
        self._peer = "unix"
        self._counted_as: str | None = None
        self._phase: Phase = "answer"
        self._answering: object = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_stopping = False
        self._is_lost = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        self._peer = self.client[0] if self.client else "unix"
        address = network_of(self._peer)
        if self._table.opened(address):
            self._counted_as = address
            self._settle()
        else:
            self._table.log_closed("limit", self._peer)
            self._answer(503, "too many connections; try again in a few seconds")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget()
        self._stop_timer()
        self._is_lost = True
        self._let_go()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_stopping and self.cycle is not None:
            self.cycle.keep_alive = False
        self._settle()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._settle()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._settle()

    # uvicorn

    def shutdown(self) -> None:
        """Serve at most one more request, which may be on its way, then close."""
        self._is_stopping = True
        if self.cycle is None:
            self._stop_timer()
            self._timer = self.loop.call_later(FIRST_WITHIN, super().shutdown)
        else:
            super().shutdown()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._settle()
        if self._is_lost:
            self._let_go()

    def send_400_response(self, msg: str) -> None:
        self._answer(400, "this is not HTTP/1.1")

    # whose turn it is

    def end(self, cause: Literal["timeout", "crowded"]) -> None:
        """Close the connection, answering 408 if a request has begun."""
        if (cause, self._phase) != ("timeout", "idle"):  # every scrape and proxy keeps one open
            self._table.log_closed(cause, self._peer)
        if self._phase == "unread":
            self._forget()
            self.transport.abort()
        elif self._phase == "idle" or not self._has_begun:
            self._forget()
            self.transport.close()
        else:
            self._answer(408, "the request did not come in time")

    @property
    def _has_begun(self) -> bool:
        return self.conn.their_state is not h11.IDLE or bool(self.conn.trailing_data[0])

    def _settle(self) -> None:
        """Determine the phase, and start its time limit when it begins."""
        if self._counted_as is None:
            return
        phase = self._what_next()
        if (phase, self.cycle) == (self._phase, self._answering):
            return
        new_request = self.cycle is not self._answering
        self._phase, self._answering = phase, self.cycle
        if new_request and self.cycle is not None:
            extensions = cast(dict[str, object], self.cycle.scope.setdefault("extensions", {}))
            extensions[EXTEND_TIME] = self._more_time
        if self._table.trusts(self._peer) and (new_request or phase == "idle"):
            self._count_as(network_of(self._peer if phase == "idle" else self._client()))
        self._stop_timer()
        within = WITHIN.get(phase)
        if phase == "idle" and self._table.trusts(self._peer):
            within = PROXY_KEEP_ALIVE
        if within is not None:
            self._timer = self.loop.call_later(within, self.end, "timeout")
        if self._counted_as is None:
            return
        if phase == "answer":
            self._table.settled(self, self._counted_as)
        else:
            self._table.waits(self, self._counted_as)

    def _more_time(self) -> None:
        """Restart the time limit of a client that sends a large body (`EXTEND_TIME`)."""
        if self._phase == "body" and self._counted_as is not None:
            self._stop_timer()
            self._timer = self.loop.call_later(WITHIN["body"], self.end, "timeout")

    def _what_next(self) -> Phase:
        if self.flow.write_paused or self.transport.is_closing():
            return "unread"
        if self.conn.their_state is h11.SEND_BODY:
            return "body"
        if self.cycle is not None and not self.cycle.response_complete:
            return "answer"
        return "header" if self.cycle is None or self._has_begun else "idle"

    def _client(self) -> str:
        """Return the last address in X-Forwarded-For that is no trusted proxy's, or the peer's."""
        values = [value for name, value in self.headers if name == b"x-forwarded-for"]
        forwarded = b",".join(values).decode("latin-1")
        return forwarded_client(forwarded, self._table.trusts) or self._peer

    def _count_as(self, address: str) -> None:
        if self._counted_as is not None and address != self._counted_as:
            self._table.uncounted(self, self._counted_as)
            self._counted_as = address
            self._table.counted(address)

    def _forget(self) -> None:
        if self._counted_as is not None:
            self._table.uncounted(self, self._counted_as)
            self._table.open -= 1
            self._counted_as = None

    def _let_go(self) -> None:
        """Forget an answered request: it refers to us, and both would stay for the collector."""
        if self.cycle is None or self.cycle.response_complete:
            self._answering = self.cycle = self.scope = None  # type: ignore[assignment]

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _answer(self, status: int, error: str) -> None:
        """Answer without the application, and close."""
        self._forget()
        self._stop_timer()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": error}).encode()
            headers = [
                *self.server_state.default_headers,
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"cache-control", b"no-store"),
                (b"connection", b"close"),
            ]
            reason = h11.Response(status_code=status, headers=headers)
            events = (reason, h11.Data(data=body), h11.EndOfMessage())
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()
        self._timer = self.loop.call_later(WITHIN["header"], self.transport.abort)


SHUTDOWN_TIMEOUT = 5  # seconds for running requests when it stops


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process decides when to stop."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await wait_for_accepted()
        await super().shutdown(sockets)


async def serve_web(
    app: ASGIApp,
    sock: socket.socket,
    stop: asyncio.Event,
    *,
    trusts: Callable[[str], bool] = lambda peer: False,
) -> None:
    """Serve until `stop` is set, then let running requests finish and return.

    `sock` is a bound TCP or Unix stream socket; it is closed at the end. `trusts`: see
    `ConnectionTable`.
    """
    connection = partial(HttpConnection, table=ConnectionTable(trusts))
    config = uvicorn.Config(
        app,
        http=cast(type[asyncio.Protocol], connection),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # anybody can make it warn
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(PROXY_KEEP_ALIVE),  # ours ends earlier for all others
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        server.should_exit = True
    await serving
