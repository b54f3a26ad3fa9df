"""The rate of messages, and the CPU time for each.

smtp-source sends in 20 concurrent sessions. Every message goes to a different contact and, as
far as there are enough, every run to new ones: a newsletter reads each person once. A short
first run determines the number of messages, so that slow relays take no longer than fast ones.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import data
from benchmarks.procfs import cpu_seconds
from benchmarks.subjects import Subject
from tests.kit.load import Sent, smtp_source

SESSIONS = 20
SIZES = {"4 KB": 4_000, "100 KB": 100_000, "1 MB": 1_000_000}
MOST = {"4 KB": 100_000, "100 KB": 20_000, "1 MB": 3_000}
FIRST = {"4 KB": 400, "100 KB": 200, "1 MB": 60}


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of load; `reuse` means many messages per connection."""

    size: str
    reuse: bool

    def __str__(self) -> str:
        return f"{self.size} {'reuse' if self.reuse else 'new'}"


LOADS = tuple(Load(size, reuse) for size in SIZES for reuse in (True, False))


@dataclass(slots=True)
class Cell:
    """The runs of one relay under one load."""

    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    database_us: list[float] = field(default_factory=list)
    error: str | None = None

    @property
    def rate(self) -> float | None:
        """Messages per second, the median of the runs."""
        return statistics.median(self.rates) if self.rates else None

    @property
    def cpu(self) -> float | None:
        """Microseconds of CPU time per message, the median of the runs."""
        return statistics.median(self.cpu_us) if self.cpu_us else None

    @property
    def database(self) -> float | None:
        """The same for the relay's database."""
        return statistics.median(self.database_us) if self.database_us else None


Cells = dict[tuple[str, Load], Cell]


def measure(
    subjects: Sequence[Subject],
    loads: Sequence[Load],
    *,
    rounds: int,
    seconds: float,
) -> Cells:
    """Run every load on every relay in turns, `rounds` times, about `seconds` each."""
    cells: Cells = {(s.name, load): Cell() for load in loads for s in subjects}
    for load in loads:
        file = data.message_file(SIZES[load.size])
        counts = {s.name: _count(s, load, file, seconds) for s in subjects}
        for round_ in range(rounds):
            for subject in subjects:
                cell, count = cells[subject.name, load], counts[subject.name]
                if cell.error is None:
                    others = loads.index(load) * rounds + round_
                    to = data.recipient(count, subject.people, others)
                    _run(subject, load, file, count, to, cell)
    return cells


def _count(subject: Subject, load: Load, file: Path, seconds: float) -> int:
    first = _send(subject, load, file, FIRST[load.size], data.RECIPIENT)
    rate = first.rate if first.accepted else 1.0
    most = min(MOST[load.size], subject.people or MOST[load.size])
    return max(SESSIONS, min(int(rate * seconds), most))


def _run(subject: Subject, load: Load, file: Path, count: int, to: str, cell: Cell) -> None:
    allowed = _allowed(subject)
    before, database = cpu_seconds(subject.pids()), cpu_seconds(subject.database())
    sent = _send(subject, load, file, count, to)
    spent = cpu_seconds(subject.pids()) - before
    in_database = cpu_seconds(subject.database()) - database
    if sent.exit_code != 0:
        cell.error = sent.output.strip().splitlines()[-1] if sent.output.strip() else "failed"
        return
    judged = _allowed(subject) - allowed
    if subject.relay is not None and judged != count:
        cell.error = f"{count} sent, but {judged:g} allowed by consent"
        return
    cell.rates.append(sent.rate)
    if spent:
        cell.cpu_us.append(spent / count * 1e6)
    if in_database:
        cell.database_us.append(in_database / count * 1e6)


def _send(subject: Subject, load: Load, file: Path, count: int, to: str) -> Sent:
    return smtp_source(
        subject.address,
        count,
        sessions=min(SESSIONS, count),
        sender=data.SENDER,
        to=to,
        numbered=True,
        file=file,
        reuse=load.reuse,
        count=False,
        timeout=120,
    )


def _allowed(subject: Subject) -> float:
    """The number of allowed recipients in the relay's metrics.

    A run whose policy was not at work does not count."""
    if subject.relay is None:
        return 0.0
    return subject.relay.metric("smtpproxy_allowed_total", stream="bench", basis="consent")
