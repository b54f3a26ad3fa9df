"""`process_*` of all processes of a relay, as one."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from smtpproxy.sinks.collector import process_metrics, relay_processes


@pytest.fixture
def other() -> Iterator[int]:
    program = "files = [open('/dev/null') for _ in range(200)]; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline(), "it has opened them all"
        yield process.pid
        process.kill()


def figures(*processes: int) -> dict[str, float]:
    return {
        sample.name: sample.value
        for metric in process_metrics(processes)
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }


def test_they_are_added_up_but_for_files_which_are_the_worst_ones(other: int) -> None:
    ours, theirs, both = figures(os.getpid()), figures(other), figures(os.getpid(), other)
    name = "process_resident_memory_bytes"
    assert both[name] == pytest.approx(ours[name] + theirs[name], rel=0.2)
    assert theirs["process_open_fds"] >= 200
    worst = max(ours["process_open_fds"], theirs["process_open_fds"])
    assert both["process_open_fds"] == worst
    assert both["process_max_fds"] == theirs["process_max_fds"]
    assert both["process_start_time_seconds"] == ours["process_start_time_seconds"]
    assert "process_cpu_seconds_total" in both


def test_a_process_that_is_gone_is_left_out() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert figures(gone.pid) == {}
    assert figures(os.getpid(), gone.pid).keys() == figures(os.getpid()).keys()


def test_the_relay_is_the_parent_and_its_children() -> None:
    found = relay_processes()
    assert found[0] == os.getppid()
    assert os.getpid() in found
