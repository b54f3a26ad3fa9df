"""Anchors: where the chains of all slots stood at a time, on the disk for good.

They are a chain of their own, `anchors.ndjson`. Each goes to the log as well, so that a
log collector has a copy that nobody on this machine can change: a journal that is cut or
rewritten afterwards does not agree with it (docs/audit.md).
"""

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from smtpproxy.sinks.audit import files as journal_files
from smtpproxy.sinks.audit.chain import START, UNREADABLE, Chain, Head, NotALine, take_apart
from smtpproxy.sinks.audit.lines import After

Why = Literal["begin", "end", "time", "lines", "asked"]

Heads = dict[str, After]
"""The last line of each slot, by the slot's number."""


class AnchorRow(Struct, frozen=True, tag="anchor", tag_field="kind"):
    at: datetime
    heads: Heads
    why: Why


class RetiredFile(Struct, frozen=True):
    """A file that was deleted since its time was over. `after` was the line before its first."""

    file: str
    slot: int
    after: Head
    last: Head


class RetiredRow(Struct, frozen=True, tag="retired", tag_field="kind"):
    at: datetime
    heads: Heads
    before: datetime
    files: tuple[RetiredFile, ...]


class ErasedRow(Struct, frozen=True, tag="erased", tag_field="kind"):
    """How many personal parts were erased, by file."""

    at: datetime
    heads: Heads
    files: dict[str, int]


class TrimmedRow(Struct, frozen=True, tag="trimmed", tag_field="kind"):
    """The anchors up to `last` were deleted. What they said that still counts stands here:

    the newest retired file of each slot, and the erased parts of files that are still there.
    """

    at: datetime
    heads: Heads
    last: Head
    retired: tuple[RetiredFile, ...]
    erased: dict[str, int]


Row = AnchorRow | RetiredRow | ErasedRow | TrimmedRow


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


_encode = msgspec.json.Encoder().encode
_decoder: msgspec.json.Decoder[_Line] = msgspec.json.Decoder(_Line)


def take(folder: Path, why: Why, at: datetime, *, unless_within: float = 0.0) -> Anchor | None:
    """Write down where every slot stands now, once that is on the disk. Raises OSError.

    Returns None when the newest anchor is younger than `unless_within` seconds.
    """
    with journal_files.locked(folder / journal_files.ANCHORS) as file:
        newest = _newest(folder)
        if newest is not None and at - newest.row.at < timedelta(seconds=unless_within):
            return None
        row = AnchorRow(at, _heads(folder, newest), why)
        return _append(folder, file, newest, row)


def note_retired(
    folder: Path, at: datetime, before: datetime, files: tuple[RetiredFile, ...]
) -> Anchor:
    """Write down which files are about to be deleted. Raises OSError."""
    with journal_files.locked(folder / journal_files.ANCHORS) as file:
        newest = _newest(folder)
        row = RetiredRow(at, _heads(folder, newest), before, files)
        return _append(folder, file, newest, row)


def note_erased(folder: Path, at: datetime, files: dict[str, int]) -> Anchor:
    """Write down in which files personal parts are about to be erased. Raises OSError."""
    with journal_files.locked(folder / journal_files.ANCHORS) as file:
        newest = _newest(folder)
        return _append(folder, file, newest, ErasedRow(at, _heads(folder, newest), files))


def note_trimmed(
    folder: Path,
    file: int,
    at: datetime,
    last: Head,
    retired: tuple[RetiredFile, ...],
    erased: dict[str, int],
) -> Anchor:
    """Write down, as the holder of the lock, which anchors are about to be deleted."""
    newest = _newest(folder)
    row = TrimmedRow(at, _heads(folder, newest), last, retired, erased)
    return _append(folder, file, newest, row)


def newest(folder: Path) -> Anchor | None:
    """Return the last anchor; None where there is none that can be read."""
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
        raise NotALine(f"it is no anchor: {error}") from None


def _newest(folder: Path) -> Anchor | None:
    return journal_files.last_of(folder / journal_files.ANCHORS, read_anchor)[0]


def _append(folder: Path, file: int, newest: Anchor | None, row: Row) -> Anchor:
    _, torn = journal_files.last_of(folder / journal_files.ANCHORS, read_anchor)
    if torn:  # a crash cut it short: it never counted
        os.ftruncate(file, os.fstat(file).st_size - torn)
    chain = Chain(START if newest is None else newest.head)
    line = chain.seal(_encode(row))
    written = os.write(file, line)
    if written != len(line):
        os.ftruncate(file, os.fstat(file).st_size - written)
        raise OSError(f"wrote {written} of {len(line)} bytes")
    os.fsync(file)
    journal_files.sync_folder(folder)
    return Anchor(chain.head.n, chain.head.hash, row)


def _heads(folder: Path, newest: Anchor | None) -> Heads:
    """Where each slot stands, with what was known of those that have no file any more."""
    heads = {} if newest is None else dict(newest.row.heads)
    for slot, files in journal_files.segments(folder).items():
        last = journal_files.last_line(files)
        if last is not None:
            heads[str(slot)] = After(last.segment.name, last.head.n, last.head.hash)
        for segment in files[-2:]:  # a file that was just left is not on the disk yet
            _sync(segment.path)
    return heads


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
