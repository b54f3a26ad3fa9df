"""How far a target is, in one file for each target, so that the next run continues from there."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

import msgspec
from msgspec import Struct

from smtpproxy.disk import flush, give_to_owner_of, is_dir, locked, sync_path
from smtpproxy.sinks.audit.chain import UNREADABLE

FOLDER = "shipped"


class AlreadyShipping(Exception):
    """Another process ships to the same target."""


class Placed(Struct, frozen=True):
    """How much of a file is at the target, and which file that was.

    An erasure replaces the file, perhaps with one with the same inode: only the time of its last
    change (nanoseconds) tells them apart for sure. `last` is the hash of the last line; `whole`: no
    line came after it.
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
    """`files` for a target with files; `rows` by slot and the last `anchor` for a collector."""

    def __init__(self, path: Path, target: str) -> None:
        kept = _Kept(target)
        with suppress(FileNotFoundError, *UNREADABLE):  # then all is compared, or sent, again
            kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
        self._path = path
        self._target = target
        self.files, self.rows, self.anchor = kept.files, kept.rows, kept.anchor

    def save(self) -> None:
        """Store it durably, once what it lists is at the target. Raises OSError."""
        aside = self._path.with_suffix(".new")
        with aside.open("wb") as file:
            kept = _Kept(self._target, self.files, self.rows, self.anchor)
            file.write(msgspec.json.encode(kept))
            flush(file)
            give_to_owner_of(self._path.parent, file.fileno())
        aside.replace(self._path)
        sync_path(self._path.parent)


@contextmanager
def held(state_dir: Path, target: str) -> Iterator[Position]:
    """Lock the position of a target. Raises AlreadyShipping, OSError."""
    folder = state_dir / FOLDER
    if not is_dir(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
        give_to_owner_of(state_dir, folder)
    name = sha256(target.encode()).hexdigest()[:16]
    busy = AlreadyShipping(f"another process ships to {target}")
    with locked(folder / f"{name}.lock", busy, makes=True):
        yield Position(folder / f"{name}.json", target)
