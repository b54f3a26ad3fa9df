"""The record of the runs: a line each in `purges.ndjson`, the newest at the end.

It says when the next run is due, and what metrics show; it holds counts and dates alone.
"""

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from smtpproxy.sinks.audit.chain import UNREADABLE, NotALine
from smtpproxy.sinks.audit.files import give_to_owner_of, last_of
from smtpproxy.sinks.metrics import Snapshot
from smtpproxy.sinks.rows import PURGED_KINDS

FILE_NAME = "purges.ndjson"

KINDS = PURGED_KINDS
"""What is removed, as the record, metrics and `smtpproxy purge` call it."""


class Kind(Struct, frozen=True):
    """What was removed of one kind."""

    rows: int = 0
    oldest: datetime | None = None
    newest: datetime | None = None


class Run(Struct, frozen=True):
    """One run that came to its end. `total` counts what was ever removed, by kind."""

    began: datetime
    ended: datetime
    removed: dict[str, Kind]
    total: dict[str, int]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Run).decode


def newest(state_dir: Path) -> Run | None:
    """Return the last run; None where there was none. Raises OSError."""
    try:
        return last_of(state_dir / FILE_NAME, _read)[0]
    except FileNotFoundError:
        return None


def _read(line: bytes) -> Run:
    try:
        return _decode(line)
    except UNREADABLE as error:
        raise NotALine(str(error)) from None


def note(state_dir: Path, began: datetime, ended: datetime, removed: Mapping[str, Kind]) -> Run:
    """Add a run to the record. Raises OSError."""
    last = newest(state_dir)
    before = {} if last is None else last.total
    total = {kind: before.get(kind, 0) + removed.get(kind, Kind()).rows for kind in KINDS}
    run = Run(began, ended, dict(removed), total)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    file = os.open(state_dir / FILE_NAME, flags, 0o600)
    try:
        give_to_owner_of(state_dir, file)
        # What a crash cut short ends here, and is no line.
        os.write(file, b"\n" * _torn(state_dir / FILE_NAME) + _encode(run) + b"\n")
        os.fsync(file)
    finally:
        os.close(file)
    return run


def _torn(path: Path) -> bool:
    return last_of(path, _read)[1] > 0


def snapshot(state_dir: Path) -> Snapshot:
    """Return the metrics of the runs."""
    try:
        last = newest(state_dir)
    except OSError:
        return Snapshot()
    if last is None:
        return Snapshot()
    return Snapshot(
        counters={"purged_total": {(kind,): rows for kind, rows in last.total.items()}},
        gauges={"purge_last_success_timestamp_seconds": {(): last.ended.timestamp()}},
    )
