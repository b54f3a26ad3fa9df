"""A relay's processes that run out of file descriptors say so, and recover."""

import json
import os
import resource
import smtplib
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.kit.messages import message
from tests.kit.ports import LOOPBACK, wait_for
from tests.kit.relay import RelayProcess, listener
from tests.kit.upstream import FakeUpstream

PERSON, SENDER = "jeanne@people.example", "orders@shop.example"


@pytest.fixture
def relay(mta: FakeUpstream, filled: Callable[..., RelayProcess]) -> RelayProcess:
    till = listener("till", "receipts", default="receipts")
    feedback = {"domain": "bounces.shop.example", "address": listener("feedback")["address"]}
    return filled(mta.address, {"listener": [till], "web": {}, "feedback": feedback})


@contextmanager
def limited(pid: int, files: int) -> Iterator[None]:
    """Limit the open files of a process and its future children."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (files, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def open_files(pid: int) -> int:
    return len([*Path(f"/proc/{pid}/fd").iterdir()])


def logged(relay: RelayProcess, event: str) -> list[dict[str, object]]:
    return [line for line in relay.log if line["event"] == event]


def test_idle_clients_leave_descriptors_for_other_clients(relay: RelayProcess) -> None:
    (nursery,) = relay.children("nursery")
    with limited(nursery, 128):
        relay.must("reload")
    wait_for(lambda: len(relay.workers) == 1, "the former worker to end")
    (worker,) = relay.workers
    with ExitStack() as stack:
        with smtplib.SMTP(LOOPBACK, relay.port(), timeout=30) as client:
            client.ehlo()
            greetings = []
            for _ in range(128):
                idle = socket.create_connection((LOOPBACK, relay.port()), timeout=30)
                greetings.append(stack.enter_context(idle).recv(512)[:10])
            assert set(greetings) == {b"220 relay.", b"421 4.3.2 "}
            assert open_files(worker) < 128
            client.sendmail(SENDER, [PERSON], message() + b"x" * 2_000_000)
        assert relay.metric("smtpproxy_connections_refused_total", cause="files") > 0
        assert logged(relay, "connection refused")[0]["cause"] == "files"
    wait_for(lambda: relay.metric("smtpproxy_connections") == 0, "the clients to be gone")
    assert relay.send(message(), PERSON, sender=SENDER)[0] == 250


def test_commands_are_answered_once_the_supervisor_has_descriptors(relay: RelayProcess) -> None:
    state = Path(relay.config["server"]["state_dir"])
    with socket.socket(socket.AF_UNIX) as waiting:
        with limited(relay.pid, open_files(relay.pid)):
            waiting.connect(os.path.relpath(state / "control"))
            wait_for(lambda: logged(relay, "commands wait"), "the supervisor to notice")
        assert json.loads(relay.must("status", "--json"))["alive"] == 1


def test_a_repeated_library_error_is_not_logged_thousands_of_times(relay: RelayProcess) -> None:
    """asyncio reports every connection it cannot accept, again and again."""
    (feedback,) = relay.children("feedback")
    host, _, port = relay.config["feedback"]["address"].rpartition(":")
    with ExitStack() as stack, limited(feedback, open_files(feedback)):
        for _ in range(50):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
        wait_for(lambda: logged(relay, "library")[1:], "a second line")
    lines = logged(relay, "library")
    assert len(lines) < 20
    assert lines[1]["unsaid"]
