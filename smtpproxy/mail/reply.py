"""What SMTP says: replies (RFC 5321 4.2), xtext (RFC 3461 4), the trace field (RFC 5321 4.4)."""

import re
from datetime import datetime
from functools import lru_cache

from msgspec import Struct


class Reply(Struct, frozen=True):
    """One reply: code, enhanced code and one or more lines of text."""

    code: int
    enhanced: str | None
    lines: tuple[str, ...]

    @classmethod
    def of(cls, code: int, enhanced: str | None, *lines: str) -> "Reply":
        return cls(code, enhanced, lines or ("",))

    @property
    def text(self) -> str:
        return " ".join(self.lines)

    @property
    def positive(self) -> bool:
        return self.code < 400

    def encode(self) -> bytes:
        """Return the reply as sent: every line with the enhanced code, CRLF at the end."""
        prefix = "" if self.enhanced is None else self.enhanced + " "
        if len(self.lines) == 1:
            return f"{self.code} {prefix}{self.lines[0]}\r\n".encode("utf-8", "surrogateescape")
        last = len(self.lines) - 1
        return "".join(
            f"{self.code}{' ' if i == last else '-'}{prefix}{line}\r\n"
            for i, line in enumerate(self.lines)
        ).encode("utf-8", "surrogateescape")

    def __str__(self) -> str:
        return self.encode().decode("utf-8", "replace").rstrip("\r\n").replace("\r\n", " / ")


_ESCAPED = re.compile(rb"\+([0-9A-F]{2})")
_PLAIN = re.compile(r"[!-*,-<>-~]*")  # printable ASCII but + and =


def from_xtext(text: str) -> str:
    """Decode xtext; control characters and what is not UTF-8 are replaced."""
    octets = _ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), text.encode())
    decoded = octets.decode("utf-8", "replace")
    return "".join(each if each.isprintable() else "\ufffd" for each in decoded)


def to_xtext(text: str) -> str:
    """Return text as xtext: what is not printable ASCII, and + and =, in hexadecimal."""
    if _PLAIN.fullmatch(text):
        return text
    return "".join(
        chr(octet) if 0x21 <= octet <= 0x7E and octet not in (0x2B, 0x3D) else f"+{octet:02X}"
        for octet in text.encode("utf-8", "surrogateescape")
    )


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

RECEIVED_LIMIT = 100
"""A message with this many Received fields is going round in circles (RFC 5321 6.3)."""


def date_time(moment: datetime) -> str:
    """Return an RFC 5322 date-time of a UTC moment."""
    return _date_time(moment.replace(microsecond=0))


@lru_cache(maxsize=4)
def _date_time(moment: datetime) -> str:
    """Of a whole second: a busy relay asks for the same one many times."""
    return (
        f"{_DAYS[moment.weekday()]}, {moment.day} {_MONTHS[moment.month - 1]} {moment.year} "
        f"{moment.hour:02}:{moment.minute:02}:{moment.second:02} +0000"
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
    """Return a Received field with its CRLF. `recipient` only when there is just one."""
    source = peer if peer == "unix" else f"[{'IPv6:' if ':' in peer else ''}{peer}]"
    name = helo.encode("ascii", "replace").decode()
    target = f"\r\n\tfor <{recipient}>" if recipient is not None and recipient.isascii() else ""
    return (
        f"Received: from {name} ({source})\r\n"
        f"\tby {hostname} (smtpproxy) with {protocol} id {id}{target};\r\n"
        f"\t{date_time(at)}\r\n"
    ).encode("utf-8", "replace")
