"""Copies of an audit log at a target with files; `audit verify` can check a relay's folder there at
any moment.

Lines are shipped before the anchors over them, and no line before the anchor that it names. Files
replaced by an erasure are replaced there, and files deleted by retention deleted.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from smtpproxy.shipping.position import Placed, Position
from smtpproxy.shipping.targets import FileTarget, TargetUnavailable
from smtpproxy.sinks.audit.anchors import ExpiredFile, ExpiredRow, TrimmedRow, read_anchor
from smtpproxy.sinks.audit.chain import ANCHOR, NotALine, head_of
from smtpproxy.sinks.audit.files import ANCHORS, Octets, is_segment, segments, slot_of
from smtpproxy.sinks.audit.lines import AnchorEntry, BeginEntry, read_line

RELAY_FILE = "relay.json"
"""Names the relay of a folder."""

_GONE = (b'"entry":{"kind":"expired"', b'"entry":{"kind":"trimmed"')


class Shipped(Struct):
    """What was shipped: files written or extended, their new octets, and files removed."""

    files: int = 0
    octets: int = 0
    removed: int = 0

    def __add__(self, other: "Shipped") -> "Shipped":
        return Shipped(
            self.files + other.files, self.octets + other.octets, self.removed + other.removed
        )


class FileShipper:
    """Ships one relay's audit log to one target."""

    def __init__(
        self, folder: Path, relay: str, host: str, target: FileTarget, position: Position
    ) -> None:
        self._folder = folder
        self._whose = json.dumps({"relay": relay, "host": host}).encode() + b"\n"
        self._target = target
        self._position = position
        self._there: dict[str, int] | None = None  # sizes at the target; None: unknown

    def look(self) -> Shipped:
        """Ship what is new. Raises TargetUnavailable, OSError; the next call does the rest."""
        try:
            return self._round()
        except (TargetUnavailable, OSError):
            self._there = None
            raise

    def _round(self) -> Shipped:
        done = Shipped()
        if self._there is None:
            self._there = dict(self._target.sizes())
        if self._there.get(RELAY_FILE) != len(self._whose):
            self._target.put(RELAY_FILE, BytesIO(self._whose), len(self._whose))
            self._there[RELAY_FILE] = len(self._whose)
        with ExitStack() as stack:
            # In this order, so that the anchors include all erasures from the files.
            opened = dict(self._opened(stack, {}))
            anchors = self._opened_anchors(stack)
            opened |= self._opened(stack, opened)
            newest, size = _last_anchor(anchors)
            for files in segments(self._folder).values():
                for segment in files:
                    file = opened.get(segment.name)
                    grows = segment is files[-1]
                    if file and not self._ship(segment.name, file, newest, done, grows):
                        break
            if anchors is not None:
                self._place(ANCHORS, anchors, size, done, grows=True, whole=True)
        self._remove_expired(done)
        return done

    def _opened(
        self, stack: ExitStack, before: Mapping[str, BinaryIO]
    ) -> Iterator[tuple[str, BinaryIO]]:
        """Open the files that are not known to be the same at the target."""
        for files in segments(self._folder).values():
            for segment in files:
                if segment.name in before:
                    continue
                with suppress(FileNotFoundError):  # retention was faster
                    status = segment.path.stat()
                    if not self._is_there(segment.name, status):
                        yield segment.name, stack.enter_context(segment.path.open("rb"))

    def _is_there(self, name: str, status: os.stat_result) -> bool:
        placed, there = self._position.files.get(name), (self._there or {}).get(name)
        return (
            placed is not None
            and placed.whole
            # The time of change alone does not suffice: a tick of it may see several writes.
            and placed.size == there == status.st_size
            and _is_same(placed, status)
        )

    def _opened_anchors(self, stack: ExitStack) -> BinaryIO | None:
        try:
            return stack.enter_context((self._folder / ANCHORS).open("rb"))
        except FileNotFoundError:
            return None

    def _ship(self, name: str, file: BinaryIO, newest: int, done: Shipped, grows: bool) -> bool:
        """Ship a file up to the first line that names a later anchor than `newest`.

        Returns whether all of it was shipped.
        """
        placed = self._position.files.get(name)
        begin = placed.size if placed is not None and grows and _goes_on(placed, file) else 0
        end, whole = _shippable(file, begin, newest)
        self._place(name, file, end, done, grows=grows, whole=whole)
        return whole

    def _place(
        self, name: str, file: BinaryIO, end: int, done: Shipped, *, grows: bool, whole: bool
    ) -> None:
        """Ship the file up to `end`. One that no longer `grows` is shipped as a whole."""
        assert self._there is not None
        status = os.fstat(file.fileno())
        placed, there = self._position.files.get(name), self._there.get(name, -1)
        if not end:
            return
        if placed is not None and placed.size == there == end and _is_same(placed, status):
            if placed.whole == whole:
                return
        elif (
            placed is not None
            and grows
            and placed.size <= there
            and placed.size < end
            and _goes_on(placed, file)
        ):
            self._target.append(name, file, placed.size, end)
            done.files += 1
            done.octets += end - placed.size
        else:
            self._target.put(name, file, end)
            done.files += 1
            done.octets += end
        self._there[name] = end
        self._position.files[name] = Placed(
            status.st_ino, status.st_ctime_ns, end, _last_hash(file, end), whole
        )
        self._position.save()

    def _remove_expired(self, done: Shipped) -> None:
        """Remove what retention deleted here; files missing here for other reasons stay there."""
        assert self._there is not None
        here = {segment.name for files in segments(self._folder).values() for segment in files}
        gone = [name for name in self._there if is_segment(name) and name not in here]
        expired = _expired(self._folder) if gone else {}
        for name in gone:
            if name <= expired.get(slot_of(name), ""):
                self._target.remove(name)
                del self._there[name]
                self._position.files.pop(name, None)
                self._position.save()
                done.removed += 1


