"""The record of purges: when the next is due, what metrics show, whether the clock is plausible.

Each run is a line in `purges.ndjson`, the newest at the end, with only counts and dates.
"""

import os
from collections.abc import Mapping
from datetime import datetime, time, timedelta
from pathlib import Path

import msgspec
from msgspec import Struct

from smtpproxy.disk import give_to_owner_of
from smtpproxy.sinks.audit.chain import UNREADABLE, NotALine
from smtpproxy.sinks.audit.files import last_of
from smtpproxy.sinks.rows import PURGED_KINDS
from smtpproxy.sinks.snapshots import Snapshot
from smtpproxy.store.operations import NOTHING, Removed
from smtpproxy.terminal import counted

FILE_NAME = "purges.ndjson"


class Run(Struct, frozen=True):
    """One completed run. `total` counts everything ever removed, by kind."""

    began: datetime
    ended: datetime
    removed: dict[str, Removed]
    total: dict[str, int]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Run).decode


def newest_run(state_dir: Path) -> Run | None:
    """Return the last run; None if there was none. Raises OSError."""
    try:
        return last_of(state_dir / FILE_NAME, _read)[0]
    except FileNotFoundError:
        return None


def _read(line: bytes) -> Run:
    try:
        return _decode(line)
    except UNREADABLE as error:
        raise NotALine(str(error)) from None


def note_run(
    state_dir: Path, began: datetime, ended: datetime, removed: Mapping[str, Removed]
) -> Run:
    """Add a run to the record. Raises OSError."""
    path, last = state_dir / FILE_NAME, newest_run(state_dir)
    before = {} if last is None else last.total
    total = {kind: before.get(kind, 0) + removed.get(kind, NOTHING).rows for kind in PURGED_KINDS}
    run = Run(began, ended, dict(removed), total)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    file = os.open(path, flags, 0o600)
    try:
        give_to_owner_of(state_dir, file)
        is_torn = last_of(path, _read)[1] > 0  # a line that a crash cut short, which then ends
        os.write(file, b"\n" * is_torn + _encode(run) + b"\n")
        os.fsync(file)
    finally:
        os.close(file)
    return run


def run_metrics(state_dir: Path) -> Snapshot:
    """Return the metrics of the runs."""
    try:
        last = newest_run(state_dir)
    except OSError:
        return Snapshot()
    if last is None:
        return Snapshot()
    return Snapshot(
        counters={"purged_total": {(kind,): rows for kind, rows in last.total.items()}},
        gauges={"purge_last_success_timestamp_seconds": {(): last.ended.timestamp()}},
    )


def latest(now: datetime, at: time) -> datetime:
    """Return the newest moment, not after `now`, at which the local time was `at`.

    If the clock was put forward past it, an hour later; if it was put back, the first of the two.
    `now` is in any zone, the result in the local one.
    """
    today = now.astimezone().date()
    for days in range(3):
        # Not astimezone() alone, which Python 3.11 and 3.13 do in two ways for a missing hour.
        seconds = datetime.combine(today - timedelta(days=days), at).timestamp()
        moment = datetime.fromtimestamp(seconds).astimezone()
        if moment <= now:
            return moment
    raise ValueError("no day has such a moment")


def is_due(last: datetime, now: datetime, at: time) -> bool:
    """Whether the time for a run has come since `last`, the last run.

    It has come if `last` is in the future, too: a clock was wrong, as `check_clock` reports.
    """
    return last < latest(now, at) or last > now + _BACK


_GAP = timedelta(days=35)
"""After a longer gap between runs the clock may be wrong; in a shorter one, little goes too
early."""
_BACK = timedelta(days=1)
"""How far in the future the last run may be: clocks are corrected."""


class ClockDoubtful(Exception):
    """The clock is far from the last run. What a wrong clock removes is gone for good."""


def check_clock(state_dir: Path, now: datetime) -> None:
    """Raise ClockDoubtful unless `now` is near the last run, if there was any. Raises OSError."""
    last = newest_run(state_dir)
    if last is None or -_BACK <= now - last.began <= _GAP:
        return
    days = abs(now - last.began).days
    raise ClockDoubtful(
        f"by the clock it is {now:%Y-%m-%d}, {counted(days, 'day')} "
        f"{'after' if now > last.began else 'before'} the last purge ({last.began:%Y-%m-%d}):"
        " nothing was removed, as a wrong clock would remove data for good; correct the clock, or"
        " if it is right, run `smtpproxy purge --clock-is-right`"
    )
