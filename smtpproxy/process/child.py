"""How a child process is started and what it is given.

A child is a new interpreter: nothing of the supervisor's state comes along but the
settings it read (a file that was changed since has no say) and the open sockets.
"""

import asyncio
import os
import pickle
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from smtpproxy.settings import Settings

_ALLOCATION = {"MALLOC_TRIM_THRESHOLD_": "33554432", "MALLOC_MMAP_THRESHOLD_": "33554432"}
"""Keep freed memory for the next large message: asking for fresh pages each time costs more
than looking at every octet of it."""

Role = Literal["worker", "web", "courier", "purge"]


@dataclass(frozen=True, slots=True)
class Start:
    """What a child needs. Sockets are file numbers that it inherits."""

    role: Role
    number: int
    settings: Settings
    channel: int
    listening: Mapping[str, int]  # by listener name; "web" for the web process
    started_at: float  # the relay, not this child; seconds since 1970


async def start_child(start: Start) -> asyncio.subprocess.Process:
    # Ctrl-C goes to all processes of a terminal, and a child inherits what is held back.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process = await _spawn(start)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if process.stdin is None:
        raise RuntimeError("no pipe to the child")
    process.stdin.write(pickle.dumps(start))
    process.stdin.close()
    return process


async def _spawn(start: Start) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # what lies in the working directory is not ours to run
        "-m",
        "smtpproxy.process.child",
        start.role,
        stdin=asyncio.subprocess.PIPE,
        pass_fds=(start.channel, *start.listening.values()),
        env=_ALLOCATION | os.environ,
    )


def main() -> int:
    """The child's side: read what to do from standard input, and do it."""
    sys.modules["rich"] = None  # type: ignore[assignment]  # 5 MB that structlog would load
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides when to end
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    start: Start = pickle.load(sys.stdin.buffer)
    sockets = {name: socket.socket(fileno=number) for name, number in start.listening.items()}
    channel = socket.socket(fileno=start.channel)
    for sock in (*sockets.values(), channel):
        sock.setblocking(False)
        os.set_inheritable(sock.fileno(), False)
    if start.role == "worker":
        from smtpproxy.process.worker import run_worker

        return run_worker(start.settings, start.number, sockets, channel)
    if start.role == "purge":
        from smtpproxy.process.purger import run_purge

        return run_purge(start.settings, channel)
    if start.role == "courier":
        from smtpproxy.process.courier import run_courier

        return run_courier(start.settings, channel)
    from smtpproxy.process.webserver import run_web

    return run_web(start.settings, sockets["web"], channel, start.started_at)


if __name__ == "__main__":
    sys.exit(main())
