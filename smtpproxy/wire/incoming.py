"""The content of one message as it comes in, whichever way: behind DATA or in chunks."""

from msgspec import Struct

from smtpproxy.mail.reply import Reply
from smtpproxy.wire.chunks import Chunk, ChunkReader
from smtpproxy.wire.content import BareNewline, ContentReader
from smtpproxy.wire.events import Answered, ContentProblem


class HeaderLimits(Struct, frozen=True):
    """How many octets a header section may have before its empty line, and how many fields."""

    size: int = 256 * 1024
    fields: int = 1000


class HeaderCount:
    """Counts a header section that comes in pieces, each line ended by CRLF.

    No piece splits a CRLF. Each octet is looked at once, however the pieces are cut.
    """

    __slots__ = ("_begins_line", "_fields", "_limits", "_size", "ended")

    def __init__(self, limits: HeaderLimits) -> None:
        self._limits = limits
        self._size = 0
        self._fields = 0
        self._begins_line = True
        self.ended = False  # the empty line was there

    @property
    def problem(self) -> ContentProblem | None:
        if self._fields > self._limits.fields:
            return ContentProblem.TOO_MANY_FIELDS
        return ContentProblem.HEADER_TOO_LARGE if self._size > self._limits.size else None

    def feed(self, piece: bytes) -> None:
        """Count what of `piece` is header; a line that continues a field is not another."""
        if not piece:
            return
        begun = b"\r\n" if self._begins_line else b""
        section = begun + piece
        end = section.find(b"\r\n\r\n")
        self.ended = end >= 0
        if self.ended:
            section = section[: end + 2]
        self._begins_line = section.endswith(b"\r\n")
        room = max(self._limits.size - self._size, 0)  # fields beyond it do not count
        self._size += len(section) - len(begun)
        section = section[: len(begun) + room].removesuffix(b"\r\n")
        folded = section.count(b"\r\n ") + section.count(b"\r\n\t")
        self._fields += section.count(b"\r\n") - folded


class IncomingContent:
    """Counts and checks what comes in. `problem` is why it cannot be taken, once that shows."""

    __slots__ = ("_header", "_limit", "problem", "size")

    def __init__(self, size_limit: int, header_limits: HeaderLimits) -> None:
        self._limit = size_limit
        self._header = HeaderCount(header_limits)
        self.size = 0  # octets as received
        self.problem: ContentProblem | None = None

    def _count(self, received: bytes, lines: bytes) -> None:
        """Count octets as received, and as the lines that are made of them."""
        self.size += len(received)
        if self.size > self._limit:
            self.problem = ContentProblem.TOO_LARGE
        elif self.problem is None:
            if b"\0" in received:
                self.problem = ContentProblem.NUL
            elif not self._header.ended:
                self._header.feed(lines)
                self.problem = self._header.problem


class DataContent(IncomingContent):
    """Behind 354, up to CRLF.CRLF. `rest` is what followed that."""

    __slots__ = ("_reader", "ended", "rest")

    def __init__(self, size_limit: int, header_limits: HeaderLimits, bare: BareNewline) -> None:
        super().__init__(size_limit, header_limits)
        self._reader = ContentReader(bare)
        self.ended = False
        self.rest = b""

    def take(self, data: bytes) -> bytes:
        """Return what of `data` is content, nothing once there is a problem.

        Raises BareNewlineError.
        """
        chunk, self.ended = self._reader.feed(data)
        self._count(chunk, chunk)
        if self.ended:
            self.rest = self._reader.rest
        return chunk if self.problem is None else b""


class ChunkedContent(IncomingContent):
    """Behind BDAT, chunk after chunk; also those that are refused and have to be read over."""

    __slots__ = ("_left", "_now", "_reader")

    def __init__(self, size_limit: int, header_limits: HeaderLimits, bare: BareNewline) -> None:
        super().__init__(size_limit, header_limits)
        self._reader = ChunkReader(bare)
        self._now = Chunk(0, last=False)
        self._left = 0

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
        lines = self._reader.feed(octets)
        self._count(octets, lines)
        if self._reader.refused:
            self.problem = self.problem or ContentProblem.BARE_NEWLINE
        return (lines if self.problem is None else b""), end

    def end(self) -> bytes:
        """Return what ends the last line; nothing when asked again."""
        tail = self._reader.end()
        if self._reader.refused:
            self.problem = self.problem or ContentProblem.BARE_NEWLINE
        return tail if self.problem is None else b""

    def answer(self) -> Answered:
        """The engine's own answer to a chunk that is not the last, or is refused."""
        if self._now.refusal is not None:
            return Answered(self._now.refusal)
        return Answered(Reply.of(250, "2.0.0", f"{self._now.size} octets received").encode())
