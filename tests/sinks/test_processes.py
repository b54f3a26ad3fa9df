"""`process_*` over all processes of a relay."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from smtpproxy.sinks.collector import process_metrics


@pytest.fixture
def other() -> Iterator[int]:
    program = "files = [open('/dev/null') for _ in range(200)]; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline(), "it has opened all files"
        yield process.pid
        process.kill()


def figures(*processes: int) -> dict[str, float]:
    return {
        sample.name: sample.value
        for metric in process_metrics(processes)
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }


def test_figures_are_summed_except_files_which_are_those_of_the_worst(other: int) -> None:
    ours, theirs, both = figures(os.getpid()), figures(other), figures(os.getpid(), other)
    name = "process_resident_memory_bytes"
    assert both[name] == pytest.approx(ours[name] + theirs[name], rel=0.2)
    assert theirs["process_open_fds"] >= 200
    worst = max(ours["process_open_fds"], theirs["process_open_fds"])
    assert both["process_open_fds"] == worst
    assert both["process_max_fds"] == theirs["process_max_fds"]
    assert both["process_start_time_seconds"] == ours["process_start_time_seconds"]
    assert "process_cpu_seconds_total" in both


def test_a_process_that_has_ended_is_left_out() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert figures(gone.pid) == {}
    assert figures(os.getpid(), gone.pid).keys() == figures(os.getpid()).keys()


def test_the_relay_is_the_supervisor_the_nursery_and_their_children() -> None:
    program = "from smtpproxy.sinks.collector import relay_processes; print(relay_processes())"
    nursery = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {program!r}])"
    with subprocess.Popen([sys.executable, "-c", nursery], stdout=subprocess.PIPE) as process:
        found = json.loads(process.communicate()[0])
    assert found[0] == os.getpid()
    assert process.pid in found
    assert len(found) > found.index(process.pid) + 1, "the nursery's child"


def test_shared_memory_counts_once() -> None:
    alone = figures(os.getpid())["process_resident_memory_bytes"]
    ready, write = os.pipe()
    if not (pid := os.fork()):
        os.write(write, b".")
        signal.pause()
    try:
        os.read(ready, 1)
        both = figures(os.getpid(), pid)["process_resident_memory_bytes"]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert both < 1.5 * alone
