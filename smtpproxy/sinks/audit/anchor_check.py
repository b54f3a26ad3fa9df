"""Checks the anchors: their own chain, and the lines and dates that have to agree with them."""

import re
from array import array
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from smtpproxy.disk import exists
from smtpproxy.sinks.audit.anchors import (
    Anchor,
    ErasedRow,
    ErasingRow,
    ExpiredFile,
    ExpiredRow,
    Row,
    TrimmedRow,
    read_anchor,
)
from smtpproxy.sinks.audit.chain import (
    START,
    TIME,
    Head,
    Kind,
    NotALine,
    Report,
    Sealed,
    Witness,
    take_apart,
)
from smtpproxy.sinks.audit.erase import ErasedParts
from smtpproxy.sinks.audit.files import ANCHORS
from smtpproxy.sinks.audit.lines import (
    CLOCK_TOLERANCE,
    BeginEntry,
    ClockEntry,
    DecisionEntry,
    read_line,
)

_DIGEST = 32
_SLOT = re.compile("[0-9]{1,6}")  # as in the name of a file
UNSEALED = "comes after the last one that proves anything"


class Sighting(Struct):
    """What an anchor says of one slot: its line `head.n` had that hash, at that time.

    By the anchors that followed, it was the last line at least until `until`. `set_back`: the
    clock was set back after the sighting before.
    """

    head: Head
    file: str
    anchor: int
    at: datetime
    until: datetime
    set_back: bool


class ExpiredClaim(Struct, frozen=True):
    """What an anchor says of a deleted file: all of it was older than `before`, unless None."""

    anchor: int
    before: datetime | None
    file: ExpiredFile


