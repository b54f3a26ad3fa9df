"""Cuts pieces out of the texts of a message without changing any other octet.

A piece is given by its position in the decoded text. A tag is replaced by an empty HTML comment, so
that what follows cannot become a boundary and what surrounded it stays apart. In base64 and
quoted-printable the surrounding lines stay as they are, and none becomes longer than 76 characters
(RFC 2045 sections 6.7 and 6.8).
"""

import re
from binascii import b2a_base64
from bisect import bisect_right
from collections.abc import Sequence

from smtpproxy.mail.mime import EncodedText

Piece = tuple[int, int, bytes]
"""Where a piece begins and ends, and what replaces it."""

COMMENT = b"<!---->"
NOTHING = b"<a></a>"
"""Shows nothing within a comment, which another comment would end."""
NO_PICTURE = b"data:,"
"""The address of an empty picture, which is loaded from nowhere."""
_LINE = 76
_ESCAPE = re.compile(rb"=(?:([0-9A-Fa-f]{2})|\r\n)")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+")
_LEADS = (b"<!--", b"<a", NO_PICTURE)  # of replacements: spaces may follow
_PADDING = re.compile(rb"[^A-Za-z0-9+/]*=+")


class CannotCut(ValueError):
    """The position of a piece in the message is not certain."""


def cut(body: bytes, text: EncodedText, pieces: Sequence[Piece]) -> bytes:
    """Return the body of a message without pieces of one of its texts.

    They are positions in `text.octets`, in order and not overlapping. Replacements may be padded
    with spaces: inside a comment, after an address. Raises CannotCut.
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
    """Maps positions of decoded octets to raw ones: between two marks both advance together."""

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
    """The pieces as positions in quoted-printable text."""
    places, known, position, size = _Places(), [], 0, 0
    for found in _ESCAPE.finditer(raw):
        known.append(raw[position : found.start()])
        size += found.start() - position
        if found[1]:
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
    """The replacement, with soft line breaks where the line would be too long."""
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
    """The pieces in base64: whole groups of three octets, replaced by as many or fewer."""
    places, count = _Places(), 0  # of base64 characters
    end_of_text = raw.find(b"=")
    for found in _BASE64.finditer(raw, 0, len(raw) if end_of_text < 0 else end_of_text):
        places.mark(count, found.start())
        count += found.end() - found.start()
    found_pieces = []
    for start, end, instead in _apart(octets, pieces):
        first, last = start - start % 3, min(end + -end % 3, len(octets))
        decoded = octets[first:start] + instead + octets[end:last]
        room = (last - first - len(decoded)) % 3  # so that what follows keeps its place
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
    """The pieces, with those that share a group of three octets merged."""
    merged: list[Piece] = []
    for start, end, instead in pieces:
        if merged and start // 3 <= (merged[-1][1] - 1) // 3:
            begin, last, before = merged.pop()
            merged.append((begin, end, before + octets[last:start] + instead))
        else:
            merged.append((start, end, instead))
    return merged


def _on_lines(raw: bytes, begin: int, end: int, decoded: bytes) -> bytes:
    """Base64 on separate lines."""
    text = b2a_base64(decoded, newline=False)
    lines = [text[at : at + _LINE] for at in range(0, len(text), _LINE)]
    if begin and raw[begin - 1 : begin] != b"\n":
        lines.insert(0, b"")
    if end < len(raw) and raw[end : end + 2] != b"\r\n":
        lines.append(b"")
    return b"\r\n".join(lines)
