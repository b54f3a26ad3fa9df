"""Output files that are there whole or not at all."""

import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

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
