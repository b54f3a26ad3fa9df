"""Hands a snapshot, and figures of the relay's processes, to `prometheus_client` for formatting."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from pathlib import Path

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString

from smtpproxy.policy.model import Mode, Origin
from smtpproxy.policy.scopes import SCOPE_KINDS
from smtpproxy.settings import Settings
from smtpproxy.sinks.families import FAMILIES, PREFIX, Family
from smtpproxy.sinks.snapshots import LATENCY_BUCKETS, Histogram, Labels, Samples, Snapshot

_PROCESS_METRICS = {
    "process_cpu_seconds": "Processor time of all processes of the relay.",
    "process_resident_memory_bytes": "Resident memory of all processes, shared parts counted once.",
    "process_virtual_memory_bytes": "Virtual memory of all processes of the relay.",
    "process_open_fds": "Open files of the process that has the most.",
    "process_max_fds": "How many files that process may have open.",
    "process_start_time_seconds": "When the first process was started, in Unix time.",
}


def relay_processes() -> Sequence[int]:
    """Return the supervisor, its nursery, of which this process is a child, and all their children.

    Only this process and its parent if /proc cannot be read.
    """
    nursery = os.getppid()
    with contextlib.suppress(OSError):
        _, _, rest = Path(f"/proc/{nursery}/stat").read_text().rpartition(") ")
        supervisor = int(rest.split()[1])
        return [supervisor, *_children(supervisor), *_children(nursery)]
    return [nursery, os.getpid()]


def _children(process: int) -> list[int]:
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(each) for each in text.split()]


def process_metrics(processes: Sequence[int]) -> Iterator[Metric]:
    """Yield the metrics of the processes that still run."""
    each = [figures for figures in map(_figures, processes) if figures]
    if not each:
        return
    fullest = max(each, key=lambda figures: figures.get("process_open_fds", 0.0))
    for name, text in _PROCESS_METRICS.items():
        values = [figures[name] for figures in each if name in figures]
        if name == "process_cpu_seconds":
            yield CounterMetricFamily(name, text, value=sum(values))
        elif name.endswith("_fds"):
            yield GaugeMetricFamily(name, text, value=fullest.get(name, 0.0))
        elif name.endswith("_time_seconds"):
            yield GaugeMetricFamily(name, text, value=min(values, default=0.0))
        else:
            yield GaugeMetricFamily(name, text, value=sum(values))


def _figures(process: int) -> dict[str, float]:
    collector = ProcessCollector(pid=lambda: process, registry=CollectorRegistry())
    figures = {metric.name: metric.samples[0].value for metric in collector.collect()}
    with contextlib.suppress(OSError):  # to count shared memory once
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                figures["process_resident_memory_bytes"] = float(line.split()[1]) * 1024
    return figures


_BOUNDS = (*map(floatToGoString, LATENCY_BUCKETS), "+Inf")
_GAUGES = {family.name for family in FAMILIES if family.kind == "gauge"}
_EMPTY = Histogram((0,) * len(_BOUNDS), 0.0)


def store_gauges(
    contacts: int, suppressions: Mapping[tuple[str, str], int]
) -> Mapping[str, Samples]:
    """Return the gauges for a store's `counts()`, with a row for every kind."""
    rows: dict[Labels, float] = {
        (kind, str(origin)): 0 for kind in SCOPE_KINDS for origin in Origin
    }
    rows.update(suppressions.items())
    return {"contacts": {(): contacts}, "suppressions": rows}


def snapshot_gauges(taken_at: Mapping[str, datetime]) -> Mapping[str, Samples]:
    """Return when each partner's snapshot was taken; a missing one is shown as 0."""
    rows: Samples = {(name,): moment.timestamp() for name, moment in taken_at.items()}
    return {"snapshot_taken_timestamp_seconds": rows}


class SnapshotCollector(Collector):
    """All metrics of the relay.

    What changes comes from `snapshot`; what the settings fix (label rows, version, modes)
    is known from the start. Times are Unix seconds.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        version: str,
        started_at: float,
        processes: Callable[[], Sequence[int]] = tuple,
    ) -> None:
        self.snapshot = Snapshot()
        self._processes = processes
        self.openmetrics = False  # the format to write
        self._zeros = {family.name: tuple(family.rows.of(settings)) for family in FAMILIES}
        self._fixed: dict[str, Samples] = {
            "workers_configured": {(): settings.server.workers},
            "observe_mode": {
                (name,): float(stream.mode is Mode.OBSERVE)
                for name, stream in settings.streams.items()
            },
            "webhook_deadline_seconds": {
                (webhook.name,): webhook.deadline for webhook in settings.webhooks
            },
            "start_time_seconds": {(): started_at},
            "stream_info": {(name, s.brand): 1 for name, s in settings.streams.items()},
            "build_info": {(version,): 1},
            "config_info": {(settings.hash,): 1},
        }

    def collect(self) -> Iterator[Metric]:
        for family in FAMILIES:
            if family.kind == "histogram":
                yield self._histogram(family)
            elif family.kind == "counter":
                yield self._counter(family)
            else:
                yield self._gauge(family)
        yield from process_metrics(self._processes())

    def _rows(self, family: Family, found: Mapping[str, Samples]) -> Iterator[tuple[Labels, float]]:
        rows = dict.fromkeys(self._zeros[family.name], 0.0)
        rows.update(self._fixed.get(family.name, {}))
        rows.update(found.get(family.name, {}))
        yield from rows.items()

    def _counter(self, family: Family) -> Metric:
        # OpenMetrics names a counter without `_total`, so beside the gauge `connections`
        # the counter `connections_total` would be a second family of that name.
        clash = self.openmetrics and family.name.removesuffix("_total") in _GAUGES
        metric = (UnknownMetricFamily if clash else CounterMetricFamily)(
            PREFIX + family.name, family.help, labels=family.labels
        )
        for labels, value in self._rows(family, self.snapshot.counters):
            metric.add_metric(labels, value)
        return metric

    def _gauge(self, family: Family) -> Metric:
        rows = self._rows(family, self.snapshot.gauges)
        if family.kind == "info":
            info = InfoMetricFamily(PREFIX + family.name.removesuffix("_info"), family.help)
            for labels, _ in rows:
                info.add_metric([], dict(zip(family.labels, labels, strict=True)))
            return info
        gauge = GaugeMetricFamily(PREFIX + family.name, family.help, labels=family.labels)
        for labels, value in rows:
            gauge.add_metric(labels, value)
        return gauge

    def _histogram(self, family: Family) -> Metric:
        metric = HistogramMetricFamily(PREFIX + family.name, family.help, labels=family.labels)
        rows = dict.fromkeys(self._zeros[family.name], _EMPTY)
        rows.update(self.snapshot.histograms.get(family.name, {}))
        for labels, histogram in rows.items():
            buckets = list(zip(_BOUNDS, accumulate(histogram.counts), strict=True))
            metric.add_metric(labels, buckets, histogram.sum)
        return metric
