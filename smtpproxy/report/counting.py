"""Counts the outcomes of mail in an audit log, in bounded memory, as fast as it can be read.

Only the counted parts of a line are decoded. Counts can be added, so pieces of a log are counted by
as many processes as there are cores.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain, repeat
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread
from typing import NamedTuple
from zlib import crc32

import msgspec
from msgspec import Struct

from smtpproxy.policy.model import Action, Basis, Reason, StreamClass
from smtpproxy.report.counts import OTHERS, Breakdown, Counts, Fault, RecipientOutcome, Row, add
from smtpproxy.sinks.audit.chain import DECISION, LONGEST_TRANSACTION, UNREADABLE
from smtpproxy.sinks.audit.files import LATEST, of_period, segments

_PIECE = 32 * 1024 * 1024
_BLOCK = 1024 * 1024
_ADDRESS = re.compile(r"[^\s<>@,;:()\"]{1,64}@[\w.-]{1,255}")
_LONGEST_AUTHOR = 400  # characters of a From field, which may be as long as a header


class _Client(Struct):
    listener: str
    peer: str
    login: str = ""


class _Stream(Struct):
    name: str
    stream_class: StreamClass = StreamClass.MARKETING


class _Verdict(Struct):
    action: Action
    reason: Reason = Reason.NONE
    basis: Basis | None = None


class _Entry(Struct):
    id: str
    at: str
    stage: str
    client: _Client
    stream: _Stream
    message: _Verdict | None = None
    recipients: tuple[_Verdict, ...] = ()
    observed: bool = False
    permitted_before: tuple[str, ...] = ()


class _Part(Struct):
    header_from: str | None = None
    reverse_path: str | None = None
    canonical: str | None = None
    login: str | None = None


class _Line(Struct):
    entry: _Entry
    personal: tuple[_Part | str, ...]


class Selection(Struct, frozen=True):
    """Which decisions, and which costly breakdowns. `until` is exclusive; whole seconds."""

    since: datetime | None = None
    until: datetime | None = None
    stream: str | None = None
    senders: bool = False
    domains: bool = False


class Piece(NamedTuple):
    """A part of a file: the lines that begin at `start` or later, and before `end`."""

    path: Path
    start: int
    end: int


def count(folder: Path, selection: Selection, *, processes: int | None = None) -> Counts:
    """Count the audit log in a folder, without a line that is just being written.

    `processes` is by default the number of cores. Raises OSError.
    """
    pieces = list(_pieces(folder, selection))
    workers = min(processes or len(os.sched_getaffinity(0)), len(pieces))
    whole = Counts()
    if workers < 2:
        for piece in pieces:
            whole.merge(count_piece(piece, selection))
        return whole
    pool = ProcessPoolExecutor(workers, initializer=_end_with_the_command)
    try:
        for part in pool.map(count_piece, pieces, repeat(selection)):
            whole.merge(part)
    finally:
        pool.shutdown(cancel_futures=True)
    return whole


def _end_with_the_command() -> None:
    """End a process of the pool when the command is killed: it would wait for work for ever."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _pieces(folder: Path, selection: Selection) -> Iterator[Piece]:
    """Yield the pieces of files that may hold decisions of the period."""
    latest = LATEST - LONGEST_TRANSACTION
    until = selection.until and min(selection.until, latest) + LONGEST_TRANSACTION
    for files in segments(folder).values():
        for segment in chain.from_iterable(of_period(files, selection.since, until, and_next=True)):
            size = segment.path.stat().st_size
            for start in range(0, size, _PIECE):
                yield Piece(segment.path, start, min(start + _PIECE, size))


def count_piece(piece: Piece, selection: Selection) -> Counts:
    """Count a piece of a file. Raises OSError."""
    counts = Counts()
    _count(_lines(piece), selection, counts)
    return counts


def count_rows(lines: Iterable[bytes], row: Row) -> None:
    """Add the outcomes in lines of an audit log to a row."""
    counts = Counts()
    _count((raw for raw in lines if DECISION in raw), Selection(), counts)
    for day in counts.days.values():
        add(row, day)


def _lines(piece: Piece) -> Iterator[bytes]:
    with piece.path.open("rb", buffering=_BLOCK) as file:
        position = piece.start
        if position:
            file.seek(position - 1)
            position += len(file.readline()) - 1
        for raw in file:
            if position >= piece.end or not raw.endswith(b"\n"):
                return
            position += len(raw)
            if DECISION in raw:
                yield raw


