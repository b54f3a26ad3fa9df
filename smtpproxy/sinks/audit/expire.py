"""Retention: whole files of the journal are deleted when their time is over.

What was deleted is written down first (anchors.py), so that `audit verify` knows a
beginning that is gone by retention from one that somebody removed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from smtpproxy.sinks.audit import anchor_trim, anchors, erase
from smtpproxy.sinks.audit import files as journal_files
from smtpproxy.sinks.audit.anchors import ExpiredFile
from smtpproxy.sinks.audit.chain import START, Head, NotALine, head_of
from smtpproxy.sinks.audit.files import (
    Segment,
    is_written,
    last_of,
    locked,
    segments,
    utc_now,
)
from smtpproxy.sinks.audit.lines import BeginEntry, read_line, time_of


@dataclass(frozen=True, slots=True)
class Expired:
    """What was deleted, or would be."""

    files: tuple[str, ...] = ()
    lines: int = 0
    octets: int = 0


def expirable(folder: Path, before: datetime) -> Expired:
    """Return what `expire` would delete now."""
    return _summary([(segment, _span(segment)) for segment in _outlived(folder, before)])


def expire(folder: Path, before: datetime, *, now: Callable[[], datetime] = utc_now) -> Expired:
    """Delete the files all of whose lines are older than `before`.

    Never one that is being written. Raises OSError; then what was not deleted is still
    there, and the next call deletes it.
    """
    if not folder.is_dir():
        return Expired()
    with locked(folder / journal_files.MAINTENANCE_LOCK):
        erase.finish(folder, now)
        chosen = [(segment, _span(segment)) for segment in _outlived(folder, before)]
        if chosen:
            files = tuple(
                ExpiredFile(segment.name, segment.slot, after, last)
                for segment, (after, last) in chosen
            )
            anchors.note_expired(folder, now, before, files)
        summary = _summary(chosen)
        for segment, _ in chosen:
            segment.path.unlink()
        journal_files.sync_folder(folder)
        if chosen:
            anchor_trim.trim(folder, now=now)
        return summary


def _outlived(folder: Path, before: datetime) -> Iterator[Segment]:
    """The oldest files of each slot; each ends where the next one begins."""
    for slot, files in segments(folder).items():
        for segment, following in pairwise(files):
            if following.begun > before:
                break
            yield segment
        else:
            last = files[-1]
            if not is_written(folder, slot):
                time, _ = last_of(last.path, time_of)
                if (time or last.begun) < before:
                    yield last


def _span(segment: Segment) -> tuple[Head, Head]:
    """The line before the file's first, and its last line."""
    after = START
    with segment.path.open("rb") as file:
        try:
            begin = read_line(file.readline()).entry
            if isinstance(begin, BeginEntry) and begin.after is not None:
                after = Head(begin.after.n, begin.after.hash)
        except NotALine:
            pass  # `audit verify` has said so all the time that it was there
    last, _ = last_of(segment.path, head_of)
    return after, last or after


def _summary(chosen: list[tuple[Segment, tuple[Head, Head]]]) -> Expired:
    return Expired(
        tuple(segment.name for segment, _ in chosen),
        sum(last.n - after.n for _, (after, last) in chosen),
        sum(segment.path.stat().st_size for segment, _ in chosen),
    )
