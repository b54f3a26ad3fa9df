"""The files of a scrub: the list, hashed as it is read; outputs; lines that are put aside."""

import hashlib
import io
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO

from smtpproxy.store.exchange.files import RejectedFile
from smtpproxy.store.exchange.lines import MAX_LINE, ImportFault, Rejected

_READ_BUFFER = 256 * 1024


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
        return io.BufferedReader(self, _READ_BUFFER)


_BUFFER = 256 * 1024


class Drafts:
    """Files under temporary names beside their places, put there by `commit`.

    Without it, all of them are gone at the end of `with`. They may be read by their owner
    only. What is no file (a pipe, /dev/null) is written to directly.
    """

    def __init__(self) -> None:
        self._open = ExitStack()
        self._drafts: list[tuple[Path, Path]] = []

    def __enter__(self) -> "Drafts":
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(OSError):  # what is still buffered is not wanted any more
            self._open.close()
        for draft, _ in self._drafts:
            draft.unlink(missing_ok=True)

    def open(self, path: Path) -> BinaryIO:
        """Open a draft for writing."""
        if path.exists() and not path.is_file():
            return self._open.enter_context(path.open("wb", _BUFFER))
        return self._open.enter_context(self.reserve(path).open("wb", _BUFFER))

    def reserve(self, path: Path) -> Path:
        """Make an empty draft and return its name."""
        place = path.resolve()
        draft = place.with_name(f".{place.name}.{os.getpid()}.partial")
        # Noted first: an interruption after the next line must not leave it behind.
        self._drafts.append((draft, place))
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        return draft

    def commit(self) -> None:
        """Put all of them in their places, replacing what is there."""
        self._open.close()
        for draft, place in self._drafts:
            draft.replace(place)


_TOLD = 5


class Unreadable:
    """Puts them into a FILE.rejected; where there is to be none, tells of the first few.

    `header` is that of the list. `tell` takes the number of a line and its fault, which
    hold nothing of the line itself. `keep`: nobody chose `path`, so that a file which is
    there and is no FILE.rejected is not touched.
    """

    def __init__(
        self,
        drafts: Drafts,
        path: Path | None,
        tell: Callable[[str], None],
        *,
        keep: bool = False,
    ) -> None:
        self.path = path
        self.header: bytes | None = None
        self._drafts = drafts
        self._tell = tell
        self._keep = keep
        self._file: RejectedFile | None = None
        self._count = 0

    def put(self, rejected: Rejected) -> None:
        self._count += 1
        if self.path is not None:
            if self._file is None:
                if self._keep and self.path.exists() and not _is_rejected_file(self.path):
                    raise ImportFault(
                        f"{self.path} is there and is no file of lines put aside;"
                        " name another with --rejected"
                    )
                self._file = RejectedFile(self._drafts.reserve(self.path))
                self._file.header = self.header
            self._file.write(rejected)
        elif self._count <= _TOLD:
            self._tell(f"line {rejected.number}: {rejected.reason}")
        elif self._count == _TOLD + 1:
            self._tell("more lines cannot be read; --rejected FILE keeps them with their reasons")

    def close(self) -> None:
        """Finish the file; that of an earlier run goes when now all could be read."""
        if self._file is not None:
            self._file.close()
        elif self._keep and self.path is not None and _is_rejected_file(self.path):
            self.path.unlink()


def _is_rejected_file(path: Path) -> bool:
    """Tell by its first comment, which stands on top or below a CSV header."""
    try:
        with path.open("rb") as file:
            return any(file.readline(MAX_LINE).startswith(b"# line ") for _ in range(2))
    except OSError:
        return False
