"""Splits a report into its fields, its parts, and the message that it is about (RFC 2045, 6522).

Bounded in octets, parts and depth, and linear in time, whatever arrives.
"""

from collections.abc import Iterator

from msgspec import Struct

from smtpproxy.mail.content_fields import ContentType, content_type
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.mime import decode_text, decode_words, plain_octets, split_parts
from smtpproxy.mail.visible_html import read_html

MAX_OCTETS = 2 * 1024 * 1024
"""Octets of a report; the rest is not read."""

_PART_OCTETS = 256 * 1024
_TEXT_OCTETS = 64 * 1024  # of a text for people: what matters is near its beginning
_MAX_PARTS = 50
_DEEPEST = 8
_LONGEST_HEADER = 64 * 1024
_LONGEST_VALUE = 4096  # octets


class Part(Struct, frozen=True):
    """A part without parts of its own: its media type and its decoded content."""

    type: str
    charset: str
    octets: bytes

    @property
    def text(self) -> str:
        """The text, without tags if it is HTML, with LF line ends."""
        text = decode_text(self.octets[:_TEXT_OCTETS], self.charset)
        return read_html(text).text if self.type == "text/html" else text.replace("\r", "")


class Mail(Struct, frozen=True):
    """A message: its fields and its leaves, in order."""

    headers: HeaderBlock
    type: str
    parameters: dict[str, str]
    parts: tuple[Part, ...]

    def of_type(self, *types: str) -> Iterator[Part]:
        return (part for part in self.parts if part.type in types)

    def has(self, *types: str) -> bool:
        return any(part.type in types for part in self.parts)


def read_mail(content: bytes) -> Mail:
    """Split a message into parts. Line ends may be of any kind."""
    raw = on_the_wire(content[:MAX_OCTETS])
    headers, body = _divided(raw)
    kind = _kind(headers)
    parts: list[Part] = []
    _walk(headers, body, 0, parts)
    return Mail(headers, kind.type, kind.parameters, tuple(parts))


def on_the_wire(content: bytes) -> bytes:
    """Return a mail as every reader needs it: with CRLF line ends, beginning with a field."""
    raw = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return raw.lstrip(b"\n").replace(b"\n", b"\r\n")


def field(headers: HeaderBlock, name: str) -> str:
    """Return the first field of that name, unfolded, its encoded words decoded; "" for none."""
    values = headers.values(name)
    return text_of(values[0]) if values else ""


def text_of(value: bytes) -> str:
    """Return a field's value as text."""
    return decode_words(value[:_LONGEST_VALUE].decode("utf-8", "replace"))


def header_block(octets: bytes) -> HeaderBlock:
    """Return the header section at the beginning of the octets."""
    start = octets.lstrip(b"\r\n \t")
    return _divided(start)[0]


def _kind(headers: HeaderBlock) -> ContentType:
    values = headers.values("Content-Type")
    return content_type(
        values[0][:_LONGEST_VALUE].decode("utf-8", "surrogateescape") if values else ""
    )


def _divided(raw: bytes) -> tuple[HeaderBlock, bytes]:
    end = raw.find(b"\r\n\r\n", 0, _LONGEST_HEADER)
    if end < 0:
        return HeaderBlock(raw[:_LONGEST_HEADER]), b""
    return HeaderBlock(raw[: end + 4]), raw[end + 4 :]


def _walk(headers: HeaderBlock, body: bytes, depth: int, found: list[Part]) -> None:
    kind = _kind(headers)
    boundary = kind.parameters.get("boundary", "")
    if kind.type.startswith("multipart/") and 0 < len(boundary) <= 200 and depth < _DEEPEST:
        before = len(found)
        for raw in split_parts(body, boundary):
            if len(found) >= _MAX_PARTS:
                return
            if raw.startswith(b"\r\n\r\n"):
                found.append(Part("text/plain", "", raw[4 : 4 + _PART_OCTETS]))
            else:
                _walk(*_divided(raw[2:]), depth + 1, found)
        if len(found) > before:
            return
    encoding = field(headers, "Content-Transfer-Encoding").strip().lower()
    octets = plain_octets(body, encoding, _PART_OCTETS)
    octets = body if octets is None else octets
    media_type = "text/plain" if kind.type.startswith("multipart/") else kind.type
    found.append(Part(media_type, kind.parameters.get("charset", ""), octets[:_PART_OCTETS]))
