"""A milter's side of one connection with an MTA, without any I/O.

    bytes --receive_data--> next_event --> events, or NEED_DATA, or MilterError
    answer(event) --> the bytes that go on with what needs no thought

The rules, as libmilter and MTAs have them:
- The first packet is the negotiation, and there is only one.
- M begins a message; E or A ends it, and so do H, C and K and another M. Then nothing is
  left of it: no macro, no recipient.
- R, T, L, N, B and E belong to a message.
- D, A, K and Q never have a reply. Others have none where that was agreed.
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
"""Octets of one packet: a body chunk is at most 64 KiB, a header field as long as the MTA lets."""

_LENGTH = struct.Struct("!I")
_KEEP = 256 * 1024
"""Octets taken before the buffer is moved up."""


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
_LETTERS = {Mail: "M", Rcpt: "R", Data: "T", EndOfHeaders: "N", EndOfMessage: "E"}
"""Commands of a message that macros are told for: those of an earlier one are not theirs."""


class MilterConnection:
    """Takes bytes, gives events. After a MilterError it is of no more use."""

    idle = False  # whether another event is there shows only when it is asked for

    def __init__(
        self,
        *,
        actions: Actions,
        steps: Steps,
        macros: Mapping[Stage, Sequence[str]] | None = None,
        packet_limit: int = PACKET_LIMIT,
    ) -> None:
        """`actions` and `steps` are wished for, and had as far as the MTA offers them."""
        self.agreed = Negotiation(0, Actions(0), Steps(0))
        self.in_message = False
        self._wished = actions, steps
        self._wanted_macros = macros
        self._limit = packet_limit
        self._buffer = bytearray()
        self._at = 0
        self._macros: dict[str, dict[str, str]] = {}  # by command
        self._told: set[str] = set()  # of them, those for the command that comes next
        self._replies: dict[type, bytes] = {}

    @property
    def buffered(self) -> int:
        """Octets that wait to be taken."""
        return len(self._buffer) - self._at

    def receive_data(self, data: bytes) -> None:
        self._buffer += data

    def next_event(self) -> Event | Signal:
        """Return the next command, or NEED_DATA. Macros are kept and not told of.

        Raises MilterError for what is not the protocol, or not in its order.
        """
        while True:
            command = self._next_packet()
            if command is None:
                return NEED_DATA
            if type(command) is Macros:
                self._macros.pop(command.command, None)  # so that the newest stand last
                self._macros[command.command] = command.values
                self._told.add(command.command)
                continue
            self._follow(command)
            self._told.clear()
            return command

    def macro(self, name: str) -> str | None:
        """The value that the MTA told last, for this message or this connection."""
        for values in reversed(self._macros.values()):
            if name in values:
                return values[name]
        return None

    def answer(self, event: Event) -> bytes:
        """The reply that goes on with the next command; empty where none is due."""
        if type(event) is Negotiation:
            macros = self._wanted_macros if Actions.SET_MACROS in self.agreed.actions else None
            return negotiated(self.agreed, macros)
        return self._replies.get(type(event), b"")

    def _next_packet(self) -> Command | None:
        at, buffer = self._at, self._buffer
        if len(buffer) - at < 5:
            # The length alone is enough to see that nothing good can come.
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
        if end >= _KEEP:
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
        """Keep track of where the connection is. Raises MilterError."""
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
                self.in_message = False  # its macros stay for the verdict, until the next begins
            letter = _LETTERS.get(kind, "")
            if letter not in self._told:
                self._macros.pop(letter, None)
        elif kind is Mail:
            self._forget(self._told)
            self.in_message = True
        elif kind in _ENDS_A_MESSAGE:
            self.in_message = False
            if kind is NextConnection:
                self._macros.clear()
            elif kind is Abort:
                self._forget()

    def _forget(self, told: Set[str] = frozenset()) -> None:
        """Forget the macros of a message, but those just told for the next one."""
        kept = _STAGES_OF_A_CONNECTION | told
        self._macros = {stage: self._macros[stage] for stage in self._macros if stage in kept}

    def _negotiate(self, offer: Negotiation) -> None:
        if self.agreed.version:
            raise MilterError("a second negotiation")
        if offer.version < OLDEST_VERSION:
            raise MilterError(f"version {offer.version}; the oldest that is spoken is 2")
        self.agreed = agreed(offer, *self._wished)
        steps = self.agreed.steps
        self._replies = {
            kind: CONTINUE for kind, unanswered in _UNANSWERED.items() if not steps & unanswered
        }
