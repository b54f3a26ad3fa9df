"""Freed memory that processes return to the system, and memory that a fork copies."""

import asyncio
import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.process import memory, worker
from smtpproxy.process.children import Channel
from smtpproxy.process.memory import IdleTrimmer, MemoryWatch
from tests.kit.load import SmtpSink, smtp_source
from tests.kit.parts import needs
from tests.kit.ports import wait_for
from tests.kit.processes import run
from tests.kit.relay import RelayProcess

MB = 1024 * 1024
of_glibc = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="not a glibc of 2021 or later"
)


class Given:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


def test_memory_is_returned_once_per_pause() -> None:
    given = Given()
    trimmer = IdleTrimmer(given)
    for messages, times in ((5, 0), (5, 0), (9, 0), (9, 0), (9, 1), (9, 1), (10, 1), (10, 1)):
        trimmer.beat(messages)
        assert given.times == times
    trimmer.beat(10)
    assert given.times == 2


def test_memory_freed_at_the_start_is_returned_before_the_first_message() -> None:
    given = Given()
    trimmer = IdleTrimmer(given)
    for _ in range(3):
        trimmer.beat(0)
    assert given.times == 1


class Ended(Exception):
    pass


def ended() -> None:
    raise Ended


def test_a_process_without_memory_or_progress_ends_after_five_seconds() -> None:
    watch = MemoryWatch(ended, lambda octets: False)
    for messages in (0, 0, 0, 0, 7, 7, 7, 8, 8, 8, 8):  # small messages are progress
        watch.beat(messages)
    watch.failed()
    with pytest.raises(Ended):
        watch.beat(8)


def test_a_process_that_has_memory_in_between_goes_on() -> None:
    room = iter([False] * 4 + [True] + [False] * 4)
    watch = MemoryWatch(ended, lambda octets: next(room))
    for _ in range(9):
        watch.beat(0)


def test_available_memory_is_what_the_system_grants() -> None:
    code = (
        "import resource\nfrom smtpproxy.process.memory import has_room\n"
        "before = has_room(1 << 28)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20))\n"
        "print(before, has_room(1 << 28))"
    )
    assert run(sys.executable, "-c", code).stdout == "True False\n"


async def test_a_worker_without_memory_for_its_heartbeat_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Exhausted:
        snapshots = 0

        def snapshot(self) -> None:
            self.snapshots += 1
            raise MemoryError

        end_at_once = staticmethod(ended)

    exhausted: Any = Exhausted()
    monkeypatch.setattr(worker, "BEAT", 0.0)
    with pytest.raises(Ended):
        await worker._beat(exhausted, Channel.__new__(Channel))
    assert exhausted.snapshots == 5


async def test_any_process_without_memory_for_its_heartbeat_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(memory, "has_room", lambda octets: False)
    monkeypatch.setattr(memory, "end_at_once", ended)
    monkeypatch.setattr(asyncio, "sleep", wait)
    with pytest.raises(Ended):
        await memory.end_without_memory()
    assert waits == [1.0] * 4


@of_glibc
def test_a_fork_inherits_no_fragmented_memory() -> None:
    code = """
from ctypes import CDLL
from smtpproxy.process.memory import _HeapState, fill_gaps
import smtpproxy.process.worker
fill_gaps()
state = CDLL(None).mallinfo2
state.restype = _HeapState
found = state()
print(found.fordblks - found.keepcost, found.ordblks)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    free, gaps = map(int, done.stdout.split())
    assert free < 4_096
    assert gaps < 10  # there would be hundreds


_LOADING = """
import asyncio, os, socket, sys
from pathlib import Path

async def work(settings):
    from smtpproxy.process.worker import Worker
    worker = Worker(settings, 0, None)
    await worker.open({one.name: socket.create_server(("", 0)) for one in settings.listeners})
    await asyncio.sleep(0.1)
    await worker.close()

def grow():
    from smtpproxy.config import load
    loaded = set(sys.modules)
    asyncio.run(work(load(Path(sys.argv[-1]))))
    print("LOADED", *loaded)
    print("LATER", *set(sys.modules) - loaded)
    sys.stdout.flush()
    os._exit(0)

os.fork = grow
from smtpproxy.__main__ import main
main()
"""
_NEVER = {
    *("aiosmtpd", "asyncpg", "boto3", "cryptography", "dkim", "dns", "httpx", "openpyxl"),
    *("publicsuffixlist", "pygments", "tomlkit"),
}
"""Libraries that an idle relay does not need."""
_OF_THE_WEB = {"h11", "jinja2", "prometheus_client", "smtplib", "starlette", "uvicorn"}


@pytest.mark.parametrize("with_web", [False, True])
def test_only_what_workers_share_is_loaded_before_the_fork(tmp_path: Path, with_web: bool) -> None:
    relay = RelayProcess(tmp_path, "127.0.0.1:1", {"web": {}} if with_web else {})
    done = run(sys.executable, "-c", _LOADING, "serve", "--config", str(relay.config_path))
    found = {line.split()[0]: set(line.split()[1:]) for line in done.stdout.splitlines() if line}
    assert found.get("LATER") == set(), done.stdout[-2000:] + done.stderr
    libraries = {name.partition(".")[0] for name in found["LOADED"]}
    assert libraries & _NEVER == set()
    assert bool(libraries & _OF_THE_WEB) == with_web
    assert "rich.console" not in found["LOADED"]


def test_the_resolver_is_loaded_once_where_domains_are_looked_up(tmp_path: Path) -> None:
    relay = RelayProcess(tmp_path, "127.0.0.1:1", {"policy": {"check_recipient_domain": True}})
    done = run(sys.executable, "-c", _LOADING, "serve", "--config", str(relay.config_path))
    loaded, later = [set(line.split()[1:]) for line in done.stdout.splitlines() if line]
    assert later == set()
    assert "dns.asyncresolver" in loaded


def private(pid: int) -> int:
    """The octets of memory that a process shares with no other."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Private_Dirty"))


@of_glibc
@needs("smtp-source", "smtp-sink")
def test_memory_of_large_messages_is_returned(tmp_path: Path) -> None:
    with SmtpSink(count=False) as sink:
        relay = RelayProcess(tmp_path, sink.address, {"server": {"log_level": "warning"}})
        relay.config["listener"][0]["default_stream"] = "receipts"
        relay.write_config()
        with relay:
            (worker,) = relay.workers
            before = private(worker)
            sent = smtp_source(relay.address, 60, sessions=20, length=1_000_000)
            assert sent.exit_code == 0, sent.output
            wait_for(lambda: private(worker) < before + 6 * MB, f"less than {before + 6 * MB}")
