"""Anchors: the ends of the chains of all slots at a time, kept on the disk.

They form a chain of their own, `anchors.ndjson`. Each is logged as well, so that a log
collector has a copy that nobody on this machine can change: a journal that is cut or
rewritten later no longer agrees with it (docs/audit.md).

anchor_scheduler.py says when they are taken.
"""

import os
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.disk import exists, sync_path
from smtpproxy.sinks.audit import files as journal_files
from smtpproxy.sinks.audit.chain import START, UNREADABLE, Chain, Head, NotALine, take_apart
from smtpproxy.sinks.audit.lines import CLOCK_TOLERANCE, After

_ERASURE = b'"entry":{"kind":"eras'

Why = Literal["begin", "end", "time", "lines", "asked"]
Restored = Literal["restored", "replayed", "lost"]

Heads = dict[str, After]
"""The last line of each slot, by the slot's number."""


class _Row(Struct, frozen=True, omit_defaults=True, tag_field="kind"):
    """What every row has: its time, and the end of each slot then."""

    at: datetime
    heads: Heads


class AnchorRow(_Row, frozen=True, tag="anchor"):
    """`set_back_from`, here and below: a time before, if the clock went back from there.

    `changes` is the end of the journal of changes.
    """

    why: Why
    set_back_from: datetime | None = None
    changes: Head | None = None


class ExpiredFile(Struct, frozen=True):
    """A file deleted by retention. `after` was the line before its first."""

    file: str
    slot: int
    after: Head
    last: Head


class ExpiredRow(_Row, frozen=True, tag="expired"):
    before: datetime
    files: tuple[ExpiredFile, ...]
    set_back_from: datetime | None = None


Parts = tuple[tuple[int, ...], ...]
"""Personal parts of a slot: for each line its number, then the indices of its parts."""


class ErasingRow(_Row, frozen=True, tag="erasing"):
    """Which personal parts of a file are about to be erased, and why."""

    why: str
    file: str
    slot: int
    parts: Parts
    set_back_from: datetime | None = None


class ErasedRow(_Row, frozen=True, tag="erased"):
    """The erasure of row `of` is done: the parts it names are gone."""

    of: int
    set_back_from: datetime | None = None


class TrimmedRow(_Row, frozen=True, tag="trimmed"):
    """The anchors up to `last` were deleted. `expired` is the newest expired file of each slot."""

    last: Head
    expired: tuple[ExpiredFile, ...]
    set_back_from: datetime | None = None


class RestoredRow(_Row, frozen=True, tag="restored"):
    """The store was restored from a backup, or what it lacked was replayed or given up as lost.

    `of` is when the backup was taken, `by` who decided, `replayed` how many changes came back.
    """

    what: Restored
    of: datetime
    by: str = ""
    reason: str = ""
    replayed: int = 0
    set_back_from: datetime | None = None


Row = AnchorRow | ExpiredRow | ErasingRow | ErasedRow | TrimmedRow | RestoredRow

Make = Callable[[datetime, Heads], Row]
"""Makes a row of the current time and heads."""


class Anchor(Struct, frozen=True):
    """A row with its place in the chain of anchors."""

    n: int
    hash: str
    row: Row

    @property
    def head(self) -> Head:
        return Head(self.n, self.hash)


class _Line(Struct, frozen=True):
    entry: Row


class _Numbered(Struct, frozen=True):
    """What is read of a line of the journal of changes."""

    n: int


_encode = msgspec.json.Encoder().encode
_decode_change = msgspec.json.Decoder(_Numbered).decode
_decoder: msgspec.json.Decoder[_Line] = msgspec.json.Decoder(_Line)


def take(
    folder: Path,
    why: Why,
    now: Callable[[], datetime],
    set_back_from: datetime | None = None,
    *,
    unless_within: float = 0.0,
) -> Anchor | None:
    """Record the present end of every slot, once that is on the disk. Raises OSError.

    Returns None if the newest anchor is younger than `unless_within` seconds, unless the clock was
    set back from a time since then.
    """

    def row(at: datetime, heads: Heads) -> AnchorRow:
        return AnchorRow(at, heads, why, set_back_from, _end_of_changes(folder))

    with journal_files.locked(folder / journal_files.ANCHORS) as file:
        newest = _newest(folder)
        if newest is not None and isinstance(newest.row, AnchorRow) and set_back_from is None:
            since = now() - newest.row.at
            if timedelta() <= since < timedelta(seconds=unless_within):
                return None
        return append(folder, file, now, row)


