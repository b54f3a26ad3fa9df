"""What a process has counted, as it is sent to another, and the sums over all workers."""

from collections.abc import Hashable, Iterable, Mapping
from typing import Self, TypeVar

import msgspec

Labels = tuple[str, ...]
Samples = Mapping[Labels, float]

LATENCY_BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)  # seconds


class Histogram(msgspec.Struct, frozen=True, array_like=True):
    """Observations by bucket, each counted once, and their sum in the metric's unit.

    `counts` has one entry for each bound of `LATENCY_BUCKETS` and one for everything above.
    """

    counts: tuple[int, ...]
    sum: float

    def __add__(self, other: "Histogram") -> "Histogram":
        counts = tuple(map(int.__add__, self.counts, other.counts))
        return Histogram(counts, self.sum + other.sum)


class Snapshot(msgspec.Struct, frozen=True):
    """What was counted since the process started, by metric name without its prefix.

    Only what has changed is in it; the collector fills in the zeros.
    """

    counters: Mapping[str, Samples] = {}
    gauges: Mapping[str, Samples] = {}
    histograms: Mapping[str, Mapping[Labels, Histogram]] = {}

    def with_gauges(self, gauges: Mapping[str, Samples]) -> "Snapshot":
        return Snapshot(self.counters, {**self.gauges, **gauges}, self.histograms)

    def encode(self) -> bytes:
        """Return it as MessagePack, for another process."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises `msgspec.DecodeError` if `data` is not a snapshot."""
        return msgspec.msgpack.decode(data, type=cls)


V = TypeVar("V", float, Histogram)


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return the sum of counters, gauges and histograms."""
    counters: dict[str, dict[Labels, float]] = {}
    gauges: dict[str, dict[Labels, float]] = {}
    histograms: dict[str, dict[Labels, Histogram]] = {}
    for snapshot in snapshots:
        _add(counters, snapshot.counters)
        _add(gauges, snapshot.gauges)
        _add(histograms, snapshot.histograms)
    return Snapshot(counters, gauges, histograms)


def _add(totals: dict[str, dict[Labels, V]], more: Mapping[str, Mapping[Labels, V]]) -> None:
    for name, rows in more.items():
        total = totals.setdefault(name, {})
        for labels, value in rows.items():
            total[labels] = total[labels] + value if labels in total else value


class Totals:
    """All workers together, including dead ones: what was counted never goes down.

    A worker's key (say, process id and start time) is never reused by another process.
    """

    def __init__(self) -> None:
        self._live: dict[Hashable, Snapshot] = {}
        self._retired = Snapshot()

    def update(self, worker: Hashable, snapshot: Snapshot) -> None:
        """Replace a worker's snapshot with its newest one."""
        self._live[worker] = snapshot

    def retire(self, worker: Hashable, *, counts: bool = True) -> None:
        """Keep the counts of a dead process, not its gauges. `counts`: as an exit of a worker."""
        last = self._live.pop(worker, Snapshot())
        ended = Snapshot(counters={"worker_exits_total": {(): 1}} if counts else {})
        counted = Snapshot(counters=last.counters, histograms=last.histograms)
        self._retired = merge((self._retired, counted, ended))

    def merged(self) -> Snapshot:
        return merge((self._retired, *self._live.values()))
