"""The packets of the milter protocol: those of an MTA parsed to frozen records, those of a milter
as bytes ready to be sent.

Bits and numbers are those of Sendmail's include/libmilter/mfdef.h, version 6, whose names are given
beside ours if they differ. A packet is given as its command letter and what follows it, without the
length. Paths are decoded as UTF-8 with surrogateescape, so that any octets can be restored; in
other text, which is for the record, octets that are not UTF-8 are written as `\\xe9`. Any error
raises `MilterError`. A final reply ends a command; at the end of a message, edits and PROGRESS may
come before it.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum, IntFlag

from msgspec import Struct

from smtpproxy.mail.reply import Reply

VERSION = 6
OLDEST_VERSION = 2


class Actions(IntFlag):
    """Edits that a milter may request at the end of a message (SMFIF_)."""

    ADD_HEADERS = 0x1
    CHANGE_BODY = 0x2
    ADD_RECIPIENTS = 0x4
    DELETE_RECIPIENTS = 0x8
    CHANGE_HEADERS = 0x10
    QUARANTINE = 0x20
    CHANGE_SENDER = 0x40
    ADD_RECIPIENTS_WITH_PARAMETERS = 0x80
    SET_MACROS = 0x100  # SETSYMLIST


class Steps(IntFlag):
    """What the MTA may omit, and what it need not wait for (SMFIP_).

    NO_ omits a command; UNANSWERED_ (NR_) means that a command gets no reply.
    """

    NO_CONNECT = 0x1
    NO_HELO = 0x2
    NO_MAIL = 0x4
    NO_RCPT = 0x8
    NO_BODY = 0x10
    NO_HEADERS = 0x20
    NO_END_OF_HEADERS = 0x40
    UNANSWERED_HEADERS = 0x80
    NO_UNKNOWN = 0x100
    NO_DATA = 0x200
    SKIP = 0x400  # the milter may say that it has seen enough of the body
    REJECTED_RECIPIENTS = 0x800  # RCPT_REJ: send recipients that the MTA refused too
    UNANSWERED_CONNECT = 0x1000
    UNANSWERED_HELO = 0x2000
    UNANSWERED_MAIL = 0x4000
    UNANSWERED_RCPT = 0x8000
    UNANSWERED_DATA = 0x10000
    UNANSWERED_UNKNOWN = 0x20000
    UNANSWERED_END_OF_HEADERS = 0x40000
    UNANSWERED_BODY = 0x80000
    LEADING_SPACE = 0x100000  # HDR_LEADSPC: header values exactly as after the colon


class Stage(IntEnum):
    """Where macros are set (SMFIM_)."""

    CONNECT = 0
    HELO = 1
    MAIL = 2
    RCPT = 3
    DATA = 4
    END_OF_MESSAGE = 5
    END_OF_HEADERS = 6


_NEGOTIATION = struct.Struct("!III")
_PORT = struct.Struct("!H")


class MilterError(Exception):
    """The other side violated the protocol; nothing more can be read from it."""


class Negotiation(Struct, frozen=True):
    """O: what the MTA offers."""

    version: int
    actions: Actions
    steps: Steps


class Connect(Struct, frozen=True):
    """C: a client has connected. `address` is its IP address, a socket's path, or empty."""

    hostname: str
    family: str  # 4, 6, L (a socket file) or U (unknown)
    port: int = 0
    address: str = ""


class Helo(Struct, frozen=True):
    """H: HELO or EHLO, which also ends an open message."""

    name: str


class Mail(Struct, frozen=True):
    """M: MAIL begins a message. The path is as the client wrote it, usually in brackets."""

    path: str
    parameters: tuple[str, ...] = ()


class Rcpt(Struct, frozen=True):
    """R: RCPT."""

    path: str
    parameters: tuple[str, ...] = ()


class Data(Struct, frozen=True):
    """T: DATA, or the first BDAT."""


class Header(Struct, frozen=True):
    """L: one header field. Lines of a folded value end with LF."""

    name: bytes
    value: bytes


class EndOfHeaders(Struct, frozen=True):
    """N."""


class Body(Struct, frozen=True):
    """B: a piece of the body, at most 65,535 octets of it, lines ended with CRLF."""

    data: bytes


class EndOfMessage(Struct, frozen=True):
    """E: the message is complete, and the verdict is due. It may bring the last of the body."""

    data: bytes = b""


class Abort(Struct, frozen=True):
    """A: the message is abandoned; the connection continues."""


class Unknown(Struct, frozen=True):
    """U: an SMTP command that the MTA does not know."""

    command: str


class Quit(Struct, frozen=True):
    """Q: the connection ends."""


class NextConnection(Struct, frozen=True):
    """K: the client has gone; the next one will use this connection."""


class Macros(Struct, frozen=True):
    """D: the MTA's macros for the command that follows, whose letter is `command`."""

    command: str
    values: dict[str, str]


Command = (
    Negotiation
    | Connect
    | Helo
    | Mail
    | Rcpt
    | Data
    | Header
    | EndOfHeaders
    | Body
    | EndOfMessage
    | Abort
    | Unknown
    | Quit
    | NextConnection
    | Macros
)


def parse(letter: int, data: bytes) -> Command:
    """Parse one packet. Raises MilterError."""
    parser = _PARSERS.get(letter)
    if parser is None:
        raise MilterError(f"no such command: 0x{letter:02x}")
    return parser(data)


