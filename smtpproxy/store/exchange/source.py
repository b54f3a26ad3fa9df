"""The file that an import reads: a regular one, a pipe or FIFO, or standard input."""

import asyncio
import hashlib
import io
import os
import select
import stat
from pathlib import Path
from typing import Any

STDIN = Path("-")
_START = 64 * 1024  # octets without any LF, by which lines are taken to end with CR
_LOOK = 1024 * 1024
_PATIENCE = 0.3  # seconds between two looks whether a reader of a slow pipe was interrupted


class Source(io.BufferedReader):
    """An opened file. It is read once, from its start, and never sought in.

    `size` is None where nobody knows how much there will be. Files whose lines end with
    CR alone (of old spreadsheets) are read as if they ended with LF.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError, which names the file."""
        self._octets = _Octets(path)
        found = self._octets.found
        self.identity = (found.st_dev, found.st_ino)
        self.size = found.st_size if stat.S_ISREG(found.st_mode) else None
        self.has_cr_alone = self._octets.has_cr_alone
        super().__init__(self._octets, _START)

    def tell(self) -> int:
        """Return how many octets were read so far; a pipe has no place to ask for."""
        return self._octets.count

    def digest(self) -> str:
        """Return the SHA-256 of the octets that were read so far, in hexadecimal."""
        return self._octets.hash.hexdigest()

    def starts_with(self, count: int, digest: str) -> bool:
        """Tell whether the first `count` octets of this regular file have that digest."""
        return self._octets.starts_with(count, digest)


class _Octets(io.RawIOBase):
    """The octets as they come; counts them."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self.hash = hashlib.sha256()
        self._path = path
        where: Any = 0 if path == STDIN else path
        self._file = open(where, "rb", buffering=0, closefd=path != STDIN)  # noqa: SIM115
        self.found = os.fstat(self._file.fileno())
        self._waits = not stat.S_ISREG(self.found.st_mode)
        self.has_cr_alone = False
        self._start = self._read_start()
        self.has_cr_alone = b"\r" in self._start and b"\n" not in self._start

    def _read_start(self) -> bytes:
        start = b""
        while b"\n" not in start and len(start) < _START and (more := self._read(_START)):
            start += more
        return start

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        chunk = self._start[: len(target)] or self._read(len(target))
        self._start = self._start[len(chunk) :]
        self.hash.update(chunk)
        if self.has_cr_alone:
            chunk = chunk.replace(b"\r", b"\n")
        target[: len(chunk)] = chunk
        self.count += len(chunk)
        return len(chunk)

    def starts_with(self, count: int, digest: str) -> bool:
        found = hashlib.sha256()
        left, place = count, 0
        while left and (chunk := os.pread(self._file.fileno(), min(left, _LOOK), place)):
            found.update(chunk)
            place += len(chunk)
            left -= len(chunk)
        return not left and found.hexdigest() == digest

    def _read(self, count: int) -> bytes:
        try:
            if self._waits:
                self._wait()
            return self._file.read(count) or b""
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def _wait(self) -> None:
        """Wait for a slow writer, and end when Ctrl-C ended the import meanwhile.

        asyncio turns the first Ctrl-C into a cancellation, which a read would sleep through.
        """
        while not select.select([self._file], [], [], _PATIENCE)[0]:
            try:
                task = asyncio.current_task()
            except RuntimeError:  # before the import's own loop
                continue
            if task is not None and task.cancelling():
                raise asyncio.CancelledError

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
