"""Opening a connection to the upstream, inside TLS if the settings require it."""

import asyncio
import ssl
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

from smtpproxy.first_address import first_address
from smtpproxy.relay.connection import (
    StartTls,
    UpstreamConnection,
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

    async def open(self, closed: Callable[[], None]) -> UpstreamConnection:
        """Open one; `closed` is called when it ends. Raises UpstreamError."""
        settings = self._settings
        loop = asyncio.get_running_loop()

        def protocol() -> UpstreamConnection:
            return UpstreamConnection(self._deadlines, self._replies, closed)

        connection: UpstreamConnection
        try:
            async with asyncio.timeout(settings.connect_timeout):
                if isinstance(settings.address, TcpAddress):
                    connect = partial(loop.create_connection, protocol, **self._implicit)
                    _, connection = await first_address(
                        settings.address.host, settings.address.port, connect
                    )
                else:
                    _, connection = await loop.create_unix_connection(
                        protocol, str(settings.address.path), **self._implicit
                    )
        except ssl.SSLError as error:
            raise UpstreamInsecure(f"{settings.address}: {error}") from error
        except (OSError, TimeoutError) as error:
            raise UpstreamUnreachable(f"{settings.address}: {error!r}") from error
        try:
            await connection.open(self._hostname, settings.command_timeout, self._start_tls)
        except BaseException:  # a cancellation too
            connection.close()
            raise
        return connection
