"""The cost of one message in Python and system calls.

They are counted, so that neither the machine's speed nor its load plays a part.
"""

import asyncio
import gc
import itertools
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import uvloop

from smtpproxy.config import parse
from smtpproxy.core.perform import Run
from smtpproxy.core.relaying import RelayTransaction
from smtpproxy.events import Decided
from smtpproxy.intake.milter import MilterSession
from smtpproxy.intake.policy import PolicySession
from smtpproxy.intake.smtp import SmtpSession
from smtpproxy.policy.model import MessageFeatures
from smtpproxy.process.listening import listen
from smtpproxy.process.worker import SESSIONS, Worker
from smtpproxy.relay.content import Content
from smtpproxy.relay.transaction import UpstreamTransaction
from smtpproxy.settings import TcpAddress
from smtpproxy.store import open_store
from tests.intake.listening import Client
from tests.kit.load import SmtpSink
from tests.kit.messages import marketing
from tests.kit.parts import needs, program
from tests.kit.ports import LOOPBACK, wait_for
from tests.kit.processes import Running
from tests.kit.relay import RelayProcess, relay_config
from tests.kit.store import fill, fill_database
from tests.kit.toml import to_toml
from tests.kit.upstream import FakeUpstream
from tests.store.conftest import OnPostgresql

MESSAGES = 20
MOST = 366
"""Calls of Python functions, including libraries and resumed generators."""
MOST_WITH_POSTGRESQL = 482
"""The same with two queries to PostgreSQL, each in a task, instead of SQLite's."""
MOST_SYSTEM_CALLS = 30
"""7 epoll_wait, 7 read, 7 write, 1 writev, 5 stat (the database twice, its log and index, the audit
file), and for reading the facts 2 fcntl and 1 stat. Sessions that share an iteration of the loop
share its epoll_wait."""
MOST_SYSTEM_CALLS_WITH_POSTGRESQL = 34
"""31, and some to spare if the database answers late: 9 epoll_wait, read and write, 1 writev,
1 stat and 2 getpid, by which asyncio detects a fork when asked for the running loop."""


class Counted:
    """A worker in a separate thread that counts the calls for each message."""

    def __init__(
        self,
        root: Path,
        upstream: str,
        store: Mapping[str, Any] | None = None,
        protocol: str = "smtp",
    ) -> None:
        document = relay_config(root, upstream) | ({"store": store} if store else {})
        document["listener"][0]["protocol"] = protocol
        self.settings = parse(to_toml(document), "test.toml")
        self.calls: Counter[str] = Counter()
        self._socket = listen("apps", self.settings.listeners[0].address)
        self._socket.setblocking(False)
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._thread = threading.Thread(target=lambda: uvloop.run(self._serve()), daemon=True)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = self.settings.server
        server.state_dir.mkdir(parents=True, exist_ok=True)
        store = open_store(self.settings.store, server.state_dir)
        await fill(store, store, datetime.now(UTC))
        await store.close()
        worker = Worker(self.settings, 0, None)
        await worker.open({"apps": self._socket})
        self._ready.set()
        await self._stop.wait()
        await worker.close()

    @property
    def port(self) -> int:
        address = self.settings.listeners[0].address
        assert isinstance(address, TcpAddress)
        return address.port

    def __enter__(self) -> "Counted":
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)

    @contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        found: Counter[str] = Counter()

        def profile(frame: FrameType, event: str, argument: Any) -> None:
            if event == "call":
                code = frame.f_code
                found[f"{Path(code.co_filename).name}:{code.co_qualname}"] += 1

        self._set(profile)
        yield found
        self._set(None)

    def _set(self, profile: Any) -> None:
        done = threading.Event()

        def work() -> None:
            sys.setprofile(profile)
            done.set()

        self._loop.call_soon_threadsafe(work)
        assert done.wait(10)


def send(client: Client) -> None:
    for line in ("MAIL FROM:<news@shop.example>", "RCPT TO:<consent@people.example>"):
        assert client.say(line).startswith("250 ")
    assert client.say("DATA").startswith("354 ")
    assert client.say(marketing() + b".\r\n").startswith("250 ")


@contextmanager
def connected(port: int) -> Iterator[Client]:
    with socket.create_connection((LOOPBACK, port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Client(connection)
        client.greet()
        for _ in range(3):
            send(client)
        yield client


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs("postgresql"))])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mapping[str, Any]]:
    if request.param == "sqlite":
        yield {}
        return
    state = Path(relay_config(tmp_path, "127.0.0.1:9")["server"]["state_dir"])
    state.mkdir(parents=True)
    with OnPostgresql(state) as database:
        yield {"url": database.url}


def test_calls_for_a_message(tmp_path: Path, store: Mapping[str, Any]) -> None:
    """The lowest of twenty counts, so that no timer is included."""
    with (
        FakeUpstream() as upstream,
        Counted(tmp_path, f"{LOOPBACK}:{upstream.port}", store) as worker,
    ):
        found = []
        with connected(worker.port) as client:
            for _ in range(MESSAGES):
                with worker.counting() as calls:
                    send(client)
                found.append(calls)
        fewest = min(found, key=lambda calls: calls.total())
    most = MOST_WITH_POSTGRESQL if store else MOST
    assert fewest.total() <= most, fewest.most_common(40)


