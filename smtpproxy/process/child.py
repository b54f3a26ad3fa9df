"""The entry point of a child process: runs its role with what it is given."""

import os
import pickle
import socket
from contextlib import suppress
from pathlib import Path

from smtpproxy.process.children import WEB, Start, name_of

_OOM_SCORE = 100
"""Thousandths of the memory: more than what the supervisor has over a child, and less than what a
process has that takes the memory of the whole machine."""


def work(given: int, channel: int, *listening: int) -> int:
    """Do the work that the file `given` describes; return the exit code. All are file numbers."""
    with open(given, "rb") as file:
        start: Start = pickle.load(file)
    be_called(name_of(start.role, start.number))
    _be_killed_first()
    to_supervisor = socket.socket(fileno=channel)
    sockets = {
        name: socket.socket(fileno=number)
        for name, number in zip(start.listening, listening, strict=True)
    }
    for sock in (*sockets.values(), to_supervisor):
        sock.setblocking(False)
        os.set_inheritable(sock.fileno(), False)
    return _run(start, sockets, to_supervisor)


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


def _run(start: Start, sockets: dict[str, socket.socket], channel: socket.socket) -> int:
    settings = start.settings
    if start.role == "worker":
        from smtpproxy.process.worker import run_worker

        return run_worker(settings, start.number, sockets, channel)
    if start.role == "purge":
        from smtpproxy.process.daily_purge import run_purge

        return run_purge(settings, channel)
    if start.role == "webhooks":
        from smtpproxy.process.webhooks import run_webhooks

        return run_webhooks(settings, channel)
    if start.role == "journals":
        from smtpproxy.process.journals import run_journals

        return run_journals(settings, channel)
    if start.role == "feedback":
        from smtpproxy.process.feedback import run_feedback

        return run_feedback(settings, sockets, channel)
    from smtpproxy.process.webserver import run_web

    return run_web(settings, sockets[WEB], channel, start.started_at)
