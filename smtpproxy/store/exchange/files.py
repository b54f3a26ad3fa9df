"""The file that an import reads, and FILE.rejected, which gets the rejected lines.

FILE.rejected can be corrected and imported as it is: the comment lines in it are skipped. It
holds personal data, so only its owner may read it.
"""

import asyncio
import hashlib
import io
import os
import select
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from smtpproxy.store.exchange.encodings import START
from smtpproxy.store.exchange.lines import ImportFault, Line, Rejected, comment

STDIN = Path("-")
_READ_AT_ONCE = 1024 * 1024
_POLL_SECONDS = 0.3  # how often a read from a slow pipe checks for an interruption


class Source(io.BufferedReader):
    """An open file. It is read once, from its start, without seeking.

    `size` is None if it is unknown, as for a pipe; `start` are its first octets.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError, which names the file."""
        self._octets = _Octets(path)
        found = self._octets.found
        self.identity = (found.st_dev, found.st_ino)
        self.size = found.st_size if stat.S_ISREG(found.st_mode) else None
        self.start = self._octets.start
        super().__init__(self._octets, START)

    def tell(self) -> int:
        """Return the number of octets read so far, for pipes too."""
        return self._octets.count

    def digest(self) -> str:
        """Return the SHA-256 of the octets read so far, in hexadecimal."""
        return self._octets.hash.hexdigest()

    def starts_with(self, count: int, digest: str) -> bool:
        """Return whether the first `count` octets of this regular file have that digest."""
        found, file = hashlib.sha256(), self._octets.file.fileno()
        left, place = count, 0
        while left and (chunk := os.pread(file, min(left, _READ_AT_ONCE), place)):
            found.update(chunk)
            place += len(chunk)
            left -= len(chunk)
        return not left and found.hexdigest() == digest


