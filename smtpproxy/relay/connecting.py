"""Opening a connection to the upstream, inside TLS if the settings require it."""

import asyncio
import ssl
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any

from smtpproxy.first_address import Place, addresses, first_address
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

_FAILED_FOR = 6.0
"""Seconds for which an address that accepted no connection or message is taken to accept none."""
_ANSWERS_WITHIN = 1.5
"""Seconds until an address that leaves a connection without a greeting or an answer comes after the
others: less than until more connections are opened than the first few (GREETED_WITHIN)."""


class Connector:
    """Opens connections, up to the upstream's greeting."""

    def __init__(
        self,
        settings: UpstreamSettings,
        hostname: str,
        deadlines: Deadlines,
        replies: defaultdict[int, int],
        lent: Collection[UpstreamConnection],
    ) -> None:
        """`lent` are the connections that messages use."""
        self._settings, self._hostname = settings, hostname
        self._deadlines, self._replies = deadlines, replies
        address = settings.address
        # The addresses of the name as last looked up, until when some are taken to accept nothing,
        # and which of them to try last: those that greet, but accept no message; so are those that
        # leave a connection without a greeting, or a message without an answer.
        self._places = [] if isinstance(address, TcpAddress) else [(str(address.path), 0)]
        self._failed: dict[Place, float] = {}
        self._last: dict[Place, float] = {}
        self._ungreeted: dict[UpstreamConnection, float] = {}  # since when
        self._lent = lent
        self._start_tls: StartTls | None = None
        self._implicit: dict[str, Any] = {}
        if settings.tls != "none":
            tls = StartTls(client_context(settings.ca_file), settings.certificate_name)
            if settings.tls == "starttls":
                self._start_tls = tls
            else:
                self._implicit = {"ssl": tls.context, "server_hostname": tls.name}

    async def open(self, closed: Callable[[], None]) -> UpstreamConnection:
        """Open one, at the first address that accepts it; `closed` is called when it ends. Raises
        UpstreamError, preferably one that says an address is full: messages then wait."""
        left: list[Place] = []
        failure: UpstreamError | None = None
        while failure is None or left:
            try:
                connection = await self._connect(closed, left)
                await self._greeted(connection)
                return connection
            except UpstreamError as error:
                if failure and isinstance(error, UpstreamUnreachable):
                    break
                if not isinstance(failure, NO_MORE):
                    failure = error
                failure.heard_at = self._deadlines.now()
        try:
            raise failure
        finally:
            del failure  # its traceback refers to us

    def has_another(self, place: Place) -> bool:
        """Try an address last for a while, as it accepts no messages. Return whether another may
        accept one."""
        self._note_failure(place)
        self._last[place] = self._failed[place]
        return self.avoids(place)

    def avoids(self, place: Place) -> bool:
        """Whether an address accepts no messages, while another may accept one."""
        now = self._deadlines.now()
        another = any(self._failed.get(each, now) <= now for each in self._places)
        return another and self._last.get(place, now) > now

    async def _connect(self, closed: Callable[[], None], left: list[Place]) -> UpstreamConnection:
        """Connect to the first of the addresses that are `left`, which are looked up if there are
        none, and remove it; or remove all if none answers."""
        settings, loop = self._settings, asyncio.get_running_loop()

        def protocol() -> UpstreamConnection:
            return UpstreamConnection(self._deadlines, self._replies, closed)

        async def connect(host: str, port: int) -> tuple[Place, UpstreamConnection]:
            made = (
                loop.create_connection(protocol, host, port, **self._implicit)
                if isinstance(settings.address, TcpAddress)
                else loop.create_unix_connection(protocol, host, **self._implicit)
            )
            return (host, port), (await made)[1]

        try:
            async with asyncio.timeout(settings.connect_timeout):
                if not left:
                    left += await self._look_up()
                place, connection = await first_address(left, connect)
        except ssl.SSLError as error:
            left.clear()
            raise UpstreamInsecure(f"{settings.address}: {error}") from error
        except (OSError, TimeoutError) as error:
            named = bool(left) or not isinstance(error, TimeoutError)
            left.clear()
            why = repr(error) if named else "no answer when its name is looked up"
            raise UpstreamUnreachable(f"{settings.address}: {why}") from error
        connection.place = place
        for slower in left[: left.index(place)]:
            self._note_failure(slower)
        left.remove(place)
        return connection

    async def _look_up(self) -> list[Place]:
        address, now = self._settings.address, self._deadlines.now()
        if isinstance(address, TcpAddress):
            self._places = await addresses(address.host, address.port)
        self._failed = {place: until for place, until in self._failed.items() if until > now}
        self._last = {place: until for place, until in self._last.items() if until > now}
        timeout = self._settings.command_timeout
        asked = [*self._ungreeted.items(), *((each, each.due - timeout) for each in self._lent)]
        silent = {each.place for each, since in asked if since <= now - _ANSWERS_WITHIN}
        return sorted(self._places, key=lambda p: (self._last.get(p, now), p in silent))

    def _note_failure(self, place: Place) -> None:
        self._failed[place] = self._deadlines.now() + _FAILED_FOR

    async def _greeted(self, connection: UpstreamConnection) -> None:
        self._ungreeted[connection] = self._deadlines.now()
        try:
            await connection.open(self._hostname, self._settings.command_timeout, self._start_tls)
        except BaseException as error:  # a cancellation too
            connection.close()
            if isinstance(error, UpstreamError):
                self._note_failure(connection.place)
            raise
        finally:
            del self._ungreeted[connection]
