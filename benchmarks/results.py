"""The results of one run: the printed table, and the same as JSON."""

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.latency import Latency
from benchmarks.memory import Memory
from benchmarks.signing import Rates as SigningRates
from benchmarks.subjects import HOP
from benchmarks.throughput import LOADS, Cells, Load
from benchmarks.ways import Costs

MIB = 1024 * 1024


@dataclass(slots=True)
class Results:
    """Everything measured; ratios refer to the subject named `wire`."""

    people: int
    wire: str
    names: Sequence[str]
    cells: Cells
    latency: dict[str, Latency] = field(default_factory=dict)
    rate: int = 0  # of the latency runs
    memory: dict[str, Memory] = field(default_factory=dict)
    scale: dict[int, dict[Load, float]] = field(default_factory=dict)  # by contacts: msg/s
    ways: Costs = field(default_factory=dict)
    signing: SigningRates = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def ratio(self, name: str, load: Load) -> float | None:
        """The ratio to the wire's rate under the same load."""
        rate, wire = self.cells[name, load].rate, self.cells[self.wire, load].rate
        return rate / wire if rate is not None and wire else None

    def hops(self, name: str, load: Load) -> float | None:
        """CPU time per message, as a multiple of a plain TCP hop's."""
        if name == HOP or (HOP, load) not in self.cells:
            return None
        cpu, hop = self.cells[name, load].cpu, self.cells[HOP, load].cpu
        return cpu / hop if cpu is not None and hop else None

    def added(self, name: str) -> tuple[float, float] | None:
        """Seconds that a relay adds at the median and at the 99th percentile."""
        if name not in self.latency or self.wire not in self.latency:
            return None
        through, direct = self.latency[name], self.latency[self.wire]
        return through.p50 - direct.p50, through.p99 - direct.p99

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": machine(),
            "people": self.people,
            "relays": {name: self._relay(name) for name in self.names},
            "scale": {
                str(people): {str(load): round(rate, 1) for load, rate in rates.items()}
                for people, rates in self.scale.items()
            },
            "ways": {
                load: {name: asdict(cost) for name, cost in by_name.items()}
                for load, by_name in self.ways.items()
            },
            "signing": self.signing,
            "notes": self.notes,
        }

    def _relay(self, name: str) -> dict[str, Any]:
        loads = {
            str(load): {
                "rate": self.cells[name, load].rate,
                "ratio": self.ratio(name, load),
                "cpu_us": self.cells[name, load].cpu,
                "hops": self.hops(name, load),
                "runs": self.cells[name, load].rates,
                "error": self.cells[name, load].error,
            }
            for load in LOADS
        }
        latency = self.latency.get(name)
        memory = self.memory.get(name)
        return {
            "loads": loads,
            "latency": asdict(latency) if latency else None,
            "memory": asdict(memory) if memory else None,
        }


def machine() -> str:
    """Where and when the run took place."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return (
        f"{os.cpu_count()} x {model}, Linux {platform.release()},"
        f" Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
    )


def print_results(results: Results, console: Console) -> None:
    """Print one table with a row for each relay, then the notes."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.title = (
        "Messages a second (ratio to the wire), and below it CPU time a message;"
        f" {results.people:,} contacts and as many suppressions"
    )
    table.title_justify = "left"
    table.add_column("", no_wrap=True)
    for load in LOADS:
        table.add_column(str(load), justify="right")
    if results.latency:
        table.add_column(f"added at {results.rate:,}/s\np50 / p99 ms", justify="right")
    if results.memory:
        table.add_column("5,000 idle\nMB", justify="right")
        table.add_column("20 x 25 MB\nMB", justify="right")
    for name in results.names:
        row = [name, *(_cell(results, name, load) for load in LOADS)]
        if results.latency:
            row.append(_latency(results, name))
        if results.memory:
            row += _memory(results, name)
        table.add_row(*row)
    console.print(table)
    for people, rates in sorted(results.scale.items()):
        fewest = results.scale[min(results.scale)]
        shown = ", ".join(
            f"{load} {rate:,.0f}/s ({rate / (fewest[load] or rate or 1):.2f})"
            for load, rate in rates.items()
        )
        console.print(f"With {people:,} contacts: {shown}")
    for (name, load), cell in results.cells.items():
        if cell.error:
            console.print(f"failed: {name}, {load}: {cell.error}")
    for note in results.notes:
        console.print(note)
    console.print(machine())


def _cell(results: Results, name: str, load: Load) -> str:
    cell = results.cells[name, load]
    if cell.rate is None:
        return "failed" if cell.error else "-"
    shown = f"{cell.rate:,.0f}"
    ratio = results.ratio(name, load)
    if name != results.wire and ratio is not None:
        shown += f" ({ratio:.2f})"
    if cell.cpu is not None:
        shown += f"\n{cell.cpu:,.0f} µs"
        hops = results.hops(name, load)
        if hops is not None:
            shown += f", {hops:.1f} hops"
    return shown


def _latency(results: Results, name: str) -> str:
    if name == results.wire:
        latency = results.latency[name]
        return f"itself {latency.p50 * 1e3:.2f} / {latency.p99 * 1e3:.2f}"
    added = results.added(name)
    if added is None:
        return "-"
    failed = results.latency[name].failed
    shown = f"{added[0] * 1e3:.2f} / {added[1] * 1e3:.2f}"
    return shown + (f" ({failed} failed)" if failed else "")


def _memory(results: Results, name: str) -> list[str]:
    memory = results.memory.get(name)
    if memory is None:
        return ["-", "-"]
    return [
        f"{memory.idle / MIB:.0f}" + _short(memory.idle_connections, 5_000),
        f"{memory.large / MIB:.0f}" + _short(memory.large_messages, 20),
    ]


def _short(got: int, wanted: int) -> str:
    return f" ({got:,} only)" if got < wanted else ""
