"""The content of a message, after DATA or in chunks (RFC 3030): finds its end, and makes sure that
every line ends with CRLF.

Only CRLF ends a line and only CRLF "." CRLF ends the content (RFC 5321 sections 2.3.8 and 4.1.1.4):
one server may see an end at a bare CR or LF where another does not, so these are refused or
rewritten, never passed on. Content stays dot-stuffed as it came; counted chunks are converted to
that form, the only one used elsewhere.
"""

import re
from collections.abc import Iterable, Iterator
from io import IncrementalNewlineDecoder

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

_NUL = 0  # as a number, which `in` tries first
_END = b"\r\n.\r\n"
_CRLF_ONLY = (None, "\r\n")
_ALONE = re.compile(rb"(?<!\r)\n|\r(?!\n)")
_BARE_LF_AND_DOT = re.compile(rb"(?<!\r)\n\.")
_UNSETTLED = re.compile(rb"(?:\r\n\.?|(?:\r\n\.)?\n|\r)\Z")
"""The ends of a chunk whose meaning depends on what follows."""


class BareNewlineError(Exception):
    """A bare CR or LF where only CRLF is allowed."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name  # "<CR>" or "<LF>"


def bare_newline(data: bytes) -> str | None:
    """Return "<CR>" or "<LF>", whichever is the first bare one in `data`, or None."""
    seen = IncrementalNewlineDecoder(None, translate=False)  # the fastest reader of line ends
    seen.decode(data.decode("latin-1"), final=True)
    if seen.newlines in _CRLF_ONLY:
        return None
    found = _ALONE.search(data)
    return "<CR>" if found is None or found[0] == b"\r" else "<LF>"


class ContentReader(Struct):
    """Takes the bytes after 354 and returns the content in chunks, then its end.

    A chunk never splits a CRLF and never contains a part of the terminator.
    """

    bare: BareNewline
    ended: bool = False
    rest: bytes = b""
    """What followed the terminator."""
    _held: bytes = b"\r\n"
    """Octets not returned yet. It starts with the line end of DATA, because a dot alone on the
    first line ends the content too."""
    _skip: int = 2
    """Octets at the start of `_held` that are not content: that line end."""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Return (chunk, ended). After the end, `rest` holds what followed.

        Raises BareNewlineError if these are to be rejected.
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
        """How many octets cannot be part of the terminator, whatever follows."""
        cut = max(len(buffer) - 4, 0)
        unsettled = _UNSETTLED.search(buffer, max(cut - 4, 0), cut)
        return unsettled.start() if unsettled else cut


def with_crlf(content: bytes) -> bytes:
    """Return content with each bare LF made a CRLF and each bare CR a space, as Postfix does."""
    return content.replace(b"\r\n", b"\n").replace(b"\r", b" ").replace(b"\n", b"\r\n")


def _stuffed_after_bare(content: bytes) -> bytes:
    """Stuff the dots that begin a line, or are alone on one, only after bare LFs become CRLFs.

    Rewriting must not create a terminator.
    """
    return _BARE_LF_AND_DOT.sub(b"\n..", content.replace(b"\r\n.\n", b"\r\n..\n"))


def unstuffed(content: bytes) -> bytes:
    """Return content with the transparency dots removed (RFC 5321 4.5.2)."""
    if content.startswith(b"."):
        content = content[1:]
    return content.replace(b"\r\n.", b"\r\n")


def unstuffed_pieces(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield content with the transparency dots removed; pieces may be cut anywhere."""
    held, skip = b"\r\n", 2  # the line end before the content matters but is not part of it
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
    """Yield content with the same dots added; pieces may be cut anywhere."""
    before = b"\r\n"  # the line end before the content matters
    for piece in pieces:
        data = before + piece
        yield data.replace(b"\r\n.", b"\r\n..")[len(before) :]
        before = data[-2:]


_ARGUMENT = re.compile(r" *([0-9]{1,20})(?: +(LAST))? *", re.IGNORECASE)
_SYNTAX = Reply.of(501, "5.5.4", "syntax: BDAT size [LAST]; closing the connection").encode()
_NO_TRANSACTION = Reply.of(503, "5.5.1", "send MAIL and RCPT first").encode()
_NO_RECIPIENTS = Reply.of(554, "5.5.1", "no valid recipients").encode()