class AnchorCheck:
    """Reads the anchors as far as they are written, and later the new ones."""

    def __init__(self, folder: Path, report: Report) -> None:
        self._path = folder / ANCHORS
        self._report = report
        self._position = 0
        self._line = 0
        self._head = START
        self._at: datetime | None = None
        self._before = 0  # how many anchors preceded the first line
        self._begins_well = True  # nothing is missing there, or retention deleted it
        self._digests = bytearray()  # of each anchor from there on; zero: unknown
        self._first: Sealed | None = None  # if it is not anchor 1
        self._last_trimmed = START
        self._broken: set[int] = set()  # altered lines
        self._times = array("d")  # of each anchor there is, as `_digests`
        self._unfinished: dict[int, ErasingRow] = {}
        self.expired: dict[int, list[ExpiredFile]] = {}
        self.claims: list[ExpiredClaim] = []
        self.erased: dict[int, ErasedParts] = {}
        self.slots: set[int] = set()
        self.witness: Witness | None = None
        self.torn = 0  # octets of an incomplete anchor at the end

    def catch_up(self) -> None:
        """Read what has been written since the last call."""
        if not exists(self._path):
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            for raw in file:
                if not raw.endswith(b"\n"):
                    self.torn = len(raw)  # or is being written: it does not count yet
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
            # Anchors before it are gone; a later line has to say so.
            self._first, self._before, self._begins_well = sealed, sealed.n - 1, False
        elif sealed.n != self._head.n + 1:
            self._wrong(f"anchor {sealed.n} follows anchor {self._head.n}", sealed.n)
        elif sealed.hash_after(self._head.hash.encode()) != sealed.hash:
            self._wrong(f"anchor {sealed.n} was altered", sealed.n)
        else:
            self._report.anchors += 1
        self._head = sealed.head
        self._remember(sealed.head, anchor.row.at)
        self._compare_time(anchor.n, anchor.row)
        self.slots.update(int(slot) for slot in anchor.row.heads if _SLOT.fullmatch(slot))
        if isinstance(anchor.row, ExpiredRow):
            for file in anchor.row.files:
                self.expired.setdefault(file.slot, []).append(file)
                self.claims.append(ExpiredClaim(anchor.n, anchor.row.before, file))
        elif isinstance(anchor.row, ErasingRow):
            self._unfinished[anchor.n] = anchor.row
        elif isinstance(anchor.row, ErasedRow):
            self._add_erased(anchor.row.of, done=True)
        elif isinstance(anchor.row, TrimmedRow):
            self._trimmed(anchor.row)

    def _trimmed(self, row: TrimmedRow) -> None:
        first = self._first
        if first is None or row.last.n != self._before or self._begins_well:
            return  # a crash kept it from being deleted
        if first.hash_after(row.last.hash.encode()) == first.hash:
            self._begins_well = True
            self._report.anchors += 1
            self._last_trimmed = row.last
            for file in row.expired:
                self.expired.setdefault(file.slot, []).append(file)
                self.claims.append(ExpiredClaim(self._head.n, None, file))

    def _compare_time(self, n: int, row: Row) -> None:
        """Check that anchors are in order of time, except where one says the clock was set back."""
        newest, self._at = self._at, row.at
        if newest is None or newest - row.at <= CLOCK_TOLERANCE:
            return
        if row.set_back_from is None:
            what = f"anchor {n} is dated {row.at:{TIME}}, after one of {newest:{TIME}}"
            self._report.add(Kind.BACKDATED, ANCHORS, self._line, what, n)
        else:
            what = f"the clock was set back from {newest:{TIME}} to {row.at:{TIME}}"
            self._report.add(Kind.CLOCK, ANCHORS, self._line, what, n)

    def _add_erased(self, n: int, *, done: bool) -> None:
        row = self._unfinished.pop(n, None)
        if row is not None:
            self.erased.setdefault(row.slot, ErasedParts()).add(n, row.parts, done=done)

    def finish_reading(self) -> None:
        """Call it when all anchors to compare the journal with have been read."""
        for n in list(self._unfinished):
            self._add_erased(n, done=False)
        for parts in self.erased.values():
            parts.sort(sealed=0 if self.witness is None else self.witness.n)

    def choose_witness(self, kept: Sequence[Head]) -> None:
        """Choose the newest anchor with a copy elsewhere; without copies, the newest."""
        if not kept:
            if self._at is not None:
                self.witness = Witness(self._head.n, self._at, kept=False)
            return
        known = [head.n for head in kept if self._digest(head.n) == head.hash]
        newest = max(known, default=0)
        at = self._times[newest - 1 - self._before] if newest else 0.0
        self.witness = Witness(newest, datetime.fromtimestamp(at, UTC), kept=True)

    def check_beginning(self) -> None:
        """Report anchors missing before the first line. Call it when all are read."""
        if not self._begins_well and self._first is not None:
            n = self._first.n
            what = f"anchor {n} comes first, but no anchor says that those before it were deleted"
            self._report.add(Kind.ANCHOR, ANCHORS, 1, what, n)

    def _remember(self, head: Head, at: datetime) -> None:
        start = (head.n - 1 - self._before) * _DIGEST
        if 0 <= start <= len(self._digests) + 1_000_000 * _DIGEST:
            self._digests.extend(bytes(max(0, start + _DIGEST - len(self._digests))))
            self._digests[start : start + _DIGEST] = bytes.fromhex(head.hash)
            self._times.extend([0.0] * (len(self._digests) // _DIGEST - len(self._times)))
            self._times[start // _DIGEST] = at.timestamp()

    def _digest(self, n: int) -> str | None:
        """Return the hash of an anchor, if it is there."""
        start = (n - 1 - self._before) * _DIGEST
        known = bytes(self._digests[start : start + _DIGEST]) if start >= 0 else b""
        return known.hex() if any(known) else None

    def _wrong(self, what: str, n: int | None) -> None:
        self._broken.add(self._line)
        self._report.add(Kind.ANCHOR, ANCHORS, self._line, what, n)

    def knows(self, head: Head) -> str | None:
        """Return what is wrong with an anchor named by the journal or a copy elsewhere."""
        if head.n <= self._before and self._begins_well:
            last = self._last_trimmed
            if head.n < last.n or head.hash == last.hash:
                return None  # retention deleted it
            return f"anchor {head.n} had the hash {head.hash}, but {last.hash} when it was deleted"
        known = self._digest(head.n)
        if known == head.hash:
            return None
        if known is None:
            return f"anchor {head.n} is no longer there"
        return f"anchor {head.n} had the hash {head.hash}, but now has {known}"

    def of(self, slot: int) -> Iterator[Sighting]:
        """Yield what sound anchors say of a slot, oldest first, each line once.

        If anchors preceded a slot, START comes first.
        """
        if not exists(self._path):
            return
        seen: Sighting | None = None
        set_back = False
        for anchor in self._sound():
            at, after = anchor.row.at, anchor.row.heads.get(str(slot))
            head = START if after is None else Head(after.n, after.hash)
            set_back |= anchor.row.set_back_from is not None
            if seen is not None and head.n <= seen.head.n:
                back = anchor.row.set_back_from is not None
                seen.until = at if back else max(seen.until, at)
                continue
            if seen is not None:
                yield seen
            file = "" if after is None else after.file
            seen = Sighting(head, file, anchor.n, at, at, set_back)
            set_back = False
        if seen is not None:
            yield seen

    def _sound(self) -> Iterator[Anchor]:
        with self._path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if number > self._line:
                    return
                if number not in self._broken and raw.endswith(b"\n"):
                    yield read_anchor(raw)

    def check_claims(self) -> None:
        """Compare deletions that no kept anchor seals with what anchors saw, and when."""
        sealed = 0 if self.witness is None else self.witness.n
        claims = [claim for claim in self.claims if claim.anchor > sealed]
        if not claims:
            return
        wrong: set[ExpiredClaim] = set()
        for anchor in self._sound():
            for claim in claims:
                after = anchor.row.heads.get(str(claim.file.slot))
                n = 0 if after is None else after.n
                if (
                    claim.before is not None
                    and anchor.n < claim.anchor
                    and anchor.row.at - claim.before > CLOCK_TOLERANCE
                    and n < claim.file.last.n
                ):
                    wrong.add(claim)
        for claim in claims:
            file, name = claim.file, claim.file.file
            if claim in wrong and claim.before is not None:
                what = (
                    f"it is said to be older than {claim.before:{TIME}}, but anchors say otherwise"
                )
                self._report.add(Kind.MISSING, name, None, what, file.last.n)
            else:
                what = f"anchor {claim.anchor}, which says that it was deleted, {UNSEALED}"
                self._report.add(Kind.UNPROVEN, name, None, what, file.last.n)


_DATED = re.compile(
    rb'"entry":\{"kind":"decision","id":"[0-9A-Z]{26}","at":"([0-9]{4}-[0-9T:.-]{14,21})Z"'
)


class TimeOrder:
    """Checks the times of lines and anchors in order; methods return what is wrong, or None.

    Times are compared as written, and only parsed where they seem to go back.
    """

    def __init__(self) -> None:
        self._latest = b""
        self._since = b""  # the newest of the lines since the last anchor

    def line(self, sealed: Sealed, raw: bytes) -> str | None:
        """Check that a decision is not dated before what precedes it."""
        found = _DATED.search(sealed.rest)
        if found is not None and _plain(sealed.rest, found.end()):
            at = found[1]
        else:
            try:
                entry = read_line(raw).entry
            except NotALine:
                return None
            if isinstance(entry, ClockEntry):
                self._latest = _written(entry.at)
                self._set_back(entry.before)
                return None
            if not isinstance(entry, DecisionEntry):
                return None  # the upstream's answer may be recorded late
            at = _written(entry.at)
        self._since = max(self._since, at)
        return self._after_all(at)

    def begin(self, begin: BeginEntry) -> str | None:
        """Check a file's first line."""
        at = _written(begin.at)
        if begin.set_back_from is not None:
            self._set_back(begin.set_back_from)
        self._since = max(self._since, at)
        if begin.set_back_from is None:
            return self._after_all(at)
        self._latest = b""  # the next decision may have waited
        return None

    def anchor(self, seen: Sighting) -> str | None:
        """Check against an anchor that saw all lines up to here, and no more until `seen.until`."""
        self._latest = max(self._latest, _written(seen.until))
        since, self._since = self._since, b""
        if since and not seen.set_back and _read(since) - seen.at > CLOCK_TOLERANCE:
            return (
                f"a row up to here is dated {_read(since):{TIME}}, but anchor {seen.anchor} saw it"
                f" at {seen.at:{TIME}}"
            )
        return None

    def _set_back(self, before: datetime) -> None:
        """Excuse lines up to that time: the clock was ahead, and no anchor was taken meanwhile."""
        if self._since <= _written(before):
            self._since = b""

    def end(self, now: datetime | None) -> str | None:
        """Check that nothing is dated in the future."""
        if now is not None and self._since and _read(self._since) - now > CLOCK_TOLERANCE:
            return f"one of its rows is dated {_read(self._since):{TIME}}, but it is {now:{TIME}}"
        return None

    def _after_all(self, at: bytes) -> str | None:
        if at >= self._latest:
            self._latest = at
            return None
        latest = _read(self._latest)
        if latest - _read(at) <= CLOCK_TOLERANCE:
            return None
        return f"it is dated {_read(at):{TIME}}, but follows a row dated {latest:{TIME}}"


def _plain(rest: bytes, position: int) -> bool:
    """Whether the names found can only be those of the members meant."""
    return (
        rest.find(b'"at":"', position) < 0
        and rest.find(b'"entry":', position) < 0
        and b"\\u" not in rest
    )


def _written(at: datetime) -> bytes:
    return at.astimezone(UTC).isoformat().encode().removesuffix(b"+00:00")


def _read(at: bytes) -> datetime:
    try:
        return datetime.fromisoformat(at.decode()).replace(tzinfo=UTC)
    except ValueError:
        return datetime.max.replace(tzinfo=UTC)  # digits that are not a date
