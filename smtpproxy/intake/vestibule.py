"""Where connections are before a session begins: until their PROXY header has come.

The header is peeked at and then read to its last octet, so that whatever follows it, be it
SMTP, TLS or milter packets, is still in the socket when the session gets it.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable

from smtpproxy.events import ProxyHeaderRead, ProxyOutcome
from smtpproxy.intake.trusted import TrustedHosts
from smtpproxy.relay.deadlines import Deadline, Deadlines
from smtpproxy.wire.proxy import ProxyError, ProxyHeader, parse

Admit = Callable[[socket.socket, str], None]
"""Takes the socket over, with the address of the client that the header names."""


class Vestibule:
    """Accepts on a listening socket; `admit` gets what brought a good header.

    Without `trusted` there is no header, and every connection is admitted at once.
    """

    def __init__(
        self,
        listener: str,
        trusted: TrustedHosts | None,
        *,
        patience: float,
        room: int,
        deadlines: Deadlines,
        admit: Admit,
        emit: Callable[[ProxyHeaderRead], None],
    ) -> None:
        self._listener = listener
        self._trusted = trusted
        self._patience = patience
        self._room = room
        self._deadlines = deadlines
        self._admit = admit
        self._emit = emit
        self._waiting: set[_Visitor] = set()
        self._socket: socket.socket | None = None

    def open(self, listening: socket.socket) -> None:
        self._socket = listening
        asyncio.get_running_loop().add_reader(listening.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more; who has brought no header yet is sent away."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        for visitor in list(self._waiting):
            visitor.end()

    def _accept(self) -> None:
        """Take one connection; the others make the socket readable again."""
        if self._socket is None:
            return
        try:
            connection, address = self._socket.accept()
        except OSError:  # another worker took it, or it is gone already
            return
        connection.setblocking(False)
        peer = address[0] if isinstance(address, tuple) else "unix"
        if self._trusted is None:
            self._admit(connection, peer)
        elif peer not in self._trusted:
            connection.close()
            self._emit(ProxyHeaderRead(self._listener, peer, "untrusted"))
        elif len(self._waiting) >= self._room:
            connection.close()
            self._emit(ProxyHeaderRead(self._listener, peer, "timeout", "too many wait"))
        else:
            _Visitor(self, connection, peer)

    def watch(self, visitor: "_Visitor") -> Deadline:
        self._waiting.add(visitor)
        deadline = self._deadlines.watch(visitor.expired)
        deadline.at = self._deadlines.now() + self._patience
        return deadline

    def done(
        self, visitor: "_Visitor", outcome: ProxyOutcome, client: str | None, detail: str
    ) -> None:
        self._waiting.discard(visitor)
        self._deadlines.forget(visitor.deadline)
        self._emit(ProxyHeaderRead(self._listener, visitor.peer, outcome, detail))
        if client is not None:
            self._admit(visitor.socket, client)


class _Visitor:
    """One connection whose header is not complete yet."""

    def __init__(self, vestibule: Vestibule, connection: socket.socket, peer: str) -> None:
        self.socket = connection
        self.peer = peer
        self._vestibule = vestibule
        self._loop = asyncio.get_running_loop()
        self._read = b""
        self.deadline = vestibule.watch(self)
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
            header = parse(self._read + seen)
            length = len(seen) if header is None else header.length - len(self._read)
            taken = self.socket.recv(length)
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, ProxyError) as error:
            self._refuse("malformed", str(error))
            return
        self._read += taken
        if header is not None:
            self._let_in(header)

    def _let_in(self, header: ProxyHeader) -> None:
        self._loop.remove_reader(self.socket.fileno())
        named = header.source
        outcome: ProxyOutcome = "ok" if named else "local"
        self._vestibule.done(self, outcome, named or self.peer, "")

    def _refuse(self, outcome: ProxyOutcome, detail: str = "") -> None:
        self._loop.remove_reader(self.socket.fileno())
        with contextlib.suppress(OSError):
            self.socket.close()
        self._vestibule.done(self, outcome, None, detail)
