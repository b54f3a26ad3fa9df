"""What a look through the journal finds, in words for whoever has to act on it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from smtpproxy.sinks.audit.chain import Head

MOST = 1000
"""So many findings are kept; the others are counted."""


class Kind(StrEnum):
    """The first of them are wrong, those from `UNPROVEN` on are worth knowing."""

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
    Kind.INSERTED: "Somebody added the line, or copied it; one of the two was not written here.",
    Kind.CUT: "Somebody cut the end off, or an older copy of the file was restored.",
    Kind.MISPLACED: "Somebody renamed, split or joined files.",
    Kind.REWRITTEN: "Somebody wrote these lines anew, with new hashes.",
    Kind.BACKDATED: "Somebody added the line later, with a date of the past.",
    Kind.POSTDATED: "Somebody dated the line in the future, or the clock was wrong.",
    Kind.UNKNOWN: "Somebody added the file: every anchor names all slots that there are.",
    Kind.HIDDEN: "Somebody replaced personal data by digests without `contact erase`.",
    Kind.RESTORED: "An older copy of the file was restored, or somebody undid an erasure.",
    Kind.ANCHOR: "Somebody edited or cut anchors.ndjson, or an older copy was restored.",
    Kind.UNPROVEN: "It is as genuine as the machine that it is on: no anchor seals it yet.",
    Kind.CLOCK: "The relay noted it: the clock was set, or the upstream kept a decision waiting.",
    Kind.TORN: "The relay was killed, or the disk was full. Nothing that passed is lost.",
    Kind.EXPIRED: "Files older than the retention period were deleted, and that was recorded.",
    Kind.ERASED: "Personal data was erased, and that was recorded.",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """`line` counts from 1 within the file; None where the finding is about the file."""

    kind: Kind
    file: str
    line: int | None
    what: str
    n: int | None = None  # the line's number in the chain
    id: str | None = None  # of the decision on that line

    @property
    def meaning(self) -> str:
        return MEANING[self.kind]


@dataclass(frozen=True, slots=True)
class Witness:
    """The anchor up to which the record is proven. `kept`: a copy of it was kept elsewhere."""

    n: int
    at: datetime
    kept: bool


@dataclass(slots=True)
class Report:
    """What was looked at, and what was found."""

    files: int = 0
    lines: int = 0
    decisions: int = 0
    erased: int = 0
    anchors: int = 0
    compared: int = 0  # anchors that a line was held against
    heads: dict[int, Head] = field(default_factory=dict)
    witness: Witness | None = None
    proven: dict[int, int] = field(default_factory=dict)  # up to that row, by slot
    unproven: int = 0  # rows behind those
    findings: list[Finding] = field(default_factory=list)
    counts: dict[Kind, int] = field(default_factory=dict)

    def add(self, finding: Finding) -> None:
        self.counts[finding.kind] = self.counts.get(finding.kind, 0) + 1
        if self.counts[finding.kind] <= MOST:
            self.findings.append(finding)

    @property
    def wrong(self) -> int:
        return sum(count for kind, count in self.counts.items() if kind.wrong)

    def faults(self) -> Iterator[Finding]:
        return (finding for finding in self.findings if finding.kind.wrong)

    def notes(self) -> Iterator[Finding]:
        return (finding for finding in self.findings if not finding.kind.wrong)
