"""The supervisor when children cannot be started or are told to end at once."""

import asyncio
import os
import signal
import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from smtpproxy.app import prepare
from smtpproxy.config import parse
from smtpproxy.process import generation as module
from smtpproxy.process.children import (
    SLOWEST_START,
    Answer,
    Ask,
    Channel,
    Drain,
    Ready,
    Start,
    name_of,
)
from smtpproxy.process.listening import Sockets
from smtpproxy.process.notifier import Notifier
from smtpproxy.process.nursery import ChildProcess, Nursery
from smtpproxy.process.supervisor import Source, Supervisor
from smtpproxy.process.webserver import Supervisor as WebsSupervisor
from smtpproxy.settings import Settings
from smtpproxy.sinks.snapshots import Snapshot
from tests.kit.messages import message
from tests.kit.ports import LOOPBACK, free_port
from tests.kit.relay import RelayProcess, listener, relay_config
from tests.kit.toml import to_toml
from tests.kit.upstream import FakeUpstream


class Told(Notifier):
    """Records the messages to systemd."""

    def __init__(self) -> None:
        super().__init__({})
        self.messages: list[str] = []

    def _send(self, message: str) -> None:
        self.messages.append(message)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    text = to_toml(relay_config(tmp_path, "127.0.0.1:1", {"server": {"workers": 1}}))
    return parse(text, "relay.toml")


@pytest.fixture
def nursery(settings: Settings) -> Iterator[Nursery]:
    nursery = Nursery(settings)
    yield nursery
    nursery.close()


def test_a_listener_may_have_the_name_of_a_table_with_a_socket(tmp_path: Path) -> None:
    """The tables `web` and `feedback` have sockets too."""
    names = ("web", "feedback")
    for_mail = [listener(name, "offers", default="offers") for name in names]
    tables = {
        "web": {},
        "feedback": {"domain": "b.example", "address": f"{LOOPBACK}:{free_port()}"},
    }
    config = relay_config(tmp_path, "127.0.0.1:1", {"listener": for_mail, **tables})
    settings = parse(to_toml(config), "relay.toml")
    sockets = Sockets(settings)
    try:
        assert settings.web is not None
        assert len(sockets.listening) == 4
        places = {name: sock.getsockname()[1] for name, sock in sockets.listening.items()}
        assert {name: places[name] for name in names} == {
            each.name: int(str(each.address).rpartition(":")[2]) for each in settings.listeners
        }
    finally:
        sockets.close()


def test_mail_and_web_are_served_whatever_the_listener_is_called(tmp_path: Path) -> None:
    with FakeUpstream() as mta:
        config = {"listener": [listener("web", "receipts", default="receipts")], "web": {}}
        with RelayProcess(tmp_path, mta.address, config) as relay:
            with urllib.request.urlopen(f"{relay.url}/healthz", timeout=10) as response:
                assert response.status == 200
            letter = message()
            assert (
                relay.send(letter, "jeanne@people.example", sender="orders@shop.example")[0] == 250
            )


async def greeting(settings: Settings) -> bytes:
    """The relay's greeting, once a worker accepts the connection."""
    address: Any = settings.listeners[0].address
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        return await asyncio.wait_for(reader.readline(), 30)
    finally:
        writer.close()


async def supervised(
    settings: Settings, told: Told, nursery: Nursery, while_running: Callable[[], Any]
) -> tuple[int, Any]:
    await asyncio.to_thread(prepare, settings)
    source = Source(lambda: settings, prepare)
    supervisor = Supervisor(settings, Sockets(settings), source, told, nursery)
    running = asyncio.create_task(supervisor.run())
    try:
        result = await while_running()
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        code = await asyncio.wait_for(running, 40)
    return code, result


