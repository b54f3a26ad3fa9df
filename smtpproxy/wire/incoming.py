"""The content of one message as it comes in, whichever way: behind DATA or in chunks."""

from smtpproxy.mail.reply import Reply
from smtpproxy.wire.chunks import Chunk, ChunkReader
from smtpproxy.wire.content import BareNewline, ContentReader
from smtpproxy.wire.events import Answered, ContentProblem


class IncomingContent:
    """Counts and checks what comes in. `problem` is why it cannot be taken, once that shows."""

    __slots__ = ("_limit", "problem", "size")

    def __init__(self, size_limit: int) -> None:
        self._limit = size_limit
        self.size = 0  # octets as received
        self.problem: ContentProblem | None = None

    def _count(self, chunk: bytes, octets: int) -> None:
        self.size += octets
        if self.size > self._limit:
            self.problem = ContentProblem.TOO_LARGE
        elif b"\0" in chunk:
            self.problem = self.problem or ContentProblem.NUL


class DataContent(IncomingContent):
    """Behind 354, up to CRLF.CRLF. `rest` is what followed that."""

    __slots__ = ("_reader", "ended", "rest")

    def __init__(self, size_limit: int, bare: BareNewline) -> None:
        super().__init__(size_limit)
        self._reader = ContentReader(bare)
        self.ended = False
        self.rest = b""

    def take(self, data: bytes) -> bytes:
        """Return what of `data` is content, nothing once there is a problem.

        Raises BareNewlineError.
        """
        chunk, self.ended = self._reader.feed(data)
        self._count(chunk, len(chunk))
        if self.ended:
            self.rest = self._reader.rest
        return chunk if self.problem is None else b""


class ChunkedContent(IncomingContent):
    """Behind BDAT, chunk after chunk; also those that are refused and have to be read over."""

    __slots__ = ("_left", "_now", "_reader")

    def __init__(self, size_limit: int, bare: BareNewline) -> None:
        super().__init__(size_limit)
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

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Return (content, in lines and dot-stuffed; what is behind the chunk)."""
        octets, rest = data[: self._left], data[self._left :]
        self._left -= len(octets)
        if self._now.refusal is not None:
            return b"", rest
        lines = self._reader.feed(octets)
        self._count(octets, len(octets))
        if self._reader.refused:
            self.problem = self.problem or ContentProblem.BARE_NEWLINE
        return (lines if self.problem is None else b""), rest

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
