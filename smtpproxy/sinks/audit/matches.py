"""Who matched a suppression, as the journal tells it: each match renews the suppression (A34).

The mail path pays nothing for that: the facts of each decision are on record anyway.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from smtpproxy.sinks.audit.chain import NotALine, number_of
from smtpproxy.sinks.audit.files import Segment, last_line, segments
from smtpproxy.sinks.audit.lines import DecisionEntry, Personal, read_line

_MATCHED = b'"suppressions":['
_MOST = 2_000
_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class Matches:
    """The newest match of canonical addresses and whole domains, up to row `n` of a slot."""

    slot: int
    n: int
    newest: Mapping[str, datetime]


def matches(folder: Path, read: Mapping[int, int]) -> Iterator[Matches]:
    """Yield the matches that were recorded since `read`: the last row of each slot that was read.

    A part of them at a time, a thousand or so; the last part of a slot may be empty. A
    running relay's files are read as far as they are written. Raises OSError.
    """
    for slot, files in segments(folder).items():
        last = last_line(files)
        after = read.get(slot, 0)
        if last is None or last.head.n == after:
            continue
        if last.head.n < after:  # another journal than the one that was read
            after = 0
        yield from _of_slot(slot, _from(files, after), after)


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


def _of_slot(slot: int, files: Sequence[Segment], after: int) -> Iterator[Matches]:
    newest: dict[str, datetime] = {}
    n = told = after
    for segment in files:
        with segment.path.open("rb") as lines:
            for raw in lines:
                if not raw.endswith(b"\n"):
                    break  # it is being written, or was cut short
                try:
                    number = number_of(raw)
                except NotALine:
                    continue
                if number <= after:
                    continue
                n = max(n, number)
                if _MATCHED in raw:
                    _note(raw, newest)
                if len(newest) >= _MOST or n - told >= _ROWS:
                    yield Matches(slot, n, newest)
                    newest, told = {}, n
    if n > told:
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
