"""The files of a journal: their names, their ends, and who is writing them.

Each worker writes the files of one slot, ULID-SLOT.ndjson, one after the other; the ULIDs
of a slot ascend. It holds the slot's lock meanwhile: only the newest file of a slot whose
lock is held is being written.
"""

import errno
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import groupby, pairwise
from pathlib import Path
from typing import BinaryIO, TypeVar

from msgspec import Struct

from smtpproxy.disk import give_to_owner_of, lock
from smtpproxy.events import successor
from smtpproxy.events import time_of as time_of_id
from smtpproxy.sinks.audit.chain import Head, NotALine, head_of
from smtpproxy.sinks.audit.lines import time_of

T = TypeVar("T")

ANCHORS = "anchors.ndjson"
MAINTENANCE_LOCK = "maintenance.lock"
ROTATION_REQUEST = "rotate"
"""Touching this file makes relays close the files they are writing."""

_NAME = re.compile(r"([0-3][0-9A-HJKMNP-TV-Z]{25})-([0-9]{1,6})\.ndjson")
_OTHER_SLOTS = 100
"""If a worker's slot is taken (two relays on one folder), it tries one this much further on."""
_TRIES = 3
EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)


class Segment(Struct, frozen=True):
    """One file of a slot. `started` is the time in its name."""

    path: Path
    slot: int
    started: datetime

    @property
    def name(self) -> str:
        return self.path.name


def segments(folder: Path) -> dict[int, list[Segment]]:
    """Return the files of each slot, oldest first; none without a folder."""
    found: dict[int, list[Segment]] = {}
    for path in sorted(folder.glob("*.ndjson")):
        name = _NAME.fullmatch(path.name)
        if name is not None:
            started = datetime.fromtimestamp(time_of_id(name[1]) / 1000, UTC)
            found.setdefault(int(name[2]), []).append(Segment(path, int(name[2]), started))
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


_BLOCK = 256 * 1024


class Octets:
    """What a file contains when this is created, searchable like bytes.

    It is read block by block: a mapped file that is cut short ends its reader with SIGBUS. Methods
    raise OSError, also if that happens.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._start, self._block = 0, b""

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, end, _ = part.indices(self._size)
        end = max(start, end)
        self._load(start, end)
        return self._block[start - self._start : end - self._start]

    def find(self, wanted: bytes, start: int = 0, end: int | None = None) -> int:
        stop = self._size if end is None else min(end, self._size)
        while stop - start >= len(wanted):
            self._load(start, start + len(wanted))
            high = min(self._start + len(self._block), stop)
            found = self._block.find(wanted, start - self._start, high - self._start)
            if found >= 0:
                return self._start + found
            start = high - len(wanted) + 1
        return -1

    def line_start(self, position: int) -> int:
        """Return the start of the line that a position is in, or would be in."""
        while position > 0:
            if not self._has(position - 1, position):
                self._load(max(position - _BLOCK, 0), position)
            found = self._block.rfind(b"\n", 0, position - self._start)
            if found >= 0:
                return self._start + found + 1
            position = self._start
        return 0

    def _has(self, start: int, end: int) -> bool:
        return self._start <= start and end <= self._start + len(self._block)

    def _load(self, start: int, end: int) -> None:
        """Load that part, and what follows it, into the block."""
        if self._has(start, end):
            return
        size = min(max(end - start, _BLOCK), self._size - start)
        try:
            block = os.pread(self._file.fileno(), size, start)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._file.name) from error
        if len(block) < size:
            raise OSError(errno.EIO, "it was cut short while it was read", self._file.name)
        self._start, self._block = start, block


@contextmanager
def opened(path: Path) -> Iterator[Octets]:
    with path.open("rb") as file:
        yield Octets(file)


def blocks(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, many at once. Raises OSError."""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block + file.readline()


def last_of(path: Path, read: Callable[[bytes], T]) -> tuple[T | None, int]:
    """Return the last readable line of a file, and how many octets follow the last line end.

    Those are of a write that was cut short, or is in progress. `read` raises NotALine.
    """
    with opened(path) as data:
        end = data.line_start(len(data))
        torn = len(data) - end
        while end > 0:
            start = data.line_start(end - 1)
            with suppress(NotALine):
                return read(data[start:end]), torn
            end = start
        return None, torn


class LastLine(Struct, frozen=True):
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


def of_period(
    files: Sequence[Segment],
    since: datetime | None,
    until: datetime | None,
    *,
    and_next: bool = False,
) -> Iterator[Sequence[Segment]]:
    """Yield the files of a slot that may hold lines of a period; adjacent ones come together.

    `and_next`: with the file after them, which has answers to the last messages, and may have been
    started while the clock was ahead.
    """
    chosen = [
        ((until is None or first < until) and (since is None or last >= since))
        # After its clock is set back, a process continues with ids from before, dated later.
        or (since is not None and until is not None and since <= segment.started < until)
        for segment, (first, last) in zip(files, _spans(files, and_next), strict=True)
    ]
    for wanted, group in groupby(zip(chosen, files, strict=True), key=lambda each: each[0]):
        if wanted:
            yield [segment for _, segment in group]


def _spans(files: Sequence[Segment], early: bool) -> Iterator[tuple[datetime, datetime]]:
    """Yield the times between which each file was written; `early`: from the start of the one
    before.

    That also applies if the next one is dated earlier: the clock was set back, perhaps during this
    one. A file ends where one with a later date begins.
    """
    started = start_times(files)
    for number, at in enumerate(started):
        following = (started[later] for later in range(number + 1, len(started)))
        end = next((later for later in following if later > at), LATEST)
        before = started[number - 1] if number else EARLIEST
        set_back = number + 1 < len(started) and started[number + 1] < at
        yield min(before, at) if early or set_back else at, end


def start_times(files: Sequence[Segment]) -> list[datetime]:
    """Return when each file of a slot was started, by the clock at that time.

    A file started while the clock was behind has the time of the one before in its name, to sort
    after it: only its first line tells the real time.
    """
    times = [segment.started for segment in files]
    for number, (before, segment) in enumerate(pairwise(files), 1):
        if segment.started == before.started:
            with segment.path.open("rb") as lines, suppress(NotALine):
                times[number] = time_of(lines.readline())
    return times


class SlotLock:
    """The right to write the files of one slot; it ends with the process at the latest."""

    def __init__(self, folder: Path, worker: int) -> None:
        """Take the worker's slot, or one further on if another process has it."""
        self.slot = worker
        while True:
            path = _lock_path(folder, self.slot)
            self._file = _open_lock(path)
            for _ in range(_TRIES):
                with suppress(BlockingIOError):
                    lock(self._file, path, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                time.sleep(0.005)  # another process may just be checking whether it is taken
            os.close(self._file)
            self.slot += _OTHER_SLOTS

    def release(self) -> None:
        os.close(self._file)


def is_written(folder: Path, slot: int) -> bool:
    """Whether a process has the slot."""
    try:
        path = _lock_path(folder, slot)
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        lock(file, path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def request_rotation(folder: Path) -> None:
    """Ask the running relays to begin new files; they look once a second. Raises OSError."""
    request = os.open(folder / ROTATION_REQUEST, os.O_CREAT | os.O_WRONLY, 0o600)
    give_to_owner_of(folder, request)
    os.utime(request)
    os.close(request)


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[int]:
    """Hold the lock of a file; wait until it is free.

    A missing file is made, unless `shared`: a reader may be using a read-only copy.
    """
    while True:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if shared else _open_lock(path)
        try:
            lock(file, path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
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
