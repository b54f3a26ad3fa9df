"""`make bench`: one run, one table. docs/benchmarks.md says how to read it."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks import data, latency, memory, milter, postgres, signing, throughput, ways
from benchmarks.results import Results, print_results
from benchmarks.subjects import Subject, absent, smtpproxy, subjects
from benchmarks.throughput import LOADS, Load
from tests.kit.load import SmtpSink
from tests.kit.parts import missing
from tests.kit.processes import kill_all, running

RATE = 1_000


@dataclass(frozen=True, slots=True)
class Extent:
    """The extent of a run."""

    people: int
    rounds: int
    seconds: float  # for each run of a load
    latency_seconds: float
    scales: tuple[int, ...] = ()


FULL = Extent(people=1_000_000, rounds=3, seconds=3.0, latency_seconds=15.0)
QUICK = Extent(people=20_000, rounds=1, seconds=1.0, latency_seconds=4.0)
LARGE = (10_000, 10_000_000)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20,000 contacts, short runs")
    parser.add_argument("--large", action="store_true", help="also 10,000 and 10 million contacts")
    parser.add_argument("--alone", action="store_true", help="the wire and smtpproxy's rates only")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--milter", action="store_true", help="what milters cost Postfix, instead")
    parser.add_argument("--postgres", action="store_true", help="the kinds of store, instead")
    options = parser.parse_args(arguments)
    if options.milter:
        return milter.main(["--quick"] if options.quick else [])
    if options.postgres:
        return postgres.main(quick=options.quick, large=options.large)
    for part in ("smtp-source", "smtp-sink"):
        if lack := missing(part):
            print(f"bench: {lack} is missing", file=sys.stderr)
            return 2
    extent = QUICK if options.quick else FULL
    memory.allow_many_files()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    try:
        results = measure(extent, LARGE if options.large else (), alone=options.alone)
    finally:
        kill_all(running())
    if options.json:
        print(json.dumps(results.as_json(), indent=2))
    else:
        print_results(results, console)
    return 0


def measure(extent: Extent, scales: Sequence[int], *, alone: bool) -> Results:
    """Measure everything in one run; progress goes to stderr."""
    state = data.dataset(extent.people)
    with (
        SmtpSink(count=False) as sink,
        subjects(sink, extent.people, [1, 2], peers=not alone) as relays,
    ):
        say(f"measuring {', '.join(relay.name for relay in relays)}")
        cells = throughput.measure(
            relays,
            LOADS,
            rounds=extent.rounds,
            seconds=extent.seconds,
        )
        results = Results(extent.people, relays[0].name, [r.name for r in relays], cells)
        results.notes.append(data.import_note(state))
        if not alone:
            measure_latency(results, relays, extent)
            measure_memory(results, relays)
            say("TLS, AUTH, BDAT and LMTP")
            results.ways = ways.measure(sink, extent.seconds, extent.rounds)
            results.notes += ways.notes(results.ways)
            say("DKIM")
            results.signing = signing.measure(sink, extent.seconds, rounds=extent.rounds)
            results.notes.append(signing.note(results.signing, signing.signatures_a_second()))
            results.notes += [f"not measured: {line}" for line in absent()]
    results.scale = scale(scales, extent) if scales else {}
    return results


def measure_latency(results: Results, relays: Sequence[Subject], extent: Extent) -> None:
    results.rate = RATE
    for relay in relays:
        say(f"latency: {relay.name}")
        results.latency[relay.name] = latency.measure(
            int(relay.address.rpartition(":")[2]),
            rate=RATE,
            seconds=extent.latency_seconds,
            people=extent.people,
        )


def measure_memory(results: Results, relays: Sequence[Subject]) -> None:
    for relay in relays:
        if relay.relay is not None:
            say(f"memory: {relay.name}")
            results.memory[relay.name] = memory.measure(relay)


def scale(scales: Sequence[int], extent: Extent) -> dict[int, dict[Load, float]]:
    """The rate of one worker by the number of contacts and suppressions, measured in turns."""
    loads = [Load("4 KB", True), Load("4 KB", False)]
    with SmtpSink(count=False) as sink, ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smtpproxy-bench-")))
        relays = [
            smtpproxy(stack, sink, root / str(people), people, 1, f"{people:,} contacts")
            for people in scales
        ]
        say(f"measuring with {' and '.join(relay.name for relay in relays)}")
        cells = throughput.measure(relays, loads, rounds=2 * extent.rounds, seconds=extent.seconds)
    return {
        relay.people: {load: cells[relay.name, load].rate or 0.0 for load in loads}
        for relay in relays
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