def _shippable(file: BinaryIO, begin: int, newest: int) -> tuple[int, bool]:
    """Return the end of the lines that name no later anchor, and whether that is the file's end."""
    data = Octets(file)
    end = data.line_start(len(data))
    if begin == 0 and _names(data[: data.find(b"\n") + 1]) > newest:
        return 0, False
    found = data.find(ANCHOR, begin, end)
    while found >= 0:
        start = data.line_start(found)
        stop = data.find(b"\n", found) + 1
        if _names(data[start:stop]) > newest:
            return start, False
        found = data.find(ANCHOR, stop, end)
    return end, True


def _is_same(placed: Placed, status: os.stat_result) -> bool:
    return (placed.inode, placed.changed) == (status.st_ino, status.st_ctime_ns)


def _goes_on(placed: Placed, file: BinaryIO) -> bool:
    """Whether a growing file continues what is at the target."""
    same = placed.inode == os.fstat(file.fileno()).st_ino
    return same and placed.last != "" and placed.last == _last_hash(file, placed.size)


_LONGEST = 1024 * 1024
"""Octets searched for a line; with a longer one, the whole file is shipped again."""


def _last_hash(file: BinaryIO, end: int) -> str:
    """Return the hash of the line that ends there, or "" if none does."""
    start = max(end - _LONGEST, 0)
    file.seek(start)
    octets = file.read(end - start)
    if len(octets) != end - start or not octets.endswith(b"\n"):
        return ""
    try:
        return head_of(octets[octets.rfind(b"\n", 0, -1) + 1 :]).hash
    except NotALine:
        return ""


def _names(line: bytes) -> int:
    """Return the number of the anchor that a line names, or 0."""
    with suppress(NotALine):
        entry = read_line(line).entry
        if isinstance(entry, AnchorEntry | BeginEntry) and entry.anchor is not None:
            return entry.anchor.n
    return 0


def _last_anchor(file: BinaryIO | None) -> tuple[int, int]:
    """Return the number of the last complete anchor, and the octets up to its end."""
    if file is None:
        return 0, 0
    data = Octets(file)
    size = end = data.line_start(len(data))
    while end > 0:
        start = data.line_start(end - 1)
        with suppress(NotALine):
            return read_anchor(data[start:end]).n, size
        end = start
    return 0, size


def _expired(folder: Path) -> Mapping[int, str]:
    """Return the newest file of each slot that retention deleted, by the anchors."""
    found: dict[int, str] = {}
    with suppress(FileNotFoundError), (folder / ANCHORS).open("rb") as lines:
        for raw in lines:
            if any(kind in raw for kind in _GONE):
                with suppress(NotALine):
                    row = read_anchor(raw).row
                    files: tuple[ExpiredFile, ...] = ()
                    if isinstance(row, ExpiredRow):
                        files = row.files
                    elif isinstance(row, TrimmedRow):
                        files = row.expired
                    for one in files:
                        found[one.slot] = max(one.file, found.get(one.slot, ""))
    return found
