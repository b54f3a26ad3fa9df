"""The content of one message, in memory or spooled to disk above a limit."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PIECE = 256 * 1024
HEADER_LIMIT = 4 * 1024 * 1024
"""Octets of header section that are kept in memory; a longer one cannot be read."""


class Content:
    """Dot-stuffed content as it came from the client.

    `append` raises OSError when the spool cannot take it (disk full).
    """

    __slots__ = ("_chunks", "_file", "_header", "_in_memory", "_spool", "_threshold", "size")

    def __init__(self, spool: Path, threshold: int) -> None:
        self._spool = spool
        self._threshold = threshold
        self._chunks: list[bytes] = []
        self._in_memory = 0
        self._file: int | None = None
        self._header: bytes | None = None
        self.size = 0

    def append(self, chunk: bytes) -> None:
        self.size += len(chunk)
        self._chunks.append(chunk)
        self._in_memory += len(chunk)
        if self._in_memory > self._threshold:
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

    @property
    def _spooled(self) -> int:
        return self.size - self._in_memory

    def close(self) -> None:
        self._chunks.clear()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _to_disk(self) -> None:
        """Move what is in memory to an unlinked file; the header section is kept as well."""
        data = b"".join(self._chunks)
        if self._file is None:
            if _header_end(data) < 0 and len(data) <= HEADER_LIMIT:
                self._chunks = [data]
                self._threshold += _PIECE
                return
            if _header_end(data) >= 0:
                self._header = _header_of(data)
            handle, name = tempfile.mkstemp(dir=self._spool)
            Path(name).unlink()
            self._file = handle
            self._threshold = _PIECE
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        self._chunks = []
        self._in_memory = 0


def _header_end(data: bytes) -> int:
    """Where the header section ends, with its empty line; -1 when no empty line is there."""
    if data.startswith(b"\r\n"):
        return 2
    end = data.find(b"\r\n\r\n")
    return end + 4 if end >= 0 else -1


def _header_of(data: bytes) -> bytes:
    end = _header_end(data)
    return data[:end] if end >= 0 else data
