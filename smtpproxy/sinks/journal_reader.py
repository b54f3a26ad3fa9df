"""Reading the audit journal: by id, by recipient, by time.

Works on a running relay's files: what is being written at the moment is left out.
"""

import mmap
from collections.abc import Iterator
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
    needle = f'"id":"{id.upper()}"'.encode()
    lines: list[Line] = []
    for path in _segments(folder, began, began + _LONGEST_TRANSACTION):
        lines += [line for line in _matching(path, needle) if _id(line) == id.upper()]
    return list(_joined(lines))


def read(
    folder: Path,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    recipient: str | None = None,
    stream: str | None = None,
) -> Iterator[Record]:
    """Yield records in the order of each worker's journal, one worker after the other.

    `recipient` is a canonical address; `since` is inclusive, `until` exclusive.
    """
    needle = msgspec.json.encode(recipient) if recipient is not None else b""
    for path in _segments(folder, since, until):
        for record in _joined(_matching(path, needle) if needle else _lines(path)):
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


def _segments(folder: Path, since: datetime | None, until: datetime | None) -> list[Path]:
    """The files that may hold records of the period; their names tell when each was begun."""
    paths = sorted(folder.glob("*.ndjson"))
    chosen = []
    following: dict[str, datetime] = {}
    for path in reversed(paths):
        begun_id, _, worker = path.stem.partition("-")
        begun = datetime.fromtimestamp(time_of(begun_id) / 1000, UTC)
        ended = following.get(worker)
        following[worker] = begun
        if until is not None and begun >= until:
            continue
        if since is not None and ended is not None and ended < since:
            continue
        chosen.append(path)
    return chosen[::-1]


def _lines(path: Path) -> Iterator[Line]:
    with path.open("rb") as file:
        for raw in file:
            if raw.endswith(b"\n"):
                yield from _decoded(raw)


def _matching(path: Path, needle: bytes) -> Iterator[Line]:
    """The lines that hold `needle`, found without decoding the others."""
    if path.stat().st_size == 0:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        position = data.find(needle)
        while position >= 0:
            start = data.rfind(b"\n", 0, position) + 1
            end = data.find(b"\n", position)
            if end < 0:
                return
            for line in _decoded(data[start:end]):
                yield line
                if isinstance(line, DecisionLine) and line.decided.relayed:
                    yield from _outcome_after(data, end, line.decided.id)
            position = data.find(needle, end)


def _outcome_after(data: mmap.mmap, position: int, id: str) -> Iterator[Line]:
    """The upstream's answer stands soon after the decision."""
    start = data.find(_OUTCOME % id.encode(), position, position + _OUTCOME_WITHIN)
    end = data.find(b"\n", start) if start >= 0 else -1
    if end >= 0:
        yield from _decoded(data[start:end])


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
