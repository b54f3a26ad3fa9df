"""The cost of one store read in the mail path: `python -m benchmarks.store_reads [--people N]`.

It is the CPU time of the reading thread, which other load distorts little; the median of
several rounds counts. docs/adr/0002-store-reads.md has the figures.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import aiosqlite
import uvloop

from benchmarks import data
from smtpproxy.policy.model import Lookups
from smtpproxy.settings import StoreSettings
from smtpproxy.store import open_store
from smtpproxy.store.sql.store import Store

ROUNDS = 7
READS = 5_000


async def measured(store: Store, asked: Sequence[Lookups]) -> float:
    """Return the microseconds of one read."""
    found = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        for lookups in asked:
            await store.facts(lookups)
        found.append((time.thread_time() - began) / len(asked) * 1e6)
    return statistics.median(found)


async def hop(path: Path) -> float:
    """Return the microseconds from asking aiosqlite for a row until it arrives."""
    sql = "SELECT id FROM contact WHERE id = ?"
    async with aiosqlite.connect(f"file:{path}?mode=ro", uri=True) as connection:
        began = time.perf_counter()
        for number in range(500):
            await connection.execute_fetchall(sql, (number,))
        return (time.perf_counter() - began) / 500 * 1e6


async def main(people: int) -> None:
    folder = data.dataset(people)
    path = folder / "smtpproxy.db"
    store: Store = open_store(StoreSettings(f"sqlite://{path}"), folder, read_only=True)
    print(f"{people:,} contacts, {people:,} suppressions, {path.stat().st_size / 1e6:,.0f} MB")
    random = Random(7)
    for label, within in (("100 addresses", min(100, people)), ("any address", people)):
        for kind, pattern in (
            ("contact with consent", "{}bench@people.example"),
            ("suppressed", "{}gone@people.example"),
            ("unknown", "{}none@people.example"),
        ):
            asked = [Lookups((pattern.format(random.randrange(within) + 1),)) for _ in range(READS)]
            print(f"{label:14} {kind:22} {await measured(store, asked):6.1f} µs")
    for count in (10, 100, 1_000):
        names = tuple(f"{random.randrange(people) + 1}bench@people.example" for _ in range(count))
        cost = await measured(store, [Lookups(names)] * (READS // count)) / count
        print(f"{count:5} at once  {'contact with consent':22} {cost:6.1f} µs each")
    await store.close()
    print(f"{'for comparison':14} {'one aiosqlite read':22} {await hop(path):6.1f} µs, elapsed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=1_000_000)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(options.people))
