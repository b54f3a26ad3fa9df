"""The targets that an audit log is shipped to: their interface, and a directory."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from smtpproxy.disk import flush, is_dir, sync_path

BLOCK = 4 * 1024 * 1024


class TargetUnavailable(Exception):
    """The target did not accept something; the text says why."""


class TargetWrong(Exception):
    """The target is not valid, or does not exist."""


class FileTarget(Protocol):
    """Holds the files of one relay, and can replace them. When a method returns, it is durable.

    Methods raise TargetUnavailable.
    """

    def sizes(self) -> Mapping[str, int]:
        """Return the octets of each file."""
        ...

    def append(self, name: str, source: BinaryIO, begin: int, end: int) -> None:
        """Extend a file from `begin` to `end` octets of the source."""
        ...

    def put(self, name: str, source: BinaryIO, end: int) -> None:
        """Create or replace a file with the octets of the source up to `end`, atomically."""
        ...

    def remove(self, name: str) -> None: ...

    def close(self) -> None: ...


@runtime_checkable
class LineTarget(Protocol):
    """Accepts lines, which it cannot erase."""

    def send(self, lines: Sequence[bytes]) -> None:
        """Return once they are accepted. Raises TargetUnavailable."""
        ...

    def close(self) -> None: ...


def blocks(source: BinaryIO, begin: int, end: int) -> Iterator[bytes]:
    """Yield octets of a file. Raises TargetUnavailable if it has become shorter."""
    source.seek(begin)
    while begin < end:
        block = source.read(min(BLOCK, end - begin))
        if not block:
            raise TargetUnavailable("the file became shorter while it was read")
        begin += len(block)
        yield block


class DirectoryTarget:
    """A `FileTarget`: a folder on a disk or a share, with a folder for each relay."""

    def __init__(self, folder: Path, relay: str) -> None:
        """Raises TargetWrong if `folder` does not exist."""
        if not is_dir(folder):
            raise TargetWrong(
                f"{folder}: not a folder; create it first (smtpproxy does not, as it may be the "
                "place of a share that is not mounted)"
            )
        self._folder = folder / relay
        self._top = folder

    def sizes(self) -> Mapping[str, int]:
        with _asking():
            if not is_dir(self._folder):
                self._folder.mkdir(mode=0o700)
                sync_path(self._top)
            for left in self._folder.glob(".*.shipping"):
                left.unlink()
            return {path.name: path.stat().st_size for path in self._folder.glob("*json")}

    def append(self, name: str, source: BinaryIO, begin: int, end: int) -> None:
        with _asking(), (self._folder / name).open("r+b") as file:
            file.truncate(begin)  # drops the unfinished part of a run that was killed
            file.seek(begin)
            for block in blocks(source, begin, end):
                file.write(block)
            flush(file)

    def put(self, name: str, source: BinaryIO, end: int) -> None:
        aside = self._folder / f".{name}.shipping"
        with _asking():
            try:
                with open(aside, "wb", opener=_private) as file:
                    for block in blocks(source, 0, end):
                        file.write(block)
                    flush(file)
                aside.replace(self._folder / name)
                sync_path(self._folder)
            except OSError:
                with suppress(OSError):
                    aside.unlink()
                raise

    def remove(self, name: str) -> None:
        with _asking():
            (self._folder / name).unlink(missing_ok=True)
            sync_path(self._folder)

    def close(self) -> None:
        """Nothing is open."""


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextmanager
def _asking() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or "the target"
        raise TargetUnavailable(f"{where}: {error.strerror or error}") from error
