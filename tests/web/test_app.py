"""/metrics, /healthz and /readyz over real HTTP, served as by the relay."""

import asyncio
import gc
import gzip
import http.client
import json
import logging
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvloop
from msgspec import Struct
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from starlette.applications import Starlette
from structlog.testing import capture_logs

from smtpproxy.sinks.collector import SnapshotCollector
from smtpproxy.sinks.metrics import Metrics
from smtpproxy.sinks.snapshots import Snapshot
from smtpproxy.web import app as web_app
from smtpproxy.web import server as web_server
from smtpproxy.web.app import ANSWER_TIMEOUT, COUNTS_WITHIN, Monitoring, create_app
from smtpproxy.web.health import Health, Readiness
from smtpproxy.web.server import serve_web
from tests.kit.relay import parse_metrics
from tests.kit.traffic import busy_minute, settings


@dataclass
class Relay:
    """Stands in for the supervisor and the store that the web process asks."""

    metrics: Metrics = field(default_factory=Metrics)
    health: Health = field(default_factory=lambda: Health(workers=2, alive=2))
    readiness: Readiness = field(default_factory=lambda: Readiness("ok", "ok", "ok"))
    contacts: int = 7
    failure: Exception | None = None
    counted: int = 0

    async def ask_stats(self) -> Snapshot:
        if self.failure:
            raise self.failure
        return self.metrics.snapshot()

    async def ask_health(self) -> Health:
        if self.failure:
            raise self.failure
        return self.health

    async def ask_ready(self) -> Readiness:
        if self.failure:
            raise self.failure
        return self.readiness

    async def counts(self) -> tuple[int, dict[tuple[str, str], int]]:
        self.counted += 1
        if self.failure:
            raise self.failure
        return self.contacts, {("all", "complaint"): 3}


class Answer(Struct, frozen=True):
    status: int
    headers: dict[str, str]
    body: str

    @property
    def json(self) -> object:
        return json.loads(self.body)


Get = Callable[..., Awaitable[Answer]]


def request(port: int, path: str, method: str, headers: dict[str, str]) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        found = {key.lower(): value for key, value in response.getheaders()}
        body = response.read()
        if found.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        return Answer(response.status, found, body.decode())
    finally:
        connection.close()


@asynccontextmanager
async def served(
    relay: Relay, processes: Callable[[], Sequence[int]] = tuple
) -> AsyncIterator[Get]:
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    stop = asyncio.Event()
    monitoring = Monitoring(
        relay.ask_stats,
        relay.ask_health,
        relay.ask_ready,
        collector=SnapshotCollector(
            settings(), version="0.1.0", started_at=1.0, processes=processes
        ),
        counts=relay.counts,
    )
    app = create_app(monitoring.routes)
    serving = asyncio.create_task(serve_web(app, sock, stop))

    async def get(path: str, method: str = "GET", **headers: str) -> Answer:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return await asyncio.to_thread(request, port, path, method, named)

    try:
        yield get
    finally:
        stop.set()
        await asyncio.wait_for(serving, 10)


@pytest.fixture
def relay() -> Relay:
    relay = Relay()
    for event in busy_minute():
        relay.metrics(event)
    return relay


