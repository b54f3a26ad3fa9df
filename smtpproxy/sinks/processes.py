"""`process_*`, which every Prometheus client has, for all processes of the relay together."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import CollectorRegistry

_TOGETHER = {
    "process_cpu_seconds": "Processor time of all processes of the relay.",
    "process_resident_memory_bytes": "Resident memory of all processes of the relay.",
    "process_virtual_memory_bytes": "Virtual memory of all processes of the relay.",
    "process_open_fds": "Open files of the process that has the most.",
    "process_max_fds": "How many files that process may have open.",
    "process_start_time_seconds": "When the first process was started, in Unix time.",
}


def relay_processes() -> Sequence[int]:
    """Return the supervisor, of which this process is a child, and all its children."""
    supervisor = os.getppid()
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children")
    with contextlib.suppress(OSError):
        return [supervisor, *map(int, children.read_text().split())]
    return [supervisor, os.getpid()]


def process_metrics(processes: Sequence[int]) -> Iterator[Metric]:
    """Yield the metrics of the processes that are still there."""
    each = [figures for figures in map(_figures, processes) if figures]
    if not each:
        return
    fullest = max(each, key=lambda figures: figures.get("process_open_fds", 0.0))
    for name, text in _TOGETHER.items():
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
    return {metric.name: metric.samples[0].value for metric in collector.collect()}
