"""The process that starts children: what they inherit, and how their end is reported."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from smtpproxy.app import prepare
from smtpproxy.config import parse
from smtpproxy.process.children import Start
from smtpproxy.process.nursery import ChildProcess, Nursery
from smtpproxy.settings import Settings
from tests.kit.messages import message
from tests.kit.ports import wait_for
from tests.kit.processes import descendants, name, run
from tests.kit.relay import RelayProcess, relay_config
from tests.kit.toml import to_toml
from tests.kit.upstream import FakeUpstream


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = parse(to_toml(relay_config(tmp_path, "127.0.0.1:1", {"web": None})), "relay.toml")
    prepare(settings)
    return settings


@pytest.fixture
def nursery(settings: Settings) -> Iterator[Nursery]:
    nursery = Nursery(settings)
    yield nursery
    nursery.close()


async def started(nursery: Nursery, settings: Settings) -> tuple[ChildProcess, socket.socket]:
    """Start a purge, which ends when its channel is closed."""
    ours, theirs = socket.socketpair()
    with theirs:
        return await nursery.start(Start("purge", 0, settings), theirs, {}), ours


def of(pid: int) -> list[str]:
    """The files and sockets a process has open, except its log."""
    found = []
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            if int(file.name) > 2 and (to := str(file.readlink())) != os.devnull:
                found.append(to)
    return found


async def test_the_end_of_a_child_is_reported(nursery: Nursery, settings: Settings) -> None:
    nursery.open(lambda _: None)
    first, ours = await started(nursery, settings)
    with ours:
        assert await asyncio.wait_for(first.wait(), 30) == 0
    second, ours = await started(nursery, settings)
    with ours:
        second.kill()
        assert await asyncio.wait_for(second.wait(), 30) == -signal.SIGKILL
    second.kill()  # must not kill a process that has its number now


async def test_a_cancelled_start_does_not_get_the_next_child(
    nursery: Nursery, settings: Settings
) -> None:
    nursery.open(lambda _: None)
    given_up = asyncio.create_task(started(nursery, settings))
    await asyncio.sleep(0)
    given_up.cancel()
    child, ours = await started(nursery, settings)
    with ours:
        child.kill()
        assert await asyncio.wait_for(child.wait(), 30) == -signal.SIGKILL


async def test_only_the_supervisor_reacts_to_ctrl_c(
    nursery: Nursery, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    """A terminal sends the signal to all its processes."""
    lost: list[int] = []
    nursery.open(lost.append)
    child, ours = await started(nursery, settings)
    (nursing,) = {pid for pid in descendants(os.getpid()) if name(pid) == "nursery"} - {child.pid}
    with ours:
        for pid in (nursing, child.pid):
            os.kill(pid, signal.SIGINT)
        assert await asyncio.wait_for(child.wait(), 30) == 0
    assert not lost
    assert "KeyboardInterrupt" not in capfd.readouterr().err
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


async def test_the_end_of_the_nursery_is_reported(nursery: Nursery, settings: Settings) -> None:
    lost: list[int] = []
    nursery.open(lost.append)
    child, ours = await started(nursery, settings)
    (nursing,) = {pid for pid in descendants(os.getpid()) if name(pid) == "nursery"} - {child.pid}
    with ours:
        os.kill(nursing, signal.SIGKILL)
        await asyncio.wait_for(child.wait(), 30)
    assert lost == [-signal.SIGKILL]


def test_nothing_of_the_supervisor_is_inherited(tmp_path: Path) -> None:
    with FakeUpstream() as mta, RelayProcess(tmp_path, mta.address) as relay:
        assert [name(pid) for pid in descendants(relay.pid)] == ["nursery", "worker-0"]
        nursing, worker = descendants(relay.pid)
        assert len(list(Path(f"/proc/{nursing}/task").iterdir())) == 1  # no other thread
        sockets = {pid: {each for each in of(pid) if "socket" in each} for pid in relay.pids}
        assert len(of(nursing)) == 3, "its socket, its selector, and the pidfd of one child"
        assert len(sockets[nursing]) == 1
        assert not sockets[nursing] & (sockets[relay.pid] | sockets[worker])


def test_a_kernel_short_of_memory_kills_a_worker_rather_than_the_supervisor(tmp_path: Path) -> None:
    def adjustment(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    with FakeUpstream() as mta, RelayProcess(tmp_path, mta.address) as relay:
        nursing, worker = descendants(relay.pid)
        assert adjustment(relay.pid) == adjustment(nursing)
        assert adjustment(worker) == adjustment(relay.pid) + 100


_FORKING = """
import os, sys, threading
from smtpproxy.process import nursery

def tell():
    print(len(os.listdir("/proc/self/task")), [thread.name for thread in threading.enumerate()])
    sys.stdout.flush()
    os._exit(0)

nursery.os.fork = tell
from smtpproxy.__main__ import main
main()
"""


def test_the_nursery_starts_while_there_is_only_one_thread(tmp_path: Path) -> None:
    """A lock held by another thread at that moment would stay locked in every child."""
    relay = RelayProcess(tmp_path, "127.0.0.1:1")
    done = run(sys.executable, "-c", _FORKING, "serve", "--config", str(relay.config_path))
    assert done.stdout.splitlines()[-1] == "1 ['MainThread']", done.stdout + done.stderr


_FAILING = """
from smtpproxy.process import nursery

def fail(*pid):
    raise OSError(11, "Resource temporarily unavailable")

nursery.os.%s = fail
from smtpproxy.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("call", "said"), [("fork", "temporarily unavailable"), ("pidfd_open", "Linux 5.3 or newer")]
)
def test_the_relay_reports_that_it_cannot_start_processes(
    tmp_path: Path, call: str, said: str
) -> None:
    relay = RelayProcess(tmp_path, "127.0.0.1:1")
    failing = _FAILING % call
    done = run(sys.executable, "-c", failing, "serve", "--config", str(relay.config_path))
    assert done.returncode == 1
    assert "cannot start" in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_child_that_cannot_be_watched_is_ended(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = descendants(os.getpid())

    def fail(pid: int) -> int:
        if pid != parent:
            raise OSError(24, "Too many open files")
        return opened(pid)

    parent, opened = os.getpid(), os.pidfd_open
    monkeypatch.setattr(os, "pidfd_open", fail)
    nursery = Nursery(settings)
    try:
        nursery.open(lambda _: None)
        with pytest.raises(OSError, match="Too many open files"):
            await started(nursery, settings)
        (nursing,) = set(descendants(os.getpid())) - set(before)
        assert name(nursing) == "nursery"
    finally:
        nursery.close()


def test_the_relay_drains_and_ends_when_the_nursery_is_killed(tmp_path: Path) -> None:
    """A relay that cannot replace its workers must not go on; systemd restarts it."""
    with FakeUpstream() as mta, RelayProcess(tmp_path, mta.address) as relay:
        send = ("jeanne@people.example",)
        assert relay.send(message(stream="receipts"), *send, sender="a@shop.example")[0] == 250
        (nursing,) = [pid for pid in relay.pids if name(pid) == "nursery"]
        os.kill(nursing, signal.SIGKILL)
        wait_for(lambda: not relay.alive, "the relay to end")
        assert relay.terminate() == 1
        assert [line["process"] for line in relay.log if line["event"] == "worker drained"]
        (said,) = [line for line in relay.log if line["event"] == "child ended"]
        assert said["child"] == "nursery"
