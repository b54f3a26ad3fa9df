"""Cutting pieces out of the texts of a message without touching another octet of it.

A piece is given by its place in the decoded text. What stands there instead of a tag is an empty
HTML comment: what follows it cannot become a boundary, and what it was between does not grow
together.
Under base64 and quoted-printable the lines around it stay as they are, and none becomes longer than
76 characters (RFC 2045 sections 6.7 and 6.8).
"""

import re
from binascii import b2a_base64
from bisect import bisect_right
from collections.abc import Sequence

from smtpproxy.mail.mime import EncodedText

Piece = tuple[int, int, bytes]
"""Where it begins and ends, and what stands there instead."""

COMMENT = b"<!---->"
NOTHING = b"<a></a>"
"""What shows nothing within a comment, which another one would end."""
NO_PICTURE = b"data:,"
"""The address of nothing: what loads it asks nobody."""
_LINE = 76
_ESCAPE = re.compile(rb"=(?:([0-9A-Fa-f]{2})|\r\n)")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+")
_LEADS = (b"<!--", b"<a", NO_PICTURE)  # of what stands there instead: spaces may follow
_PADDING = re.compile(rb"[^A-Za-z0-9+/]*=+")


class CannotCut(ValueError):
    """Where a piece stands in the message cannot be told for certain."""


def cut(body: bytes, text: EncodedText, pieces: Sequence[Piece]) -> bytes:
    """Return the body of a message without pieces of one of its texts.

    They are places in `text.octets`, in their order and apart. What stands there instead may get
    spaces: a comment within, an address behind it. Raises CannotCut.
    """
    raw = body[text.start : text.end]
    if text.encoding == "quoted-printable":
        pieces = _quoted(raw, text.octets, pieces)
    elif text.encoding == "base64":
        pieces = _in_base64(raw, text.octets, pieces)
    return body[: text.start] + _spliced(raw, pieces) + body[text.end :]


def _spliced(raw: bytes, pieces: Sequence[Piece]) -> bytes:
    kept: list[bytes] = []
    position = 0
    for start, end, instead in pieces:
        kept += (raw[position:start], instead)
        position = end
    return b"".join((*kept, raw[position:]))


class _Places:
    """Where decoded octets stand in the raw ones: between two marks both run in step."""

    def __init__(self) -> None:
        self._decoded = [0]
        self._raw = [0]

    def mark(self, decoded: int, raw: int) -> None:
        self._decoded.append(decoded)
        self._raw.append(raw)

    def __getitem__(self, decoded: int) -> int:
        index = bisect_right(self._decoded, decoded) - 1
        return self._raw[index] + decoded - self._decoded[index]


def _quoted(raw: bytes, octets: bytes, pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces in quoted-printable text."""
    places, known, position, size = _Places(), [], 0, 0
    for found in _ESCAPE.finditer(raw):
        known.append(raw[position : found.start()])
        size += found.start() - position
        if found[1]:
            places.mark(size, found.start())
            known.append(bytes((int(found[1], 16),)))
            size += 1
        position = found.end()
        places.mark(size, position)
    known.append(raw[position:])
    end = pieces[-1][1]
    if b"".join(known)[:end] != octets[:end]:
        raise CannotCut("its quoted-printable can be read in two ways")
    found_pieces = []
    for start, end, instead in pieces:
        first, last = places[start], places[end - 1]
        last += 3 if raw[last : last + 1] == b"=" else 1
        found_pieces.append((first, last, _within_lines(raw, first, last, instead)))
    return found_pieces


def _within_lines(raw: bytes, first: int, last: int, instead: bytes) -> bytes:
    """What stands there, with soft line breaks where the line would be too long."""
    near = max(first - _LINE - 2, 0)
    begin = raw.rfind(b"\r\n", near, first)
    end = raw.find(b"\r\n", last, last + _LINE + 2)
    before = first - (near if begin < 0 else begin + 2)
    after = (min(len(raw), last + _LINE) if end < 0 else end) - last
    if before + len(instead) + after <= _LINE:
        return instead
    lead = b"=\r\n" if before + len(instead) >= _LINE else b""
    return lead + instead + b"=\r\n"


def _in_base64(raw: bytes, octets: bytes, pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces in base64: whole groups of three octets, in place of as many or fewer."""
    places, count = _Places(), 0  # of the characters that count
    end_of_text = raw.find(b"=")
    for found in _BASE64.finditer(raw, 0, len(raw) if end_of_text < 0 else end_of_text):
        places.mark(count, found.start())
        count += found.end() - found.start()
    found_pieces = []
    for start, end, instead in _apart(octets, pieces):
        first, last = start - start % 3, min(end + -end % 3, len(octets))
        decoded = octets[first:start] + instead + octets[end:last]
        room = (last - first - len(decoded)) % 3  # so that what follows stands where it stood
        at = start - first + next(len(lead) for lead in _LEADS if instead.startswith(lead))
        decoded = decoded[:at] + b" " * room + decoded[at:]
        until = places[last // 3 * 4 - 1] + 1
        if last % 3:
            if count * 3 // 4 != len(octets):
                raise CannotCut("its base64 is cut off")
            until = places[count - 1] + 1
            padding = _PADDING.match(raw, until)
            until = padding.end() if padding else until
        found_pieces.append(
            (places[first // 3 * 4], until, _on_lines(raw, places[first // 3 * 4], until, decoded))
        )
    return found_pieces


def _apart(octets: bytes, pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces; those that share a group of three octets are one, with what is between."""
    merged: list[Piece] = []
    for start, end, instead in pieces:
        if merged and start // 3 <= (merged[-1][1] - 1) // 3:
            begin, last, before = merged.pop()
            merged.append((begin, end, before + octets[last:start] + instead))
        else:
            merged.append((start, end, instead))
    return merged


def _on_lines(raw: bytes, begin: int, end: int, decoded: bytes) -> bytes:
    """Base64 on lines of its own."""
    text = b2a_base64(decoded, newline=False)
    lines = [text[at : at + _LINE] for at in range(0, len(text), _LINE)]
    if begin and raw[begin - 1 : begin] != b"\n":
        lines.insert(0, b"")
    if end < len(raw) and raw[end : end + 2] != b"\r\n":
        lines.append(b"")
    return b"\r\n".join(lines)
