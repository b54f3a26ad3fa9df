"""Which SMTP extensions the content of a message needs (RFC 6152, RFC 6531)."""

import re
from collections.abc import Callable, Iterable, Iterator

EIGHT_BIT = "8BITMIME"
UTF8 = "SMTPUTF8"
EXTENSIONS = frozenset({EIGHT_BIT, UTF8})

_BOUNDARY = re.compile(rb'boundary\s*=\s*(?:"([^"\r\n]{1,200})"|([^\s;"]{1,200}))', re.IGNORECASE)
_MESSAGE_INSIDE = re.compile(rb"(?:content-type\s*:|[ \t])\s*message/(?:rfc822|global)\b", re.I)
_MAX_BOUNDARIES = 100
_LONGEST_LINE = 64 * 1024  # octets; the rest of a longer one is read as another line


def needed_extensions(pieces: Callable[[], Iterable[bytes]]) -> frozenset[str]:
    """Return which of 8BITMIME and SMTPUTF8 content needs, whatever its MAIL command said.

    `pieces` returns the whole content and may be called twice. Anything but ASCII needs 8BITMIME,
    and in a header field, be it of the message, a MIME part or an enclosed message, SMTPUTF8 too.
    """
    if all(piece.isascii() for piece in pieces()):
        return frozenset()
    return EXTENSIONS if _has_utf8_field(pieces()) else frozenset({EIGHT_BIT})


def _has_utf8_field(pieces: Iterable[bytes]) -> bool:
    boundaries: set[bytes] = set()
    in_header, message_inside = True, False
    for line in _lines(pieces):
        if line.startswith(b"--") and line[2:].rstrip() in boundaries:
            in_header, message_inside = True, False
        elif not in_header:
            continue
        elif line in (b"", b"\r"):  # a line of white space continues a field
            in_header, message_inside = message_inside, False
            if not in_header and not boundaries:
                return False
        elif not line.isascii():
            return True
        else:
            message_inside = message_inside or _MESSAGE_INSIDE.match(line) is not None
            found = _BOUNDARY.search(line)
            if found is not None and len(boundaries) < _MAX_BOUNDARIES:
                boundaries.add(found[1] or found[2])
    return False


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
        if len(rest) > _LONGEST_LINE:
            yield rest
            rest = b""
    yield rest
