"""Follows the audit journal: the rows of each slot written since it was last read.

A running relay's files are read as far as they are written.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from msgspec import Struct

from smtpproxy.sinks.audit.chain import NotALine, number_of
from smtpproxy.sinks.audit.files import Segment, last_line, segments
from smtpproxy.sinks.audit.lines import DecisionEntry, Personal, read_line, time_of

_MATCHED = b'"suppressions":['
_MOST = 2_000
_ROWS = 1_000_000


Row = tuple[str, int, bytes]
"""The file's name, the number in the slot, and the line."""


class Matches(Struct, frozen=True):
    """The newest match by canonical address or whole domain, up to row `n` of a slot."""

    slot: int
    n: int
    newest: Mapping[str, datetime]


def newest_rows(folder: Path) -> dict[int, int]:
    """Return the number of the last row of each slot. Raises OSError."""
    lasts = {slot: last_line(files) for slot, files in segments(folder).items()}
    return {slot: last.head.n for slot, last in lasts.items() if last is not None}


class Tail:
    """The rows after those read. Remembers where a row ends in its file, so that checking a long
    file that has grown a little is fast."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # By slot: a row, its file, and its offset there.
        self._last: dict[int, tuple[int, str, int]] = {}

    def unread(
        self, read: Mapping[int, int], *, moves: bool = True
    ) -> Iterator[tuple[int, Iterator[Row]]]:
        """Yield each slot with rows after `read`, and these rows. Raises OSError.

        Callers that will not continue from there pass `moves=False`.
        """
        for slot, files in segments(self._folder).items():
            last, after = last_line(files), read.get(slot, 0)
            if last is not None and last.head.n != after:
                if last.head.n < after:
                    after = 0  # not the journal that was read
                yield slot, self._of_slot(slot, files, after, moves)

    def backlog(self, read: Mapping[int, int]) -> tuple[int, datetime | None]:
        """Return how many rows come after `read`, and the time of the oldest. Raises OSError."""
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
    ) -> Iterator[Row]:
        known, name, start = self._last.get(slot, (0, "", 0))
        begin = [place for place, file in enumerate(files) if file.name == name]
        files = files[begin[0] :] if known == after and begin else _from(files, after)
        for segment in files:
            with segment.path.open("rb") as lines:
                offset = start if known == after and segment.name == name else 0
                lines.seek(offset)
                if offset and not _is_row(lines.readline(), after):
                    offset = 0  # an erasure replaced the file
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
    """Yield the matches recorded after `read`, the last row of each slot that was read.

    About a thousand at a time; a slot's last part may be empty. Raises OSError.
    """
    for slot, rows in Tail(folder).unread(read):
        newest: dict[str, datetime] = {}
        n = pending = 0
        for _, number, raw in rows:
            n = max(n, number)
            pending += 1
            if _MATCHED in raw:
                _note(raw, newest)
            if len(newest) >= _MOST or pending >= _ROWS:
                yield Matches(slot, n, newest)
                newest, pending = {}, 0
        if pending:
            yield Matches(slot, n, newest)


def _from(files: Sequence[Segment], after: int) -> Sequence[Segment]:
    """Return the files that may hold rows after that one."""
    for place in range(len(files) - 1, 0, -1):
        with files[place].path.open("rb") as lines:
            try:
                if number_of(lines.readline()) <= after + 1:
                    return files[place:]
            except NotALine:
                continue
    return files


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