def note(folder: Path, now: Callable[[], datetime], make: Make) -> Anchor:
    """Record what is about to be done, or was done. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with journal_files.locked(folder / journal_files.ANCHORS) as file:
        return append(folder, file, now, make)


def restored_alone(folder: Path) -> tuple[RestoredRow, ...]:
    """Return the anchors if all of them are of restores that began; otherwise none."""
    rows = [anchor and anchor.row for anchor in each(folder)]
    restores = tuple(row for row in rows if isinstance(row, RestoredRow) and row.what == "restored")
    return restores if len(restores) == len(rows) else ()


def position(folder: Path) -> tuple[Head | None, Heads]:
    """Return the newest anchor, and the last line of each slot now."""
    last = newest(folder)
    return None if last is None else last.head, _heads(folder, last)[0]


def last_taken(folder: Path, before: datetime) -> datetime | None:
    """Return when the journal was last anchored, or None, not believing times from `before` on: a
    clock that was ahead has written them. Raises OSError."""
    rows = [anchor.row for anchor in each(folder, b'"kind":"anchor"') if anchor is not None]
    taken = (row.at for row in reversed(rows) if isinstance(row, AnchorRow))
    return next((at for at in taken if at < before), None)


def erasings(folder: Path) -> list[ErasingRow]:
    """Return what was recorded before each erasure. Raises OSError."""
    rows = [anchor.row for anchor in each(folder, _ERASURE) if anchor is not None]
    return [row for row in rows if isinstance(row, ErasingRow)]


def unfinished(folder: Path) -> dict[int, ErasingRow]:
    """Return the erasures that a crash interrupted, by anchor number."""
    found: dict[int, ErasingRow] = {}
    for anchor in filter(None, each(folder, _ERASURE)):
        if isinstance(anchor.row, ErasingRow):
            found[anchor.n] = anchor.row
        elif isinstance(anchor.row, ErasedRow):
            found.pop(anchor.row.of, None)
    return found


def each(folder: Path, containing: bytes = b"") -> Iterator[Anchor | None]:
    """Yield the anchors whose lines contain these octets; None for one that cannot be read, which
    `audit verify` reports. Raises OSError."""
    path = folder / journal_files.ANCHORS
    if not exists(path):
        return
    with path.open("rb") as lines:
        for raw in lines:
            if containing in raw:
                try:
                    yield read_anchor(raw)
                except NotALine:
                    yield None


def newest(folder: Path) -> Anchor | None:
    """Return the last readable anchor, or None."""
    try:
        return _newest(folder)
    except FileNotFoundError:
        return None


def read_anchor(line: bytes) -> Anchor:
    """Read a line of anchors.ndjson. Raises NotALine."""
    sealed = take_apart(line)
    try:
        return Anchor(sealed.n, sealed.head.hash, _decoder.decode(line).entry)
    except UNREADABLE as error:
        raise NotALine(f"not an anchor: {error}") from None


def _newest(folder: Path) -> Anchor | None:
    return journal_files.last_of(folder / journal_files.ANCHORS, read_anchor)[0]


def append(folder: Path, file: int, now: Callable[[], datetime], make: Make) -> Anchor:
    """Seal a row in the locked `file`. Its time is taken after the heads, so that none is newer."""
    newest, torn = journal_files.last_of(folder / journal_files.ANCHORS, read_anchor)
    heads, changed = _heads(folder, newest)
    row = make(now(), heads)
    for path in changed:
        sync_path(path)
    if newest is not None and newest.row.at - row.at > CLOCK_TOLERANCE / 2:
        row = replace(row, set_back_from=max(newest.row.at, row.set_back_from or newest.row.at))
    if torn:  # cut short by a crash: it never counted
        os.ftruncate(file, os.fstat(file).st_size - torn)
    chain = Chain(START if newest is None else newest.head)
    line = chain.seal(_encode(row))
    size = os.fstat(file).st_size
    try:
        written = os.write(file, line)
        if written != len(line):
            raise OSError(f"wrote {written} of {len(line)} bytes")
        os.fsync(file)
        sync_path(folder)
    except OSError:
        os.ftruncate(file, size)  # the next one would continue from a row that the disk lost
        raise
    return Anchor(chain.head.n, chain.head.hash, row)


def _heads(folder: Path, newest: Anchor | None) -> tuple[Heads, list[Path]]:
    """Return the end of each slot, the last known one if it has no file.

    And the files that may not be on the disk yet, including those just closed.
    """
    heads = {} if newest is None else dict(newest.row.heads)
    changed = []
    for slot, files in journal_files.segments(folder).items():
        last = journal_files.last_line(files)
        if last is not None:
            heads[str(slot)] = After(last.segment.name, last.head.n, last.head.hash)
        changed += [segment.path for segment in files[-2:]]
    return heads, changed


def _end_of_changes(folder: Path) -> Head | None:
    """Return the last line of the journal of changes, once it is on the disk."""
    files = sorted(folder.glob("changes-*.ndjson"), reverse=True)
    for path in files:
        sync_path(path)
        if (last := journal_files.last_of(path, _read_change)[0]) is not None:
            return last
    return None


def _read_change(line: bytes) -> Head:
    """Return a line's number, and its hash as the next line has it. Raises NotALine."""
    try:
        number = _decode_change(line).n
    except UNREADABLE as error:
        raise NotALine(f"not a change: {error}") from None
    return Head(number, sha256(line.removesuffix(b"\n")).hexdigest())
