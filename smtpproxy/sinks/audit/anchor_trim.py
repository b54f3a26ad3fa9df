"""Retention of anchors: those that no file of the journal knows any more are deleted.

What was deleted is written down first, within the chain that remains, together with what
the deleted anchors said of expired files. `audit verify` takes a beginning that this row names
for what it is, and no other. No erasure is lost: it is younger than the file it is about.
"""

import os
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

from smtpproxy.sinks.audit import anchors
from smtpproxy.sinks.audit import files as journal_files
from smtpproxy.sinks.audit.anchors import Anchor, ExpiredFile, ExpiredRow, TrimmedRow
from smtpproxy.sinks.audit.chain import Head, NotALine
from smtpproxy.sinks.audit.files import ANCHORS, locked, segments
from smtpproxy.sinks.audit.lines import BeginEntry, read_line

_ASIDE = f".{ANCHORS}.trimming"
_WORTH = 1_000
_SHARE = 10
"""Fewer anchors, or a smaller part of all of them, are not worth a new file."""


def trim(folder: Path, *, now: Callable[[], datetime], worth: int = _WORTH) -> int:
    """Delete the anchors that are older than every file; return how many.

    The holder of the maintenance lock calls it. Raises OSError; then they are all there.
    """
    path = folder / ANCHORS
    if not path.exists():
        return 0
    with locked(path) as file:
        first = _first_named(folder)
        cut, last, count = _cut(path, first)
        if last is None or cut < max(worth, count // _SHARE):
            return 0
        anchors.note_trimmed(folder, file, now, last, _carried(path, cut))
        _write_rest(path, cut)
        journal_files.sync_folder(folder)
        return cut


def _first_named(folder: Path) -> int | None:
    """The number of the oldest anchor that a file may name; None where no file names any."""
    named = []
    for files in segments(folder).values():
        with files[0].path.open("rb") as lines:
            try:
                begin = read_line(lines.readline()).entry
            except NotALine:
                return 0  # who knows: keep them all
            if isinstance(begin, BeginEntry):
                named.append(0 if begin.anchor is None else begin.anchor.n)
    return min(named, default=None)


def _read(path: Path) -> Iterable[Anchor | None]:
    with path.open("rb") as lines:
        for raw in lines:
            try:
                yield anchors.read_anchor(raw)
            except NotALine:
                yield None


def _cut(path: Path, first: int | None) -> tuple[int, Head | None, int]:
    """How many lines go, the last anchor of them, and how many there are.

    The newest anchor always stays.
    """
    cut, last, number = 0, None, 0
    previous: Anchor | None = None
    for number, anchor in enumerate(_read(path)):
        if anchor is None:
            return 0, None, 0  # it is not as it was written: `audit verify` has to see it
        if previous is not None and (first is None or previous.n < first):
            cut, last = number, previous.head
        previous = anchor
    return cut, last, number + 1


def _carried(path: Path, cut: int) -> tuple[ExpiredFile, ...]:
    """What the first lines say that still counts."""
    expired: dict[int, ExpiredFile] = {}
    beginning = next(iter(_read(path)), None)
    before = beginning.n - 1 if beginning is not None else 0
    for number, anchor in enumerate(_read(path)):
        row = None if anchor is None else anchor.row
        # Of what was trimmed before, the row may stand further on.
        if isinstance(row, TrimmedRow) and row.last.n == before:
            expired = {file.slot: file for file in row.expired} | expired
        elif number < cut and isinstance(row, ExpiredRow):
            for file in row.files:
                expired[file.slot] = file
    return tuple(expired.values())


def _write_rest(path: Path, cut: int) -> None:
    """Put a file without the first lines in the place of the anchors."""
    aside = path.with_name(_ASIDE)
    aside.unlink(missing_ok=True)
    with path.open("rb") as old, aside.open("xb") as new:
        journal_files.make_alike(old.fileno(), new.fileno())
        for number, raw in enumerate(old):
            if number >= cut:
                new.write(raw)
        new.flush()
        os.fsync(new.fileno())
    aside.replace(path)