class _Octets(io.RawIOBase):
    """The octets as they come, counted and hashed."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self.hash = hashlib.sha256()
        self._path = path
        where: Any = 0 if path == STDIN else path
        self.file = open(where, "rb", buffering=0, closefd=path != STDIN)  # noqa: SIM115
        self.found = os.fstat(self.file.fileno())
        self._waits = not stat.S_ISREG(self.found.st_mode)
        self.start = self._unread = self._read_start()

    def _read_start(self) -> bytes:
        start = b""
        while b"\n" not in start and len(start) < START and (more := self._read(START)):
            start += more
        return start

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        chunk = self._unread[: len(target)] or self._read(len(target))
        self._unread = self._unread[len(chunk) :]
        self.hash.update(chunk)
        target[: len(chunk)] = chunk
        self.count += len(chunk)
        return len(chunk)

    def _read(self, count: int) -> bytes:
        try:
            if self._waits:
                self._wait()
            return self.file.read(count) or b""
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def _wait(self) -> None:
        """Wait for a slow writer; raise CancelledError if the import was interrupted meanwhile.

        asyncio turns the first Ctrl-C into a cancellation, which a blocking read would not notice.
        """
        while not select.select([self.file], [], [], _POLL_SECONDS)[0]:
            try:
                task = asyncio.current_task()
            except RuntimeError:  # before the import's own loop
                continue
            if task is not None and task.cancelling():
                raise asyncio.CancelledError

    def close(self) -> None:
        if not self.closed:
            self.file.close()
        super().close()


_LONGEST_LINE = 64 * 1024  # octets, in the search for our first comment


class RejectedFault(ImportFault):
    """The file cannot be FILE.rejected; it is neither overwritten nor removed."""


class RejectedFile:
    """Created with the first rejected line; if there is none, an earlier run's file is removed.

    `named`: the user chose the name; then an existing file stays if nothing is rejected.
    """

    def __init__(self, path: Path, *, named: bool = False) -> None:
        self.path = path
        self.count = 0
        self.size = 0  # octets that are durable
        self.header: bytes | None = None  # of a CSV file, repeated so that this is one too
        self._named = named
        self._file: BinaryIO | None = None
        self._is_new = False  # `prepare` created it

    def prepare(self, source: tuple[int, int]) -> None:
        """Make sure that lines can be rejected. `source`: device and inode of the input.

        Raises RejectedFault if there is a file that is not ours, and OSError, which names it.
        """
        with self._naming():
            try:
                found = os.stat(self.path)  # noqa: PTH116 - as the next lines
            except FileNotFoundError:
                os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
                self._is_new = True
                return
            if (found.st_dev, found.st_ino) == source:
                raise RejectedFault(
                    f"{self.path}: is the file to be imported; name another with --rejected"
                )
            if stat.S_ISREG(found.st_mode) and found.st_size and not self._is_ours():
                whose = "a scrub" if is_of_a_scrub(self.path) else "no import"
                raise RejectedFault(
                    f"{self.path}: there is a file that {whose} wrote; move it away, or name "
                    "another with --rejected"
                )
            os.close(os.open(self.path, os.O_WRONLY))

    def write(self, rejected: Rejected) -> None:
        """Raises OSError, which names the file."""
        with self._naming():
            if self._file is None:
                self._file = self._opened()
                if self.header is not None:
                    self._file.write(self.header + b"\n")
            self.count += 1
            self._file.write(comment(rejected))
            for chunk in rejected.original:
                self._file.write(chunk)
            self._file.write(b"\n")

    def flush(self) -> None:
        """Make what was written durable, and count it in `size`."""
        if self._file is not None:
            with self._naming():
                self._file.flush()
                if stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
                    os.fsync(self._file.fileno())
                    self.size = self._file.tell()

    def go_on(self, count: int, size: int) -> None:
        """Continue after the first `size` octets, which hold `count` lines of an earlier run.
        Raises RejectedFault if they are no longer there."""
        self.count = count
        if not size:
            return
        with self._naming():
            found = self.path.stat()
            if found.st_size < size:
                raise RejectedFault(
                    f"{self.path}: some of the lines rejected earlier are missing; put the file "
                    "back, or import the whole file again"
                )
            self._file = open(self.path, "r+b", opener=_private)  # noqa: SIM115
            self._file.truncate(size)
            self._file.seek(size)
            self.size = size

    def close(self, *, complete: bool = True) -> None:
        """Close it. `complete`: the whole input was read, so an earlier run's file is outdated."""
        if self._file is not None:
            with self._naming():
                self._file.close()
        elif self._is_new or (complete and not self._named and self._is_ours()):
            self.path.unlink(missing_ok=True)

    def _opened(self) -> BinaryIO:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.fchmod(descriptor, 0o600)
                os.ftruncate(descriptor, 0)
        except BaseException:
            os.close(descriptor)
            raise
        return os.fdopen(descriptor, "wb")

    def _is_ours(self) -> bool:
        """Whether an import wrote it."""
        comment = _first_comment(self.path)
        return comment is not None and not comment.endswith(OF_A_SCRUB.encode())

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error


def _private(path: str, flags: int) -> int:
    descriptor = os.open(path, flags)
    os.fchmod(descriptor, 0o600)
    return descriptor


OF_A_SCRUB = "(scrub)"
"""What ends the comments above the lines that a scrub could not read."""


def is_of_a_scrub(path: Path) -> bool:
    """Return whether a scrub wrote a FILE.rejected. Raises OSError, unless there is none."""
    comment = _first_comment(path)
    return comment is not None and comment.endswith(OF_A_SCRUB.encode())


def _first_comment(path: Path) -> bytes | None:
    """Return the comment in the first line of a FILE.rejected, or below a CSV header."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            return None
        with path.open("rb") as file:
            # There may be a line `sep=` above the header.
            lines = [file.readline(_LONGEST_LINE).strip() for _ in range(3)]
    except FileNotFoundError:
        return None
    return next((line for line in lines if line and Line(0, line).is_void), None)
