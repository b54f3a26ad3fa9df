"""The content of one message, in memory or, above a limit, spooled to disk."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path

from msgspec import Struct

from smtpproxy.wire.content import unstuffed_pieces

_PIECE = 256 * 1024
_SMALL = 16 * 1024
"""Octets of one content that stay in memory however many contents there are."""
_TINY = 4 * 1024
"""Smaller chunks, in octets, are joined to the one before, because each costs extra memory."""


class Spool:
    """Where contents go that are too large for memory, individually or together."""

    def __init__(self, folder: Path, threshold: int, memory: int = 64 * 1024 * 1024) -> None:
        """`threshold`: octets of one content in memory; `memory`: octets of all of them."""
        self.in_memory = 0
        self._folder = folder
        self._threshold = threshold
        self._memory = memory
        self.small = min(threshold, _SMALL, _PIECE)  # octets: no smaller content overflows

    def overflows(self, size: int, *, begun: bool) -> bool:
        """Whether `size` octets have to go to disk; `begun`: others of the same content did."""
        limit = min(self._threshold, _PIECE) if begun else self._threshold
        return size > limit or (size > _SMALL and self.in_memory > self._memory)

    def open(self) -> int:
        """Return a new file without a name, which vanishes with its closing or the process."""
        try:
            return os.open(self._folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
                raise
        handle, name = tempfile.mkstemp(dir=self._folder)
        Path(name).unlink()
        return handle


class Body(Struct):
    """The body of a message as its reader gets it, dot-unstuffed; `pieces` may be called in another
    thread. `size` is how many octets are read for it. `signed_hash` caches its hash, for a message
    that is signed more than once."""

    pieces: Callable[[], Iterator[bytes]]
    size: int
    signed_hash: bytes | None = None


class Content(Struct, eq=False):
    """Content as it came from the client: dot-stuffed if it came by SMTP.

    `append` raises OSError if the spool cannot hold it (disk full).
    """

    _spool: Spool
    size: int = 0
    _chunks: list[bytes] = []
    _in_memory: int = 0
    _file: int | None = None
    _header_size: int | None = None
    _body: Body | None = None
    _digest: bytes = b""

    def append(self, chunk: bytes) -> None:
        size, chunks, spool = len(chunk), self._chunks, self._spool
        if chunks and size < _TINY and len(chunks[-1]) < _TINY:
            chunks[-1] += chunk
        else:
            chunks.append(chunk)
        self.size += size
        self._in_memory += size
        spool.in_memory += size
        if self._in_memory > spool.small and spool.overflows(
            self._in_memory, begun=self._file is not None
        ):
            if self._file is None:
                self._file = spool.open()
            self._write()

    def header(self) -> bytes:
        """The header section with its empty line, dot-stuffed; everything if that is missing."""
        header, searched = b"", 0
        for piece in self.pieces():
            header += piece
            end = _header_end(header, searched)
            if end >= 0:
                header = header[:end]
                break
            searched = max(len(header) - 3, 0)
        self._header_size = len(header)
        return header

    @property
    def header_size(self) -> int:
        """How many octets `header` has."""
        return len(self.header()) if self._header_size is None else self._header_size

    def pieces(self, skip: int = 0) -> Iterator[bytes]:
        """Return the content from octet `skip` on, in pieces of bounded size."""
        if skip or self._file is not None:
            return self._pieces(skip)
        return iter(self._chunks)

    def _pieces(self, skip: int) -> Iterator[bytes]:
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

    def digest(self) -> bytes:
        """A hash of the whole content as it came."""
        if not self._digest:
            hashed = blake2b(digest_size=32)
            for piece in self.pieces():
                hashed.update(piece)
            self._digest = hashed.digest()
        return self._digest

    def body(self) -> Body:
        """The body: what follows the header section."""
        if self._body is None:
            skip = self.header_size
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

    def _write(self) -> None:
        view = memoryview(b"".join(self._chunks))
        while view and self._file is not None:
            view = view[os.write(self._file, view) :]
        self._spool.in_memory -= self._in_memory
        self._in_memory = 0
        self._chunks.clear()


def _header_end(data: bytes, searched: int) -> int:
    """Where the header section ends, after its empty line; -1 if there is none."""
    if data.startswith(b"\r\n"):
        return 2
    end = data.find(b"\r\n\r\n", searched)
    return end + 4 if end >= 0 else -1
