"""What is known to be at a target, so that the next run goes on there. One file for each target."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

import msgspec
from msgspec import Struct

from smtpproxy.disk import sync_folder
from smtpproxy.sinks.audit.chain import UNREADABLE
from smtpproxy.sinks.audit.files import give_to_owner_of

FOLDER = "shipped"


class AlreadyShipping(Exception):
    """Another process ships to the same target."""


class Placed(Struct, frozen=True):
    """How much of a file is at the target, and which file that was.

    An erasure puts another one in its place: nothing but the time (nanoseconds) that a change was
    noted at tells it for sure from the one before, whose inode it may have. `last` is the hash of
    the last line; `whole`: no line came after it.
    """

    inode: int
    changed: int
    size: int
    last: str
    whole: bool


class _Kept(Struct):
    target: str
    files: dict[str, Placed] = {}
    rows: dict[int, int] = {}
    anchor: int = 0


class Position:
    """`files` of a target that has files; `rows` by slot, and the last `anchor`, of a collector."""

    def __init__(self, path: Path, kept: _Kept) -> None:
        self._path = path
        self._kept = kept

    @property
    def files(self) -> dict[str, Placed]:
        return self._kept.files

    @property
    def rows(self) -> dict[int, int]:
        return self._kept.rows

    @property
    def anchor(self) -> int:
        return self._kept.anchor

    def note_anchor(self, n: int) -> None:
        self._kept.anchor = n

    def save(self) -> None:
        """Put it on the disk: what it says is at the target. Raises OSError."""
        aside = self._path.with_suffix(".new")
        with aside.open("wb") as file:
            file.write(msgspec.json.encode(self._kept))
            file.flush()
            os.fsync(file.fileno())
            give_to_owner_of(self._path.parent, file.fileno())
        aside.replace(self._path)
        sync_folder(self._path.parent)


@contextmanager
def held(state_dir: Path, target: str) -> Iterator[Position]:
    """Hold the position of a target. Raises AlreadyShipping, OSError."""
    folder = state_dir / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    name = sha256(target.encode()).hexdigest()[:16]
    lock = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        give_to_owner_of(folder, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyShipping(f"another process ships to {target}") from None
        path = folder / f"{name}.json"
        kept = _Kept(target)
        with suppress(FileNotFoundError, *UNREADABLE):  # then all is compared, or sent, again
            kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
        yield Position(path, kept)
    finally:
        os.close(lock)
