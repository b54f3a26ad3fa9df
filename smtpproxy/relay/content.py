"""The content of one message, in memory or spooled to disk above a limit."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from smtpproxy.wire.content import unstuffed_pieces

_PIECE = 256 * 1024
HEADER_LIMIT = 4 * 1024 * 1024
"""Octets of header section that are kept in memory; a longer one cannot be read."""


class Spool:
    """Where contents go that are too large for memory, one by one or all together."""

    def __init__(self, folder: Path, threshold: int, memory: int = 64 * 1024 * 1024) -> None:
        """`threshold`: octets of one content, `memory`: of all that are kept in memory."""
        self.in_memory = 0
        self._folder = folder
        self._threshold = threshold
        self._memory = memory

    def overflows(self, size: int) -> bool:
        """Whether a content with `size` octets in memory has to go to disk."""
        return size > self._threshold or (size > _PIECE and self.in_memory > self._memory)

    def open(self) -> int:
        """Return a new file without a name: it is gone when it is closed, or we are."""
        try:
            return os.open(self._folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
                raise
        handle, name = tempfile.mkstemp(dir=self._folder)
        Path(name).unlink()
        return handle


class Body(Struct):
    """The body of a message as its reader has it, dot-unstuffed; `pieces` may be asked for it
    in another thread. `size` is what is read for it, in octets. Who signs it notes its hash,
    for a message that is signed more than once."""

    pieces: Callable[[], Iterator[bytes]]
    size: int
    signed_hash: bytes | None = None


class Content:
    """Dot-stuffed content as it came from the client.

    `append` raises OSError when the spool cannot take it (disk full).
    """

    __slots__ = ("_body", "_chunks", "_file", "_header", "_in_memory", "_look_at", "_spool", "size")

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._chunks: list[bytes] = []
        self._in_memory = 0
        self._look_at = 0  # no sooner: a header section is not searched for its end at every chunk
        self._file: int | None = None
        self._header: bytes | None = None
        self._body: Body | None = None
        self.size = 0

    def append(self, chunk: bytes) -> None:
        self.size += len(chunk)
        self._chunks.append(chunk)
        self._in_memory += len(chunk)
        self._spool.in_memory += len(chunk)
        if self._file is not None:
            if self._in_memory >= _PIECE:
                self._write()
        elif self._in_memory >= self._look_at and self._spool.overflows(self._in_memory):
            self._to_disk()

    def header(self) -> bytes | None:
        """The header section with its empty line, dot-stuffed; None when over HEADER_LIMIT."""
        if self._header is None and self._file is None:
            if len(self._chunks) > 1:
                self._chunks = [b"".join(self._chunks)]
            self._header = _header_of(self._chunks[0] if self._chunks else b"")
        elif self._header is None:
            return None
        return self._header

    def pieces(self, skip: int = 0) -> Iterator[bytes]:
        """Yield the content from octet `skip` on, in pieces of bounded size."""
        offset = 0
        if self._file is not None:
            while offset < self._spooled:
                piece = os.pread(self._file, _PIECE, max(offset, skip))
                offset = max(offset, skip) + len(piece)
                if not piece:
                    break
                yield piece
            skip = max(skip - self._spooled, 0)
        for chunk in self._chunks:
            if skip < len(chunk):
                yield chunk[skip:] if skip else chunk
            skip = max(skip - len(chunk), 0)

    def body(self) -> Body:
        """What follows the header section, which has to be one that can be read."""
        if self._body is None:
            skip = len(self.header() or b"")
            pieces = lambda: unstuffed_pieces(self.pieces(skip))  # noqa: E731
            self._body = Body(pieces, self.size - skip)
        return self._body

    @property
    def _spooled(self) -> int:
        return self.size - self._in_memory

    def close(self) -> None:
        self._spool.in_memory -= self._in_memory
        self._in_memory = 0
        self._chunks.clear()
        self._body = None  # which knows us
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _to_disk(self) -> None:
        """Go on in a file, once the header section is complete or hopelessly long."""
        data = b"".join(self._chunks)
        if _header_end(data) >= 0:
            self._header = _header_of(data)
        elif len(data) <= HEADER_LIMIT:
            self._chunks = [data]
            self._look_at = len(data) + _PIECE
            return
        self._file = self._spool.open()
        self._write()

    def _write(self) -> None:
        view = memoryview(b"".join(self._chunks))
        while view and self._file is not None:
            view = view[os.write(self._file, view) :]
        self._spool.in_memory -= self._in_memory
        self._in_memory = 0
        self._chunks.clear()


def _header_end(data: bytes) -> int:
    """Where the header section ends, with its empty line; -1 when no empty line is there."""
    if data.startswith(b"\r\n"):
        return 2
    end = data.find(b"\r\n\r\n")
    return end + 4 if end >= 0 else -1


def _header_of(data: bytes) -> bytes:
    end = _header_end(data)
    return data[:end] if end >= 0 else data