def test_a_message_leaves_no_reference_cycles(tmp_path: Path, store: Mapping[str, Any]) -> None:
    """Cycles fill the processor's caches until they are collected."""
    with (
        FakeUpstream() as upstream,
        Counted(tmp_path, f"{LOOPBACK}:{upstream.port}", store) as worker,
        connected(worker.port) as client,
        uncollected(),
    ):
        for _ in range(MESSAGES):
            send(client)
        try:
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            left = Counter(type(each).__name__ for each in gc.garbage)
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
    ours = {"Run", "Pending", "RelayTransaction", "UpstreamTransaction", "Content", "Decided"}
    ours |= {"Task", "Found", "Names", "coroutine", "TimeoutError"}
    assert not ours & left.keys(), left.most_common(20)


@contextmanager
def uncollected() -> Iterator[None]:
    """Run without the garbage collector, after freezing what other tests left.

    Loops that have ended may still hold objects."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def alive(*kinds: type) -> list[str]:
    """The names of the classes that have instances now, garbage included."""
    return [kind.__name__ for kind in {type(each) for each in gc.get_objects()} & set(kinds)]


@pytest.mark.parametrize("protocol", SESSIONS)
def test_a_closed_connection_frees_its_memory_at_once(tmp_path: Path, protocol: str) -> None:
    """Otherwise the memory of thousands of connections would await a collection."""
    session = {"milter": MilterSession, "policy": PolicySession}.get(protocol, SmtpSession)
    with FakeUpstream() as upstream:
        worker = Counted(tmp_path, f"{LOOPBACK}:{upstream.port}", protocol=protocol)
        with worker, uncollected():
            with socket.create_connection((LOOPBACK, worker.port), timeout=10) as connection:
                if session is SmtpSession:
                    assert connection.recv(4) == b"220 "
                wait_for(lambda: alive(session), "the session")
            wait_for(lambda: not alive(session), "the end of the session")


OBJECTS = 7
"""Session, engine and client; uvloop's transport, its list of unwritten data, the session's method
that it calls, and its weak reference to itself."""


def test_the_number_of_objects_of_an_idle_connection(tmp_path: Path) -> None:
    """Counted are objects the garbage collector tracks; connections may number thousands."""
    connections = []

    def connect() -> None:
        connections.append(socket.create_connection((LOOPBACK, worker.port), timeout=10))
        Client(connections[-1]).greet()

    with Counted(tmp_path, "127.0.0.1:9") as worker:
        connect()
        gc.collect()
        before = Counter(type(each) for each in gc.get_objects())
        for _ in range(20):
            connect()
        gc.collect()
        more = Counter(type(each) for each in gc.get_objects()) - before
        of_each = {kind.__name__: count // 20 for kind, count in more.items()}
        for connection in connections:
            connection.close()
    of_each.pop("socket")  # the test's own
    assert sum(of_each.values()) <= OBJECTS, of_each


def test_an_idle_connection_keeps_nothing_of_its_last_message(tmp_path: Path) -> None:
    """Applications keep thousands of connections open."""
    kinds = (Content, Decided, MessageFeatures, RelayTransaction, Run, UpstreamTransaction)
    with (
        FakeUpstream() as upstream,
        Counted(tmp_path, f"{LOOPBACK}:{upstream.port}") as worker,
        uncollected(),
        connected(worker.port) as client,
    ):
        send(client)
        wait_for(lambda: not alive(*kinds), f"the end of the message: {alive(*kinds)}")
        assert alive(SmtpSession)


@needs("strace", "smtp-sink")
def test_system_calls_for_a_message(tmp_path: Path, store: Mapping[str, Any]) -> None:
    """The lowest of twenty counts, so that no heartbeat or timer is included."""
    trace = tmp_path / "trace"
    with SmtpSink(count=False) as upstream:  # answers MAIL and RCPT together, like MTAs
        relay = RelayProcess(
            tmp_path, f"{LOOPBACK}:{upstream.port}", {"store": store} if store else {}
        )
        state = Path(relay.config["server"]["state_dir"])
        fill_database(relay.config["store"]["url"], state, datetime.now(UTC))
        with relay, connected(relay.port()) as client:
            (worker,) = relay.workers
            watching = Running(
                [program("strace"), "-o", str(trace), "-p", str(worker)], output=tmp_path / "strace"
            )
            wait_for(lambda: "attached" in watching.output, "strace to watch")
            for _ in range(MESSAGES + 1):
                send(client)
            watching.terminate()
    calls = [line for line in trace.read_text().splitlines() if "(" in line]
    begins = [at for at, line in enumerate(calls) if line.startswith("read(") and "MAIL F" in line]
    messages = [calls[start:end] for start, end in itertools.pairwise(begins)]
    fewest = min(messages, key=len)
    most = MOST_SYSTEM_CALLS_WITH_POSTGRESQL if store else MOST_SYSTEM_CALLS
    assert len(fewest) <= most, "\n".join(fewest)
