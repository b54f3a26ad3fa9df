"""Shows a snapshot to `prometheus_client`, which writes the exposition format."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from smtpproxy.policy.model import Mode, Origin
from smtpproxy.settings import Settings
from smtpproxy.sinks.families import FAMILIES, PREFIX, Family
from smtpproxy.sinks.metrics import LATENCY_BUCKETS
from smtpproxy.sinks.processes import process_metrics
from smtpproxy.sinks.rows import SCOPE_KINDS
from smtpproxy.sinks.snapshot import Histogram, Labels, Samples, Snapshot

_BOUNDS = (*map(floatToGoString, LATENCY_BUCKETS), "+Inf")
_GAUGES = {family.name for family in FAMILIES if family.kind == "gauge"}
_NOTHING = Histogram((0,) * len(_BOUNDS), 0.0)


def store_gauges(
    contacts: int, suppressions: Mapping[tuple[str, str], int]
) -> Mapping[str, Samples]:
    """Return the gauges of what a store's `counts()` said, every kind shown."""
    rows: dict[Labels, float] = {
        (kind, str(origin)): 0 for kind in SCOPE_KINDS for origin in Origin
    }
    rows.update(suppressions.items())
    return {"contacts": {(): contacts}, "suppressions": rows}


def snapshot_gauges(taken_at: Mapping[str, datetime]) -> Mapping[str, Samples]:
    """Return when each partner's snapshot was taken; one that is missing is shown as 0."""
    rows: Samples = {(name,): moment.timestamp() for name, moment in taken_at.items()}
    return {"snapshot_taken_timestamp_seconds": rows}


class SnapshotCollector(Collector):
    """All metrics of the relay, as they stand in `snapshot`.

    What moves comes from the snapshot; what the settings fix (which label rows there
    are, version, modes) is known from the start. Times are Unix seconds.
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
        self.openmetrics = False  # the format that is going to be written
        self._zeros = {family.name: tuple(family.zeros(settings)) for family in FAMILIES}
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

    def _rows(self, family: Family, moved: Mapping[str, Samples]) -> Iterator[tuple[Labels, float]]:
        rows = dict.fromkeys(self._zeros[family.name], 0.0)
        rows.update(self._fixed.get(family.name, {}))
        rows.update(moved.get(family.name, {}))
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
        rows = dict.fromkeys(self._zeros[family.name], _NOTHING)
        rows.update(self.snapshot.histograms.get(family.name, {}))
        for labels, histogram in rows.items():
            buckets = list(zip(_BOUNDS, accumulate(histogram.counts), strict=True))
            metric.add_metric(labels, buckets, histogram.sum)
        return metric
