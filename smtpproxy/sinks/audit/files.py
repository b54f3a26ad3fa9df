"""The files of a journal: their names, their ends, and who is writing them.

Each worker writes the files of one slot, ULID-SLOT.ndjson, one after the other; the ULIDs
of a slot ascend. It holds the slot's lock meanwhile: only the newest file of a slot whose
lock is held is being written.
"""

import fcntl
import mmap
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from smtpproxy.disk import give_to_owner_of
from smtpproxy.events import successor, time_of
from smtpproxy.sinks.audit.chain import Head, NotALine, head_of

T = TypeVar("T")

ANCHORS = "anchors.ndjson"
MAINTENANCE_LOCK = "maintenance.lock"
ROTATION_REQUEST = "rotate"
"""Touching this file has the files being written closed."""

_NAME = re.compile(r"([0-3][0-9A-HJKMNP-TV-Z]{25})-([0-9]{1,6})\.ndjson")
_OTHER_SLOTS = 100
"""If a worker's slot is taken (two relays on one folder), it tries one this much further on."""
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of a slot. `begun` is the time in its name."""

    path: Path
    slot: int
    begun: datetime

    @property
    def name(self) -> str:
        return self.path.name


def segments(folder: Path) -> dict[int, list[Segment]]:
    """Return the files of each slot, oldest first; none without a folder."""
    found: dict[int, list[Segment]] = {}
    for path in sorted(folder.glob("*.ndjson")):
        name = _NAME.fullmatch(path.name)
        if name is not None:
            begun = datetime.fromtimestamp(time_of(name[1]) / 1000, UTC)
            found.setdefault(int(name[2]), []).append(Segment(path, int(name[2]), begun))
    return dict(sorted(found.items()))


def is_segment(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def slot_of(name: str) -> int:
    """Return the slot of a file by its name. Raises ValueError."""
    return int(name.removesuffix(".ndjson").rpartition("-")[2])


def new_name(id: str, slot: int, last: str) -> str:
    """Return the name of a slot's next file, sorted last even if the clock was set back.

    `last` is the name of its newest file, or empty.
    """
    newest = last[: len(id)]
    return f"{max(id, successor(newest)) if newest else id}-{slot}.ndjson"


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            yield b""  # an empty file cannot be mapped
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def last_of(path: Path, read: Callable[[bytes], T]) -> tuple[T | None, int]:
    """Return the last readable line of a file, and how many octets follow the last line end.

    Those are of a write that was cut short, or is in progress. `read` raises NotALine.
    """
    with mapped(path) as data:
        end = data.rfind(b"\n") + 1
        torn = len(data) - end
        while end > 0:
            start = data.rfind(b"\n", 0, end - 1) + 1
            with suppress(NotALine):
                return read(data[start:end]), torn
            end = start
        return None, torn


@dataclass(frozen=True, slots=True)
class LastLine:
    """A slot's last line, and the torn ends that follow it, by file name."""

    segment: Segment
    head: Head
    torn: dict[str, int]


def last_line(files: Sequence[Segment]) -> LastLine | None:
    """Return the end of a slot; None if there is no line at all."""
    torn: dict[str, int] = {}
    for segment in reversed(files):
        head, octets = last_of(segment.path, head_of)
        if octets:
            torn[segment.name] = octets
        if head is not None:
            return LastLine(segment, head, torn)
    return None


class SlotLock:
    """The right to write the files of one slot; it ends with the process at the latest."""

    def __init__(self, folder: Path, worker: int) -> None:
        """Take the worker's slot, or one further on if another process has it."""
        self.slot = worker
        while True:
            self._file = _open_lock(_lock_path(folder, self.slot))
            for _ in range(_TRIES):
                with suppress(BlockingIOError):
                    fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                time.sleep(0.005)  # another process may just be checking whether it is taken
            os.close(self._file)
            self.slot += _OTHER_SLOTS

    def release(self) -> None:
        os.close(self._file)


def is_written(folder: Path, slot: int) -> bool:
    """Whether a process has the slot."""
    try:
        file = os.open(_lock_path(folder, slot), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[int]:
    """Hold the lock of a file; wait until it is free.

    A missing file is made, unless `shared`: a reader may be using a read-only copy.
    """
    while True:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if shared else _open_lock(path)
        try:
            fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            if not _is_at(path, file):  # the previous holder replaced the file
                continue
            yield file
            return
        finally:
            os.close(file)


def _is_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _lock_path(folder: Path, slot: int) -> Path:
    return folder / f"{slot}.lock"


def _open_lock(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    give_to_owner_of(path.parent, file)
    return file


def make_alike(old: int, new: int) -> None:
    """Give a new file the owner and the permissions of the old one."""
    status = os.fstat(old)
    os.fchmod(new, status.st_mode & 0o777)
    if os.geteuid() == 0:
        os.fchown(new, status.st_uid, status.st_gid)
