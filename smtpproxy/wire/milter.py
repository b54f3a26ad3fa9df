"""The milter's side of one connection with an MTA, without any I/O.

    bytes --receive_data--> next_event --> events, or NEED_DATA, or MilterError
    answer(event) --> the bytes that tell the MTA to continue

The rules, as libmilter and MTAs have them:
- The first packet is the negotiation, and there is only one.
- M begins a message; E, A, H, C, K or another M ends it. The next one has none of its macros or
  recipients.
- R, T, L, N, B and E belong to a message.
- D, A, K and Q never get a reply. Others get none if that was negotiated.
"""

import struct
from collections.abc import Mapping, Sequence, Set
from enum import Enum, auto

from smtpproxy.wire.milter_packets import (
    CONTINUE,
    OLDEST_VERSION,
    Abort,
    Actions,
    Body,
    Command,
    Connect,
    Data,
    EndOfHeaders,
    EndOfMessage,
    Header,
    Helo,
    Macros,
    Mail,
    MilterError,
    Negotiation,
    NextConnection,
    Quit,
    Rcpt,
    Stage,
    Steps,
    Unknown,
    agreed,
    negotiated,
    parse,
)

PACKET_LIMIT = 1024 * 1024
"""Octets of one packet: a body chunk has at most 64 KiB, a header field what the MTA allows."""

_LENGTH = struct.Struct("!I")
_COMPACT_AT = 256 * 1024
"""Octets consumed before the buffer is compacted."""


class Signal(Enum):
    NEED_DATA = auto()


NEED_DATA = Signal.NEED_DATA
Event = Command

_UNANSWERED: dict[type, Steps] = {
    Connect: Steps.UNANSWERED_CONNECT,
    Helo: Steps.UNANSWERED_HELO,
    Mail: Steps.UNANSWERED_MAIL,
    Rcpt: Steps.UNANSWERED_RCPT,
    Data: Steps.UNANSWERED_DATA,
    Header: Steps.UNANSWERED_HEADERS,
    EndOfHeaders: Steps.UNANSWERED_END_OF_HEADERS,
    Body: Steps.UNANSWERED_BODY,
    Unknown: Steps.UNANSWERED_UNKNOWN,
    EndOfMessage: Steps(0),
}
_OF_A_MESSAGE = frozenset({Rcpt, Data, Header, EndOfHeaders, Body, EndOfMessage})
_ENDS_A_MESSAGE = frozenset({Abort, Helo, Connect, NextConnection, Quit})
_STAGES_OF_A_CONNECTION = frozenset("CH")
_LETTERS = {Rcpt: "R", Data: "T", EndOfHeaders: "N", EndOfMessage: "E"}
"""Commands of a message that macros are sent for; those of an earlier message do not count."""


class MilterConnection:
    """Turns bytes into events. It cannot be used after a MilterError."""

    idle = False  # only next_event knows whether there is another

    def __init__(
        self,
        *,
        actions: Actions,
        steps: Steps,
        macros: Mapping[Stage, Sequence[str]] | None = None,
        packet_limit: int = PACKET_LIMIT,
    ) -> None:
        """`actions` and `steps` are requested, and used as far as the MTA offers them."""
        self.agreed = Negotiation(0, Actions(0), Steps(0))
        self.in_message = False
        self._wished = actions, steps
        self._wanted_macros = macros
        self._limit = packet_limit
        self._buffer = bytearray()
        self._at = 0
        self._macros: dict[str, dict[str, str]] = {}  # by command
        self._fresh_macros: set[str] = set()  # those of them sent for the next command
        self._replies: dict[type, bytes] = {}

    @property
    def buffered(self) -> int:
        """Octets received but not yet consumed."""
        return len(self._buffer) - self._at

    def receive_data(self, data: bytes) -> None:
        self._buffer += data

    def next_event(self) -> Event | Signal:
        """Return the next command, or NEED_DATA. Macros are kept, not returned.

        Raises MilterError for anything that is not the protocol or is out of order.
        """
        while True:
            command = self._next_packet()
            if command is None:
                return NEED_DATA
            if type(command) is Macros:
                self._macros.pop(command.command, None)  # so that the newest are last
                self._macros[command.command] = command.values
                self._fresh_macros.add(command.command)
                continue
            self._follow(command)
            self._fresh_macros.clear()
            return command

    def macro(self, name: str) -> str | None:
        """The value that the MTA sent last, for this message or this connection."""
        for values in reversed(self._macros.values()):
            if name in values:
                return values[name]
        return None

    def answer(self, event: Event) -> bytes:
        """The reply that tells the MTA to continue; empty if none is due."""
        if type(event) is Negotiation:
            macros = self._wanted_macros if Actions.SET_MACROS in self.agreed.actions else None
            return negotiated(self.agreed, macros)
        return self._replies.get(type(event), b"")

    def _next_packet(self) -> Command | None:
        at, buffer = self._at, self._buffer
        if len(buffer) - at < 5:
            # The length alone may show that the packet is invalid.
            if len(buffer) - at == 4:
                self._length(at)
            self._compact()
            return None
        end = at + 4 + self._length(at)
        if len(buffer) < end:
            self._compact()
            return None
        self._at = end
        command = parse(buffer[at + 4], bytes(buffer[at + 5 : end]))
        if end >= _COMPACT_AT:
            self._compact()
        return command

    def _length(self, at: int) -> int:
        length: int = _LENGTH.unpack_from(self._buffer, at)[0]
        if length == 0:
            raise MilterError("a packet without a command")
        if length > self._limit:
            raise MilterError(f"a packet of {length} octets; the limit is {self._limit}")
        return length

    def _compact(self) -> None:
        if self._at:
            del self._buffer[: self._at]
            self._at = 0

    def _follow(self, command: Command) -> None:
        """Track the state of the connection. Raises MilterError."""
        kind = type(command)
        if kind is Negotiation:
            self._negotiate(command)  # type: ignore[arg-type]
            return
        if not self.agreed.version:
            if kind is Quit:
                return
            raise MilterError(f"{kind.__name__} before the negotiation")
        if kind in _OF_A_MESSAGE:
            if not self.in_message:
                raise MilterError(f"{kind.__name__} without a message")
            if kind is EndOfMessage:
                self.in_message = False  # its macros are kept, for the verdict
            letter = _LETTERS.get(kind, "")
            if letter not in self._fresh_macros:
                self._macros.pop(letter, None)
        elif kind is Mail:
            self._forget(self._fresh_macros)
            self.in_message = True
        elif kind in _ENDS_A_MESSAGE:
            self.in_message = False
            if kind is NextConnection:
                self._macros.clear()
            elif kind is Abort:
                self._forget()

    def _forget(self, fresh: Set[str] = frozenset()) -> None:
        """Forget the macros of a message, except those just sent for the next one."""
        kept = _STAGES_OF_A_CONNECTION | fresh
        self._macros = {stage: self._macros[stage] for stage in self._macros if stage in kept}

    def _negotiate(self, offer: Negotiation) -> None:
        if self.agreed.version:
            raise MilterError("a second negotiation")
        if offer.version < OLDEST_VERSION:
            raise MilterError(f"version {offer.version}; the oldest supported is 2")
        self.agreed = agreed(offer, *self._wished)
        steps = self.agreed.steps
        self._replies = {
            kind: CONTINUE for kind, unanswered in _UNANSWERED.items() if not steps & unanswered
        }
