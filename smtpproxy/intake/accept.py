"""Connections before their session begins: reading the PROXY header, and the TLS handshake.

The header is peeked at and then read to exactly its last octet, so that whatever follows, be it
SMTP, TLS or milter packets, is still in the socket when the session gets it. Trust depends on the
address of the socket's peer, never on one that a header names.
"""

import asyncio
import contextlib
import errno
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from smtpproxy.events import Emit, ProxyHeaderRead, ProxyOutcome, TlsHandshake, TlsOutcome
from smtpproxy.tls import ServerTls
from smtpproxy.waiting import Deadline, Deadlines
from smtpproxy.wire.forwarding import ProxyError, ProxyHeader, parse_proxy


class TrustedHosts:
    """The networks in one of a listener's `…_trusted` settings; "unix" means its UNIX socket."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._unix = "unix" in networks
        self._networks = [ipaddress.ip_network(each) for each in networks if each != "unix"]

    def __contains__(self, peer: str) -> bool:
        """`peer` is an IP address, or "unix"."""
        if peer == "unix":
            return self._unix
        if not self._networks:
            return False
        try:
            address = ipaddress.ip_address(peer.partition("%")[0])
        except ValueError:
            return False
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        address = mapped or address
        return any(
            address in network for network in self._networks if network.version == address.version
        )


_BACKLOG = 1_000
"""How many connections that the kernel has accepted may be taken at once."""

_REST = 0.1
"""Seconds without accepting after the system had no file or memory left for a connection."""

Admit = Callable[[socket.socket, str], None]
"""Takes over the socket, with the address of the client that the header names."""


class ProxyAcceptor:
    """Accepts on a listening socket; `admit` gets the connections with a valid header.

    Without `trusted` there are no headers, and every connection is admitted immediately.
    """

    def __init__(
        self,
        listener: str,
        trusted: TrustedHosts | None,
        *,
        timeout: float,
        room: int,
        files: int,
        deadlines: Deadlines,
        admit: Admit,
        emit: Callable[[ProxyHeaderRead], None],
    ) -> None:
        self._listener = listener
        self._trusted = trusted
        self._timeout = timeout
        self._room = room
        self._files = files  # connections with this file number or a higher one are closed
        self._deadlines = deadlines
        self._admit = admit
        self._emit = emit
        self._waiting: set[_PendingConnection] = set()
        self._socket: socket.socket | None = None
        self._empty: asyncio.Future[None] | None = None  # while `emptied` waits

    def open(self, listening: socket.socket) -> None:
        self._socket = listening
        asyncio.get_running_loop().add_reader(listening.fileno(), self._accept)

    def close(self, timeout: float) -> None:
        """Accept only those already queued, with `timeout` seconds for their headers."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            for _ in range(_BACKLOG):  # closing the socket would cut them off
                if not self._accept():
                    break
            self._socket.close()
            self._socket = None
        until = self._deadlines.now() + timeout
        for pending in self._waiting:
            pending.deadline.at = min(pending.deadline.at, until)

    async def emptied(self, timeout: float) -> None:
        """Wait until no connection is waiting for its header."""
        if self._waiting:
            self._empty = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._empty], timeout=timeout)

    def cut(self) -> None:
        """Close the connections without a complete header."""
        for pending in list(self._waiting):
            pending.end()

    @property
    def waits(self) -> bool:
        """Whether a connection is waiting for its header."""
        return bool(self._waiting)

    def _accept(self) -> bool:
        """Accept one connection; any others make the socket readable again."""
        if self._socket is None:
            return False
        try:
            connection, address = self._socket.accept()
        except OSError as error:  # another worker took it, or the client is gone
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self._rest(self._socket)
            return False
        connection.setblocking(False)
        peer = address[0] if isinstance(address, tuple) else "unix"
        if self._trusted is None:
            self._admit(connection, peer)
        elif peer not in self._trusted:
            connection.close()
            self._emit(ProxyHeaderRead(self._listener, peer, "untrusted"))
        elif len(self._waiting) >= self._room or connection.fileno() >= self._files:
            connection.close()
            self._emit(ProxyHeaderRead(self._listener, peer, "timeout", "too many wait"))
        else:
            _PendingConnection(self, connection, peer)
        return True

    def _rest(self, listening: socket.socket) -> None:
        """Accept nothing for a moment: a socket that stays readable would keep the loop busy."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening.fileno())

        def go_on() -> None:
            if self._socket is listening:
                loop.add_reader(listening.fileno(), self._accept)

        loop.call_later(_REST, go_on)

    def watch(self, pending: "_PendingConnection") -> Deadline:
        self._waiting.add(pending)
        deadline = self._deadlines.watch(pending.expired)
        deadline.at = self._deadlines.now() + self._timeout
        return deadline

    def done(
        self, pending: "_PendingConnection", outcome: ProxyOutcome, client: str | None, detail: str
    ) -> None:
        self._waiting.discard(pending)
        if self._empty is not None and not self._waiting and not self._empty.done():
            self._empty.set_result(None)
        self._deadlines.forget(pending.deadline)
        self._emit(ProxyHeaderRead(self._listener, pending.peer, outcome, detail))
        if client is not None:
            self._admit(pending.socket, client)


class _PendingConnection:
    """One connection whose header is incomplete."""

    def __init__(self, acceptor: ProxyAcceptor, connection: socket.socket, peer: str) -> None:
        self.socket = connection
        self.peer = peer
        self._proxy_acceptor = acceptor
        self._loop = asyncio.get_running_loop()
        self._read = b""
        self.deadline = acceptor.watch(self)
        self._loop.add_reader(connection.fileno(), self._readable)

    def expired(self) -> None:
        self._refuse("timeout")

    def end(self) -> None:
        self._refuse("timeout", "shutdown")

    def _readable(self) -> None:
        try:
            seen = self.socket.recv(4096, socket.MSG_PEEK)
            if not seen:
                self._refuse("malformed", "closed")
                return
            header = parse_proxy(self._read + seen)
            length = len(seen) if header is None else header.length - len(self._read)
            taken = self.socket.recv(length)
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, ProxyError) as error:
            self._refuse("malformed", str(error))
            return
        self._read += taken
        if header is not None:
            self._admit_client(header)

    def _admit_client(self, header: ProxyHeader) -> None:
        self._loop.remove_reader(self.socket.fileno())
        named = header.source
        outcome: ProxyOutcome = "ok" if named else "local"
        self._proxy_acceptor.done(self, outcome, named or self.peer, "")

    def _refuse(self, outcome: ProxyOutcome, detail: str = "") -> None:
        self._loop.remove_reader(self.socket.fileno())
        with contextlib.suppress(OSError):
            self.socket.close()
        self._proxy_acceptor.done(self, outcome, None, detail)


T = TypeVar("T")

_SHUTDOWN = 2.0
"""Seconds that a client has to answer our close_notify; most never do."""


class Handshakes:
    """Upgrades one listener's connections to TLS, and reports the result."""

    def __init__(self, listener: str, tls: ServerTls, timeout: float, emit: Emit) -> None:
        self._listener = listener
        self._tls = tls
        self._timeout = timeout
        self._emit = emit

    async def upgrade(
        self, transport: asyncio.Transport, protocol: asyncio.Protocol, peer: str
    ) -> asyncio.Transport | None:
        """Continue in TLS after STARTTLS; return the new transport, or None if it is lost.

        Call it in the same step that answers 220: whatever follows is then part of the handshake,
        and plaintext is never mistaken for a command.
        """
        upgraded = asyncio.get_running_loop().start_tls(
            transport,
            protocol,
            self._tls.context(),
            server_side=True,
            ssl_handshake_timeout=self._timeout,
            ssl_shutdown_timeout=_SHUTDOWN,
        )
        return await self._awaited(upgraded, peer)

    async def accept(
        self, connection: socket.socket, session: Callable[[], asyncio.Protocol], peer: str
    ) -> None:
        """Begin in TLS; the session is created after the handshake.

        Only OpenSSL reads from the socket; `start_tls` would lose what was read before.
        """
        accepted = asyncio.get_running_loop().connect_accepted_socket(
            lambda: _AfterHandshake(session),
            connection,
            ssl=self._tls.context(),
            ssl_handshake_timeout=self._timeout,
            ssl_shutdown_timeout=_SHUTDOWN,
        )
        await self._awaited(accepted, peer)

    async def _awaited(self, handshake: Awaitable[T | None], peer: str) -> T | None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        outcome: TlsOutcome = "ok"
        detail = ""
        done = None
        try:
            done = await handshake
        except (ssl.SSLError, OSError) as error:
            outcome = "timeout" if loop.time() - began >= self._timeout - 0.05 else "failed"
            detail = getattr(error, "reason", None) or type(error).__name__
        if done is None and outcome == "ok":  # the client went away during the handshake
            outcome, detail = "failed", "closed"
        self._emit(TlsHandshake(self._listener, peer, outcome, detail))
        return done


class _AfterHandshake(asyncio.Protocol):
    """Replaces itself with a session once connected."""

    def __init__(self, session: Callable[[], asyncio.Protocol]) -> None:
        self._session = session

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        session = self._session()
        transport.set_protocol(session)
        session.connection_made(transport)
