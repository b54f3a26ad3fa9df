"""The hash chain through the lines of a journal (docs/audit.md), and the findings of its checks.

A line reads

    {"hash":"64 hex digits","n":17,...,"entry":{...},"personal":[PART,...]}

Its hash is SHA-256 of the line without its line end, with the hash of the line before in
place of its own, and with each part of `personal` replaced by that part's SHA-256. So a
part can be replaced by its digest for good, and the line still proves the rest. Each part
has a random salt, so that its digest gives nothing away.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256

import msgspec
from msgspec import Struct

_OPEN = b'{"hash":"'
_HASH_END = len(_OPEN) + 64
_MOST_DIGITS = 19
_NUMBER = b'","n":'
_NUMBER_START = _HASH_END + len(_NUMBER)
_PERSONAL = b',"personal":['
_CLOSE = b"]}"
_END = b"]}\n"
_HASH = re.compile(rb"[0-9a-f]{64}")

_read_number = msgspec.json.Decoder(int).decode
_read_parts = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Head(Struct, frozen=True):
    """The last line of a chain: number and hash; `START` before the first."""

    n: int
    hash: str


START = Head(0, "0" * 64)


TIME = "%Y-%m-%d %H:%M:%S"
"""How findings write a moment."""

DECISION = b'"entry":{"kind":"decision"'
ANCHOR = b'"entry":{"kind":"anchor"'
"""Only lines of these kinds contain these, so they are recognised without decoding."""

LONGEST_TRANSACTION = timedelta(hours=2)
"""The longest time from a decision to its line."""

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What reading broken JSON raises."""


class NotALine(ValueError):
    """Not a line of a chain; the text says why."""


class Chain:
    """The growing end of one chain. `opening` is how its last line begins, with its hash."""

    __slots__ = ("n", "opening")

    def __init__(self, head: Head = START) -> None:
        self.go_back(head)

    @property
    def head(self) -> Head:
        return Head(self.n, self.opening[len(_OPEN) :].decode())

    def go_back(self, head: Head) -> None:
        """Let the next line follow this one."""
        self.n = head.n
        self.opening = _OPEN + head.hash.encode()

    def seal(self, entry: bytes, personal: Sequence[bytes] = (), before: bytes = b"") -> bytes:
        """Return the next line, with its line end.

        `entry` is a JSON object; `before` are the members before it, each with a comma after
        it. Neither has a member named `personal`. `personal` are JSON objects, each with its
        own salt.
        """
        n = self.n = self.n + 1
        number = b'","n":%d,%b"entry":' % (n, before)
        if len(personal) == 1:  # as nearly always
            (parts,) = personal
            erased = b',"personal":["%b"]}' % sha256(parts).hexdigest().encode()
        else:
            parts = b",".join(personal)
            erased = _PERSONAL + b",".join([digest(part) for part in personal]) + _CLOSE
        sealed = sha256(b"".join((self.opening, number, entry, erased)))
        opening = self.opening = _OPEN + sealed.hexdigest().encode()
        return b"".join((opening, number, entry, _PERSONAL, parts, _END))


class Sealed(Struct, frozen=True):
    """A line taken apart. `rest` is between the hash and the parts."""

    n: int
    hash: bytes
    rest: bytes
    parts: tuple[bytes, ...]

    @property
    def head(self) -> Head:
        return Head(self.n, self.hash.decode())

    @property
    def erased(self) -> int:
        """How many parts were replaced by their digests."""
        return sum(part.startswith(b'"') for part in self.parts)

    def hash_after(self, previous: bytes) -> bytes:
        """Return the hash that the line should have if `previous` is that of the line before."""
        digests = b",".join([digest(part) for part in self.parts])
        sealed = b"".join((_OPEN, previous, self.rest, digests, _CLOSE))
        return sha256(sealed).hexdigest().encode()

    def without(self, indices: Collection[int]) -> bytes:
        """Return the line with these parts replaced by their digests, with its line end."""
        parts = [digest(p) if i in indices else p for i, p in enumerate(self.parts)]
        return b"".join((_OPEN, self.hash, self.rest, b",".join(parts), _END))


def digest(part: bytes) -> bytes:
    """Return what replaces a part when it is erased; an erased part unchanged."""
    return part if part.startswith(b'"') else b'"%b"' % sha256(part).hexdigest().encode()


def take_apart(line: bytes) -> Sealed:
    """Read a line into its parts, octet for octet. Raises NotALine."""
    start = line.find(_PERSONAL) + len(_PERSONAL)
    number_end = line.find(b",", _NUMBER_START)
    if (
        not line.startswith(_OPEN)
        or line[_HASH_END:_NUMBER_START] != _NUMBER
        or not _NUMBER_START < number_end < start
        or not line.endswith(_END)
        or _HASH.match(line, len(_OPEN)) is None
    ):
        raise NotALine("it does not have the form of a line")
    personal = line[start : -len(_END)]
    try:
        number = _read_number(line[_NUMBER_START:number_end])
        parts = tuple([bytes(raw) for raw in _read_parts(b"[%b]" % personal)]) if personal else ()
    except UNREADABLE as error:
        raise NotALine(f"it cannot be read: {error}") from None
    if b",".join(parts) != personal:
        raise NotALine("its personal parts were altered")
    return Sealed(number, line[len(_OPEN) : _HASH_END], line[_HASH_END:start], parts)


