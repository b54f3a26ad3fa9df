"""What was counted, as it goes from process to process, and how many workers are added up."""

from collections.abc import Hashable, Iterable, Mapping
from typing import Self

import msgspec

Labels = tuple[str, ...]
Samples = Mapping[Labels, float]

LATENCY_BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)  # seconds


class Histogram(msgspec.Struct, frozen=True, array_like=True):
    """Observations by bucket, each counted once, and their sum in the metric's unit.

    `counts` has one place for each bound of `LATENCY_BUCKETS` and one for all above.
    """

    counts: tuple[int, ...]
    sum: float

    def __add__(self, other: "Histogram") -> "Histogram":
        counts = tuple(map(int.__add__, self.counts, other.counts))
        return Histogram(counts, self.sum + other.sum)


class Snapshot(msgspec.Struct, frozen=True):
    """What was counted since the process began, by metric name without its prefix.

    Only what has moved is in it; the collector fills in the zeros.
    """

    counters: Mapping[str, Samples] = {}
    gauges: Mapping[str, Samples] = {}
    histograms: Mapping[str, Mapping[Labels, Histogram]] = {}

    def with_gauges(self, gauges: Mapping[str, Samples]) -> "Snapshot":
        return Snapshot(self.counters, {**self.gauges, **gauges}, self.histograms)

    def encode(self) -> bytes:
        """Return it as MessagePack, to go from process to process."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises `msgspec.DecodeError` when `data` is no snapshot."""
        return msgspec.msgpack.decode(data, type=cls)


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return the sum of counters, gauges and histograms."""
    counters: dict[str, dict[Labels, float]] = {}
    gauges: dict[str, dict[Labels, float]] = {}
    histograms: dict[str, dict[Labels, Histogram]] = {}
    for snapshot in snapshots:
        _add(counters, snapshot.counters)
        _add(gauges, snapshot.gauges)
        for name, rows in snapshot.histograms.items():
            total = histograms.setdefault(name, {})
            for labels, histogram in rows.items():
                total[labels] = total[labels] + histogram if labels in total else histogram
    return Snapshot(counters, gauges, histograms)


def _add(totals: dict[str, dict[Labels, float]], more: Mapping[str, Samples]) -> None:
    for name, rows in more.items():
        total = totals.setdefault(name, {})
        for labels, value in rows.items():
            total[labels] = total.get(labels, 0) + value


class Totals:
    """All workers together, the dead ones included: what was counted never goes down.

    A worker has its own key, never reused by another process
    (its process id and start time, say).
    """

    def __init__(self) -> None:
        self._live: dict[Hashable, Snapshot] = {}
        self._retired = Snapshot()

    def update(self, worker: Hashable, snapshot: Snapshot) -> None:
        """Replace what is known of a worker by its newest snapshot."""
        self._live[worker] = snapshot

    def retire(self, worker: Hashable, *, takes_mail: bool = True) -> None:
        """Keep what a dead process had counted; what it had open is gone."""
        last = self._live.pop(worker, Snapshot())
        ended = Snapshot(counters={"worker_exits_total": {(): 1}} if takes_mail else {})
        counted = Snapshot(counters=last.counters, histograms=last.histograms)
        self._retired = merge((self._retired, counted, ended))

    def merged(self) -> Snapshot:
        return merge((self._retired, *self._live.values()))
