"""One listener in one worker: what its sessions share, and how it drains."""

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from smtpproxy.auth import MECHANISMS, Authenticator
from smtpproxy.core.effects import Handlers, Steps
from smtpproxy.core.perform import Run
from smtpproxy.core.services import Services, StreamTable
from smtpproxy.events import ConnectionRefused, FilesRead, Stage
from smtpproxy.intake.accept import Handshakes, ProxyAcceptor, TrustedHosts
from smtpproxy.intake.limits import ClientRates, ConnectionLimits, RateTable, Refusal
from smtpproxy.open_files import next_file, room_for_clients
from smtpproxy.relay.content import Spool
from smtpproxy.settings import ListenerSettings, ServerSettings, TcpAddress
from smtpproxy.tls import ServerTls, TlsError, TlsFiles
from smtpproxy.waiting import NEVER, Deadlines, wait_for_accepted
from smtpproxy.wire.session import BASE, PRDR, STARTTLS, Extension, HeaderLimits, Terms, auth


class Session(Protocol):
    """What a listener needs of its sessions."""

    def drain(self) -> None: ...

    def cut(self) -> None: ...


T = TypeVar("T")

FIRST_WITHIN = 2.0
"""Seconds within which a new connection must begin its first message while the listener drains."""


class Listener:
    """Admits connections, counts them, and closes in an orderly way."""

    def __init__(
        self,
        settings: ListenerSettings,
        server: ServerSettings,
        services: Services,
        handlers: Handlers,
        streams: StreamTable,
        deadlines: Deadlines,
        spool: Spool,
        *,
        unexpected: Callable[[Exception], None],
        authenticator: Authenticator | None = None,
        rates: RateTable | None = None,
    ) -> None:
        """Raises TlsError if the configured certificate cannot be used."""
        self.settings = settings
        self.server = server
        self.services = services
        self.handlers = handlers
        self.streams = streams
        self.deadlines = deadlines
        self.spool = spool
        self.header_limits = HeaderLimits(server.header_size_limit, server.max_header_fields)
        self.unexpected = unexpected
        self.authenticator = authenticator if settings.auth != "off" else None
        self.tls = self._tls()
        self.handshakes = self._handshakes()
        self.terms = self._terms()
        self.draining = False
        self._drained_from = NEVER  # on the loop's clock: later connections are refused
        self.rates = ClientRates(settings, rates) if rates is not None else None
        self._limits = ConnectionLimits(settings, server.workers)
        self._room = room_for_clients()
        # Behind a PROXY header, the peer is not the client.
        self._xclient_trusted = TrustedHosts(
            () if settings.proxy_protocol else settings.xclient_trusted
        )
        self._login_trusted = self._hosts_that_report_logins()
        self._sessions: set[Session] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._all_left: asyncio.Future[None] | None = None  # while `_left` waits
        self._server: asyncio.Server | None = None
        self._acceptor: ProxyAcceptor | None = None  # if asyncio's own server will not do
        self._named: dict[int, str] = {}  # clients named by PROXY headers, by file number

    def run(self, steps: Steps[T], spent: dict[Stage, float]) -> Run[T]:
        """Run the steps of a transaction to their end; their time is added to `spent`."""
        return Run(steps, self.handlers, spent, self.services.ticks)

    async def open(
        self, sock: socket.socket, session: Callable[["Listener"], asyncio.Protocol]
    ) -> None:
        """Accept connections on a bound socket."""
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.Protocol:
            return session(self)

        if self.settings.proxy_protocol or self.settings.tls == "implicit":
            self._acceptor = self._proxy_acceptor(protocol)
            self._acceptor.open(sock)
        elif sock.family == socket.AF_UNIX:
            self._server = await loop.create_unix_server(protocol, sock=sock, backlog=1024)
        else:
            self._server = await loop.create_server(protocol, sock=sock, backlog=1024)

    def peer(self, transport: asyncio.BaseTransport) -> str:
        """Return the client's address: an IP address, "unix", or "unknown" if it has gone."""
        if self._named:
            named = self._named.pop(transport.get_extra_info("socket").fileno(), None)
            if named is not None:
                self._limits.closed(named)  # from now on its session is counted instead
                return named
        address = transport.get_extra_info("peername")
        otherwise = "unknown" if isinstance(self.settings.address, TcpAddress) else "unix"
        return address[0] if isinstance(address, tuple) else otherwise

    def takes_xclient(self, peer: str) -> bool:
        """Whether this host, the socket's own peer, may send XCLIENT and XFORWARD."""
        return peer in self._xclient_trusted

    def believes_logins(self, peer: str) -> bool:
        """Whether logins reported by this host, the socket's own peer, count."""
        return self._login_trusted is None or peer in self._login_trusted

    def admit(
        self, session: Session, peer: str, transport: asyncio.BaseTransport
    ) -> Refusal | None:
        """Admit and count a new connection, or return why not."""
        drained = self.draining and self.deadlines.now() >= self._drained_from
        refusal: Refusal | None = "draining" if drained else None
        if refusal is None:  # with implicit TLS, the rate was checked before the handshake
            few_files = next_file() > self._room // 2 and (
                transport.get_extra_info("socket").fileno() >= self._room  # costs 0.2 KB
            )
            refusal = self._refusal(peer, few_files, rated=self.settings.tls != "implicit")
        if refusal is None:
            self._limits.opened(peer)
            self._sessions.add(session)
        return refusal

    def _refusal(self, peer: str, few_files: bool, *, rated: bool) -> Refusal | None:
        refusal: Refusal | None = self._limits.refusal(peer)
        if refusal is None and few_files:
            return "files"
        if refusal is None and rated and self.rates is not None:
            return None if self.rates.connection(peer) else "rate"
        return refusal

    def leave(self, session: Session, peer: str) -> None:
        self._sessions.discard(session)
        self._limits.closed(peer)
        if self._all_left is not None and not self._sessions and not self._all_left.done():
            self._all_left.set_result(None)

    def _hosts_that_report_logins(self) -> TrustedHosts | None:
        """The hosts whose reported logins count. None: all, since all that milter and policy
        clients report is the MTA's own."""
        named, asked = self.settings.login_trusted, self.settings.protocol in ("milter", "policy")
        return None if named is None and asked else TrustedHosts(named or ())

    def start(self, session: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(session)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tls(self) -> ServerTls | None:
        settings = self.settings
        if settings.tls == "none" or settings.certificate is None or settings.private_key is None:
            return None

        def changed(error: TlsError | None) -> None:
            text = None if error is None else f"{error.key}: {error}"
            self.services.emit(FilesRead(settings.name, "certificate", text))

        files = TlsFiles(settings.certificate, settings.private_key, settings.client_ca)
        return ServerTls(files, time.monotonic, changed)

    def _terms(self) -> Terms:
        settings, server = self.settings, self.server
        return Terms(
            hostname=self.services.hostname,
            size_limit=server.data_size_limit,
            header_limits=self.header_limits,
            bare_newline=server.bare_newline,
            max_recipients=settings.max_recipients,
            max_refused=settings.max_refused_recipients,
            max_refused_in_all=settings.max_refused_per_connection,
            extensions=self._extensions(),
            require_tls=settings.require_tls,
            require_auth=settings.auth == "required",
            lmtp=settings.protocol == "lmtp",
            refuse_early=settings.early_commands == "refuse",
        )

    def _extensions(self) -> tuple[Extension, ...]:
        offered = BASE if self.settings.protocol == "lmtp" else (*BASE, PRDR)
        if self.settings.tls == "starttls":
            offered += (STARTTLS,)
        if self.authenticator is not None:
            offered += (auth(MECHANISMS, without_tls=self.settings.auth_without_tls),)
        return offered

    def _handshakes(self) -> Handshakes | None:
        if self.tls is None:
            return None
        timeout = self.settings.handshake_timeout
        return Handshakes(self.settings.name, self.tls, timeout, self.services.emit)

    def _proxy_acceptor(self, protocol: Callable[[], asyncio.Protocol]) -> ProxyAcceptor:
        """An acceptor that begins sessions once the client is known and implicit TLS is up."""
        loop = asyncio.get_running_loop()
        implicit = self.handshakes if self.settings.tls == "implicit" else None

        async def connect(connection: socket.socket, client: str) -> None:
            number = connection.fileno()
            refusal: Refusal | None = None
            if implicit is not None:
                refusal = self._refusal(client, number >= self._room, rated=True)
            if refusal is not None:  # before an expensive handshake
                self.services.emit(ConnectionRefused(self.settings.name, client, refusal))
                connection.close()
                return
            self._named[number] = client
            self._limits.opened(client)
            try:
                if implicit is None:
                    await loop.connect_accepted_socket(protocol, connection)
                else:
                    await implicit.accept(connection, protocol, client)
            except OSError:  # it has gone
                connection.close()
            finally:
                if self._named.pop(number, None) is not None:  # no session took it over
                    self._limits.closed(client)

        return ProxyAcceptor(
            self.settings.name,
            TrustedHosts(self.settings.proxy_trusted) if self.settings.proxy_protocol else None,
            timeout=self.settings.handshake_timeout,
            room=self._limits.total,
            files=self._room,
            deadlines=self.deadlines,
            admit=lambda connection, client: self.start(connect(connection, client)),
            emit=self.services.emit,
        )

    async def stop_listening(self) -> None:
        """Accept no new connections.

        Those that the kernel has accepted are taken first: closing the socket would cut them off.
        """
        await wait_for_accepted()
        self.draining = True
        self._drained_from = self.deadlines.now() + FIRST_WITHIN
        if self._acceptor is not None:
            self._acceptor.close(FIRST_WITHIN)
        elif self._server is not None:
            self._server.close()

    async def drain(self) -> None:
        """Accept no new connections, and let running transactions finish, for a bounded time.

        A client accepted at the last moment may still send a first message.
        """
        if not self.draining:
            await self.stop_listening()
        await wait_for_accepted()
        for session in list(self._sessions):
            session.drain()
        await self._left(self.server.drain_timeout)
        if self._acceptor is not None:
            self._acceptor.cut()
        for session in list(self._sessions):
            session.cut()
        await self._left(1.0)

    async def _left(self, timeout: float) -> None:
        """Wait for the end of all sessions, and of what comes before and after them."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        while (rest := until - loop.time()) > 0:
            if self._acceptor is not None and self._acceptor.waits:
                await self._acceptor.emptied(rest)
            elif self._tasks:
                await asyncio.wait(self._tasks, timeout=rest)
            elif self._sessions:
                self._all_left = loop.create_future()
                await asyncio.wait([self._all_left], timeout=rest)
            else:
                break
