"""The content of a message, behind DATA or in chunks (RFC 3030): where it ends, and that
every line in it ends with CRLF.

Only CRLF ends a line and only CRLF "." CRLF ends the content (RFC 5321 sections 2.3.8
and 4.1.1.4): a bare CR or LF is where one server sees an end and another does not,
so it is refused or rewritten, never passed on. Content stays dot-stuffed as it came; what
comes in counted chunks is made into that form, the only one that the product knows.
"""

import re
from collections.abc import Iterable, Iterator

from msgspec import Struct

from smtpproxy.mail.reply import Reply
from smtpproxy.wire.session import (
    Answered,
    BareNewline,
    Broken,
    ContentProblem,
    HeaderLimits,
    SessionState,
    State,
)

_NUL, _LF, _CR = 0, 10, 13  # `in` tries to take what it looks for as a number before anything else
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
    if _LF not in rest and _CR not in rest:
        return None
    found = _ALONE.search(data)
    return "<CR>" if found is None or found[0] == b"\r" else "<LF>"


class ContentReader(Struct):
    """Takes the bytes after 354 and gives the content in chunks, then the end.

    A chunk never splits a CRLF and never holds a part of the terminator.
    """

    bare: BareNewline
    ended: bool = False
    rest: bytes = b""
    """What followed the terminator."""
    _held: bytes = b"\r\n"
    """Not given out yet, at first the line end of the DATA command: a dot alone in the first line
    ends the content too."""
    _skip: int = 2
    """Octets of `_held` that are no content: that line end."""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Return (chunk, ended). After the end, `rest` holds what followed.

        Raises BareNewlineError when such are to be rejected.
        """
        buffer = self._held + data
        end = buffer.find(_END)
        if end >= 0:
            cut = end + 2
            self.ended = True
            self.rest = buffer[end + 5 :]
        else:
            cut = self._releasable(buffer)
            self._held = buffer[cut:]
        skip = self._skip
        chunk = buffer[skip:cut]
        if cut:
            self._skip = 0
        if chunk and (name := bare_newline(chunk)) is not None:
            if self.bare == "reject":
                raise BareNewlineError(name)
            chunk = with_crlf(_stuffed_after_bare(buffer[:cut]))[skip:]
        return chunk, self.ended

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


def stuffed_pieces(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield content so, from its beginning; pieces may be cut anywhere."""
    before = b"\r\n"  # the line end before the content counts
    for piece in pieces:
        data = before + piece
        yield data.replace(b"\r\n.", b"\r\n..")[len(before) :]
        before = data[-2:]


_ARGUMENT = re.compile(r" *([0-9]{1,20})(?: +(LAST))? *", re.IGNORECASE)
_SYNTAX = Reply.of(501, "5.5.4", "syntax: BDAT size [LAST]; closing the connection").encode()
_NO_TRANSACTION = Reply.of(503, "5.5.1", "send MAIL and RCPT first").encode()
_NO_RECIPIENTS = Reply.of(554, "5.5.1", "no valid recipients").encode()


class Chunk(Struct, frozen=True):
    """BDAT, with octets that follow in any case. `refusal` is answered when they were read."""

    size: int
    last: bool
    refusal: bytes | None = None


def read_bdat(session: SessionState, argument: str) -> Chunk | Broken:
    """Read what follows BDAT. Without a size nobody knows where the next command begins."""
    found = _ARGUMENT.fullmatch(argument)
    if found is None:
        return Broken(_SYNTAX, "chunk_size")
    refusal = None
    if session.state not in (State.MAIL, State.CHUNKS):
        refusal = _NO_TRANSACTION
    elif not session.recipients:
        refusal = _NO_RECIPIENTS
    return Chunk(int(found[1]), found[2] is not None, refusal)


class ChunkReader(Struct):
    """Takes the octets of all chunks of one message and gives dot-stuffed lines.

    `stray` names the first CR or LF that stood alone, if any: whether the message is
    refused for it is the caller's to say; what is given is rewritten as DATA rewrites it.
    """

    bare: BareNewline
    stray: str | None = None
    _held: bytes = b""
    _new_line: bool = True

    @property
    def refused(self) -> bool:
        return self.stray is not None and self.bare == "reject"

    def feed(self, data: bytes) -> bytes:
        buffer = self._held + data
        self._held = b""
        if buffer.endswith(b"\r"):  # what follows tells whether it stands alone
            buffer, self._held = buffer[:-1], b"\r"
        return self._lines(buffer)

    def end(self) -> bytes:
        """Return what is left, with the CRLF that DATA needs at the end of the last line."""
        rest = self._lines(self._held)
        if not self._new_line:
            rest += b"\r\n"
        self._held, self._new_line = b"", True
        return rest

    def _lines(self, data: bytes) -> bytes:
        if not data:
            return b""
        name = bare_newline(data)
        if name is not None:
            self.stray = self.stray or name
            data = with_crlf(data)
        start = b"." if self._new_line and data.startswith(b".") else b""
        self._new_line = data.endswith(b"\r\n")
        return start + data.replace(b"\r\n.", b"\r\n..")


