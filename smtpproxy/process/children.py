"""How a child process is started, what it is given, and how it speaks with the supervisor.

A child is a new interpreter: nothing of the supervisor's state comes along but the settings
it read (a file that was changed since has no say) and the open sockets."""

import asyncio
import os
import pickle
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from smtpproxy.settings import Settings
from smtpproxy.sinks.metrics import Snapshot

_LENGTH = 4


class Ready(msgspec.Struct, frozen=True, tag=True):
    """A child does its work now."""


class Beat(msgspec.Struct, frozen=True, tag=True):
    """A worker lives; every second, with its numbers, and what is paused (`WorkerBreaker`)."""

    snapshot: Snapshot
    paused: tuple[str, ...] = ()


class Ask(msgspec.Struct, frozen=True, tag=True):
    """How are things? The web process asks the supervisor, the supervisor its workers."""

    number: int


class Answer(msgspec.Struct, frozen=True, tag=True):
    """The numbers (of one worker, or of all), and how many workers there are."""

    number: int
    snapshot: Snapshot
    workers: int = 0
    alive: int = 0
    draining: bool = False


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Take no new work, finish what is under way, exit."""


Message = Ready | Beat | Ask | Answer | Drain
_decode = msgspec.msgpack.Decoder(Message).decode


class Channel:
    """One end of the pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> "Channel":
        return cls(*await asyncio.open_unix_connection(sock=sock))

    def send(self, message: Message) -> None:
        """Send without waiting; to a peer that is gone this does nothing."""
        data = msgspec.msgpack.encode(message)
        if not self._writer.is_closing():
            self._writer.write(len(data).to_bytes(_LENGTH, "big") + data)

    async def messages(self) -> AsyncIterator[Message]:
        """Yield what the peer sends, until it is gone."""
        try:
            while True:
                length = int.from_bytes(await self._reader.readexactly(_LENGTH), "big")
                yield _decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    def close(self) -> None:
        self._writer.close()


_ALLOCATION = {"MALLOC_TRIM_THRESHOLD_": "33554432", "MALLOC_MMAP_THRESHOLD_": "33554432"}
"""Keep freed memory for the next large message: asking for fresh pages each time costs more
than looking at every octet of it."""

WEB, FEEDBACK = "[web]", "[feedback]"
"""The names of their sockets: those of no listener."""

Role = Literal["worker", "web", "webhooks", "feedback", "journals", "purge"]


@dataclass(frozen=True, slots=True)
class Start:
    """What a child needs. Sockets are file numbers that it inherits."""

    role: Role
    number: int
    settings: Settings
    channel: int
    listening: Mapping[str, int]  # by listener name; WEB, FEEDBACK
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
        "smtpproxy.process.children",
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
        from smtpproxy.process.daily_purge import run_purge

        return run_purge(start.settings, channel)
    if start.role == "webhooks":
        from smtpproxy.process.webhooks import run_webhooks

        return run_webhooks(start.settings, channel)
    if start.role == "journals":
        from smtpproxy.process.journals import run_journals

        return run_journals(start.settings, channel)
    if start.role == "feedback":
        from smtpproxy.process.feedback import run_feedback

        return run_feedback(start.settings, sockets, channel)
    from smtpproxy.process.webserver import run_web

    return run_web(start.settings, sockets[WEB], channel, start.started_at)


if __name__ == "__main__":
    sys.exit(main())
