"""Follows the chain of one slot, line by line, and reports where it is broken."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from msgspec import Struct

from smtpproxy.sinks.audit.anchor_check import AnchorCheck, Sighting, TimeOrder
from smtpproxy.sinks.audit.chain import (
    ANCHOR,
    DECISION,
    START,
    TIME,
    Head,
    Kind,
    NotALine,
    Report,
    Sealed,
    take_apart,
)
from smtpproxy.sinks.audit.erase import ErasedParts, Erasure
from smtpproxy.sinks.audit.files import Segment
from smtpproxy.sinks.audit.lines import (
    CLOCK_TOLERANCE,
    After,
    AnchorEntry,
    BeginEntry,
    ClockEntry,
    DecisionEntry,
    Line,
    read_line,
)
from smtpproxy.terminal import counted

_BEGIN = b'"entry":{"kind":"begin"'
_CLOCK = b'"entry":{"kind":"clock"'


class _Gap(Struct):
    """Numbers that were skipped. Those that follow later are `found`."""

    file: str
    line: int
    first: int
    last: int
    hint: str = ""
    found: set[int] = set()


class _Parts(Struct):
    """A file's parts: erased ones, of these the unproven ones, and those still to be erased."""

    erased: int = 0
    unsealed: int = 0
    left: int = 0


