"""One listener in one worker: what its sessions share, and how it is drained."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Literal, Protocol

from smtpproxy.intake.limits import ConnectionLimits
from smtpproxy.pipeline import Parts, StreamTable
from smtpproxy.relay.content import Spool
from smtpproxy.relay.deadlines import Deadlines
from smtpproxy.settings import ListenerSettings, ServerSettings


class Session(Protocol):
    """What a door knows of its sessions."""

    def drain(self) -> None: ...

    def cut(self) -> None: ...


class Door:
    """A front door: admits connections, keeps count of them, and closes in good order."""

    def __init__(
        self,
        listener: ListenerSettings,
        server: ServerSettings,
        parts: Parts,
        streams: StreamTable,
        deadlines: Deadlines,
        spool: Spool,
        *,
        unexpected: Callable[[Exception], None],
    ) -> None:
        self.listener = listener
        self.server = server
        self.parts = parts
        self.streams = streams
        self.deadlines = deadlines
        self.spool = spool
        self.unexpected = unexpected
        self.draining = False
        self._limits = ConnectionLimits(listener, server.workers)
        self._sessions: set[Session] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Server | None = None

    async def open(
        self, sock: socket.socket, session: Callable[["Door"], asyncio.Protocol]
    ) -> None:
        """Accept connections on a bound socket."""
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.Protocol:
            return session(self)

        if sock.family == socket.AF_UNIX:
            self._listening = await loop.create_unix_server(protocol, sock=sock, backlog=1024)
        else:
            self._listening = await loop.create_server(protocol, sock=sock, backlog=1024)

    def admit(
        self, session: Session, peer: str
    ) -> Literal["limit", "address_limit", "draining"] | None:
        """Count a new connection in, or say why not."""
        refusal = "draining" if self.draining else self._limits.refusal(peer)
        if refusal is None:
            self._limits.opened(peer)
            self._sessions.add(session)
        return refusal

    def leave(self, session: Session, peer: str) -> None:
        self._sessions.discard(session)
        self._limits.closed(peer)

    def start(self, session: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(session)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self) -> None:
        """Take no new connection, let running transactions finish, for a bounded time."""
        self.draining = True
        if self._listening is not None:
            self._listening.close()
        for session in list(self._sessions):
            session.drain()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self.server.drain_timeout)
        for session in list(self._sessions):
            session.cut()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
