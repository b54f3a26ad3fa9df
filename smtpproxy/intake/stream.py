"""The octets of an SMTP session: what is read when, what is written, how it closes."""

import asyncio
import contextlib

from smtpproxy.intake.connection import Connection
from smtpproxy.intake.door import Door
from smtpproxy.wire.events import Event
from smtpproxy.wire.server import ServerConnection

_BACKLOG = 256 * 1024
"""Octets that a client may be ahead of us before it is no longer read from."""
_LINGER = 2.0
"""Seconds for which a refused client's data is swallowed, so that it can read why."""
_FLUSH = 30.0
"""Seconds that a client has to read the last of its replies."""
_LINGERING = {
    *("bare_newline", "line_too_long", "pipelining", "chunk_size"),
    *("timeout", "slow", "errors"),
}
"""Ends in which the client may still be sending: closing at once would destroy the reply."""


class ClientStream(Connection):
    """Feeds the engine, and says when there is something to take.

    The session has a task; while it waits (`_waiting`), `_take_ready` is called with what has
    come, and leaves in `_event` what the task is to take.
    """

    def __init__(self, door: Door, engine: ServerConnection) -> None:
        super().__init__(door)
        self._engine = engine
        self._event: Event | None = None  # what the task is to take next
        self._eof = False

    def _take_ready(self) -> None:
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        if self._cause:
            return
        self._engine.receive_data(data)
        if self._waiting is not None and self._event is None:
            self._take_ready()
        else:
            self._adjust_reading()

    def pause_writing(self) -> None:
        self._write_paused = True
        self._adjust_reading()

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._waiting is not None and self._event is None:
            self._take_ready()
            if self._eof:
                self._wake()
        self._adjust_reading()

    def _adjust_reading(self) -> None:
        """Read from a client that reads what we write and is not too far ahead of us."""
        self._read(
            not self._write_paused
            and (self._waiting is not None or self._engine.buffered <= _BACKLOG)
        )

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