def number_of(line: bytes) -> int:
    """Return the number that a line claims, without reading the rest. Raises NotALine."""
    number = line[_NUMBER_START : line.find(b",", _NUMBER_START)]
    if not line.startswith(_OPEN) or not number.isdigit() or len(number) > _MOST_DIGITS:
        raise NotALine("it does not have the form of a line")
    return int(number)


def head_of(line: bytes) -> Head:
    """Return the number and the hash that a line claims. Raises NotALine."""
    return take_apart(line).head


MAX_FINDINGS = 1000
"""How many are kept of each kind; the others are only counted."""


class Kind(StrEnum):
    """The first ones are faults, those from `UNPROVEN` on are only worth knowing."""

    CHANGED = "changed"
    UNREADABLE = "unreadable"
    MISSING = "missing"
    REORDERED = "reordered"
    INSERTED = "inserted"
    CUT = "cut"
    MISPLACED = "misplaced"
    REWRITTEN = "rewritten"
    BACKDATED = "backdated"
    POSTDATED = "postdated"
    UNKNOWN = "unknown"
    HIDDEN = "hidden"
    RESTORED = "restored"
    ANCHOR = "anchor"
    UNPROVEN = "unproven"
    CLOCK = "clock"
    TORN = "torn"
    EXPIRED = "expired"
    ERASED = "erased"

    @property
    def wrong(self) -> bool:
        return self not in _NOTES


_NOTES = (Kind.UNPROVEN, Kind.CLOCK, Kind.TORN, Kind.EXPIRED, Kind.ERASED)

MEANING = {
    Kind.CHANGED: "Somebody edited the line, or the one before it, or the disk is failing.",
    Kind.UNREADABLE: "Somebody edited the line, or the disk is failing.",
    Kind.MISSING: "Somebody deleted lines or a file, or not all files were restored.",
    Kind.REORDERED: "Somebody moved the line.",
    Kind.INSERTED: "Somebody added the line, or copied it: one of the two was not written here.",
    Kind.CUT: "Somebody cut the end off, or an older copy of the file was restored.",
    Kind.MISPLACED: "Somebody renamed, split or joined files.",
    Kind.REWRITTEN: "Somebody rewrote these lines, with new hashes.",
    Kind.BACKDATED: "Somebody added the line later, with a date of the past.",
    Kind.POSTDATED: "Somebody dated the line in the future, or the clock was wrong.",
    Kind.UNKNOWN: "Somebody added the file: every anchor names all slots.",
    Kind.HIDDEN: "Somebody replaced personal data by digests without `contact erase`.",
    Kind.RESTORED: "An older copy of the file was restored, or somebody undid an erasure.",
    Kind.ANCHOR: "Somebody edited or cut anchors.ndjson, or an older copy was restored.",
    Kind.UNPROVEN: "It is only as genuine as this machine: no anchor seals it yet.",
    Kind.CLOCK: "The relay noted it: the clock was set, or the upstream kept a decision waiting.",
    Kind.TORN: "The relay was killed, or the disk was full. Nothing that passed is lost.",
    Kind.EXPIRED: "Files older than the retention period were deleted, and that was recorded.",
    Kind.ERASED: "Personal data was erased, and that was recorded.",
}


class Finding(Struct, frozen=True):
    """`line` counts from 1 within the file; None if the finding is about the file."""

    kind: Kind
    file: str
    line: int | None
    what: str
    n: int | None = None  # the line's number in the chain
    id: str | None = None  # of the decision on that line

    @property
    def meaning(self) -> str:
        return MEANING[self.kind]


class Witness(Struct, frozen=True):
    """The anchor up to which the record is proven. `kept`: a copy of it was kept elsewhere."""

    n: int
    at: datetime
    kept: bool


class Report(Struct):
    """What was checked, and what was found."""

    files: int = 0
    lines: int = 0
    decisions: int = 0
    erased: int = 0
    anchors: int = 0
    compared: int = 0  # anchors that were compared with a line
    heads: dict[int, Head] = {}
    witness: Witness | None = None
    proven: dict[int, int] = {}  # up to that row, by slot
    unproven: int = 0  # rows after those
    findings: list[Finding] = []
    counts: dict[Kind, int] = {}

    def add(
        self,
        kind: Kind,
        file: str,
        line: int | None,
        what: str,
        n: int | None = None,
        id: str | None = None,
    ) -> None:
        """Add a finding, with the fields of `Finding`."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if self.counts[kind] <= MAX_FINDINGS:
            self.findings.append(Finding(kind, file, line, what, n, id))

    @property
    def wrong(self) -> int:
        return sum(count for kind, count in self.counts.items() if kind.wrong)

    def faults(self) -> Iterator[Finding]:
        return (finding for finding in self.findings if finding.kind.wrong)

    def notes(self) -> Iterator[Finding]:
        return (finding for finding in self.findings if not finding.kind.wrong)
