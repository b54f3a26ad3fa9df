"""The change from clear text to TLS, under a deadline."""

import asyncio
import ssl

from smtpproxy.events import TlsHandshake, TlsOutcome
from smtpproxy.intake.door import Door

_SHUTDOWN = 2.0
"""Seconds that a client has to answer our close_notify: most never do."""


async def secure(
    door: Door, transport: asyncio.Transport, protocol: asyncio.Protocol, peer: str
) -> asyncio.Transport | None:
    """Speak TLS from here on; return the new transport, or None: the connection is gone.

    What the client sends before `protocol` has the new transport waits in the socket, or is
    part of the handshake: nothing sent in clear is ever taken for a command.
    """
    if door.tls is None:
        raise RuntimeError("no TLS on this listener")
    loop = asyncio.get_running_loop()
    patience = door.listener.handshake_timeout
    began = loop.time()
    outcome: TlsOutcome = "ok"
    detail = ""
    secured = None
    try:
        secured = await loop.start_tls(
            transport,
            protocol,
            door.tls.context(),
            server_side=True,
            ssl_handshake_timeout=patience,
            ssl_shutdown_timeout=_SHUTDOWN,
        )
    except (ssl.SSLError, OSError) as error:
        outcome = "timeout" if loop.time() - began >= patience - 0.05 else "failed"
        detail = getattr(error, "reason", None) or type(error).__name__
    if secured is None and outcome == "ok":  # it went away in the middle
        outcome, detail = "failed", "closed"
    if secured is None:
        transport.abort()
    door.parts.emit(TlsHandshake(door.listener.name, peer, outcome, detail))
    return secured