def _path(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _strings(data: bytes, what: str) -> list[bytes]:
    """Split strings that each end with a NUL."""
    if not data.endswith(b"\0"):
        raise MilterError(f"{what}: a string without its NUL")
    return data[:-1].split(b"\0")


def _negotiation(data: bytes) -> Negotiation:
    if len(data) < _NEGOTIATION.size:
        raise MilterError("negotiation: shorter than its three numbers")
    version, actions, steps = _NEGOTIATION.unpack_from(data)
    return Negotiation(version, Actions(actions), Steps(steps))


def _connect(data: bytes) -> Connect:
    hostname, _, rest = data.partition(b"\0")
    family = rest[:1].decode("latin-1")
    if family not in ("4", "6", "L", "U"):
        raise MilterError("connect: not a name and one of the families 4, 6, L, U")
    if family == "U":
        return Connect(_text(hostname), family)
    if len(rest) < 4:
        raise MilterError("connect: no port and address")
    (address,) = _strings(rest[3:], "connect")[:1]
    return Connect(_text(hostname), family, _PORT.unpack_from(rest, 1)[0], _text(address))


def _helo(data: bytes) -> Helo:
    return Helo(_text(_strings(data, "helo")[0]))


def _mail(data: bytes) -> Mail:
    path, *parameters = _strings(data, "mail")
    return Mail(_path(path), tuple([_path(each) for each in parameters]))


def _rcpt(data: bytes) -> Rcpt:
    path, *parameters = _strings(data, "rcpt")
    return Rcpt(_path(path), tuple([_path(each) for each in parameters]))


def _header(data: bytes) -> Header:
    strings = _strings(data, "header")
    if len(strings) != 2:
        raise MilterError("header: not a name and a value")
    return Header(*strings)


def _unknown(data: bytes) -> Unknown:
    return Unknown(_text(_strings(data, "unknown")[0]))


def _macros(data: bytes) -> Macros:
    if not data or data[0] not in _PARSERS:
        raise MilterError("macros: for an unknown command")
    strings = _strings(data[1:], "macros") if len(data) > 1 else []
    if len(strings) % 2:
        raise MilterError("macros: a name without a value")
    names = (_macro_name(name) for name in strings[::2])
    return Macros(chr(data[0]), dict(zip(names, map(_text, strings[1::2]), strict=True)))


def _macro_name(name: bytes) -> str:
    """The name without braces, which are optional for names of one letter."""
    bare = _text(name)
    return bare[1:-1] if bare.startswith("{") and bare.endswith("}") else bare


def _bare(command: Command) -> Callable[[bytes], Command]:
    """A parser for a command without data; any data is ignored."""
    return lambda data: command


_PARSERS: dict[int, Callable[[bytes], Command]] = {
    ord("O"): _negotiation,
    ord("C"): _connect,
    ord("H"): _helo,
    ord("M"): _mail,
    ord("R"): _rcpt,
    ord("T"): _bare(Data()),
    ord("L"): _header,
    ord("N"): _bare(EndOfHeaders()),
    ord("B"): Body,
    ord("E"): EndOfMessage,
    ord("A"): _bare(Abort()),
    ord("U"): _unknown,
    ord("Q"): _bare(Quit()),
    ord("K"): _bare(NextConnection()),
    ord("D"): _macros,
}


def agreed(offer: Negotiation, actions: Actions, steps: Steps) -> Negotiation:
    """Return what both sides support of what was requested."""
    version = min(offer.version, VERSION)
    return Negotiation(version, actions & offer.actions, steps & offer.steps)


_HEAD = struct.Struct("!IB")
_NUMBER = struct.Struct("!I")


def packet(letter: str, data: bytes = b"") -> bytes:
    """Return a packet: the length of what follows, the letter, the data."""
    return _HEAD.pack(len(data) + 1, ord(letter)) + data


CONTINUE = packet("c")
TEMPORARY_FAILURE = packet("t")
PROGRESS = packet("p")


def negotiated(agreed: Negotiation, macros: Mapping[Stage, Sequence[str]] | None = None) -> bytes:
    """Answer a negotiation; `macros` are the names wanted at each stage."""
    data = struct.pack("!III", agreed.version, agreed.actions, agreed.steps)
    for stage, names in (macros or {}).items():
        data += _NUMBER.pack(stage) + _string(" ".join(names))
    return packet("O", data)


def reply_code(reply: Reply) -> bytes:
    """Refuse with our own reply, which is 4xx or 5xx in every line.

    MTAs treat the text as a format, so `%` is doubled. Raises ValueError for other codes.
    """
    if reply.code // 100 not in (4, 5):
        raise ValueError(f"a milter's reply is 4xx or 5xx, not {reply.code}")
    lines = reply.wire.removesuffix(b"\r\n").replace(b"\0", b" ")
    return packet("y", _value(lines.replace(b"%", b"%%")))


def delete_recipient(path: str) -> bytes:
    """Delete a recipient; `path` must be exactly as it came with RCPT."""
    return packet("-", _string(path))


def change_header(name: str, value: bytes, index: int = 1) -> bytes:
    """Replace the `index`th field of this name, from 1; an empty value removes it."""
    return packet("m", _NUMBER.pack(index) + _string(name) + _value(value))


def delete_header(name: str, index: int = 1) -> bytes:
    return change_header(name, b"", index)


def _string(value: str) -> bytes:
    return _value(value.encode("utf-8", "surrogateescape"))


def _value(value: bytes) -> bytes:
    if b"\0" in value:
        raise ValueError("a NUL within a string would end it")
    return value + b"\0"
