"""Anchors under suspicion: their own chain, and what the journal has to agree with."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from smtpproxy.sinks.audit.anchors import (
    ErasedRow,
    RetiredFile,
    RetiredRow,
    TrimmedRow,
    read_anchor,
)
from smtpproxy.sinks.audit.chain import START, Head, NotALine, Sealed, take_apart
from smtpproxy.sinks.audit.files import ANCHORS
from smtpproxy.sinks.audit.findings import Finding, Kind, Report

_DIGEST = 32


@dataclass(frozen=True, slots=True)
class Seen:
    """What an anchor says of one slot: its line `head.n` had that hash, at that time."""

    head: Head
    file: str
    anchor: int
    at: datetime


class AnchorCheck:
    """Reads the anchors as far as they are written, and again when there are more."""

    def __init__(self, folder: Path, report: Report) -> None:
        self._path = folder / ANCHORS
        self._report = report
        self._position = 0
        self._line = 0
        self._head = START
        self._before = 0  # so many anchors were there before the first line
        self._begins_well = True  # nothing is missing there, or it is gone by retention
        self._digests = bytearray()  # of each anchor from there on; zero: not known
        self._first: Sealed | None = None  # where it is not anchor 1
        self._last_trimmed = START
        self._broken: set[int] = set()  # lines that are not as they were written
        self.retired: dict[int, list[RetiredFile]] = {}
        self.erased: dict[str, int] = {}
        self.slots: set[int] = set()
        self.torn = 0  # octets of an anchor at the end that is not whole

    def catch_up(self) -> None:
        """Read what has been written since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            for raw in file:
                if not raw.endswith(b"\n"):
                    self.torn = len(raw)  # or it is being written: it does not count yet
                    break
                self.torn = 0
                self._position += len(raw)
                self._line += 1
                self._read(raw)

    def _read(self, raw: bytes) -> None:
        try:
            sealed, anchor = take_apart(raw), read_anchor(raw)
        except NotALine as error:
            self._wrong(f"the line cannot be read: {error}", None)
            return
        if self._line == 1 and sealed.n > 1:
            self._begins_late(sealed)
        elif sealed.n != self._head.n + 1:
            self._wrong(f"anchor {sealed.n} stands after anchor {self._head.n}", sealed.n)
        elif sealed.hash_after(self._head.hash.encode()) != sealed.hash:
            self._wrong(f"anchor {sealed.n} is not as it was written", sealed.n)
        else:
            self._report.anchors += 1
        self._head = sealed.head
        self._remember(sealed.head)
        self.slots.update(int(slot) for slot in anchor.row.heads if slot.isdecimal())
        if isinstance(anchor.row, RetiredRow):
            for file in anchor.row.files:
                self.retired.setdefault(file.slot, []).append(file)
        elif isinstance(anchor.row, ErasedRow):
            self._add_erased(anchor.row.files)
        elif isinstance(anchor.row, TrimmedRow):
            self._trimmed(anchor.row)

    def _begins_late(self, first: Sealed) -> None:
        """The anchors before the first line are gone: a later line has to say so."""
        self._first = first
        self._before = first.n - 1
        self._begins_well = False

    def _trimmed(self, row: TrimmedRow) -> None:
        first = self._first
        if first is None or row.last.n != self._before or self._begins_well:
            return  # a crash left what was about to be deleted
        if first.hash_after(row.last.hash.encode()) == first.hash:
            self._begins_well = True
            self._report.anchors += 1
            self._last_trimmed = row.last
            for file in row.retired:
                self.retired.setdefault(file.slot, []).append(file)
            self._add_erased(row.erased)

    def _add_erased(self, files: dict[str, int]) -> None:
        for name, parts in files.items():
            self.erased[name] = self.erased.get(name, 0) + parts

    def check_beginning(self) -> None:
        """Say so where anchors are missing before the first line. Call it when all is read."""
        if not self._begins_well and self._first is not None:
            n = self._first.n
            what = f"anchor {n} stands first, and no anchor says that those before it were deleted"
            self._report.add(Finding(Kind.ANCHOR, ANCHORS, 1, what, n))

    def _remember(self, head: Head) -> None:
        start = (head.n - 1 - self._before) * _DIGEST
        if 0 <= start <= len(self._digests) + 1_000_000 * _DIGEST:
            self._digests.extend(bytes(max(0, start + _DIGEST - len(self._digests))))
            self._digests[start : start + _DIGEST] = bytes.fromhex(head.hash)

    def _wrong(self, what: str, n: int | None) -> None:
        self._broken.add(self._line)
        self._report.add(Finding(Kind.ANCHOR, ANCHORS, self._line, what, n))

    def knows(self, head: Head) -> str | None:
        """Say what is wrong with an anchor that the journal, or a copy elsewhere, names."""
        if head.n <= self._before and self._begins_well:
            last = self._last_trimmed
            if head.n < last.n or head.hash == last.hash:
                return None  # it is gone by retention
            return f"anchor {head.n} had the hash {head.hash}, and had {last.hash} when it went"
        start = (head.n - 1 - self._before) * _DIGEST
        known = bytes(self._digests[start : start + _DIGEST]) if start >= 0 else b""
        if known.hex() == head.hash:
            return None
        if not any(known):
            return f"anchor {head.n} is not there any more"
        return f"anchor {head.n} had the hash {head.hash}, and has {known.hex()} now"

    def of(self, slot: int) -> Iterator[Seen]:
        """Yield what sound anchors say of a slot, oldest first, each line once."""

        last = 0
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if number in self._broken or not raw.endswith(b"\n") or number > self._line:
                    continue
                anchor = read_anchor(raw)
                head = anchor.row.heads.get(str(slot))
                if head is not None and head.n > last:
                    last = head.n
                    yield Seen(Head(head.n, head.hash), head.file, anchor.n, anchor.row.at)
