"""What a child process is given, and how it speaks with the supervisor.

It begins in nursery.py, and does its work in the module of its role."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

import msgspec

from smtpproxy.settings import Settings
from smtpproxy.sinks.snapshots import Snapshot

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


class Closed(msgspec.Struct, frozen=True, tag=True):
    """A worker that drains takes no new connection any more."""


Message = Ready | Beat | Ask | Answer | Drain | Closed
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


WEB, FEEDBACK = "[web]", "[feedback]"
"""The names of their sockets: those of no listener."""

Role = Literal["worker", "web", "webhooks", "feedback", "journals", "purge"]


def name_of(role: Role, number: int) -> str:
    """What a child is called in the log, and by `ps -e`."""
    return f"worker-{number}" if role == "worker" else role


@dataclass(frozen=True, slots=True)
class Start:
    """What a child needs, and the settings that the supervisor read: a file that was changed since
    has no say."""

    role: Role
    number: int
    settings: Settings
    listening: tuple[str, ...] = ()  # the names of its sockets: listeners, WEB, FEEDBACK
    started_at: float = 0.0  # the relay, not this child; seconds since 1970
