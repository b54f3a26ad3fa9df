"""The change from clear text to TLS, under a deadline."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeVar

from smtpproxy.events import Emit, TlsHandshake, TlsOutcome
from smtpproxy.tls import ServerTls

T = TypeVar("T")

_SHUTDOWN = 2.0
"""Seconds that a client has to answer our close_notify: most never do."""


class Handshakes:
    """Makes clear connections of one listener secure, and says how that went."""

    def __init__(self, listener: str, tls: ServerTls, patience: float, emit: Emit) -> None:
        self._listener = listener
        self._tls = tls
        self._patience = patience
        self._emit = emit

    async def upgrade(
        self, transport: asyncio.Transport, protocol: asyncio.Protocol, peer: str
    ) -> asyncio.Transport | None:
        """Go on in TLS after STARTTLS; return the new transport, or None: it is gone.

        Call it in the same step that answers 220: whatever comes from then on is part of the
        handshake, and nothing that was sent in clear is ever taken for a command.
        """
        upgraded = asyncio.get_running_loop().start_tls(
            transport,
            protocol,
            self._tls.context(),
            server_side=True,
            ssl_handshake_timeout=self._patience,
            ssl_shutdown_timeout=_SHUTDOWN,
        )
        secured = await self._awaited(upgraded, peer)
        if secured is None:
            transport.abort()
        return secured

    async def accept(
        self, connection: socket.socket, session: Callable[[], asyncio.Protocol], peer: str
    ) -> None:
        """Begin in TLS; the session is made when the handshake is over.

        The socket is not read from before OpenSSL does: `start_tls` would lose what came in
        between.
        """
        accepted = asyncio.get_running_loop().connect_accepted_socket(
            lambda: _Threshold(session),
            connection,
            ssl=self._tls.context(),
            ssl_handshake_timeout=self._patience,
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
            outcome = "timeout" if loop.time() - began >= self._patience - 0.05 else "failed"
            detail = getattr(error, "reason", None) or type(error).__name__
        if done is None and outcome == "ok":  # it went away in the middle
            outcome, detail = "failed", "closed"
        self._emit(TlsHandshake(self._listener, peer, outcome, detail))
        return done


class _Threshold(asyncio.Protocol):
    """Makes way for a session when there is a connection."""

    def __init__(self, session: Callable[[], asyncio.Protocol]) -> None:
        self._session = session

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        session = self._session()
        transport.set_protocol(session)
        session.connection_made(transport)