async def test_a_child_that_cannot_be_started_is_retried(
    settings: Settings, nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0
    begin = nursery.start

    async def sometimes(start: Start, *given: Any) -> ChildProcess:
        nonlocal tries
        tries += 1
        if tries <= 2:
            raise OSError("no memory")
        return await begin(start, *given)

    monkeypatch.setattr(nursery, "start", sometimes)
    told = Told()
    code, greeted = await supervised(settings, told, nursery, lambda: greeting(settings))
    assert greeted == b"220 relay.example ESMTP smtpproxy\r\n"
    assert code == 0
    assert tries >= 3


async def test_a_worker_whose_report_failed_ends_before_its_replacement(
    settings: Settings, nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, heard = nursery.start, Supervisor._heard
    workers: list[ChildProcess] = []
    failures, second = [MemoryError()], asyncio.Event()

    async def start(given: Start, *more: Any) -> ChildProcess:
        process = await begin(given, *more)
        if given.role == "worker":
            workers.append(process)
            if len(workers) == 2:
                second.set()
        return process

    def hear(supervisor: Supervisor, child: module.Child, *more: Any) -> None:
        if failures and child.role == "worker":
            raise failures.pop()
        heard(supervisor, child, *more)

    async def replaced() -> int:
        await second.wait()
        return await asyncio.wait_for(workers[0].wait(), 20)

    monkeypatch.setattr(nursery, "start", start)
    monkeypatch.setattr(Supervisor, "_heard", hear)
    assert await supervised(settings, Told(), nursery, replaced) == (0, 0)


@pytest.mark.parametrize(("drain_timeout", "code"), [(0.2, -signal.SIGKILL), (30.0, 0)])
async def test_a_worker_that_outlasts_the_drain_is_killed(
    settings: Settings,
    nursery: Nursery,
    monkeypatch: pytest.MonkeyPatch,
    drain_timeout: float,
    code: int,
) -> None:
    settings = replace(settings, server=replace(settings.server, drain_timeout=drain_timeout))
    monkeypatch.setattr(module, "_GRACE", 0.5)
    begin, workers = nursery.start, []

    async def start(given: Start, *more: Any) -> ChildProcess:
        process = await begin(given, *more)
        if given.role == "worker":
            workers.append(process)
        return process

    def go_on() -> None:
        if workers[0].returncode is None:
            os.kill(workers[0].pid, signal.SIGCONT)

    async def hang() -> None:
        await greeting(settings)
        os.kill(workers[0].pid, signal.SIGSTOP)
        asyncio.get_running_loop().call_later(2, go_on)

    monkeypatch.setattr(nursery, "start", start)
    assert await supervised(settings, Told(), nursery, hang) == (0, None)
    assert [worker.returncode for worker in workers] == [code]


async def test_a_child_that_is_slow_to_start_is_waited_for(
    settings: Settings, nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, tries = nursery.start, 0

    async def slowly(start: Start, *given: Any) -> ChildProcess:
        nonlocal tries
        tries += 1
        await asyncio.sleep(1.5)
        return await begin(start, *given)

    monkeypatch.setattr(nursery, "start", slowly)
    monkeypatch.setattr(module, "_STARTS_WITHIN", 0.2)
    code, greeted = await supervised(settings, Told(), nursery, lambda: greeting(settings))
    assert greeted == b"220 relay.example ESMTP smtpproxy\r\n"
    assert (code, tries) == (0, 2), "a worker and the web process"


def test_a_slow_start_does_not_count_as_time_without_a_worker() -> None:
    """The watchdog would make systemd restart the whole relay, which is just as slow."""
    child = module.Child("worker", 0)
    assert child.down_for(1_000.0) == 0.0
    child.down_since, child.began = 100.0, 101.0
    assert child.down_for(200.0) == 100.0, "between two attempts"
    child.channel = Channel.__new__(Channel)
    assert child.down_for(200.0) == 1.0
    assert child.down_for(101.0 + SLOWEST_START) == SLOWEST_START + 1.0


async def test_a_replaced_worker_no_longer_concerns_the_watchdog(
    settings: Settings, nursery: Nursery
) -> None:
    """Otherwise systemd would restart the whole relay minutes after the replacement."""
    generation = module.Generation(
        settings, {}, 0.0, nursery=nursery, heard=lambda *_: None, ended=lambda *_: None
    )
    (child,) = generation.workers
    child.down_since = 1.0
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    channel, worker = await Channel.over(ours), await Channel.over(theirs)
    worker.send(Ready())
    worker.close()
    await generation._listen(child, channel)
    channel.close()
    assert child.ready.is_set()
    assert child.down_for(10_000.0) == 0.0


@pytest.mark.parametrize("missing", [["worker-0", "web"], ["web"]])
async def test_workers_that_fail_to_start_leave_the_old_ones_running(
    settings: Settings, nursery: Nursery, monkeypatch: pytest.MonkeyPatch, missing: list[str]
) -> None:
    """New workers that did start accept no mail, since their settings were not applied."""
    broken = False
    begin, started = nursery.start, list[ChildProcess]()

    async def start(child: Start, *given: Any) -> ChildProcess:
        if broken and name_of(child.role, child.number) in missing:
            raise OSError("no memory")
        started.append(await begin(child, *given))
        return started[-1]

    async def reload() -> tuple[list[str], bytes]:
        nonlocal broken
        await greeting(settings)
        broken = True
        monkeypatch.setattr(module, "_STARTS_WITHIN", 1.0)
        faults = await supervisor.reload()
        assert [child.returncode for child in started[2:]] == [0] * (2 - len(missing))
        return faults, await greeting(settings)

    monkeypatch.setattr(nursery, "start", start)
    told = Told()
    source = Source(lambda: settings, prepare)
    await asyncio.to_thread(prepare, settings)
    supervisor = Supervisor(settings, Sockets(settings), source, told, nursery)
    running = asyncio.create_task(supervisor.run())
    try:
        faults, greeted = await reload()
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        code = await asyncio.wait_for(running, 40)
    assert [fault.partition(" ")[0] for fault in faults] == missing
    assert greeted.startswith(b"220 ")
    assert code == 0


async def test_a_reload_without_a_thread_changes_nothing_and_is_reported(
    settings: Settings, nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(*given: object) -> None:
        raise RuntimeError("can't start new thread")

    await asyncio.to_thread(prepare, settings)
    source = Source(lambda: settings, prepare)
    supervisor = Supervisor(settings, Sockets(settings), source, Told(), nursery)
    running = asyncio.create_task(supervisor.run())
    try:
        await greeting(settings)
        with monkeypatch.context() as exhausted:
            exhausted.setattr(asyncio, "to_thread", no_thread)
            assert await supervisor.reload() == ["can't start new thread"]
        assert await supervisor.reload() == []
        assert (await greeting(settings)).startswith(b"220 ")
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        code = await asyncio.wait_for(running, 40)
    assert code == 0


async def test_children_run_no_code_from_the_working_directory(
    settings: Settings, nursery: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("smtpproxy", "uvloop"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('foreign code')")
    monkeypatch.chdir(tmp_path)
    code, greeted = await supervised(settings, Told(), nursery, lambda: greeting(settings))
    assert greeted.startswith(b"220 ")
    assert code == 0


async def test_a_worker_still_starting_when_its_generation_ends_is_ended_too(
    settings: Settings, nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would keep the settings from before the reload until killed."""
    begin, starting = nursery.start, asyncio.Event()

    async def slowly(start: Start, *given: Any) -> ChildProcess:
        starting.set()
        await asyncio.sleep(0.5)
        return await begin(start, *given)

    monkeypatch.setattr(nursery, "start", slowly)
    await asyncio.to_thread(prepare, settings)
    nursery.open(lambda code: None)
    sockets = Sockets(settings)
    generation = module.Generation(
        settings,
        sockets.listening,
        0.0,
        nursery=nursery,
        heard=lambda *_: None,
        ended=lambda *_: None,
    )
    generation.start(("worker",))
    await starting.wait()
    await generation.end(("worker",))
    (child,) = generation.workers
    assert child.process is not None
    assert child.process.returncode == 0
    sockets.close()


async def test_a_relay_told_to_end_while_starting_is_never_ready(
    settings: Settings,
    nursery: Nursery,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin = nursery.start

    async def slowly(start: Start, *given: Any) -> ChildProcess:
        await asyncio.sleep(0.5)
        return await begin(start, *given)

    monkeypatch.setattr(nursery, "start", slowly)
    told = Told()
    code, _ = await supervised(settings, told, nursery, lambda: asyncio.sleep(0.05))
    assert code == 0
    assert told.messages == ["STOPPING=1"]
    assert "Traceback" not in capfd.readouterr().err


async def test_requests_are_answered_while_the_web_process_ends() -> None:
    """A balancer polls /readyz all the time, which must not delay the end."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    channel, supervisor = await Channel.over(ours), WebsSupervisor(await Channel.over(theirs))
    stop = asyncio.Event()
    listening = asyncio.create_task(supervisor.listen(stop))
    asked = asyncio.create_task(supervisor.health())
    async with asyncio.timeout(10):
        question = await anext(channel.messages())
        assert isinstance(question, Ask)
        channel.send(Drain())
        await stop.wait()
        channel.send(Answer(question.number, Snapshot(), workers=1, alive=0, draining=True))
        assert (await asked).workers == 1
        channel.close()
        await listening
