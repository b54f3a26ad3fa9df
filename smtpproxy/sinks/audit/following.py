"""Following the audit journal: what was written since it was last read, by the rows of each slot.

A running relay's files are read as far as they are written.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from smtpproxy.sinks.audit.chain import NotALine, number_of
from smtpproxy.sinks.audit.files import Segment, last_line, segments
from smtpproxy.sinks.audit.lines import DecisionEntry, Personal, read_line, time_of

_MATCHED = b'"suppressions":['
_MOST = 2_000
_ROWS = 1_000_000


Row = tuple[int, bytes]
"""A line and its number in the slot."""


PlacedRow = tuple[str, int, bytes]
"""The name of the file, the number in the slot, and the line."""


@dataclass(frozen=True, slots=True)
class Matches:
    """The newest match of canonical addresses and whole domains, up to row `n` of a slot."""

    slot: int
    n: int
    newest: Mapping[str, datetime]


def newest_rows(folder: Path) -> dict[int, int]:
    """Return the number of the last row of each slot. Raises OSError."""
    lasts = {slot: last_line(files) for slot, files in segments(folder).items()}
    return {slot: last.head.n for slot, last in lasts.items() if last is not None}


def unread(folder: Path, read: Mapping[int, int]) -> Iterator[tuple[int, Iterator[Row]]]:
    """Yield each slot that has rows after `read`, and these. Raises OSError."""
    for slot, files, after in _with_more(folder, read):
        yield slot, _rows(_from(files, after), after)


def _with_more(
    folder: Path, read: Mapping[int, int]
) -> Iterator[tuple[int, Sequence[Segment], int]]:
    """Yield each slot that has rows after `read`, its files, and after which row to go on."""
    for slot, files in segments(folder).items():
        last = last_line(files)
        after = read.get(slot, 0)
        if last is None or last.head.n == after:
            continue
        yield slot, files, after if last.head.n > after else 0  # another journal than was read


class Tail:
    """What comes after the rows of each slot that were read. Remembers where in its file a row
    ends, so that a look at a long file that has grown a little is quick."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # By slot: a row, its file, and where it stands in it.
        self._last: dict[int, tuple[int, str, int]] = {}

    def unread(
        self, read: Mapping[int, int], *, moves: bool = True
    ) -> Iterator[tuple[int, Iterator[PlacedRow]]]:
        """Yield each slot that has rows after `read`, and these. Raises OSError.

        Who does not read on from there `moves` nothing.
        """
        for slot, files, after in _with_more(self._folder, read):
            yield slot, self._of_slot(slot, files, after, moves)

    def backlog(self, read: Mapping[int, int]) -> tuple[int, datetime | None]:
        """Return how many rows come after `read`, and of when the oldest is. Raises OSError."""
        lines, oldest = 0, []
        newest = newest_rows(self._folder)
        for slot, rows in self.unread(read, moves=False):
            after, last = read.get(slot, 0), newest.get(slot, 0)
            lines += last - after if last > after else last
            first = next(rows, None)
            if first is not None:
                with suppress(NotALine):
                    oldest.append(time_of(first[2]))
        return lines, min(oldest, default=None)

    def _of_slot(
        self, slot: int, files: Sequence[Segment], after: int, moves: bool
    ) -> Iterator[PlacedRow]:
        known, name, start = self._last.get(slot, (0, "", 0))
        begin = [place for place, file in enumerate(files) if file.name == name]
        files = files[begin[0] :] if known == after and begin else _from(files, after)
        for segment in files:
            with segment.path.open("rb") as lines:
                offset = start if known == after and segment.name == name else 0
                lines.seek(offset)
                if offset and not _is_row(lines.readline(), after):
                    offset = 0  # an erasure put another file there
                lines.seek(offset)
                for raw in lines:
                    if not raw.endswith(b"\n"):
                        break  # it is being written, or was cut short
                    offset += len(raw)
                    try:
                        number = number_of(raw)
                    except NotALine:
                        continue
                    if number > after:
                        if moves:
                            self._last[slot] = number, segment.name, offset - len(raw)
                        yield segment.name, number, raw


def _is_row(line: bytes, number: int) -> bool:
    try:
        return number_of(line) == number
    except NotALine:
        return False


def matches(folder: Path, read: Mapping[int, int]) -> Iterator[Matches]:
    """Yield the matches that were recorded since `read`: the last row of each slot that was read.

    A part of them at a time, a thousand or so; the last part of a slot may be empty. Raises
    OSError.
    """
    for slot, rows in unread(folder, read):
        yield from _of_slot(slot, rows)


def _from(files: Sequence[Segment], after: int) -> Sequence[Segment]:
    """The files that may hold later rows than that."""
    for place in range(len(files) - 1, 0, -1):
        with files[place].path.open("rb") as lines:
            try:
                if number_of(lines.readline()) <= after + 1:
                    return files[place:]
            except NotALine:
                continue
    return files


def _rows(files: Sequence[Segment], after: int) -> Iterator[Row]:
    for segment in files:
        with segment.path.open("rb") as lines:
            for raw in lines:
                if not raw.endswith(b"\n"):
                    break  # it is being written, or was cut short
                try:
                    number = number_of(raw)
                except NotALine:
                    continue
                if number > after:
                    yield number, raw


def _of_slot(slot: int, rows: Iterator[Row]) -> Iterator[Matches]:
    newest: dict[str, datetime] = {}
    n = untold = 0
    for number, raw in rows:
        n = max(n, number)
        untold += 1
        if _MATCHED in raw:
            _note(raw, newest)
        if len(newest) >= _MOST or untold >= _ROWS:
            yield Matches(slot, n, newest)
            newest, untold = {}, 0
    if untold:
        yield Matches(slot, n, newest)


def _note(raw: bytes, newest: dict[str, datetime]) -> None:
    try:
        line = read_line(raw)
    except NotALine:
        return
    if isinstance(line.entry, DecisionEntry):
        at = line.entry.at
        for part in line.personal:
            if not isinstance(part, Personal) or part.canonical is None or part.facts is None:
                continue
            for one in part.facts.suppressions:
                name = one.domain or one.read_as or part.canonical
                newest[name] = max(at, newest.get(name, at))
