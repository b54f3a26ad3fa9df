"""Reads the audit journal by id, recipient or time.

Works on a running relay's files: a line that is just being written is left out.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from msgspec import Struct

from smtpproxy.events import Decided, time_of, time_span
from smtpproxy.policy.model import Action, Reason, Verdict
from smtpproxy.sinks.audit import files as journal_files
from smtpproxy.sinks.audit import lines as journal_lines
from smtpproxy.sinks.audit.chain import LONGEST_TRANSACTION, NotALine
from smtpproxy.sinks.audit.files import EARLIEST, Octets, of_period, opened
from smtpproxy.sinks.audit.lines import CLOCK_TOLERANCE, DecisionEntry, PersonalAnswerEntry

_OUTCOME_WITHIN = 64 * 1024 * 1024
_NAMED = 3
_CLOCK_SLACK = timedelta(seconds=1)
_USUAL_TRANSACTION = timedelta(minutes=5)


class Place(Struct, frozen=True):
    """The position of a line, and its hash; what that proves, verify.py finds out."""

    file: str
    n: int
    hash: str

    @property
    def slot(self) -> int:
        return journal_files.slot_of(self.file)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The upstream's answer. `reply` is None if it named a person who was erased.

    `each` are its replies by recipient, if each gets a message of their own. `place` is that
    of the line with the answer.
    """

    id: str
    at: datetime
    code: int
    reply: str | None
    each: tuple[str, ...] = ()
    place: Place | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Record:
    """One decision and the outcome of the message.

    `outcome` is None if the message was not offered to the upstream, or the relay died before it
    could record the answer. `place` is that of the decision.
    """

    decided: Decided
    outcome: Outcome | None = None
    place: Place | None = field(default=None, compare=False)

    def outcome_of(self, index: int) -> Outcome | None:
        """Return the upstream's answer for the recipient at that index of the decision.

        The same for all, unless each gets a message of their own. None if it is unknown, or
        there was none.
        """
        if self.outcome is None or not self.outcome.each:
            return self.outcome
        reply = self.outcome.each[index]
        if not reply:
            return None
        whole = self.outcome
        return Outcome(whole.id, whole.at, int(reply[:3]), reply, place=whole.place)


def find(folder: Path, id: str) -> list[Record]:
    """Return every record of that id, as they were recorded; empty if there is none.

    The first characters of an id suffice. Raises ValueError if `id` is not a decision id, or
    several begin with it.
    """
    first, last = (datetime.fromtimestamp(each / 1000, UTC) for each in time_span(id))
    id = id.upper()
    needle = f'"id":"{id}'.encode()
    entries: list[_Entry] = []
    for paths in _journals(folder, first, last + LONGEST_TRANSACTION):
        entries += [entry for entry in _matching(paths, needle) if _id(entry).startswith(id)]
    found = sorted({_id(entry) for entry in entries})
    if len(found) > 1:
        several = ", ".join(found[:_NAMED]) + (" …" if len(found) > _NAMED else "")
        raise ValueError(f"{len(found)} decisions begin with {id}: {several}")
    return sorted(_joined(entries), key=_row)


def decision(folder: Path, id: str) -> Decided | None:
    """Return the decision on the message with that id; None if it is not recorded.

    Fast in journals of any size, as the id tells the time. Raises ValueError if `id` is not a
    decision id.
    """
    began = datetime.fromtimestamp(time_of(id) / 1000, UTC)
    needle = f'"id":"{id}"'.encode()
    for longest in (_USUAL_TRANSACTION, LONGEST_TRANSACTION):
        since, until = began - CLOCK_TOLERANCE, began + longest
        for paths in _journals(folder, began, until):
            for entry in _matching(paths, needle, since, until):
                if isinstance(entry, Record) and entry.decided.stage == "data":
                    return entry.decided
    return None


def read(
    folder: Path,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    recipient: str | None = None,
    stream: str | None = None,
    verdict: Action | None = None,
    reason: Reason | None = None,
    app: str | None = None,
    message_id: str | None = None,
    between: Callable[[], None] = lambda: None,
) -> Iterator[Record]:
    """Yield records, one worker's after the other, roughly in the order of its journal.

    A message comes when its outcome is found; one without an outcome may come much later.
    `since` is inclusive, `until` exclusive; see `Filter` for the others. `between` is called
    every few MB; what it raises ends the reading.
    """
    chosen = Filter(recipient, stream, verdict, reason, app, message_id)
    needle = chosen.needle
    for paths in _journals(folder, since, until):
        for record in _joined(
            _matching(paths, needle, between=between) if needle else _entries(paths)
        ):
            at = record.decided.at
            in_time = (since is None or at >= since) and (until is None or at < until)
            if in_time and chosen.has(record.decided):
                yield record


