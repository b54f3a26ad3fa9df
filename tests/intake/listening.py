"""A listener inside the test process: the real session, pipeline and pool on uvloop.

It has its own thread, so that tests can talk to it over blocking sockets and see what it
emitted and recorded.
"""

import asyncio
import contextlib
import os
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from msgspec.structs import replace

from smtpproxy.auth import Authenticator
from smtpproxy.config import parse
from smtpproxy.core.perform import Performer
from smtpproxy.core.services import StreamTable, services_of
from smtpproxy.events import ConnectionClosed, Decided, Event, FilesRead, Relayed, UlidFactory
from smtpproxy.intake.limits import RateTable
from smtpproxy.intake.listener import Listener
from smtpproxy.process.listening import listen
from smtpproxy.process.worker import SESSIONS
from smtpproxy.relay.content import Spool
from smtpproxy.relay.dkim_signing import Signer
from smtpproxy.relay.pool import UpstreamPool
from smtpproxy.relay.transaction import UpstreamTransaction
from smtpproxy.settings import TcpAddress
from smtpproxy.waiting import Deadlines
from tests.kit.ports import LOOPBACK, wait_for
from tests.kit.relay import relay_config
from tests.kit.store import TrialStore
from tests.kit.toml import to_toml

E = TypeVar("E", bound=Event)
T = TypeVar("T")


class Records:
    """An audit log in memory; `error` makes every commit fail."""

    def __init__(self) -> None:
        self.decided: list[Decided] = []
        self.relayed: list[Relayed] = []
        self.error: Exception | None = None

    async def commit(self, decided: Decided) -> None:
        if self.error is not None:
            raise self.error
        self.decided.append(decided)

    def outcome(self, relayed: Relayed) -> None:
        self.relayed.append(relayed)


class Intake:
    """One listener `apps` as in tests/kit/relay.py, with the same people in the store.

    `config` overrides relay_config; `listener` overrides the keys of its listener.
    """

    def __init__(
        self,
        root: Path,
        upstream: str,
        config: Mapping[str, Any] | None = None,
        listener: Mapping[str, Any] | None = None,
    ) -> None:
        document = relay_config(root, upstream, config)
        document["listener"][0].update(listener or {})
        self.settings = parse(to_toml(document), "test.toml")
        self.events: list[Event] = []
        self.records = Records()
        self.store = TrialStore(filled=True)
        self.spool = root / "spool"
        self.spool.mkdir(exist_ok=True)
        self.unexpected: list[Exception] = []
        self.signer: Signer | None = None  # set before the listener is entered
        self.pool: UpstreamPool
        self.door: Listener
        self._socket = listen("apps", self.settings.listeners[0].address)
        self._socket.setblocking(False)
        self._loop: asyncio.AbstractEventLoop
        self._ready = threading.Event()
        self._stop: asyncio.Event
        self._thread = threading.Thread(target=lambda: uvloop.run(self._serve()), daemon=True)

    @property
    def port(self) -> int:
        address = self.settings.listeners[0].address
        assert isinstance(address, TcpAddress)
        return address.port

    def keep_little(self) -> None:
        """Let the kernel buffer few octets of answers on connections to come."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    def call(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Run a function on the listener's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def of(self, kind: type[E]) -> list[E]:
        """The events of a kind, oldest first."""
        return [event for event in self.events if isinstance(event, kind)]

    def wait_closed(self, count: int = 1) -> list[str]:
        """Wait until that many sessions have ended; return the causes."""
        wait_for(lambda: len(self.of(ConnectionClosed)) >= count, f"{count} closed sessions")
        return [event.cause for event in self.of(ConnectionClosed)]

    @contextlib.contextmanager
    def client(self, timeout: float = 10.0) -> Iterator["Client"]:
        address = self.settings.listeners[0].address
        if isinstance(address, TcpAddress):
            connection = socket.create_connection((LOOPBACK, address.port), timeout=timeout)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(timeout)
            connection.connect(str(address.path))
        client = Client(connection)
        try:
            yield client
        finally:
            client.socket.close()

    def __enter__(self) -> "Intake":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        settings, server = self.settings, self.settings.server
        deadlines = Deadlines(self._loop, resolution=0.02)
        self.pool = UpstreamPool(settings.upstream, server.hostname, deadlines, Counter())
        services = replace(
            services_of(
                settings,
                now=lambda: datetime.now(UTC),
                ticks=time.perf_counter,
                new_id=UlidFactory(lambda: time.time_ns() // 1_000_000, os.urandom),
                emit=self.events.append,
                note_outcome=self.records.outcome,
                open_upstream=partial(UpstreamTransaction, self.pool),
                signing_keys=None if self.signer is None else self.signer.keys,
            ),
            checks_signatures=False,
        )
        handlers = Performer(self.store, self.records, signer=self.signer).handlers
        self.door = Listener(
            settings.listeners[0],
            server,
            services,
            handlers,
            StreamTable(settings),
            deadlines,
            Spool(self.spool, server.spool_threshold),
            unexpected=self.unexpected.append,
            authenticator=self._authenticator(),
            rates=RateTable(self.spool / "rates", time.monotonic) if settings.has_rates else None,
        )
        await self.door.open(self._socket, SESSIONS[self.door.settings.protocol])
        self._ready.set()
        await self._stop.wait()
        await self.door.drain()
        self.pool.close()
        await self.store.close()

    def _authenticator(self) -> Authenticator | None:
        if self.settings.listeners[0].auth == "off":
            return None
        return Authenticator(
            self.settings.auth,
            self.settings.server.workers,
            changed=lambda error: self.events.append(FilesRead("", "users", error)),
        )


class Client:
    """A client that sends what it is given and reads lines."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._buffer = b""

    def send(self, *lines: str | bytes) -> None:
        """Send lines in one write; bytes go unchanged, text gets a CRLF."""
        self.socket.sendall(
            b"".join(line if isinstance(line, bytes) else line.encode() + b"\r\n" for line in lines)
        )

    def reply(self) -> str:
        """The last line of the next reply; "" at the end of the connection."""
        while (line := self.line())[3:4] == "-":
            pass
        return line

    def line(self) -> str:
        while b"\n" not in self._buffer:
            try:
                data = self.socket.recv(65_536)
            except ConnectionError:
                data = b""
            if not data:
                return ""
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.rstrip(b"\r").decode("utf-8", "replace")

    def say(self, *lines: str | bytes) -> str:
        """Send, and return the last line of the reply."""
        self.send(*lines)
        return self.reply()

    def replies(self, count: int) -> list[str]:
        return [self.reply() for _ in range(count)]

    def rest(self) -> list[str]:
        """All replies up to the end of the connection."""
        lines = []
        while line := self.line():
            lines.append(line)
        return lines

    def secure(self, context: ssl.SSLContext, name: str = "relay.example") -> None:
        """Switch to TLS and drop whatever was read before."""
        self._buffer = b""
        self.socket = context.wrap_socket(self.socket, server_hostname=name)

    def starttls(self, context: ssl.SSLContext) -> None:
        assert self.say("STARTTLS") == "220 2.0.0 begin TLS"
        self.secure(context)
        assert self.say("EHLO client.example").startswith("250 ")

    def greet(self) -> None:
        assert self.reply().startswith("220 ")
        assert self.say("EHLO client.example").startswith("250 ")

    def begin(self, *recipients: str, sender: str = "news@shop.example") -> None:
        """Go as far as the 354."""
        recipients = recipients or ("consent@people.example",)
        self.send(f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{each}>" for each in recipients), "DATA")
        replies = self.replies(2 + len(recipients))
        assert replies[-1].startswith("354 "), replies