def _count(lines: Iterable[bytes], selection: Selection, counts: Counts) -> None:
    """Count lines. Written for speed: this loop sees every line of a log."""
    decode = msgspec.json.Decoder(_Line).decode
    since, until = _second(selection.since), _second(selection.until)
    wanted, senders, domains = selection.stream, selection.senders, selection.domains
    messages, days, apps = counts.messages, counts.days, counts.apps.rows
    allow = Action.ALLOW
    for raw in lines:
        try:
            line = decode(raw)
        except UNREADABLE:
            counts.unreadable += 1
            continue
        entry, personal = line.entry, line.personal
        second, stream = entry.at[:19], entry.stream.name
        if second < since or (until and second >= until) or entry.stage == "notice":
            continue
        if wanted is not None and stream != wanted:
            continue
        counts.decisions += 1
        counts.classes[stream] = entry.stream.stream_class
        day, observed, message = second[:10], entry.observed, entry.message
        if message is not None:
            fault = Fault(day, stream, observed, message.reason)
            messages[fault] = messages.get(fault, 0) + 1
        parts = personal if len(personal) == len(entry.recipients) else personal[1:]
        head = personal[0] if personal else ""
        client = entry.client
        login = None if isinstance(head, str) else head.login
        app = f"{client.listener}/{login or client.peer}"
        rows = [days.get(day) or days.setdefault(day, {})]
        rows.append(apps.get(app) or counts.apps.row(app))
        if senders:
            rows.append(counts.senders.row(_sender(head)))
        bad = None if message is None or message.action is allow else message
        if bad is not None:
            add(
                counts.at_fault.row(app),
                {RecipientOutcome(stream, observed, bad.action, bad.reason): 1},
            )
            counts.example(stream, bad.reason, entry.id)
        if entry.permitted_before:
            _subtract_permitted(entry, rows, counts.domains if domains else None, parts)
        _count_recipients(entry, bad, rows, counts, parts if domains else None)


def _count_recipients(
    entry: _Entry,
    bad: _Verdict | None,
    rows: Sequence[Row],
    counts: Counts,
    parts: Sequence[_Part | str] | None,
) -> None:
    """Count each; those who were permitted get `bad`, if the message was refused. With `parts`, by
    domain too."""
    stream, observed, verdicts, permitted = entry.stream.name, entry.observed, entry.recipients, 0
    allow = Action.ALLOW
    for index, verdict in enumerate(verdicts):
        if bad is not None and verdict.action is allow:
            verdict = bad
        action = verdict.action
        if action is allow:
            permitted += 1
            what = RecipientOutcome(stream, observed, action, verdict.basis or "")
        else:
            what = RecipientOutcome(stream, observed, action, verdict.reason)
            counts.example(stream, verdict.reason, entry.id)
        for row in rows:
            row[what] = row.get(what, 0) + 1
        if parts is not None:
            _count_domain(counts.domains, parts[index] if index < len(parts) else "", what)
    if observed and 0 < permitted < len(verdicts):
        counts.alongside[stream] = counts.alongside.get(stream, 0) + permitted


def _subtract_permitted(
    entry: _Entry, rows: Sequence[Row], domains: Breakdown | None, parts: Sequence[_Part | str]
) -> None:
    """Subtract recipients permitted by an earlier decision, which this one replaces."""
    for index, basis in enumerate(entry.permitted_before):
        what = RecipientOutcome(entry.stream.name, entry.observed, Action.ALLOW, basis)
        for row in rows:
            row[what] = row.get(what, 0) - 1
        if domains is not None:
            _count_domain(domains, parts[index] if index < len(parts) else "", what, -1)


def _second(at: datetime | None) -> str:
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}"


def _count_domain(
    domains: Breakdown, part: _Part | str, what: RecipientOutcome, people: int = 1
) -> None:
    canonical = None if isinstance(part, str) else part.canonical
    if canonical is None:  # erased
        row = domains.row(OTHERS)
    else:
        domain = canonical.rpartition("@")[2]
        row = domains.row(domain)
        if domains.people.get(domain, ()) is not None:
            domains.seen(domain, crc32(canonical.encode("utf-8", "replace")))
    row[what] = row.get(what, 0) + people


@lru_cache(maxsize=4096)
def _author(header_from: str) -> str:
    """Return the address in a From field."""
    found = _ADDRESS.findall(header_from)
    return found[-1].lower() if found else OTHERS


def _sender(part: _Part | str) -> str:
    """Return the address in From; without From, only the domain of the reverse path, as its local
    part may name the recipient."""
    if isinstance(part, str):
        return OTHERS
    if part.header_from:
        return _author(part.header_from[-_LONGEST_AUTHOR:])
    path = part.reverse_path
    if path is None:
        return OTHERS
    return f"@{path.rpartition('@')[2].lower()}" if path else "<>"
