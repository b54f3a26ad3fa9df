"""What the sessions of all protocols have in common: how they begin, wait and end."""

from __future__ import annotations  # those of nested functions would each cost a call

import asyncio
import contextlib
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, TypeVar, cast

from smtpproxy.events import (
    ConnectionClosed,
    ConnectionOpened,
    ConnectionRefused,
    Failed,
    Limit,
    Limited,
)
from smtpproxy.intake.limits import Refusal
from smtpproxy.intake.listener import Listener
from smtpproxy.waiting import NEVER, Pending

T = TypeVar("T")

AT_ONCE = 500
"""Events handled for one client before others have their turn: some milliseconds."""
_ANSWERS = 24
"""The same for events that need facts, a record or a password."""
_BACKLOG = 256 * 1024
"""Octets that a client may be ahead of us before we stop reading from it."""
_LINGER = 2.0
"""Seconds for which a refused client's data is discarded, so that it can read why."""
_FLUSH = 30.0
"""Seconds that a client has to read its last replies."""


def _unasked(answer: Pending[Any]) -> None:
    raise RuntimeError("an answer came that nobody was waiting for")


BUSY, ENDING, UNREAD, PAUSING = 1, 2, 4, 8
"""Bits of `_stops`, the reasons for which a session handles no events: it waits for an answer, the
connection is ending, the client leaves our answers unread, other sessions have their turn. BUSY is
the lowest, so any value above it has another bit."""
_CLIENT_NOT_AWAITED = BUSY | ENDING
_READING_PAUSED = UNREAD | PAUSING
"""While any of these is set, nothing is read from the client."""


class Engine(Protocol):
    """A protocol's engine, which turns octets into events.

    `idle`: no event is possible before more is received; false if that is not known.
    """

    @property
    def idle(self) -> bool: ...

    @property
    def buffered(self) -> int: ...

    def receive_data(self, data: bytes) -> None: ...

    def next_event(self) -> Any: ...


