"""What the server engine gives its caller: commands, content, and what it did by itself."""

from enum import Enum, auto

from msgspec import Struct

from smtpproxy.wire.commands import (
    Auth,
    AuthResponse,
    Data,
    Hello,
    Mail,
    Quit,
    Rcpt,
    Reset,
    StartTls,
)
from smtpproxy.wire.forwarding import XClient, XForward


class Signal(Enum):
    NEED_DATA = auto()
    BLOCKED = auto()  # answer the events already given first


NEED_DATA = Signal.NEED_DATA
BLOCKED = Signal.BLOCKED


class ContentChunk(Struct, frozen=True):
    """A piece of the content, dot-stuffed as it came; whole lines are not promised."""

    data: bytes


class ContentBegins(Struct, frozen=True):
    """The first BDAT of a message: content follows. It wants no answer."""


class ContentProblem(Enum):
    """Why content was read but cannot be taken."""

    TOO_LARGE = auto()
    HEADER_TOO_LARGE = auto()
    TOO_MANY_FIELDS = auto()
    NUL = auto()
    BARE_NEWLINE = auto()  # in chunks: behind DATA it ends the connection


class EndOfContent(Struct, frozen=True):
    """All of it was read. `size` is in octets as received, without the terminator of DATA."""

    size: int
    problem: ContentProblem | None = None


class Answered(Struct, frozen=True):
    """A command that the engine answered by itself; send `data`."""

    data: bytes
    error: bool = False  # of the client; DATA pipelined behind refused recipients is none


class Broken(Struct, frozen=True):
    """The session cannot go on: send `data` and close the connection."""

    data: bytes
    cause: str  # bare_newline, line_too_long, pipelining, errors


Command = (
    Hello
    | Mail
    | Rcpt
    | Data
    | Reset
    | Quit
    | StartTls
    | Auth
    | AuthResponse
    | EndOfContent
    | XClient
    | XForward
)
Event = Command | ContentBegins | ContentChunk | Answered | Broken
