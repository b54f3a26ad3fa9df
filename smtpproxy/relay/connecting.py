"""Opening a connection to the upstream, inside TLS if the settings require it."""

import asyncio
import ssl
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from smtpproxy.first_address import Place, first_address
from smtpproxy.relay.connection import (
    NO_MORE,
    StartTls,
    UpstreamConnection,
    UpstreamError,
    UpstreamInsecure,
    UpstreamUnreachable,
)
from smtpproxy.settings import TcpAddress, UpstreamSettings
from smtpproxy.tls import client_context
from smtpproxy.waiting import Deadlines


class Connector:
    """Opens connections that have greeted us."""

    def __init__(
        self,
        settings: UpstreamSettings,
        hostname: str,
        deadlines: Deadlines,
        replies: defaultdict[int, int],
    ) -> None:
        self._settings, self._hostname = settings, hostname
        self._deadlines, self._replies = deadlines, replies
        self._start_tls: StartTls | None = None
        self._implicit: dict[str, Any] = {}
        if settings.tls != "none":
            tls = StartTls(client_context(settings.ca_file), settings.certificate_name)
            if settings.tls == "starttls":
                self._start_tls = tls
            else:
                self._implicit = {"ssl": tls.context, "server_hostname": tls.name}

    async def open(
        self, closed: Callable[[], None], without: tuple[Place, ...] = ()
    ) -> UpstreamConnection:
        """Open one, to the first address that accepts it and is not among `without`; `closed` is
        called when it ends. Raises UpstreamError."""
        place, connection = await self._connect(closed, without)
        try:
            await connection.open(self._hostname, self._settings.command_timeout, self._start_tls)
        except BaseException as error:  # a cancellation too
            connection.close()
            if place is not None and isinstance(error, UpstreamError):
                # Messages wait for connections that a full address has accepted.
                weaker = UpstreamError if isinstance(error, NO_MORE) else UpstreamUnreachable
                with suppress(weaker):
                    return await self.open(closed, (*without, place))
            raise
        return connection

    async def _connect(
        self, closed: Callable[[], None], without: tuple[Place, ...]
    ) -> tuple[Place | None, UpstreamConnection]:
        settings = self._settings
        loop = asyncio.get_running_loop()

        def protocol() -> UpstreamConnection:
            return UpstreamConnection(self._deadlines, self._replies, closed)

        async def connect(host: str, port: int) -> tuple[Place, UpstreamConnection]:
            _, connection = await loop.create_connection(protocol, host, port, **self._implicit)
            return (host, port), connection

        try:
            async with asyncio.timeout(settings.connect_timeout):
                if isinstance(settings.address, TcpAddress):
                    address = settings.address
                    return await first_address(address.host, address.port, connect, without)
                _, connection = await loop.create_unix_connection(
                    protocol, str(settings.address.path), **self._implicit
                )
                return None, connection
        except ssl.SSLError as error:
            raise UpstreamInsecure(f"{settings.address}: {error}") from error
        except (OSError, TimeoutError) as error:
            raise UpstreamUnreachable(f"{settings.address}: {error!r}") from error
