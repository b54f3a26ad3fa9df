"""Retention: files of the journal are deleted when their period is over, and anchors with them.

What is deleted is recorded first (anchors.py), so that `audit verify` can tell a beginning
deleted by retention from one that somebody removed. Anchors older than every file are deleted too;
the remaining chain records that, with what they said about expired files. No record of an erasure
is lost, because it is newer than the file it concerns.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from msgspec import Struct

from smtpproxy import clock
from smtpproxy.disk import exists, flush, is_dir, sync_path
from smtpproxy.sinks.audit import anchors, erase
from smtpproxy.sinks.audit import files as journal_files
from smtpproxy.sinks.audit.anchors import Anchor, ExpiredFile, ExpiredRow, TrimmedRow
from smtpproxy.sinks.audit.chain import START, Head, NotALine, head_of
from smtpproxy.sinks.audit.files import (
    ANCHORS,
    Segment,
    is_written,
    last_of,
    locked,
    segments,
    start_times,
)
from smtpproxy.sinks.audit.lines import BeginEntry, read_line, time_of

_LONGEST = timedelta(days=30)
"""A file started longer ago is closed, so that its lines do not wait for much later ones."""


class Expired(Struct, frozen=True):
    """What was deleted, or would be."""

    files: tuple[str, ...] = ()
    lines: int = 0
    octets: int = 0


def expirable(
    folder: Path, before: datetime, *, now: Callable[[], datetime] = clock.now
) -> Expired:
    """Return what `expire` would delete now."""
    return _summary([(segment, _span(segment)) for segment in _outlived(folder, before, now())])


def expire(folder: Path, before: datetime, *, now: Callable[[], datetime] = clock.now) -> Expired:
    """Delete the files all of whose lines are older than `before`.

    Never one that is being written. After an OSError, the next call deletes what is left.
    """
    if not is_dir(folder):
        return Expired()
    with locked(folder / journal_files.MAINTENANCE_LOCK):
        erase.finish(folder, now)
        chosen = [(segment, _span(segment)) for segment in _outlived(folder, before, now())]
        if chosen:
            files = tuple(
                ExpiredFile(segment.name, segment.slot, after, last)
                for segment, (after, last) in chosen
            )
            anchors.note(folder, now, partial(ExpiredRow, before=before, files=files))
        summary = _summary(chosen)
        for segment, _ in chosen:
            segment.path.unlink()
        sync_path(folder)
        if chosen:
            trim(folder, now=now)
        if any(_is_long(folder, files, now()) for files in segments(folder).values()):
            journal_files.request_rotation(folder)
        return summary


def _is_long(folder: Path, files: Sequence[Segment], now: datetime) -> bool:
    """Whether the file being written would keep its first lines for too long."""
    age = now - start_times(files)[-1]
    return not timedelta() <= age <= _LONGEST and is_written(folder, files[-1].slot)


def _outlived(folder: Path, before: datetime, now: datetime) -> Iterator[Segment]:
    """Yield the oldest files of each slot.

    Each ends with its last line, or where the next one begins, whichever is later; times in the
    future are ignored, because a clock was ahead.
    """

    def past_time(line: bytes) -> datetime:
        if (time := time_of(line)) > now:
            raise NotALine("in the future")
        return time

    for slot, files in segments(folder).items():
        started = start_times(files)
        for number, segment in enumerate(files):
            if number + 1 == len(files) and is_written(folder, slot):
                break
            last, _ = last_of(segment.path, past_time)
            times = [*started[number : number + 2], last or started[number]]
            end = max((time for time in times if time <= now), default=now)
            if end > before or last == before:
                break
            yield segment


def _span(segment: Segment) -> tuple[Head, Head]:
    """Return the line before the file's first, and its last line."""
    after = START
    with segment.path.open("rb") as file:
        try:
            begin = read_line(file.readline()).entry
            if isinstance(begin, BeginEntry) and begin.after is not None:
                after = Head(begin.after.n, begin.after.hash)
        except NotALine:
            pass  # `audit verify` has always reported it
    last, _ = last_of(segment.path, head_of)
    return after, last or after


def _summary(chosen: list[tuple[Segment, tuple[Head, Head]]]) -> Expired:
    return Expired(
        tuple(segment.name for segment, _ in chosen),
        sum(last.n - after.n for _, (after, last) in chosen),
        sum(segment.path.stat().st_size for segment, _ in chosen),
    )


_ASIDE = f".{ANCHORS}.trimming"
_WORTH = 1_000
_SHARE = 10
"""Fewer anchors than this, or than one in so many, are not worth a new file."""


def trim(folder: Path, *, now: Callable[[], datetime], worth: int = _WORTH) -> int:
    """Delete the anchors that are older than every file; return how many.

    The caller holds the maintenance lock. Raises OSError; then all are still there.
    """
    path = folder / ANCHORS
    if not exists(path):
        return 0
    with locked(path) as file:
        first = _first_named(folder)
        cut, last, count = _cut(folder, first)
        if last is None or cut < max(worth, count // _SHARE):
            return 0
        row = partial(TrimmedRow, last=last, expired=_carried(folder, cut))
        anchors.append(folder, file, now, row)
        _write_rest(path, cut)
        sync_path(folder)
        return cut


def _first_named(folder: Path) -> int | None:
    """Return the number of the oldest anchor that a file may name, or None."""
    named = []
    for files in segments(folder).values():
        with files[0].path.open("rb") as lines:
            try:
                begin = read_line(lines.readline()).entry
            except NotALine:
                return 0  # unknown: keep them all
            if isinstance(begin, BeginEntry):
                named.append(0 if begin.anchor is None else begin.anchor.n)
    return min(named, default=None)


def _cut(folder: Path, first: int | None) -> tuple[int, Head | None, int]:
    """Return how many lines go, the last anchor among them, and how many lines there are.

    The newest anchor always stays.
    """
    cut, last, number = 0, None, 0
    previous: Anchor | None = None
    for number, anchor in enumerate(anchors.each(folder)):
        if anchor is None:
            return 0, None, 0  # it was altered: `audit verify` has to see it
        if previous is not None and (first is None or previous.n < first):
            cut, last = number, previous.head
        previous = anchor
    return cut, last, number + 1


def _carried(folder: Path, cut: int) -> tuple[ExpiredFile, ...]:
    """Return what the first lines say of expired files that still counts."""
    expired: dict[int, ExpiredFile] = {}
    beginning = next(anchors.each(folder), None)
    before = beginning.n - 1 if beginning is not None else 0
    for number, anchor in enumerate(anchors.each(folder)):
        row = None if anchor is None else anchor.row
        # The row about an earlier trimming may come later.
        if isinstance(row, TrimmedRow) and row.last.n == before:
            expired = {file.slot: file for file in row.expired} | expired
        elif number < cut and isinstance(row, ExpiredRow):
            for file in row.files:
                expired[file.slot] = file
    return tuple(expired.values())


def _write_rest(path: Path, cut: int) -> None:
    """Replace the anchors with a file without the first lines."""
    aside = path.with_name(_ASIDE)
    aside.unlink(missing_ok=True)
    with path.open("rb") as old, aside.open("xb") as new:
        journal_files.make_alike(old.fileno(), new.fileno())
        for number, raw in enumerate(old):
            if number >= cut:
                new.write(raw)
        flush(new)
    aside.replace(path)
