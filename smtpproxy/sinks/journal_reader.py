"""Reading the audit journal: by id, by recipient, by time.

Works on a running relay's files: what is being written at the moment is left out.
"""

import mmap
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from smtpproxy.events import Decided
from smtpproxy.sinks.journal import DecisionLine, Line, OutcomeLine
from smtpproxy.ulid import time_of

_decode = msgspec.json.Decoder(Line).decode
_OUTCOME = b'{"kind":"outcome","id":"%s"'
_OUTCOME_WITHIN = 64 * 1024 * 1024
_NAME = re.compile(r"([0-3][0-9A-Z]{25})-([0-9]+)\.ndjson")
_CLOCK_SLACK = timedelta(seconds=1)
_LONGEST_TRANSACTION = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class Record:
    """One decision and what became of the message.

    `outcome` is None for a message that was not put to the upstream, and where the
    relay died before it could note the answer.
    """

    decided: Decided
    outcome: OutcomeLine | None = None


def find(folder: Path, id: str) -> list[Record]:
    """Return every record of that id, refusals at RCPT first; empty when there is none.

    Raises ValueError when `id` is no decision id.
    """
    began = datetime.fromtimestamp(time_of(id) / 1000, UTC)
    id = id.upper()
    needle = f'"id":"{id}"'.encode()
    lines: list[Line] = []
    for paths in _journals(folder, began, began + _LONGEST_TRANSACTION):
        lines += [line for line in _matching(paths, needle) if _id(line) == id]
    return list(_joined(lines))


def read(
    folder: Path,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    recipient: str | None = None,
    stream: str | None = None,
) -> Iterator[Record]:
    """Yield records, one worker's after the other, each about in the order of its journal.

    A message comes when its outcome is found; one without an outcome may come much later.
    `recipient` is a canonical address; `since` is inclusive, `until` exclusive.
    """
    needle = msgspec.json.encode(recipient) if recipient is not None else b""
    for paths in _journals(folder, since, until):
        for record in _joined(_matching(paths, needle) if needle else _lines(paths)):
            decided = record.decided
            if since is not None and decided.at < since:
                continue
            if until is not None and decided.at >= until:
                continue
            if stream is not None and decided.decision.stream.name != stream:
                continue
            if recipient is not None and all(
                entry.canonical != recipient for entry in decided.recipients
            ):
                continue
            yield record


def _journals(folder: Path, since: datetime | None, until: datetime | None) -> list[list[Path]]:
    """Each worker's files that may hold records of the period, or what became of them.

    A file's name tells when it was begun; it ends where the worker's next one begins.
    """
    begun: dict[str, list[tuple[datetime, Path]]] = {}
    for path in sorted(folder.glob("*.ndjson")):
        name = _NAME.fullmatch(path.name)
        if name is not None:
            time = datetime.fromtimestamp(time_of(name[1]) / 1000, UTC)
            begun.setdefault(name[2], []).append((time, path))
    journals = []
    for files in begun.values():
        times = [time for time, _ in files]
        first = 0 if since is None else max(bisect_left(times, since - _CLOCK_SLACK) - 1, 0)
        last = len(files) if until is None else bisect_left(times, until) + 1
        journals.append([path for _, path in files[first:last]])
    return journals


def _lines(paths: Sequence[Path]) -> Iterator[Line]:
    for path in paths:
        with path.open("rb") as file:
            for raw in file:
                if raw.endswith(b"\n"):
                    yield from _decoded(raw)


def _matching(paths: Sequence[Path], needle: bytes) -> Iterator[Line]:
    """The lines that hold `needle` and their outcomes, found without decoding the others."""
    for number, path in enumerate(paths):
        with _mapped(path) as data:
            position = data.find(needle)
            while position >= 0:
                start = data.rfind(b"\n", 0, position) + 1
                end = data.find(b"\n", position)
                if end < 0:
                    break
                for line in _decoded(data[start:end]):
                    yield line
                    if isinstance(line, DecisionLine) and line.decided.relayed:
                        yield from _outcome(data, end, paths[number + 1 :], line.decided.id)
                position = data.find(needle, end)


def _outcome(
    data: mmap.mmap | bytes, position: int, following: Sequence[Path], id: str
) -> Iterator[Line]:
    """The upstream's answer stands soon after the decision, or early in the next file."""
    needle = _OUTCOME % id.encode()
    start = data.find(needle, position, position + _OUTCOME_WITHIN)
    if start >= 0:
        yield from _decoded(data[start : data.find(b"\n", start)])
    elif following:
        with _mapped(following[0]) as later:
            start = later.find(needle, 0, _OUTCOME_WITHIN)
            if start >= 0:
                yield from _decoded(later[start : later.find(b"\n", start)])


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            yield b""  # cannot be mapped
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def _decoded(raw: bytes) -> Iterator[Line]:
    """The line, unless a torn write left something else there."""
    try:
        yield _decode(raw)
    except msgspec.DecodeError:
        return


def _id(line: Line) -> str:
    return line.decided.id if isinstance(line, DecisionLine) else line.id


def _joined(lines: Iterator[Line] | list[Line]) -> Iterator[Record]:
    """Give each decision its outcome, which stands within some thousand lines after it."""
    waiting: dict[str, Decided] = {}
    for line in lines:
        if isinstance(line, OutcomeLine):
            decided = waiting.pop(line.id, None)
            if decided is not None:
                yield Record(decided, line)
        elif line.decided.stage == "rcpt" or not line.decided.relayed:
            yield Record(line.decided)
        else:
            waiting[line.decided.id] = line.decided
            if len(waiting) > 20_000:
                yield Record(waiting.pop(next(iter(waiting))))
    for decided in waiting.values():
        yield Record(decided)
