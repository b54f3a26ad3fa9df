"""SMTP's texts: replies (RFC 5321 4.2), xtext (RFC 3461 4), the trace field (RFC 5321 4.4)."""

import re
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from functools import lru_cache

from msgspec import Struct

LINE_OCTETS = 511
"""The longest line of a reply, with code and CRLF. RFC 5321 4.5.3.1.5 allows one more, but
PHPMailer reads up to 511, and takes the leftover LF for the next reply."""


class Reply(Struct, frozen=True, gc=False):
    """One reply: code, enhanced code and one or more lines of text, as sent.

    It keeps bytes, because our own replies are made once and sent often, and the upstream's are
    passed on as they came.
    """

    code: int
    enhanced: str | None
    wire: bytes  # every line with both codes, CRLF at the end

    @classmethod
    def of(cls, code: int, enhanced: str | None, *lines: str) -> "Reply":
        """Make a reply of these lines. A line end within one becomes a space, so that text from
        outside cannot begin a line."""
        texts = [
            line.replace("\r", " ").replace("\n", " ").encode("utf-8", "surrogateescape")
            for line in lines
        ]
        return cls.with_texts(code, enhanced, texts or [b""])

    @classmethod
    def with_texts(cls, code: int, enhanced: str | None, texts: Sequence[bytes]) -> "Reply":
        """Make a reply of one or more lines without line ends; those that are too long become
        several."""
        prefix = b"" if enhanced is None else enhanced.encode() + b" "
        room = LINE_OCTETS - len(b"250 \r\n") - len(prefix)
        if max(map(len, texts)) > room:
            texts = [piece for text in texts for piece in _pieces(text, room)]
        *others, last = texts
        wire = b"".join([b"%d-%b%b\r\n" % (code, prefix, text) for text in others])
        return cls(code, enhanced, b"%b%d %b%b\r\n" % (wire, code, prefix, last))

    @property
    def lines(self) -> tuple[str, ...]:
        """The text of each line."""
        begin = len("250 ") + (0 if self.enhanced is None else len(self.enhanced) + 1)
        return tuple(
            line[begin:].decode("utf-8", "surrogateescape")
            for line in self.wire[:-2].split(b"\r\n")
        )

    @property
    def text(self) -> str:
        return " ".join(self.lines)

    def encode(self) -> bytes:
        return self.wire

    def __str__(self) -> str:
        return self.wire[:-2].decode("utf-8", "replace").replace("\r\n", " / ")


def _pieces(text: bytes, room: int) -> Iterator[bytes]:
    """Divide a text at spaces, if it has any."""
    while len(text) > room:
        end = text.rfind(b" ", 1, room + 1)
        yield text[: end if end > 0 else room]
        text = text[end + 1 if end > 0 else room :]
    yield text


_ESCAPED = re.compile(rb"\+([0-9A-F]{2})")
_PLAIN = re.compile(r"[!-*,-<>-~]*")  # printable ASCII except + and =


def from_xtext(text: str) -> str:
    """Decode xtext, replacing control characters and invalid UTF-8."""
    octets = _ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), text.encode())
    decoded = octets.decode("utf-8", "replace")
    return "".join(each if each.isprintable() else "\ufffd" for each in decoded)


def to_xtext(text: str) -> str:
    """Return text as xtext: anything but printable ASCII, and + and =, in hexadecimal."""
    if _PLAIN.fullmatch(text):
        return text
    return "".join(
        chr(octet) if 0x21 <= octet <= 0x7E and octet not in (0x2B, 0x3D) else f"+{octet:02X}"
        for octet in text.encode("utf-8", "surrogateescape")
    )


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

RECEIVED_LIMIT = 100
"""A message with this many Received fields is in a loop (RFC 5321 6.3)."""


def date_time(moment: datetime) -> str:
    """Return an RFC 5322 date-time of a UTC moment."""
    return _date_time(moment.toordinal(), moment.hour, moment.minute, moment.second)


@lru_cache(maxsize=4)
def _date_time(ordinal: int, hour: int, minute: int, second: int) -> str:
    """The date-time of a whole second, cached for a busy relay."""
    day = date.fromordinal(ordinal)
    return (
        f"{_DAYS[day.weekday()]}, {day.day} {_MONTHS[day.month - 1]} {day.year} "
        f"{hour:02}:{minute:02}:{second:02} +0000"
    )


def received(
    *,
    helo: str,
    peer: str,
    hostname: str,
    protocol: str,
    id: str,
    at: datetime,
    recipient: str | None = None,
) -> bytes:
    """Return a Received field with its CRLF. `recipient` is given only if there is just one."""
    source = peer if peer == "unix" else f"[IPv6:{peer}]" if ":" in peer else f"[{peer}]"
    name = helo if helo.isascii() else helo.encode("ascii", "replace").decode()
    target = f"\r\n\tfor <{recipient}>" if recipient is not None and recipient.isascii() else ""
    return (
        f"Received: from {name} ({source})\r\n"
        f"\tby {hostname} (smtpproxy) with {protocol} id {id}{target};\r\n"
        f"\t{date_time(at)}\r\n"
    ).encode("utf-8", "replace")
