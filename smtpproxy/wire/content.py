"""The content after DATA: where it ends, and that every line in it ends with CRLF.

Only CRLF ends a line and only CRLF "." CRLF ends the content (RFC 5321 sections 2.3.8
and 4.1.1.4): a bare CR or LF is where one server sees an end and another does not,
so it is refused or rewritten, never passed on. Content stays dot-stuffed as it came.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Literal

BareNewline = Literal["reject", "normalize"]
_END = b"\r\n.\r\n"
_ALONE = re.compile(rb"(?<!\r)\n|\r(?!\n)")
_BARE_LF_AND_DOT = re.compile(rb"(?<!\r)\n\.")
_UNSETTLED = re.compile(rb"(?:\r\n\.?|(?:\r\n\.)?\n|\r)\Z")
"""What stands so at the end of a chunk means one thing or another by what follows it."""


class BareNewlineError(Exception):
    """A CR or LF alone, where only CRLF may stand."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name  # "<CR>" or "<LF>"


def bare_newline(data: bytes) -> str | None:
    """Return which of "<CR>" and "<LF>" is the first to stand alone in `data`, or None."""
    rest = b"".join(data.split(b"\r\n"))  # on lines of usual length, faster than to count them
    if b"\n" not in rest and b"\r" not in rest:
        return None
    found = _ALONE.search(data)
    return "<CR>" if found is None or found[0] == b"\r" else "<LF>"


class ContentReader:
    """Takes the bytes after 354 and gives the content in chunks, then the end.

    A chunk never splits a CRLF and never holds a part of the terminator.
    """

    __slots__ = ("_bare", "_first", "_held", "rest")

    def __init__(self, bare: BareNewline) -> None:
        self._bare = bare
        self._held = b"\r\n"  # the line end of the DATA command counts as the first one
        self._first = True
        self.rest = b""  # what followed the terminator

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Return (chunk, ended). After the end, `rest` holds what followed.

        Raises BareNewlineError when such are to be rejected.
        """
        buffer = self._held + data
        end = buffer.find(_END)
        ended = end >= 0
        if ended:
            cut = end + 2
            self.rest = buffer[end + 5 :]
            self._held = b""
        else:
            cut = self._releasable(buffer)
            self._held = buffer[cut:]
        start = 0
        if self._first and cut:
            self._first = False
            start = 2
        chunk = buffer[start:cut]
        if chunk:
            name = bare_newline(chunk)
            if name is not None:
                if self._bare == "reject":
                    raise BareNewlineError(name)
                chunk = with_crlf(_stuffed_after_bare(buffer[:cut]))[start:]
        return chunk, ended

    def _releasable(self, buffer: bytes) -> int:
        """How much cannot be a part of the terminator nor change with what follows."""
        cut = max(len(buffer) - 4, 0)
        unsettled = _UNSETTLED.search(buffer, max(cut - 4, 0), cut)
        return unsettled.start() if unsettled else cut


def with_crlf(content: bytes) -> bytes:
    """Return content in which a stray LF is CRLF and a stray CR a space, as in Postfix."""
    return content.replace(b"\r\n", b"\n").replace(b"\r", b" ").replace(b"\n", b"\r\n")


def _stuffed_after_bare(content: bytes) -> bytes:
    """Stuff the dots that begin a line, or are alone on one, only once each LF is a CRLF.

    The rewritten content must not hold a terminator that the received one did not.
    """
    return _BARE_LF_AND_DOT.sub(b"\n..", content.replace(b"\r\n.\n", b"\r\n..\n"))


def unstuffed(content: bytes) -> bytes:
    """Return content with the transparency dots removed (RFC 5321 4.5.2)."""
    if content.startswith(b"."):
        content = content[1:]
    return content.replace(b"\r\n.", b"\r\n")


def unstuffed_pieces(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield content with the transparency dots removed; pieces may be cut anywhere."""
    held, skip = b"\r\n", 2  # the line end before the content counts, and is no part of it
    for piece in pieces:
        data = held + piece
        cut = len(data) - (2 if data.endswith(b"\r\n") else data.endswith(b"\r"))
        held = data[cut:]
        plain = data[:cut].replace(b"\r\n.", b"\r\n")[skip:]
        if cut:
            skip = 0
        if plain:
            yield plain
    if held[skip:]:
        yield held[skip:]


def stuffed(content: bytes) -> bytes:
    """Return content with a dot added to every line that begins with one."""
    if content.startswith(b"."):
        content = b"." + content
    return content.replace(b"\r\n.", b"\r\n..")
