"""Fixtures of the whole suite, and the watchdog over everything that tests start."""

import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from smtpproxy.sinks.audit import anchor_scheduler
from tests.kit import parts, warm
from tests.kit.journal import Clock
from tests.kit.load import SmtpSink
from tests.kit.postfix import PostfixInstance
from tests.kit.processes import kill_all, running
from tests.kit.relay import RelayProcess
from tests.kit.soak import SOAK, times
from tests.kit.upstream import FakeUpstream

os.environ.pop("COLUMNS", None)  # set by pytest-xdist; a user's pipe has no width
os.environ.pop("PYTHONUNBUFFERED", None)  # which users do not set, and which hides unflushed output
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else every process compiles all modules again
sys.dont_write_bytecode = False
if not SOAK:
    warm.enable()
    _MEMORY = Path("/dev/shm")
    if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > 4 << 30:
        # Many tests would spend half of their time waiting for a disk.
        tempfile.tempdir = os.environ.setdefault("TMPDIR", str(_MEMORY))
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Timings belong in benchmarks. `make test` draws the same examples each time, so that only a
# change can make it fail; `make soak` draws new ones.
hypothesis.settings.register_profile(
    "ours", deadline=None, derandomize=not SOAK, max_examples=times(100, 3_000)
)
hypothesis.settings.load_profile("ours")
gc.disable()  # while thousands of tests are collected, since all of it stays

_SLOW = {"demo", "deploy", "e2e", "process", "relay", "test_recipients_at_the_intakes"}
"""Folders, and single files, whose tests mostly wait."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if getattr(getattr(item, "function", None), "is_hypothesis_test", False):
            item.add_marker(pytest.mark.soak)
    items[:] = _dealt(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def _dealt(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """Give each worker its share of the files, starting with those whose tests mostly wait.

    The tests left for the end are then short, so that idle workers can share them.
    """
    slow: dict[Path, list[pytest.Item]] = {}
    quick: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files = quick if _SLOW.isdisjoint((*item.path.parts, item.path.stem)) else slow
        files.setdefault(item.path, []).append(item)
    shares: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for number, file in enumerate(slow.values()):
        shares[number % workers] += file
    for file in quick.values():
        min(shares, key=len).extend(file)
    return [item for share in shares for item in share]


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    parts.require(item)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report once for each missing part what was not tested."""
    skipped = terminalreporter.stats.get("skipped", [])
    lines = parts.summary(str(report.longrepr[2]) for report in skipped)
    for line in lines:
        terminalreporter.write_line(line, yellow=True)


@pytest.fixture(autouse=True)
def _watchdog() -> Iterator[None]:
    """End everything that a test started, even if it failed half-way."""
    before, config = running(), os.environ.get("SMTPPROXY_CONFIG")
    yield
    kill_all(running() - before)
    if config is None:  # `serve` in this process sets it for the commands that it runs
        os.environ.pop("SMTPPROXY_CONFIG", None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that the test moves; no anchor is taken just because real time passes."""
    monkeypatch.setattr(anchor_scheduler, "CHECK_SECONDS", 3600.0)
    return Clock()


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    """A fake MTA that accepts everything; set `behaviours` before the first connection."""
    with FakeUpstream() as server:
        yield server


@pytest.fixture
def sink() -> Iterator[SmtpSink]:
    """A counting smtp-sink; the test needs `@needs("smtp-sink")`."""
    with SmtpSink() as server:
        yield server


@pytest.fixture
def postfix() -> Iterator[PostfixInstance]:
    """A private Postfix that delivers everybody's mail; the test needs `@needs("postfix")`."""
    with PostfixInstance() as server:
        yield server


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Callable[..., RelayProcess]]:
    """Start relays: `relay(upstream.address, {"policy": {"mode": "observe"}})`."""
    started: list[RelayProcess] = []

    def start(upstream: str, config: dict[str, object] | None = None) -> RelayProcess:
        root = tmp_path / f"relay{len(started)}"
        root.mkdir()
        process = RelayProcess(root, upstream, config)
        started.append(process)
        process.start()
        return process

    yield start
    for process in started:
        process.kill()
