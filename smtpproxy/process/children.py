"""What a child process is given, and the messages between it and the supervisor.

It begins in nursery.py and works in the module of its role.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Literal

import msgspec
import structlog

from smtpproxy.process.memory import end_without_memory, freeze_loaded
from smtpproxy.settings import Settings
from smtpproxy.sinks.snapshots import Snapshot
from smtpproxy.store import is_postgresql
from smtpproxy.store.records import StoreUnavailable

BEAT = 1.0  # seconds
SLOWEST_START = 600.0
"""Seconds for a child that is only slow, because of its disk or too few processors: another try
would take as long."""
_LENGTH = 4

log = structlog.get_logger()


class Ready(msgspec.Struct, frozen=True, tag=True):
    """A child has begun its work."""


class Beat(msgspec.Struct, frozen=True, tag=True):
    """A worker's sign of life, every second, with its metrics and the paused subjects."""

    snapshot: Snapshot
    paused: tuple[str, ...] = ()


class Ask(msgspec.Struct, frozen=True, tag=True):
    """A request for metrics: from the web process to the supervisor, and on to its workers."""

    number: int


class Answer(msgspec.Struct, frozen=True, tag=True):
    """The metrics of one worker or of all, and how many workers there are."""

    number: int
    snapshot: Snapshot
    workers: int = 0
    alive: int = 0
    draining: bool = False


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Accept no new work, finish the current work, exit."""


class Closed(msgspec.Struct, frozen=True, tag=True):
    """A draining worker no longer accepts connections."""


Message = Ready | Beat | Ask | Answer | Drain | Closed
_decode = msgspec.msgpack.Decoder(Message).decode


class Channel:
    """One end of the socket pair between the supervisor and a child."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> "Channel":
        return cls(*await asyncio.open_unix_connection(sock=sock))

    def send(self, message: Message) -> None:
        """Send without waiting; does nothing if the peer is gone."""
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

    async def until_drain(self) -> None:
        """Report that the work has begun; return when told to end, or when the peer is gone."""
        freeze_loaded()
        self.send(Ready())
        async for message in self.messages():
            if isinstance(message, Drain):
                return

    async def keep_beating(self, snapshot: Callable[[], Snapshot]) -> None:
        """Report metrics until cancelled; end the process once it has no memory left."""
        watching = asyncio.create_task(end_without_memory())
        try:
            while True:
                with suppress(MemoryError):
                    self.send(Beat(snapshot()))
                await asyncio.sleep(BEAT)
        finally:
            watching.cancel()

    def close(self) -> None:
        self._writer.close()


_AFTER_TROUBLE = 10.0


async def until_it_works(
    work: Callable[[], Awaitable[None]],
    waits: str,
    expected: tuple[type[Exception], ...] = (StoreUnavailable, OSError),
) -> None:
    """Try until it succeeds; `waits` is what to log when it fails as `expected`."""
    while True:
        try:
            return await work()
        except expected as error:
            log.warning(waits, error=str(error))
        except Exception as error:  # a fault of the program: mail and all other work go on
            log.error("internal error", exc_info=error)
        await asyncio.sleep(_AFTER_TROUBLE)


WEB, FEEDBACK = "[web]", "[feedback]"
"""The names of these roles' sockets, which no listener can have."""

Role = Literal["worker", "web", "webhooks", "feedback", "journals", "purge"]

MODULES: Mapping[Role, str] = {
    "worker": "smtpproxy.process.worker",
    "web": "smtpproxy.process.webserver",
    "webhooks": "smtpproxy.process.webhooks",
    "feedback": "smtpproxy.process.feedback",
    "journals": "smtpproxy.process.journals",
    "purge": "smtpproxy.process.daily_purge",
}
"""Where each role has its `run`, which is given a `Start`, the sockets and the channel, works until
told to end, or until the supervisor is gone, and returns the exit code."""


def other_roles(settings: Settings) -> list[Role]:
    """Return the roles besides workers whose children always run with these settings."""
    wanted: dict[Role, bool] = {
        "web": settings.web is not None,
        "webhooks": bool(settings.webhooks),
        "feedback": settings.feedback is not None,
        "journals": is_postgresql(settings.store),
    }
    return [role for role in wanted if wanted[role]]


def name_of(role: Role, number: int) -> str:
    """The name of a child in the log and in `ps -e`."""
    return f"worker-{number}" if role == "worker" else role


class Start(msgspec.Struct, frozen=True):
    """What a child needs, including the settings as the supervisor read them."""

    role: Role
    number: int
    settings: Settings
    listening: tuple[str, ...] = ()  # the names of its sockets: listeners, WEB, FEEDBACK
    started_at: float = 0.0  # the relay, not this child; seconds since 1970
