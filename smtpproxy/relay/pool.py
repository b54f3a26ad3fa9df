"""The connections to the upstream: made on demand, kept while idle, counted."""

import asyncio
import ssl
from collections import deque
from typing import Any

from smtpproxy.events import Emit
from smtpproxy.relay.connection import StartTls, UpstreamConnection
from smtpproxy.relay.deadlines import Deadlines
from smtpproxy.relay.errors import UpstreamBusy, UpstreamInsecure, UpstreamUnreachable
from smtpproxy.settings import TcpAddress, UpstreamSettings
from smtpproxy.tls import client_context
from smtpproxy.wire.forwarding import Told


class UpstreamPool:
    """Hands out connections that are alive, the most recently used first."""

    def __init__(
        self, settings: UpstreamSettings, hostname: str, deadlines: Deadlines, emit: Emit
    ) -> None:
        self.settings = settings
        self._hostname = hostname
        self._deadlines = deadlines
        self._emit = emit
        self._idle: list[UpstreamConnection] = []
        self._busy = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._start_tls: StartTls | None = None
        self._implicit: dict[str, Any] = {}
        if settings.tls != "none":
            tls = StartTls(client_context(settings.ca_file), _tls_name(settings))
            if settings.tls == "starttls":
                self._start_tls = tls
            else:
                self._implicit = {"ssl": tls.context, "server_hostname": tls.name}
        self._trimmer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def busy(self) -> int:
        return self._busy

    async def acquire(self, *, fresh: bool = False) -> UpstreamConnection:
        """Return a connection that has greeted us.

        `fresh`: do not take an idle one. Raises UpstreamError.
        """
        if self._busy >= self.settings.max_connections:
            await self._wait()
        else:
            self._busy += 1
        try:
            while self._idle and not fresh:
                connection = self._idle.pop()
                if connection.alive:
                    return connection
            return await self._connect()
        except BaseException:
            self._free()
            raise

    async def introduce(self, connection: UpstreamConnection, told: Told) -> None:
        """Let a connection be that of the client that XCLIENT named. Raises UpstreamError."""
        await connection.introduce(told, self._hostname, self.settings.command_timeout)

    def release(self, connection: UpstreamConnection) -> None:
        """Take back a connection, to be used again if it is alive."""
        if connection.alive and connection.private:
            connection.quit()
        elif connection.alive:
            connection.idle_since = self._deadlines.now()
            self._idle.append(connection)
            if self._trimmer is None:
                self._trim()
        self._free()

    def close(self) -> None:
        """End the idle connections; busy ones end when they come back."""
        if self._trimmer is not None:
            self._trimmer.cancel()
        while self._idle:
            self._idle.pop().quit()

    async def _connect(self) -> UpstreamConnection:
        settings = self.settings
        loop = asyncio.get_running_loop()

        def protocol() -> UpstreamConnection:
            return UpstreamConnection(self._deadlines, self._emit, self._drop_dead)

        try:
            async with asyncio.timeout(settings.connect_timeout):
                if isinstance(settings.address, TcpAddress):
                    _, connection = await loop.create_connection(
                        protocol, settings.address.host, settings.address.port, **self._implicit
                    )
                else:
                    _, connection = await loop.create_unix_connection(
                        protocol, str(settings.address.path), **self._implicit
                    )
        except ssl.SSLError as error:
            raise UpstreamInsecure(f"{settings.address}: {error}") from error
        except (OSError, TimeoutError) as error:
            raise UpstreamUnreachable(f"{settings.address}: {error!r}") from error
        await connection.open(self._hostname, settings.command_timeout, self._start_tls)
        return connection

    async def _wait(self) -> None:
        """Wait for the slot of one that comes free; it passes over without being free."""
        slot: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(slot)
        try:
            async with asyncio.timeout(self.settings.wait_timeout):
                await slot
        except BaseException as error:
            if slot.done() and not slot.cancelled():
                self._free()  # it came at the very moment
            if isinstance(error, TimeoutError):
                raise UpstreamBusy(f"{self._busy} connections in use") from None
            raise

    def _free(self) -> None:
        while self._waiters:
            slot = self._waiters.popleft()
            if not slot.done():
                slot.set_result(None)
                return
        self._busy -= 1

    def _drop_dead(self) -> None:
        self._idle = [connection for connection in self._idle if connection.alive]

    def _trim(self) -> None:
        """Close what was idle for too long; look again while anything is idle."""
        limit = self._deadlines.now() - self.settings.idle_timeout
        for connection in [c for c in self._idle if c.idle_since <= limit]:
            connection.quit()
        self._trimmer = (
            asyncio.get_running_loop().call_later(self.settings.idle_timeout / 4, self._trim)
            if self._idle
            else None
        )


def _tls_name(settings: UpstreamSettings) -> str:
    if settings.tls_name is not None:
        return settings.tls_name
    address = settings.address
    return address.host if isinstance(address, TcpAddress) else "localhost"
