"""What the sessions of all protocols have in common: how they begin, wait and end."""

import asyncio
from typing import Any, Protocol, cast

from smtpproxy.events import (
    ConnectionClosed,
    ConnectionOpened,
    ConnectionRefused,
    Failed,
    Limit,
    Limited,
)
from smtpproxy.intake.door import Door
from smtpproxy.intake.limits import Refusal

AT_ONCE = 500
"""Events that are taken from one client before others have their turn: some milliseconds."""
_BACKLOG = 256 * 1024
"""Octets that a client may be ahead of us before it is no longer read from."""


class Engine(Protocol):
    """What a protocol's engine takes in."""

    @property
    def buffered(self) -> int: ...

    def receive_data(self, data: bytes) -> None: ...


class Connection(asyncio.Protocol):
    """One connection to a listener, with a task (`_run`) for what has to wait.

    While the task waits for the client, `_waiting` is set. `_cause` is why the connection ends,
    empty while it goes on: nobody takes anything from then on, and the task cleans up once
    what it is doing is done.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self._settings = door.listener
        self._deadline = door.deadlines.watch(self._expired)
        self._transport: asyncio.Transport
        self._peer = "unix"
        self._began = 0.0
        self._cause = ""
        self._waiting: asyncio.Future[None] | None = None
        self._reading = True
        self._write_paused = False  # the client leaves our answers unread

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._peer = self._door.peer(transport)
        self._began = self._door.deadlines.now()
        refusal = self._door.admit(self, self._peer)
        if refusal is not None:
            self._cause = "refused"
            self._door.deadlines.forget(self._deadline)
            self._door.services.emit(ConnectionRefused(self._settings.name, self._peer, refusal))
            self._refused(refusal)
            self._transport.close()
            return
        self._door.services.emit(ConnectionOpened(self._settings.name, self._peer))
        self._admitted()
        self._door.start(self._run())

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("eof" if exc is None else "error")

    # what the protocols have of their own

    async def _run(self) -> None:
        raise NotImplementedError

    def drain(self) -> None:
        """Take no further message; end now if none is under way."""
        raise NotImplementedError

    def cut(self) -> None:
        """End now, whatever is under way: the time for draining is over."""
        raise NotImplementedError

    def _refused(self, refusal: Refusal) -> None:
        """Say why. Milter and policy have no words for it: the MTA defers the mail."""

    def _admitted(self) -> None:
        """Get ready."""

    def _expired(self) -> None:
        self._end("timeout")

    # for the sessions

    def _read(self, wanted: bool) -> None:
        """Read from the client, or leave what it sends to the kernel."""
        if wanted != self._reading and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def _end(self, cause: str) -> None:
        self._cause = self._cause or cause
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _failed(self, error: Exception) -> None:
        """Say that the session met a fault of ours."""
        text = f"{type(error).__name__}: {error}"
        self._door.services.emit(Failed(self._settings.name, "internal", text))
        self._door.unexpected(error)

    def _limited(self, limit: Limit) -> None:
        self._door.services.emit(Limited(self._settings.name, self._peer, limit))

    def _leave(self) -> None:
        """The last thing of all."""
        seconds = self._door.deadlines.now() - self._began
        self._door.leave(self, self._peer)
        self._door.services.emit(
            ConnectionClosed(self._settings.name, self._peer, seconds, self._cause)
        )


class EventConnection(Connection):
    """One whose engine gives events: those that need no waiting are taken at once.

    While the task waits, `_take_ready` is called with what has come, and leaves in `_event`
    what the task is to take.
    """

    _engine: Engine
    _event: Any = None
    _pausing = False  # other sessions have their turn, though there is more to take

    def _take_ready(self) -> None:
        """Take events, at most `AT_ONCE`; then `_pause`."""
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        if self._cause:
            return
        self._engine.receive_data(data)
        self._take_or_wait()

    def pause_writing(self) -> None:
        self._write_paused = True
        self._adjust_reading()

    def resume_writing(self) -> None:
        self._write_paused = False
        self._take_or_wait()

    def _take_or_wait(self) -> None:
        if self._waiting is not None and self._event is None and not self._pausing:
            self._take_ready()
        self._adjust_reading()

    def _pause(self) -> None:
        """Go on in the next turn of the loop: a quarter of a megabyte, which is what one read
        brings, may hold tens of thousands of commands."""
        self._pausing = True
        asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self._pausing = False
        if self._cause:
            return
        self._take_or_wait()
        if self._event is None and not self._pausing:
            self._wake()  # it may be the end of the connection that comes next

    def _adjust_reading(self) -> None:
        """Read from a client that reads what we write and is not too far ahead of us."""
        self._read(
            not self._write_paused
            and not self._pausing
            and (self._waiting is not None or self._engine.buffered <= _BACKLOG)
        )