async def test_metrics_cover_workers_store_and_parts(relay: Relay) -> None:
    relay.readiness = Readiness("ok", "ok", "failing")
    async with served(relay) as get:
        answer = await get("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    shown = parse_metrics(answer.body)
    row = 'smtpproxy_messages_total{listener="apps",reason="none",stream="offers",verdict="allow"}'
    assert shown[row] == 7
    assert shown["smtpproxy_contacts"] == 7
    assert shown['smtpproxy_suppressions{origin="complaint",scope="all"}'] == 3
    assert shown['smtpproxy_ready{part="store"}'] == 1
    assert shown['smtpproxy_ready{part="upstream"}'] == 0
    assert shown['smtpproxy_ready{part="workers"}'] == 1


async def test_other_requests_are_served_while_metrics_are_rendered(relay: Relay) -> None:
    """With 500 streams that takes a quarter of a second; an unsubscribe must not wait."""
    begun, answered = threading.Event(), threading.Event()
    in_time = []

    def processes() -> Sequence[int]:
        begun.set()
        in_time.append(answered.wait(10))
        return ()

    openmetrics = {"Accept": "application/openmetrics-text"}
    async with served(relay, processes) as get:
        scrapes = [asyncio.create_task(get("/metrics", **more)) for more in (openmetrics, {}) * 2]
        await asyncio.to_thread(begun.wait, 10)
        assert (await get("/healthz")).status == 200
        answered.set()
        pages = [await scrape for scrape in scrapes]
    assert in_time == [True] * 4
    for number, page in enumerate(pages):  # each in the format it asked for
        assert page.headers["content-type"].startswith(("application/openm", "text/")[number % 2])
        assert page.body.endswith("# EOF\n") is (number % 2 == 0)


async def test_metrics_move_from_scrape_to_scrape(relay: Relay) -> None:
    row = 'smtpproxy_connections_total{listener="legacy"}'
    async with served(relay) as get:
        before = parse_metrics((await get("/metrics")).body)[row]
        for event in busy_minute():
            relay.metrics(event)
        after = parse_metrics((await get("/metrics")).body)[row]
    assert after == before + 2


async def test_openmetrics_is_served_on_request(relay: Relay) -> None:
    async with served(relay) as get:
        answer = await get("/metrics", Accept="application/openmetrics-text;version=1.0.0")
        plain = await get("/metrics", Accept="text/plain")
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.body.endswith("# EOF\n")
    assert any(family.name == "smtpproxy_messages" for family in parse_openmetrics(answer.body))
    assert "# TYPE smtpproxy_connections_total counter" in plain.body


async def test_a_page_is_compressed_for_clients_that_accept_it(relay: Relay) -> None:
    async with served(relay) as get:
        plain = await get("/metrics")
        small = await get("/metrics", Accept_Encoding="gzip")  # as Prometheus does
    assert "content-encoding" not in plain.headers
    assert small.headers["content-encoding"] == "gzip"
    assert int(small.headers["content-length"]) < int(plain.headers["content-length"]) / 5
    assert parse_metrics(small.body).keys() == parse_metrics(plain.body).keys()


async def test_a_scrape_without_the_workers_numbers_fails(relay: Relay) -> None:
    relay.failure = ConnectionError("supervisor is gone: /run/private.sock")
    async with served(relay) as get:
        answer = await get("/metrics")
    assert answer.status == 503
    assert "private" not in answer.body


async def test_the_store_is_not_counted_at_every_scrape(relay: Relay) -> None:
    async with served(relay) as get:
        for _ in range(5):
            assert "smtpproxy_contacts 7" in (await get("/metrics")).body
    assert relay.counted == 1


async def test_the_store_is_counted_again_once_the_counts_are_old(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtpproxy.web.app.COUNTS_EVERY", 0.0)
    async with served(relay) as get:
        for _ in range(2):
            await get("/metrics")
    assert relay.counted == 2


async def test_a_store_that_cannot_be_counted_loses_only_its_own_rows(relay: Relay) -> None:
    async def broken() -> tuple[int, dict[tuple[str, str], int]]:
        raise OSError("disk I/O error")

    relay.counts = broken  # type: ignore[method-assign]
    async with served(relay) as get:
        answer = await get("/metrics")
    assert answer.status == 200
    assert "smtpproxy_contacts" not in parse_metrics(answer.body)
    assert "smtpproxy_workers" in parse_metrics(answer.body)


async def test_readiness_does_not_wait_for_a_count(relay: Relay) -> None:
    counting = asyncio.Event()

    async def slow() -> tuple[int, dict[tuple[str, str], int]]:
        counting.set()
        await asyncio.sleep(60)
        return 7, {}

    relay.counts = slow  # type: ignore[method-assign]
    async with served(relay) as get, asyncio.timeout(ANSWER_TIMEOUT - COUNTS_WITHIN):
        assert (await get("/readyz")).status == 200
    assert counting.is_set()


async def test_healthz_is_ok_while_all_workers_live(relay: Relay) -> None:
    async with served(relay) as get:
        answer = await get("/healthz")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json == {"status": "ok", "workers": {"configured": 2, "alive": 2}}


async def test_healthz_and_metrics_show_a_missing_worker(relay: Relay) -> None:
    relay.health = Health(workers=2, alive=1)
    async with served(relay) as get:
        answer = await get("/healthz")
        page = await get("/metrics")
    assert answer.status == 503
    assert answer.json == {"status": "failing", "workers": {"configured": 2, "alive": 1}}
    assert 'smtpproxy_ready{part="workers"} 0.0' in page.body


async def test_healthz_does_not_depend_on_store_and_upstream(relay: Relay) -> None:
    relay.readiness = Readiness("ok", "failing", "failing")
    async with served(relay) as get:
        assert (await get("/healthz")).status == 200


@pytest.mark.parametrize(
    ("readiness", "status", "text"),
    [
        (Readiness("ok", "ok", "ok"), 200, "ok"),
        (Readiness("ok", "failing", "ok"), 503, "failing"),
        (Readiness("ok", "ok", "failing"), 503, "failing"),
        (Readiness("failing", "ok", "ok"), 503, "failing"),
        (Readiness("draining", "ok", "ok"), 503, "draining"),
    ],
)
async def test_readyz_names_each_part(
    relay: Relay, readiness: Readiness, status: int, text: str
) -> None:
    relay.readiness = readiness
    async with served(relay) as get:
        answer = await get("/readyz")
    assert answer.status == status
    assert answer.json == {"status": text, "parts": dict(readiness.parts)}


async def test_nobody_listens_when_no_worker_lives(relay: Relay) -> None:
    relay.health = Health(workers=2, alive=0)
    async with served(relay) as get:
        answer = await get("/readyz")
        page = await get("/metrics")
    assert answer.status == 503
    parts = {"listeners": "failing", "store": "ok", "audit": "ok", "upstream": "ok"}
    assert answer.json == {"status": "failing", "parts": parts}
    assert 'smtpproxy_ready{part="listeners"} 0.0' in page.body


async def test_one_worker_is_enough_to_take_mail(relay: Relay) -> None:
    relay.health = Health(workers=2, alive=1)
    async with served(relay) as get:
        assert (await get("/readyz")).status == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_a_failing_check_gives_503_without_details(relay: Relay, path: str) -> None:
    relay.failure = PermissionError("/var/lib/smtpproxy/secret")
    async with served(relay) as get:
        answer = await get(path)
    assert answer.status == 503
    assert answer.json == {"status": "failing"}


async def test_a_check_that_hangs_times_out(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_app, "ANSWER_TIMEOUT", 0.1)

    async def never() -> Readiness:
        await asyncio.Event().wait()
        raise AssertionError

    relay.ask_ready = never  # type: ignore[method-assign]
    async with served(relay) as get:
        assert (await get("/readyz")).status == 503
        page = await get("/metrics")
    relay.ask_health = never  # type: ignore[assignment, method-assign]
    async with served(relay) as get:
        without = await get("/metrics")
    assert (page.status, without.status) == (200, 200)
    assert 'smtpproxy_ready{part="workers"} 1.0' in page.body
    assert 'smtpproxy_ready{part="upstream"}' not in page.body
    assert 'smtpproxy_ready{part="workers"} 0.0' in without.body


async def test_errors_are_plain_json(relay: Relay) -> None:
    async with served(relay) as get:
        missing = await get("/nowhere")
        wrong = await get("/metrics", method="POST")
        head = await get("/healthz", method="HEAD")
    assert (missing.status, missing.json) == (404, {"error": "Not Found"})
    assert (wrong.status, wrong.json) == (405, {"error": "Method Not Allowed"})
    assert set(wrong.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert (head.status, head.body) == (200, "")


async def test_the_server_does_not_name_its_software(relay: Relay) -> None:
    async with served(relay) as get:
        for path in ("/metrics", "/healthz", "/nowhere"):
            answer = await get(path)
            assert "server" not in answer.headers
            assert "uvicorn" not in str(answer.headers)


async def test_serving_logs_nothing(relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with served(relay) as get:
            await get("/healthz")
    assert [r for r in caplog.records if r.name.startswith("uvicorn")] == []


def test_the_server_leaves_signals_to_its_process(relay: Relay) -> None:
    """In the main thread on uvloop, as in the web process."""
    received = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen = asyncio.Event()

        def on_term() -> None:
            received.append("SIGTERM")
            seen.set()

        loop.add_signal_handler(signal.SIGTERM, on_term)
        async with served(relay) as get:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(seen.wait(), 10)
            assert (await get("/healthz")).status == 200

    uvloop.run(main())
    assert received == ["SIGTERM"]


def health_app(relay: Relay) -> Starlette:
    monitoring = Monitoring(
        relay.ask_stats,
        relay.ask_health,
        relay.ask_ready,
        collector=SnapshotCollector(settings(), version="0.1.0", started_at=1.0),
    )
    return create_app(monitoring.routes)


async def test_the_server_can_use_a_unix_socket(relay: Relay, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    stop = asyncio.Event()
    serving = asyncio.create_task(serve_web(health_app(relay), sock, stop))
    await until_listening(path)
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n")
    assert (await reader.readline()).split()[1] == b"200"
    writer.close()
    stop.set()
    await asyncio.wait_for(serving, 10)


async def until_listening(path: Path) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_unix_connection(path)
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return


@pytest.mark.parametrize("begun", [False, True])
async def test_a_client_that_connected_before_the_stop_is_answered(
    relay: Relay, begun: bool
) -> None:
    """At a reload the successor has the socket, and this client knows nothing of it."""
    request = b"GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n"
    sock = socket.create_server(("127.0.0.1", 0))
    address, stop = sock.getsockname(), asyncio.Event()
    serving = asyncio.create_task(serve_web(health_app(relay), sock, stop))
    reader, writer = await asyncio.open_connection(*address)
    if begun:
        writer.write(request[:20])
        await asyncio.sleep(0.05)
    stop.set()
    await asyncio.sleep(0.3)
    writer.write(request[20:] if begun else request)
    assert (await reader.readline()).split()[1] == b"200"
    assert b'"status":"ok"' in await asyncio.wait_for(reader.read(), 10), "and the server ends"
    writer.close()
    await asyncio.wait_for(serving, 10)


async def test_an_idle_client_does_not_keep_the_server_from_stopping(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtpproxy.web.server.FIRST_WITHIN", 0.2)
    sock = socket.create_server(("127.0.0.1", 0))
    address, stop = sock.getsockname(), asyncio.Event()
    serving = asyncio.create_task(serve_web(health_app(relay), sock, stop))
    reader, writer = await asyncio.open_connection(*address)
    await asyncio.sleep(0.05)
    stop.set()
    assert await reader.read() == b""
    await asyncio.wait_for(serving, 10)
    writer.close()


@pytest.mark.parametrize(("asks", "warned"), [(True, []), (False, ["timeout"])])
async def test_a_kept_alive_connection_ends_without_a_warning(
    relay: Relay, monkeypatch: pytest.MonkeyPatch, asks: bool, warned: list[str]
) -> None:
    """Prometheus keeps one from scrape to scrape, which is not worth a warning."""
    for phase in ("idle", "header"):
        monkeypatch.setitem(web_server.WITHIN, phase, 0.2)
    sock = socket.create_server(("127.0.0.1", 0))
    address, stop = sock.getsockname(), asyncio.Event()
    serving = asyncio.create_task(serve_web(health_app(relay), sock, stop))
    with capture_logs() as logged:
        reader, writer = await asyncio.open_connection(*address)
        if asks:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n")
        told = await asyncio.wait_for(reader.read(), 10)
    assert told.startswith(b"HTTP/1.1 200") is asks
    assert [each["cause"] for each in logged if each["event"].startswith("http")] == warned
    writer.close()
    stop.set()
    await asyncio.wait_for(serving, 10)


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/nothing"])
async def test_a_closed_connection_is_freed_at_once_and_errors_need_no_thread(
    relay: Relay, path: str
) -> None:
    """Otherwise the memory of thousands of clients would await a collection."""

    def left() -> int:
        return sum(type(each) is web_server.HttpConnection for each in gc.get_objects())

    async with served(relay) as get:
        gc.collect()
        before = left()
        gc.disable()
        try:
            for _ in range(5):
                assert (await get(path)).status in (200, 404)
            for _ in range(100):
                if left() == before:
                    break
                await asyncio.sleep(0.02)
            assert left() == before
        finally:
            gc.enable()
    assert not [each.name for each in threading.enumerate() if each.name.startswith("AnyIO")]
