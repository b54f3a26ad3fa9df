"""The cost of a store in PostgreSQL compared with SQLite: `make bench ARGS=--postgres`.

Two relays with one worker each and the same people, one on each kind of store, take turns.
PostgreSQL runs on the same machine and shares its cores; `smtpproxy store copy` fills it.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import data, latency, throughput
from benchmarks.latency import Latency
from benchmarks.results import machine
from benchmarks.subjects import relay_on, smtpproxy
from benchmarks.throughput import Cells, Load
from tests.kit.load import SmtpSink
from tests.kit.parts import missing
from tests.kit.postgres import PostgresCluster
from tests.kit.processes import kill_all, running
from tests.kit.relay import RelayProcess

LOADS = (Load("4 KB", True), Load("4 KB", False))
RATE = 500
SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"
_SERVER = {"fsync": "on", "shared_buffers": "512MB", "max_wal_size": "4GB"}
"""Everything else is Debian's default."""


@dataclass(slots=True)
class Compared:
    """The results for one number of people on both kinds of store."""

    people: int
    cells: Cells
    latency: dict[str, Latency] = field(default_factory=dict)
    copied_in: float = 0.0  # seconds of `smtpproxy store copy`


def main(*, quick: bool, large: bool) -> int:
    for part in ("smtp-source", "smtp-sink", "postgresql"):
        if lack := missing(part):
            print(f"bench: {lack} is missing", file=sys.stderr)
            return 2
    people = [20_000 if quick else 1_000_000]
    if large:
        people.append(10_000_000)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    try:
        for count in people:
            print_compared(
                compare(count, rounds=1 if quick else 3, seconds=2.0 if quick else 5.0), console
            )
    finally:
        kill_all(running())
    console.print(machine())
    return 0


def compare(people: int, *, rounds: int, seconds: float) -> Compared:
    state = data.dataset(people)
    with (
        SmtpSink(count=False) as sink,
        ExitStack() as stack,
        _in_postgresql(state) as (server, url, took),
    ):
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smtpproxy-bench-")))
        there = data.config(state) | {"store": {"url": url}}
        both = [
            smtpproxy(stack, sink, root / "sqlite", people, 1, SQLITE),
            relay_on(stack, sink, root / "postgresql", people, there, POSTGRESQL, server.pids),
        ]
        print(f"measuring with {people:,} contacts", file=sys.stderr, flush=True)
        found = Compared(
            people,
            throughput.measure(both, LOADS, rounds=rounds, seconds=seconds),
            copied_in=took,
        )
        for subject in both:
            found.latency[subject.name] = latency.measure(
                int(subject.address.rpartition(":")[2]),
                rate=RATE,
                seconds=seconds * 3,
                people=people,
            )
        return found


@contextmanager
def _in_postgresql(state: Path) -> Iterator[tuple[PostgresCluster, str, float]]:
    """The same people in a new PostgreSQL: the server, its URL, and the copy's duration."""
    server = PostgresCluster(_SERVER)
    folder = Path(tempfile.mkdtemp(prefix="smtpproxy-bench-", dir=data.BUILD))
    try:
        url = server.url(server.create())
        copy = folder / "state"  # the copy closes it for writing
        shutil.copytree(state, copy, ignore=shutil.ignore_patterns("audit"))
        relay = RelayProcess(folder, "127.0.0.1:9", data.config(copy) | {"store": {"url": url}})
        relay.must("migrate")
        began = time.monotonic()
        code, out, error = relay.command(
            "store", "copy", f"sqlite://{copy / 'smtpproxy.db'}", url, timeout=7_200
        )
        if code != 0:
            raise SystemExit(f"store copy ended with {code}: {out[-500:]} {error[-500:]}")
        took = time.monotonic() - began
        shutil.rmtree(copy)
        yield server, url, took
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def print_compared(found: Compared, console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.title = (
        f"{found.people:,} contacts and as many suppressions, one worker: messages a second (of "
        "SQLite's), CPU time of the relay + of the database a message"
    )
    table.add_column("store")
    for load in LOADS:
        table.add_column(str(load), justify="right")
    table.add_column(f"p50 / p99 ms at {RATE}/s", justify="right")
    for name in (SQLITE, POSTGRESQL):
        times = found.latency[name]
        failed = f" ({times.failed} failed)" if times.failed else ""
        shown = f"{times.p50 * 1e3:.2f} / {times.p99 * 1e3:.2f}{failed}"
        table.add_row(name, *(_cell(found, name, load) for load in LOADS), shown)
    console.print(table)
    console.print(f"store copy, SQLite to PostgreSQL: {found.copied_in:.0f} s")


def _cell(found: Compared, name: str, load: Load) -> str:
    cell, beside = found.cells[name, load], found.cells[SQLITE, load]
    if cell.rate is None or cell.cpu is None:
        return f"failed: {cell.error}"
    ratio = f" ({cell.rate / beside.rate:.2f})" if name != SQLITE and beside.rate else ""
    database = f" + {cell.database:,.0f}" if cell.database else ""
    return f"{cell.rate:,.0f}{ratio}\n{cell.cpu:,.0f}{database} µs"