_Entry = Record | Outcome


def _journals(folder: Path, since: datetime | None, until: datetime | None) -> list[list[Path]]:
    """Return each slot's files that may hold records of the period, or their outcomes."""
    first = since and max(since, EARLIEST + _CLOCK_SLACK) - _CLOCK_SLACK
    return [
        [segment.path for segment in chosen]
        for files in journal_files.segments(folder).values()
        for chosen in of_period(files, first, until, and_next=True)
    ]


def _entries(paths: Sequence[Path]) -> Iterator[_Entry]:
    for path in paths:
        with path.open("rb") as file:
            for raw in file:
                if raw.endswith(b"\n"):
                    yield from _decoded(raw, path)


def _matching(
    paths: Sequence[Path],
    needle: bytes,
    since: datetime | None = None,
    until: datetime | None = None,
    between: Callable[[], None] = lambda: None,
) -> Iterator[_Entry]:
    """Yield the decisions containing `needle` and their outcomes, without decoding the others.

    `since` and `until` narrow the search; if the clock was set back, some may be missed.
    """
    for number, path in enumerate(paths):
        with opened(path) as data:
            begin = 0 if since is None else _offset(data, since, path)
            stop = len(data) if until is None else _offset(data, until, path) + _NEAR
            position = _find(data, needle, begin, stop, between)
            while position >= 0:
                end = data.find(b"\n", position)
                if end < 0:
                    break
                for entry in _line_at(data, position, path):
                    if isinstance(entry, Record):
                        yield entry
                        if entry.decided.relayed:
                            id = entry.decided.id
                            yield from _outcome(data, end, path, paths[number + 1 :], id)
                position = _find(data, needle, end, stop, between)


_AT_ONCE = 8 * 1024 * 1024


def _find(data: Octets, needle: bytes, begin: int, stop: int, between: Callable[[], None]) -> int:
    """Find as `data.find` does, but let other threads run now and then."""
    for start in range(begin, max(stop, begin + 1), _AT_ONCE):
        between()
        found = data.find(needle, start, min(stop, start + _AT_ONCE + len(needle) - 1))
        if found >= 0:
            return found
    return -1


_NEAR = 256 * 1024  # octets that are searched through, not halved again


def _offset(data: Octets, moment: datetime, path: Path) -> int:
    """Return where a file's lines from that moment on begin, or an earlier offset: times ascend."""
    low, high = 0, len(data)
    while high - low > _NEAR:
        middle = (low + high) // 2
        at, line = None, data.find(b"\n", middle, high) + 1
        while at is None and 0 < line < high:
            at = next((_at(entry) for entry in _line_at(data, line, path)), None)
            line = data.find(b"\n", line, high) + 1
        if at is not None and at < moment:
            low = middle
        else:
            high = middle
    return low


def _at(entry: _Entry) -> datetime:
    return entry.at if isinstance(entry, Outcome) else entry.decided.at


def _outcome(
    data: Octets, position: int, path: Path, following: Sequence[Path], id: str
) -> list[Outcome]:
    """Find the upstream's answer: soon after the decision, or early in the next file."""
    needle = b'"of":"%b"' % id.encode()
    found = data.find(needle, position, position + _OUTCOME_WITHIN)
    later = data.find(b'"id":"%b"' % id.encode(), position, max(found, position))
    if later >= 0 and any(
        isinstance(entry, Record) and entry.decided.relayed for entry in _line_at(data, later, path)
    ):
        return []  # another decision took its place, and the answer is about that one
    outcomes = _outcomes_at(data, found, path, id)
    if not outcomes and following:
        with opened(following[0]) as next_file:
            found = next_file.find(needle, 0, _OUTCOME_WITHIN)
            outcomes = _outcomes_at(next_file, found, following[0], id)
    return outcomes


