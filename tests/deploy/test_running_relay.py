"""What operators see of a running relay: health, metrics and messages to systemd."""

import contextlib
import json
import os
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from tests.kit.messages import message
from tests.kit.parts import needs
from tests.kit.ports import wait_for
from tests.kit.processes import run
from tests.kit.relay import RelayProcess
from tests.kit.upstream import FakeUpstream

StartRelay = Callable[..., RelayProcess]
WATCHED: dict[str, Any] = {"web": {}}
TWO_WORKERS = {"server": {"workers": 2}, "web": {}}


def get(relay: RelayProcess, path: str, **headers: str) -> tuple[int, Any]:
    """The status and body of a reply; JSON is decoded."""
    request = urllib.request.Request(relay.url + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            status, kind, body = response.status, response.headers["Content-Type"], response.read()
    except urllib.error.HTTPError as error:
        status, kind, body = error.code, error.headers["Content-Type"], error.read()
    return status, json.loads(body) if kind == "application/json" else body.decode()


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    """A relay whose parts no test stops."""
    folder = tmp_path_factory.mktemp("relay")
    with FakeUpstream() as mta, RelayProcess(folder, mta.address, TWO_WORKERS) as running:
        wait_for(lambda: get(running, "/healthz")[0] == 200, "both workers")
        yield running


def receipt(relay: RelayProcess) -> None:
    code, text = relay.send(
        message(stream="receipts"), "jeanne@people.example", sender="orders@shop.example"
    )
    assert code == 250, text


@needs("promtool")
def test_promtool_has_no_complaints(two_workers: RelayProcess) -> None:
    running = two_workers
    receipt(running)
    _, page = get(running, "/metrics")
    done = run("promtool", "check", "metrics", stdin=page.encode())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    _, page = get(running, "/metrics", Accept="application/openmetrics-text;version=1.0.0")
    assert list(parse_openmetrics(page))  # strict: raises on any fault


def test_all_workers_are_counted_together(two_workers: RelayProcess) -> None:
    running = two_workers
    before = running.metric("smtpproxy_relayed_total", code_class="2xx")
    for _ in range(20):
        receipt(running)
    assert running.metric("smtpproxy_relayed_total", code_class="2xx") == before + 20
    assert running.metric("smtpproxy_workers") == 2
    assert get(running, "/healthz") == (
        200,
        {"status": "ok", "workers": {"configured": 2, "alive": 2}},
    )


def test_a_killed_worker_takes_no_counts_with_it(relay: StartRelay, upstream: FakeUpstream) -> None:
    running = relay(upstream.address, TWO_WORKERS)
    wait_for(lambda: get(running, "/healthz")[0] == 200, "both workers")
    for _ in range(10):
        receipt(running)
    before = running.metrics()
    for pid in running.workers:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: get(running, "/healthz")[0] == 503, "/healthz to notice")
    during = running.metrics()
    wait_for(lambda: get(running, "/healthz")[0] == 200, "new workers")
    receipt(running)
    after = running.metrics()
    ours = [name for name in before if not name.startswith("process_")]  # per process
    counts = [name for name in ours if "_total" in name or "_count" in name]
    assert [name for name in counts if not before[name] <= during[name] <= after[name]] == []
    assert running.metric("smtpproxy_relayed_total", code_class="2xx") == 11
    assert after["smtpproxy_worker_exits_total"] == 2
    assert after["smtpproxy_workers"] == 2


def test_workers_replaced_by_a_reload_do_not_count_as_exits(
    relay: StartRelay, upstream: FakeUpstream
) -> None:
    running = relay(upstream.address, TWO_WORKERS)
    running.must("reload")
    wait_for(lambda: running.metric("smtpproxy_workers") == 2, "the former workers to be gone")
    assert running.metric("smtpproxy_worker_exits_total") == 0


def test_readyz_follows_the_upstream(relay: StartRelay, upstream: FakeUpstream) -> None:
    running = relay(upstream.address, WATCHED)
    parts = {"listeners": "ok", "store": "ok", "audit": "ok", "upstream": "ok"}
    code, answer = get(running, "/readyz")
    assert (code, answer["status"], answer["parts"]) == (200, "ok", parts)
    upstream.stop()
    wait_for(lambda: get(running, "/readyz")[0] == 503, "/readyz to notice")
    assert get(running, "/readyz")[1]["parts"] == {**parts, "upstream": "failing"}
    assert running.metric("smtpproxy_ready", part="upstream") == 0
    assert get(running, "/healthz")[0] == 200


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[socket.socket]:
    """The environment of a relay that systemd starts."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        yield sock


def read_all(sock: socket.socket) -> None:
    """Read everything that has arrived so far."""
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.recv(500)


def test_systemd_is_told_of_start_heartbeats_and_end(
    relay: StartRelay, upstream: FakeUpstream, systemd: socket.socket
) -> None:
    def until(text: bytes) -> set[bytes]:
        heard: set[bytes] = set()
        while text not in heard:
            heard.add(systemd.recv(500))
        return heard

    running = relay(upstream.address)
    until(b"READY=1")
    until(b"WATCHDOG=1")
    running.must("stream", "pause", "offers")
    until(b"STATUS=1 workers take mail; paused: stream:offers")
    running.must("stream", "resume", "offers")
    until(b"STATUS=1 workers take mail")
    assert running.terminate() == 0
    until(b"STOPPING=1")


def test_a_hanging_worker_is_not_covered_up(
    relay: StartRelay, upstream: FakeUpstream, systemd: socket.socket
) -> None:
    """systemd gets no more heartbeats, and /healthz says why."""
    running = relay(upstream.address, TWO_WORKERS)
    wait_for(lambda: get(running, "/healthz")[0] == 200, "both workers")
    [hanging, _] = running.workers
    os.kill(hanging, signal.SIGSTOP)
    try:
        wait_for(lambda: get(running, "/healthz")[0] == 503, "/healthz to notice")
        read_all(systemd)
        systemd.settimeout(0.5)  # time for five heartbeats, if there were any
        with pytest.raises(TimeoutError):
            systemd.recv(500)
        assert get(running, "/metrics")[0] == 200
    finally:
        os.kill(hanging, signal.SIGCONT)


MAILBOX = {"feedback": {"domain": "bounces.shop.example"}}


def test_the_feedback_process_is_not_a_worker_and_its_end_is_counted(
    relay: StartRelay, upstream: FakeUpstream
) -> None:
    running = relay(upstream.address, WATCHED | MAILBOX)
    [feedback] = running.children("feedback")
    assert running.metric("smtpproxy_workers") == 1
    os.kill(feedback, signal.SIGKILL)
    wait_for(lambda: feedback not in running.children("feedback"), "its end")
    wait_for(lambda: running.children("feedback"), "a new one")
    assert running.metric("smtpproxy_background_failures_total") == 1
    assert running.metric("smtpproxy_background_failures_total", work="feedback") == 1
    assert running.metric("smtpproxy_worker_exits_total") == 0
