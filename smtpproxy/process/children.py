"""How a child process is started, what it is given, and how it speaks with the supervisor. Where
it begins is child.py.

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
        "smtpproxy.process.child",
        start.role,
        stdin=asyncio.subprocess.PIPE,
        pass_fds=(start.channel, *start.listening.values()),
        env=_ALLOCATION | os.environ,
    )