def _outcomes_at(data: Octets, position: int, path: Path, id: str) -> list[Outcome]:
    entries = _line_at(data, position, path) if position >= 0 else ()
    return [entry for entry in entries if isinstance(entry, Outcome) and entry.id == id]


def _line_at(data: Octets, position: int, path: Path) -> Iterator[_Entry]:
    start, end = data.line_start(position), data.find(b"\n", position)
    if end >= 0:
        yield from _decoded(data[start:end], path)


def _decoded(raw: bytes, path: Path) -> Iterator[_Entry]:
    """Yield what a line says of messages; nothing if a torn write left something else."""
    try:
        line = journal_lines.read_line(raw)
        entry, place = line.entry, Place(path.name, line.n, line.hash)
        for answer in line.answers:
            yield Outcome(answer.of, answer.at, answer.code, answer.reply, answer.each, place)
        if isinstance(entry, DecisionEntry):
            yield Record(journal_lines.decided(line, entry), place=place)
        elif isinstance(entry, PersonalAnswerEntry):
            yield Outcome(
                entry.of, entry.at, entry.code, *journal_lines.personal_reply(line), place
            )
    except NotALine:
        return


def _row(record: Record) -> int:
    return 0 if record.place is None else record.place.n


def _id(entry: _Entry) -> str:
    return entry.decided.id if isinstance(entry, Record) else entry.id


def _joined(entries: Iterator[_Entry] | list[_Entry]) -> Iterator[Record]:
    """Join each decision with its outcome, which follows within some thousand lines."""
    waiting: dict[str, Record] = {}
    for entry in entries:
        if isinstance(entry, Outcome):
            record = waiting.pop(entry.id, None)
            if record is not None:
                yield Record(record.decided, entry, record.place)
        elif entry.decided.stage == "rcpt" or not entry.decided.relayed:
            yield entry
        else:
            if (replaced := waiting.pop(entry.decided.id, None)) is not None:
                yield replaced
            waiting[entry.decided.id] = entry
            if len(waiting) > 20_000:
                yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()


class Filter(Struct, frozen=True):
    """Selects decisions; None matches any. `verdict` and `reason` must match in one verdict.

    `recipient` is a canonical address, `app` a listener or `Client.app`, `message_id` without
    angle brackets.
    """

    recipient: str | None = None
    stream: str | None = None
    verdict: Action | None = None
    reason: Reason | None = None
    app: str | None = None
    message_id: str | None = None

    @property
    def needle(self) -> bytes:
        """What every matching line contains: the rarest that is known, or nothing."""
        if self.recipient is not None:
            return msgspec.json.encode(self.recipient)
        if self.message_id is not None:
            return msgspec.json.encode(self.message_id)[1:-1]
        return b"" if self.reason is None else b'"reason":"%b"' % self.reason.encode()

    def has(self, decided: Decided) -> bool:
        client, recipient = decided.client, self.recipient
        return (
            (self.stream is None or decided.decision.stream.name == self.stream)
            and (self.app is None or self.app in (client.listener, client.app))
            and (self.message_id is None or _bare(decided.message_id) == _bare(self.message_id))
            and (recipient is None or recipient in [r.canonical for r in decided.recipients])
            and ((self.verdict is None and self.reason is None) or self._has_verdict(decided))
        )

    def _has_verdict(self, decided: Decided) -> bool:
        message = decided.decision.message
        found = [] if message is None or message.action is Action.ALLOW else [message]
        own = [one.verdict for one in decided.recipients if one.verdict.action is not Action.ALLOW]
        return any(
            self.verdict in (None, verdict.action) and self.reason in (None, verdict.reason)
            for verdict in (*found, *own, *verdicts(decided))
        )


def _bare(message_id: str | None) -> str:
    return (message_id or "").strip().removeprefix("<").removesuffix(">")


def verdicts(decided: Decided) -> list[Verdict]:
    """Return what the app was told of each recipient, whose own verdict may differ."""
    return [told(decided, one.verdict) for one in decided.recipients]


def told(decided: Decided, own: Verdict) -> Verdict:
    """Return a recipient's own verdict, or that of the message if the app was told that one."""
    message = decided.decision.message
    if message is None or message.action is Action.ALLOW:
        return own
    names_them = message.reason is Reason.RECIPIENTS_REFUSED  # the refused ones
    return own if names_them and own.action is not Action.ALLOW else message