@dataclass(eq=False)
class ChainVerifier:
    """One slot. Call `file` for each file in order, then `end`.

    `progressed` is called with octets read; `named` gets anchors that lines name wrongly.
    """

    slot: int
    report: Report
    anchors: AnchorCheck
    named: list[tuple[Head, str, int]]
    progressed: Callable[[int], None]
    now: datetime | None

    def __post_init__(self) -> None:
        self._add = self.report.add
        self._seen: Iterator[Sighting] = self.anchors.of(self.slot)
        self._next: Sighting | None = next(self._seen, None)
        self._times = TimeOrder()
        self._erasures = self.anchors.erased.get(self.slot, ErasedParts())
        self._due = self._erasures.due
        self._proven = 0  # the last row that an anchor seals
        self._rewritten = False
        self._n: int | None = None  # None: before the first line
        self._hash = b""
        self._unreadable = 0  # lines since then
        self._last_file = ""
        self._gaps: list[_Gap] = []
        self._torn: dict[str, int] = {}

    def file(self, segment: Segment, *, whole: bool = True) -> None:
        """Follow the chain through one file; not `whole`: earlier files are taken on trust."""
        name, octets = segment.name, 0
        self._parts = _Parts()
        self.report.files += 1
        with segment.path.open("rb") as lines:
            for number, raw in enumerate(lines, 1):
                octets += len(raw)
                if not number % 1000:
                    self.progressed(octets)
                    octets = 0
                if not raw.endswith(b"\n"):
                    self._torn[name] = len(raw)
                    break
                try:
                    sealed = take_apart(raw)
                except NotALine as error:
                    self._unreadable += 1
                    self._add(Kind.UNREADABLE, name, number, f"the line cannot be read: {error}")
                    continue
                if number == 1:
                    self._first(segment, sealed, raw, whole=whole)
                elif _BEGIN in sealed.rest:
                    what = "a file's first line is in the middle of it"
                    self._add(Kind.MISPLACED, name, number, what, sealed.n)
                self._line(name, number, sealed, raw)
        self.progressed(octets)
        self._last_file = name
        self._note_parts(name)

    def end(self, *, complete: bool, written: bool) -> None:
        """Report what only the end shows; not `complete`: later files were not checked."""
        for gap in self._gaps:
            missing = gap.last - gap.first + 1 - len(gap.found)
            if missing:
                rows = _rows(gap.first, gap.last)
                what = f"{rows} {'is' if missing == 1 else 'are'} missing before this one"
                if gap.found:
                    what = f"{missing} of {rows} are missing before this one"
                self._add(Kind.MISSING, gap.file, gap.line, what + gap.hint, gap.last)
        for name, octets in self._torn.items():
            what = f"it ends in {counted(octets, 'octet')} of an incomplete line"
            if name != self._last_file:
                self._add(Kind.INSERTED, name, None, what)
            elif not written:
                self._add(Kind.TORN, name, None, what)
        if self._n is not None:
            self.report.heads[self.slot] = Head(self._n, self._hash.decode())
        if complete:
            self._compare_end()
            wrong = self._times.end(self.now)
            if wrong is not None:
                self._add(Kind.POSTDATED, self._last_file, None, wrong)
        witness = self.report.witness
        sealed = self._next is not None and witness is not None and self._next.anchor <= witness.n
        self.report.proven[self.slot] = self._proven
        if complete or not sealed:  # else it is sealed by a row of an unchecked file
            self._note_unproven()

    # one line

    def _line(self, name: str, number: int, sealed: Sealed, raw: bytes) -> None:
        self.report.lines += 1
        self.report.decisions += DECISION in sealed.rest
        due = sealed.n if self._n is None else self._n + 1
        if sealed.n < due:
            self._out_of_order(name, number, sealed, raw)
            return
        if sealed.n > due + self._unreadable:
            self._gaps.append(_Gap(name, number, due + self._unreadable, sealed.n - 1))
        elif sealed.n == due and sealed.hash_after(self._hash) != sealed.hash:
            what = "it does not match its hash and the line before"
            self._add(Kind.CHANGED, name, number, what, sealed.n, _id(raw))
        self._n, self._hash, self._unreadable = sealed.n, sealed.hash, 0
        if _BEGIN not in sealed.rest:
            wrong = self._times.line(sealed, raw)
            if wrong is not None:
                self._add(Kind.BACKDATED, name, number, wrong, sealed.n, _id(raw))
        if sealed.erased or (self._due is not None and self._due <= sealed.n):
            self._compare_parts(name, number, sealed, raw)
        if ANCHOR in sealed.rest or _CLOCK in sealed.rest:
            self._entry(name, number, sealed, raw)
        if self._next is not None and self._next.head.n <= sealed.n:
            self._compare(name, number, sealed.head)

    def _entry(self, name: str, number: int, sealed: Sealed, raw: bytes) -> None:
        line = _read(raw)
        entry = None if line is None else line.entry
        if isinstance(entry, AnchorEntry):
            self._name(entry.anchor, name, number)
        elif isinstance(entry, ClockEntry):
            what = f"the time goes back from {entry.before:{TIME}} to {entry.at:{TIME}}"
            self._add(Kind.CLOCK, name, number, what, sealed.n)

    def _out_of_order(self, name: str, number: int, sealed: Sealed, raw: bytes) -> None:
        for gap in self._gaps:
            if gap.first <= sealed.n <= gap.last and sealed.n not in gap.found:
                gap.found.add(sealed.n)
                what = f"row {sealed.n} follows row {self._n}"
                self._add(Kind.REORDERED, name, number, what, sealed.n, _id(raw))
                return
        what = f"row {sealed.n} was already there, before row {self._n}"
        self._add(Kind.INSERTED, name, number, what, sealed.n, _id(raw))

    # a file's first line

    def _first(self, segment: Segment, sealed: Sealed, raw: bytes, *, whole: bool) -> None:
        line = _read(raw)
        if line is None or not isinstance(line.entry, BeginEntry):
            what = "it does not begin with a file's first line"
            self._add(Kind.MISPLACED, segment.name, 1, what, sealed.n)
            return
        begin = line.entry
        if begin.file != segment.name:
            what = f"its first line says that it is {begin.file}"
            self._add(Kind.MISPLACED, segment.name, 1, what, sealed.n)
        if begin.anchor is not None:
            self._name(begin.anchor, segment.name, 1)
        after = START if begin.after is None else Head(begin.after.n, begin.after.hash)
        self._compare_begin(segment, sealed, begin)
        if self._n is None:
            self._n, self._hash = after.n, after.hash.encode()
            if whole and begin.after is not None:
                self._beginning(segment, begin.after)
        elif after.n > self._n + self._unreadable and begin.after is not None:
            hint = "" if begin.after.file == self._last_file else f", in {begin.after.file}"
            self._gaps.append(_Gap(segment.name, 1, self._n + self._unreadable + 1, after.n, hint))
            self._n, self._hash, self._unreadable = after.n, after.hash.encode(), 0
        self._compare_torn(begin)

    def _beginning(self, segment: Segment, after: After) -> None:
        """Check what is missing if the first file there is continues an earlier one."""
        expired = [file.last for file in self.anchors.expired.get(self.slot, ())]
        gone = max((last.n for last in expired if last.n <= after.n), default=0)
        if gone:
            what = f"{_rows(1, gone)} before it were deleted by retention"
            self._add(Kind.EXPIRED, segment.name, None, what, gone)
        if Head(after.n, after.hash) not in expired:
            first = gone + 1 if gone < after.n else 1
            self._gaps.append(_Gap(segment.name, 1, first, after.n, f", the last in {after.file}"))

    def _compare_torn(self, begin: BeginEntry) -> None:
        for name, recorded in begin.torn.items():
            found = self._torn.pop(name, 0)
            if found in (0, recorded):
                gone = "" if found else ", gone by now"
                what = f"it ends in {counted(recorded, 'octet')} of an incomplete line{gone}"
                self._add(Kind.TORN, name, None, what)
            else:
                what = (
                    f"it ends in {counted(found, 'octet')} of an incomplete line, but {recorded}"
                    " were recorded"
                )
                self._add(Kind.INSERTED, name, None, what)

    # what others say

    def _compare(self, name: str, number: int, head: Head) -> None:
        """Compare a line with what anchors saw; if one is rewritten, so are all later ones."""
        while self._next is not None and self._next.head.n <= head.n:
            seen = self._next
            self._next = next(self._seen, None)
            self._prove(seen)
            if seen.head.n < head.n:
                continue
            self.report.compared += 1
            wrong = self._times.anchor(seen)
            if wrong is not None:
                self._add(Kind.POSTDATED, name, number, wrong, head.n)
            if seen.head.hash != head.hash and not self._rewritten:
                self._rewritten = True
                what = f"anchor {seen.anchor} of {seen.at:{TIME}} saw another row {head.n}"
                self._add(Kind.REWRITTEN, name, number, what, head.n)

    def _compare_end(self) -> None:
        end = self._n
        if end is None:  # retention takes the oldest rows first, and the last only with all
            expired = self.anchors.expired.get(self.slot, ())
            end = max((file.last.n for file in expired), default=0)
        last: Sighting | None = None
        while self._next is not None:
            last, self._next = self._next, next(self._seen, None)
        if last is not None and last.head.n > end:
            what = (
                f"it ends with row {end}, but anchor {last.anchor} of {last.at:{TIME}} saw row "
                f"{last.head.n} in {last.file}"
            )
            self._add(Kind.CUT, self._last_file or last.file, None, what, end + 1)

    def _compare_begin(self, segment: Segment, sealed: Sealed, begin: BeginEntry) -> None:
        seen = self._next
        if self._n is None and seen is not None and seen.head == START:
            self._next = next(self._seen, None)
            if begin.after is None:
                self._times.anchor(seen)
                if begin.set_back_from is None and seen.until - begin.at > CLOCK_TOLERANCE:
                    what = (
                        f"it is said to begin at {begin.at:{TIME}}, but anchors until "
                        f"{seen.until:{TIME}} know no such slot"
                    )
                    self._add(Kind.UNKNOWN, segment.name, 1, what, sealed.n)
                    self._times = TimeOrder()
        wrong = self._times.begin(begin)
        if wrong is not None:
            self._add(Kind.BACKDATED, segment.name, 1, wrong, sealed.n)
        if begin.set_back_from is not None:
            what = f"the clock was set back from {begin.set_back_from:{TIME}} to {begin.at:{TIME}}"
            self._add(Kind.CLOCK, segment.name, 1, what, sealed.n)

    def _prove(self, seen: Sighting) -> None:
        witness = self.report.witness
        if witness is not None and seen.anchor <= witness.n:
            self._proven = seen.head.n

    def _note_unproven(self) -> None:
        """Report what comes after the last anchor."""
        last = self._n or 0
        if last > self._proven:
            self.report.unproven += last - self._proven
            rows = _rows(self._proven + 1, last)
            what = f"{rows} {'comes' if last == self._proven + 1 else 'come'} after the last anchor"
            self._add(Kind.UNPROVEN, self._last_file, None, what, self._proven + 1)

    def _compare_parts(self, name: str, number: int, sealed: Sealed, raw: bytes) -> None:
        """Compare the parts of a line with those recorded as erased."""
        recorded = self._erasures.of(sealed.n)
        self._due = self._erasures.due
        for place, part in enumerate(sealed.parts):
            erasure = recorded.get(place)
            if part.startswith(b'"'):
                self.report.erased += 1
                if erasure is None:
                    what = (
                        f"personal part {place + 1} is gone, but no record says that it was erased"
                    )
                    self._add(Kind.HIDDEN, name, number, what, sealed.n, _id(raw))
                else:
                    self._parts.erased += 1
                    self._parts.unsealed += Erasure.SEALED not in erasure
            elif erasure is not None and Erasure.DONE in erasure:
                what = f"personal part {place + 1} was erased, but is back"
                self._add(Kind.RESTORED, name, number, what, sealed.n, _id(raw))
            elif erasure is not None:
                self._parts.left += 1

    def _note_parts(self, name: str) -> None:
        parts = self._parts
        if parts.erased or parts.left:
            are = "part is" if parts.erased == 1 else "parts are"
            left = f"; {parts.left} more are recorded, but still there" if parts.left else ""
            self._add(Kind.ERASED, name, None, f"{parts.erased} personal {are} erased{left}")
        if parts.unsealed:
            are = "part is" if parts.unsealed == 1 else "parts are"
            what = f"{parts.unsealed} personal {are} erased by anchors after the last proven one"
            self._add(Kind.UNPROVEN, name, None, what)

    def _name(self, anchor: Head, name: str, number: int) -> None:
        if self.anchors.knows(anchor):  # it may have been written since the anchors were read
            self.named.append((anchor, name, number))


def _rows(first: int, last: int) -> str:
    return f"row {first}" if first == last else f"rows {first} to {last}"


def _read(raw: bytes) -> Line | None:
    try:
        return read_line(raw)
    except NotALine:
        return None


def _id(raw: bytes) -> str | None:
    line = _read(raw)
    return line.entry.id if line is not None and isinstance(line.entry, DecisionEntry) else None
