"""The octets of an SMTP session: what is read when, what is written, how it closes."""

import asyncio
import contextlib

from smtpproxy.intake.connection import EventConnection
from smtpproxy.intake.door import Door
from smtpproxy.wire.events import Event
from smtpproxy.wire.server import ServerConnection

_LINGER = 2.0
"""Seconds for which a refused client's data is swallowed, so that it can read why."""
_FLUSH = 30.0
"""Seconds that a client has to read the last of its replies."""
_LINGERING = {
    *("bare_newline", "line_too_long", "pipelining", "chunk_size"),
    *("timeout", "slow", "errors"),
}
"""Ends in which the client may still be sending: closing at once would destroy the reply."""


class ClientStream(EventConnection):
    """An SMTP client: it may have said all it has to say, and it is told why it is sent away."""

    _engine: ServerConnection
    _event: Event | None = None

    def __init__(self, door: Door, engine: ServerConnection) -> None:
        super().__init__(door)
        self._engine = engine
        self._eof = False

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._eof and self._event is None:
            self._wake()

    async def _close_transport(self) -> None:
        """Close so that the client can still read the last reply."""
        if self._cause in _LINGERING and not self._transport.is_closing():
            with contextlib.suppress(OSError, RuntimeError):
                self._transport.write_eof()
                self._transport.resume_reading()
            await asyncio.sleep(_LINGER)
            self._transport.abort()  # whoever has not read its reply by now never will
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(_FLUSH, self._transport.abort)
        self._transport.close()