_FIELD = re.compile(rb"\r\n(?=[^ \t])")


class HeaderCount(Struct):
    """Counts a header section that comes in pieces, each line ended by CRLF.

    No piece splits a CRLF. Each octet is read once, however the pieces are cut. `problem` is
    the limit that it exceeds, `ended` whether the empty line was there.
    """

    limits: HeaderLimits
    problem: ContentProblem | None = None
    ended: bool = False
    _size: int = 0
    _fields: int = 0
    _begins_line: bool = True

    def feed(self, piece: bytes) -> None:
        """Count what of `piece` is header; a line that continues a field is not another."""
        if not piece:
            return
        begun = 0
        if self._begins_line:
            piece, begun = b"\r\n" + piece, 2
        end = piece.find(b"\r\n\r\n")
        if end >= 0:
            self.ended = True
            end += 2
        else:
            end = len(piece)
            self._begins_line = piece.endswith(b"\r\n")
        self._size += end - begun
        over = self._size - self.limits.size
        if over > 0:
            self.problem = ContentProblem.HEADER_TOO_LARGE
            end = max(end - over, begun)  # fields beyond it do not count
        self._fields += len(_FIELD.findall(piece, 0, end))
        if self._fields > self.limits.fields:
            self.problem = ContentProblem.TOO_MANY_FIELDS


class IncomingContent(Struct):
    """Counts and checks what comes in. `problem` is why it cannot be taken, once that shows."""

    limit: int
    header: HeaderCount
    size: int = 0
    """Octets as received."""
    problem: ContentProblem | None = None

    def _count(self, received: bytes, lines: bytes) -> None:
        """Count octets as received, and as the lines that are made of them."""
        self.size += len(received)
        if self.size > self.limit:
            self.problem = ContentProblem.TOO_LARGE
        elif self.problem is None:
            if _NUL in received:
                self.problem = ContentProblem.NUL
            elif not self.header.ended:
                self.header.feed(lines)
                self.problem = self.header.problem


class DataContent(IncomingContent, kw_only=True):
    """Behind 354, up to CRLF.CRLF. `rest` is what followed that."""

    reader: ContentReader

    def take(self, data: bytes) -> bytes:
        """Return what of `data` is content, nothing once there is a problem.

        Raises BareNewlineError.
        """
        chunk, _ = self.reader.feed(data)
        self._count(chunk, chunk)
        return chunk if self.problem is None else b""


class ChunkedContent(IncomingContent, kw_only=True):
    """Behind BDAT, chunk after chunk; also those that are refused and have to be read over."""

    reader: ChunkReader
    _now: Chunk = Chunk(0, last=False)
    _left: int = 0

    def begin(self, chunk: Chunk) -> None:
        self._now = chunk
        self._left = chunk.size

    @property
    def complete(self) -> bool:
        """Whether the chunk was read to its end."""
        return self._left == 0

    @property
    def last(self) -> bool:
        return self._now.last and self._now.refusal is None

    def take(self, data: bytes, start: int) -> tuple[bytes, int]:
        """Return (content, in lines and dot-stuffed; where in `data` the chunk or it ends).

        What is behind the chunk is not touched: chunks of one octet may be there by the
        thousand.
        """
        octets = data[start : start + self._left]
        self._left -= len(octets)
        end = start + len(octets)
        if self._now.refusal is not None:
            return b"", end
        lines = self.reader.feed(octets)
        self._count(octets, lines)
        if self.reader.refused:
            self.problem = self.problem or ContentProblem.BARE_NEWLINE
        return (lines if self.problem is None else b""), end

    def end(self) -> bytes:
        """Return what ends the last line."""
        tail = self.reader.end()
        if self.reader.refused:
            self.problem = self.problem or ContentProblem.BARE_NEWLINE
        return tail if self.problem is None else b""

    def answer(self) -> Answered:
        """The engine's own answer to a chunk that is not the last, or is refused."""
        if self._now.refusal is not None:
            return Answered(self._now.refusal)
        return Answered(Reply.of(250, "2.0.0", f"{self._now.size} octets received").encode())
