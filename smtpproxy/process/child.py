"""The entry point of a child process: runs its role with what it is given."""

import os
import pickle
import socket
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from smtpproxy.process.children import MODULES, Start, name_of
from smtpproxy.sinks.log import configure_logging

_OOM_SCORE = 100
"""Thousandths of the memory: more than what the supervisor has over a child, and less than what a
process has that takes the memory of the whole machine."""


def work(given: int, channel: int, *listening: int) -> int:
    """Do the work that the file `given` describes; return the exit code. All are file numbers."""
    with open(given, "rb") as file:
        start: Start = pickle.load(file)
    name = name_of(start.role, start.number)
    be_called(name)
    _be_killed_first()
    to_supervisor = socket.socket(fileno=channel)
    sockets = {
        name: socket.socket(fileno=number)
        for name, number in zip(start.listening, listening, strict=True)
    }
    for sock in (*sockets.values(), to_supervisor):
        sock.setblocking(False)
        os.set_inheritable(sock.fileno(), False)
    configure_logging(start.settings.server, process=name)
    code: int = import_module(MODULES[start.role]).run(start, sockets, to_supervisor)
    return code


def be_called(name: str) -> None:
    """Set the name of this process in `ps -e`, `top` and `pgrep`."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def give_way(steps: int) -> None:
    """Let processes that handle mail have the processor first, unless a sandbox forbids it."""
    with suppress(OSError):
        os.nice(steps)


def _be_killed_first() -> None:
    """Let a kernel short of memory kill this process rather than the supervisor, which starts it
    anew."""
    path = Path("/proc/self/oom_score_adj")
    with suppress(OSError):
        path.write_text(str(min(int(path.read_text()) + _OOM_SCORE, 1000)))
