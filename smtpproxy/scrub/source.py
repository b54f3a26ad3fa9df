"""The octets of a list, counted and hashed while they are read."""

import hashlib
import io
from typing import Any, BinaryIO

_BUFFER = 256 * 1024


class HashedSource(io.RawIOBase):
    """Passes on what `raw` gives. `sha256` and `octets` are of all that was read so far."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._hash = hashlib.sha256()
        self.octets = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        content = self._raw.read(size)
        self._hash.update(content)
        self.octets += len(content)
        return content

    def readinto(self, buffer: Any, /) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def lines(self) -> io.BufferedReader:
        """Return the file that lines are read from."""
        return io.BufferedReader(self, _BUFFER)