class Chunk(Struct, frozen=True):
    """BDAT. Its octets follow in any case; `refusal` is the answer once they have been read."""

    size: int
    last: bool
    refusal: bytes | None = None


def read_bdat(session: SessionState, argument: str) -> Chunk | Broken:
    """Parse the arguments of BDAT. Without a size, nobody knows where the next command begins."""
    found = _ARGUMENT.fullmatch(argument)
    if found is None:
        return Broken(_SYNTAX, "chunk_size")
    refusal = None
    if session.state not in (State.MAIL, State.CHUNKS):
        refusal = _NO_TRANSACTION
    elif not session.recipients:
        refusal = session.refusal or _NO_RECIPIENTS
    return Chunk(int(found[1]), found[2] is not None, refusal)


class ChunkReader(Struct):
    """Takes the octets of all chunks of one message and returns dot-stuffed lines.

    `stray` names the first bare CR or LF, if any; the caller decides whether the message is refused
    for it. The lines are rewritten as for DATA.
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
        if buffer.endswith(b"\r"):  # it may be half of a CRLF
            buffer, self._held = buffer[:-1], b"\r"
        return self._lines(buffer)

    def end(self) -> bytes:
        """Return the rest, with the CRLF that DATA needs at the end of the last line."""
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


class HeaderCounter(Struct):
    """Counts a header section that comes in pieces, each line ended by CRLF.

    No piece splits a CRLF. Each octet is read once, however the pieces are cut. `problem` is the
    limit that the section exceeds, `ended` whether its empty line has come.
    """

    limits: HeaderLimits
    problem: ContentProblem | None = None
    ended: bool = False
    _size: int = 0
    _fields: int = 0
    _begins_line: bool = True

    def feed(self, piece: bytes) -> None:
        """Count the header lines in `piece`; a continuation line is not another field."""
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
            end = max(end - over, begun)  # fields after that do not count
        if self.ended and self._size <= 2 * self.limits.fields:
            return  # even empty lines would not be too many
        lines = piece.count(b"\r\n", 0, end) - piece.endswith(b"\r\n", 0, end)
        continued = piece.count(b"\r\n ", 0, end) + piece.count(b"\r\n\t", 0, end)
        self._fields += lines - continued
        if self._fields > self.limits.fields:
            self.problem = ContentProblem.TOO_MANY_FIELDS


class IncomingContent(Struct):
    """Counts and checks what comes in. `problem` is why it cannot be accepted, if so."""

    limit: int
    header: HeaderCounter
    size: int = 0
    """Octets as received."""
    problem: ContentProblem | None = None

    def _count(self, received: bytes, lines: bytes) -> None:
        """Count octets as received, and as the lines made from them."""
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
    """Content after 354, up to CRLF.CRLF. `rest` is what followed that."""

    reader: ContentReader

    def take(self, data: bytes) -> bytes:
        """Return the part of `data` that is content, or nothing once there is a problem.

        Raises BareNewlineError.
        """
        chunk, _ = self.reader.feed(data)
        self._count(chunk, chunk)
        return chunk if self.problem is None else b""


class ChunkedContent(IncomingContent, kw_only=True):
    """Content after BDAT, chunk after chunk, including refused ones, which are discarded."""

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
        """Return the content, as dot-stuffed lines, and where in `data` the chunk or `data` ends.

        What follows the chunk is not touched: there may be thousands of tiny chunks.
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
        """Return what completes the last line."""
        tail = self.reader.end()
        if self.reader.refused:
            self.problem = self.problem or ContentProblem.BARE_NEWLINE
        return tail if self.problem is None else b""

    def answer(self) -> Answered:
        """The engine's own answer to a chunk that is not the last or is refused."""
        if self._now.refusal is not None:
            return Answered(self._now.refusal)
        return Answered(Reply.of(250, "2.0.0", f"{self._now.size} octets received").encode())
