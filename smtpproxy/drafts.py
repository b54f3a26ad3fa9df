"""Files that get their names once they are complete."""

import os
import stat
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

from smtpproxy.disk import exists, is_file, sync_path

_BUFFER = 256 * 1024


class Drafts:
    """Files under temporary names beside their destinations, moved there by `commit`.

    Without `commit`, all are removed at the end of `with`, and former files stay as they were. Only
    their owner may read them, that of the former file if there was one. A destination for which
    `is_direct` is true is written to directly.
    """

    def __init__(self) -> None:
        self._open = ExitStack()
        self._drafts: list[tuple[Path, Path]] = []

    def __enter__(self) -> "Drafts":
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(OSError):  # what is still buffered is not needed
            self._open.close()
        self.discard()

    def discard(self) -> None:
        """Remove them."""
        for draft, _ in self._drafts:
            draft.unlink(missing_ok=True)

    def open(self, path: Path) -> BinaryIO:
        """Open a draft for writing; its `name` is that of the destination."""
        opener = _private if is_direct(path) else _into(self.reserve(path))
        return self._open.enter_context(open(path, "wb", _BUFFER, opener=opener))

    def reserve(self, path: Path) -> Path:
        """Make an empty draft and return its name. Raises OSError, which names the destination."""
        place = path.resolve()
        draft = place.with_name(f".{place.name}.{os.getpid()}.partial")
        # Noted first: an interruption after the next line must not leave it behind.
        self._drafts.append((draft, place))
        try:
            os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
            with suppress(FileNotFoundError):
                os.chown(draft, place.stat().st_uid, -1)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        return draft

    def commit(self) -> None:
        """Move all drafts to their destinations, replacing existing files."""
        self._open.close()
        for draft, _ in self._drafts:
            sync_path(draft)  # no power cut leaves an empty file under the name
        for draft, place in self._drafts:
            draft.replace(place)


def is_direct(path: Path) -> bool:
    """Whether a destination gets no draft: it is not a file (a pipe, /dev/null), or its folder
    accepts no new ones."""
    return exists(path) and not (is_file(path) and os.access(path.resolve().parent, os.W_OK))


def _into(draft: Path) -> Callable[[str, int], int]:
    return lambda _, flags: os.open(draft, flags)


def _private(path: str, flags: int) -> int:
    descriptor = os.open(path, flags & ~os.O_TRUNC, 0o600)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.fchmod(descriptor, 0o600)
            os.ftruncate(descriptor, 0)
    except OSError as error:  # it belongs to somebody else
        os.close(descriptor)
        raise OSError(error.errno, error.strerror, path) from error
    return descriptor