class Session(asyncio.Protocol, ABC):
    """One connection to a listener. The events of its engine are handled in turn.

    While it waits for an answer (`_wait_for`) the session is busy: further input stays in the
    engine, and `_cause`, if it is set then, takes effect after the answer. `_cause` is why the
    connection ends, empty while it is open.
    """

    __slots__ = (
        *("_answers", "_began", "_cause", "_ended", "_engine", "_eof", "_listener"),
        *("_now", "_peer", "_reading", "_securing", "_settings", "_stops", "_take_answer"),
        *("_handling", "_transport", "at"),
    )

    handlers: ClassVar[Mapping[type, Callable[[Any, Any], None] | None]]
    """The handler of each type of event; None for the signals that there is none now."""
    breaches: ClassVar[tuple[type[Exception], ...]] = ()
    """What the engine raises if the other side breaks the protocol beyond repair."""
    lingering: ClassVar[frozenset[str]] = frozenset()
    """Causes at which the client may still be sending: closing at once would destroy the reply."""
    _engine: Engine

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._settings = listener.settings
        self._now = listener.deadlines.now
        self.at = NEVER  # the client's deadline, watched once it is admitted
        self._transport: asyncio.Transport
        self._peer = "unix"
        self._began = 0.0
        self._cause = ""
        self._stops = 0  # bits: events are handled while none is set
        self._answers = 0  # answers that were ready, in this turn of the loop
        self._handling = False  # `_handle_events` is running, further down the stack
        self._ended = False
        self._eof = False  # the client sends no more but may still read
        self._securing = False  # the transport is changing to TLS
        self._reading = True
        self._take_answer: Callable[[Pending[Any]], None] = _unasked  # gets the answer

    # what the protocols define

    @abstractmethod
    def _set_deadline(self, taken: int) -> None:
        """Set the client's deadline, after so many events."""

    @abstractmethod
    def _in_message(self) -> bool:
        """Whether a message is open, which may still be finished while draining."""

    def _drain_timeout(self) -> float:
        """Seconds that the client has for QUIT or its first message while we drain."""
        return 0.0

    def _send_shutdown(self) -> None:
        """Say that the relay is shutting down, as well as the protocol can."""
        self._send_internal_failure()

    def _send_internal_failure(self) -> None:
        """Say that an internal failure ends the session."""

    def _refused(self, refusal: Refusal) -> None:
        """Say why. Milter and policy cannot: there the MTA defers the mail."""

    def _admitted(self) -> None:
        """Prepare the session, and greet if the protocol does."""

    def expired(self) -> None:
        """The client's time is up, see `waiting.Deadlines`."""
        if self._listener.draining and not self._in_message():
            self._shut_down()
        else:
            self._expired()

    def _expired(self) -> None:
        self._end("timeout")

    @abstractmethod
    def _give_up(self) -> None:
        """Drop the open message, which has not been mailed."""

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._peer = self._listener.peer(transport)
        self._began = self._now()
        try:
            refusal = self._listener.admit(self, self._peer, transport)
        except Exception as error:  # an uncounted session must not continue
            self._cause, self._stops, self._ended = "error", ENDING, True
            self._send_internal_failure()
            self._transport.close()
            self._report(error)
            return
        if refusal is not None:
            self._cause, self._stops, self._ended = "refused", ENDING, True
            self._listener.services.emit(
                ConnectionRefused(self._settings.name, self._peer, refusal)
            )
            self._refused(refusal)
            self._transport.close()
            return
        self._listener.deadlines.add(self)
        self._listener.services.emit(ConnectionOpened(self._settings.name, self._peer))
        try:
            self._admitted()
        except (Exception, asyncio.CancelledError) as error:
            self._fault(error)
        if self._stops != BUSY:  # the greeting may have to wait
            self._handle_events()

    def data_received(self, data: bytes) -> None:
        if not self._stops & ENDING:
            self._engine.receive_data(data)
            self._handle_events()

    def pause_writing(self) -> None:
        self._stops |= UNREAD
        self._adjust_reading()

    def resume_writing(self) -> None:
        self._stops &= ~UNREAD
        self._handle_events()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended:
            self._end("eof" if exc is None else "error")

    # for the listener

    def drain(self) -> None:
        """Accept no further message; end soon if none is open."""
        if self._ended or self._stops & BUSY or self._in_message():
            return
        timeout = self._drain_timeout()
        if timeout:
            self.at = min(self.at, self._now() + timeout)
        else:
            self._shut_down()

    def _shut_down(self) -> None:
        self._send_shutdown()
        self._end("shutdown")

    def cut(self) -> None:
        """End now, even if a message is open: the time for draining is over."""
        if not self._ended:
            self._send_shutdown()
        self._end("shutdown")
        self._transport.close()

    # one event after the other

    def _handle_events(self) -> None:
        """Handle events until one has to wait for its answer.

        Answers that are ready are handled in this loop, however many call back into it.
        """
        if self._handling or self._stops & BUSY:
            self._adjust_reading()
            return
        self._handling = True
        self._answers = taken = 0
        engine = self._engine
        try:
            while not self._stops and not engine.idle:
                event = engine.next_event()
                handler = self.handlers[type(event)]
                if handler is None:
                    break
                handler(self, event)
                taken += 1
                if taken == AT_ONCE:
                    self._pause()
            if not self._stops & _CLIENT_NOT_AWAITED:
                self._set_deadline(taken)
                if self._listener.draining:
                    self.drain()
                if self._eof and not self._stops:
                    self._end("eof")
        except self.breaches as error:
            self._listener.services.emit(Failed(self._settings.name, "protocol", str(error)))
            self._end("protocol")
        except Exception as error:
            self._fault(error)
        finally:
            self._handling = False
        if self._stops > BUSY or not self._reading:
            self._stopped()

    def _stopped(self) -> None:
        """End the session, or stop or start reading; if BUSY, `_handle_events` does it later."""
        if not self._stops & ENDING:
            self._adjust_reading()
        elif not self._stops & BUSY:
            self._finish()

    def _wait_for(self, answer: Pending[T], answered: Callable[[Pending[T]], None]) -> None:
        """Handle no further events until the answer has come and `answered` was called with it."""
        self._stops |= BUSY
        self.at = NEVER  # the client does not pay for our time
        self._take_answer = answered
        answer.when_done(self._answer_came)

    def _answer_came(self, answer: Pending[Any]) -> None:
        self._stops ^= BUSY
        take_answer = self._take_answer
        self._take_answer = _unasked  # or an idle session would keep its last message
        try:
            take_answer(answer)
        except (Exception, asyncio.CancelledError) as error:
            self._fault(error)
        if not self._handling:
            self._handle_events()
        else:  # it was ready: `_handle_events` itself continues
            self._answers += 1
            if self._answers == _ANSWERS:
                self._pause()

    def _fault(self, error: BaseException) -> None:
        """End the session after an internal failure, which must not pass mail or reach the
        caller."""
        try:
            if isinstance(error, Exception):
                self._send_internal_failure()
                self._report(error)  # last, as it may fail if there is no memory
        finally:
            self._end("error")  # CancelledError: the process ends

    def _report(self, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        self._listener.services.emit(Failed(self._settings.name, "internal", text))
        self._listener.unexpected(error)

    def _pause(self) -> None:
        """Go on in the next turn of the loop: one read brings up to a quarter of a megabyte, which
        may be tens of thousands of commands."""
        if not self._stops & PAUSING:
            self._stops |= PAUSING
            asyncio.get_running_loop().call_soon(self._resume)

    def _resume(self) -> None:
        self._stops &= ~PAUSING
        self._handle_events()

    # for the sessions

    def _adjust_reading(self) -> None:
        """Read from the client only if it reads what we write and is not too far ahead."""
        wanted = not (self._stops & _READING_PAUSED or self._securing) and (
            not self._stops & BUSY or self._engine.buffered <= _BACKLOG
        )
        if wanted != self._reading:
            self._read(wanted)

    def _read(self, wanted: bool) -> None:
        """Start or stop reading from the client."""
        if wanted != self._reading and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def _acknowledge(self) -> None:
        """Acknowledge what has come and needs no answer yet.

        The kernel would wait for 40 ms (RFC 1122 section 4.2.3.2), and a client that writes in
        several pieces sends the last one only then (RFC 896): Postfix to a milter, PHP, Java.
        """
        sock = self._transport.get_extra_info("socket")
        if sock is None or sock.family == socket.AF_UNIX or self._transport.is_closing():
            return
        with contextlib.suppress(OSError):  # the client has gone
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _limited(self, limit: Limit) -> None:
        self._listener.services.emit(Limited(self._settings.name, self._peer, limit))

    # the end

    def _end(self, cause: str) -> None:
        """End the connection, once no answer is awaited."""
        self._cause = self._cause or cause
        self._stops |= ENDING
        if not (self._stops & BUSY or self._handling):
            self._finish()

    def _finish(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._listener.deadlines.forget(self)
        try:
            self._give_up()
        except Exception as error:  # end it all the same, or it would count for ever
            self._report(error)
        if self._cause in self.lingering and not self._transport.is_closing():
            self._listener.start(self._linger())
        else:
            self._close()

    async def _linger(self) -> None:
        """Let the client read why, although it may still be sending."""
        with contextlib.suppress(OSError, RuntimeError):
            self._transport.resume_reading()
            self._transport.write_eof()  # TLS cannot
        await asyncio.sleep(_LINGER)
        self._transport.abort()  # a client that has not read its reply by now never will
        self._close()

    def _close(self) -> None:
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(_FLUSH, self._transport.abort)
        self._transport.close()
        seconds = self._now() - self._began
        self._listener.leave(self, self._peer)
        self._listener.services.emit(
            ConnectionClosed(self._settings.name, self._peer, seconds, self._cause)
        )
