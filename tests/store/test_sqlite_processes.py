"""Several processes on one database: readers see every change, and a kill loses no commit."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

from smtpproxy.policy.model import Contact, Lookups
from smtpproxy.store.sqlite.statements import statements
from tests.store.answering import REPOSITORY, Answering
from tests.store.conftest import Database
from tests.store.contract import AGREEMENT, ANNA, T0, WHOLE, entry, facts_of

PUT = """
import asyncio, sys
from pathlib import Path
from smtpproxy.policy.model import Contact
from smtpproxy.settings import StoreSettings
from smtpproxy.store import open_store
from tests.store.contract import AGREEMENT, entry

async def main():
    store = open_store(StoreSettings(f"sqlite://{sys.argv[1]}"), Path(sys.argv[2]))
    for batch in range(1_000_000):
        names = [f"user{batch}.{number}@people.example" for number in range(500)]
        await store.put_contacts([Contact(name, acts=(AGREEMENT,)) for name in names])
        await store.add_suppressions([entry(name) for name in names])
        print(batch, flush=True)

asyncio.run(main())
"""


def put_for_ever(database: Database) -> "subprocess.Popen[str]":
    """Start a process that commits batches of 500 and prints the number of each."""
    return subprocess.Popen(
        [sys.executable, "-c", PUT, str(database.path), str(database.folder)],
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
        text=True,
    )


def committed(process: "subprocess.Popen[str]", at_least: int) -> int:
    """Wait for a batch; return the number of the last one known to be committed."""
    assert process.stdout is not None
    while True:
        batch = int(process.stdout.readline())
        if batch >= at_least:
            return batch


async def test_a_change_is_seen_by_the_very_next_read(database: Database) -> None:
    store = database.open()
    with Answering(database.url, database.folder) as answering:
        for number in range(15):
            name = f"user{number}@people.example"
            assert not answering.ask(name).suppressions
            await store.add_suppressions([entry(name)])
            assert answering.ask(name).suppressions
            await store.remove_suppression(name, at=T0, reason="x")
            assert not answering.ask(name).suppressions
            await store.record_act(name, AGREEMENT)
            found = answering.ask(name).contact
            assert found is not None
            assert found.acts == (AGREEMENT,)
            await store.erase_contact(name, at=T0)
            assert answering.ask(name).contact is None


async def test_a_read_is_one_snapshot(database: Database) -> None:
    """Two addresses that always change together are never seen apart, in small reads or large."""
    store, reader = database.open(), database.open(read_only=True)
    names = tuple(f"user{number}@people.example" for number in range(120))
    pair = (names[0], names[-1])
    stopped = False

    async def flip() -> None:
        while not stopped:
            await store.add_suppressions([entry(name) for name in pair])
            await store.put_contacts([Contact(name) for name in pair])
            for name in pair:
                await store.erase_contact(name, at=T0)

    flipping = asyncio.create_task(flip())
    for _ in range(60):
        for some in (pair, names):
            facts = await reader.facts(Lookups(some))
            seen = [facts.get(name) for name in pair]
            kinds = [
                sorted(one.origin for one in found.suppressions) if found else [] for found in seen
            ]
            assert "unsubscribe" not in kinds[0] or "unsubscribe" in kinds[1]
            assert ("unsubscribe" in kinds[0]) == ("unsubscribe" in kinds[1])
    stopped = True
    await flipping


LOCK = """
import fcntl, sys

with open(sys.argv[1], "r+b") as index:
    fcntl.lockf(index, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 128)
"""


async def test_other_processes_see_that_the_database_is_open(database: Database) -> None:
    """Every process with the database open locks octet 128 of the log's index (UNIX_SHM_DMS).

    Whoever finds it free truncates the index: SIGBUS for the others, or two logs in one.
    """
    await database.open().close()
    first, second = database.open(read_only=True), database.open(read_only=True)
    for store in (first, second):
        await store.facts(Lookups((ANNA,)))
    await second.close()
    index = f"{database.path}-shm"
    locking = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LOCK, index, stderr=subprocess.PIPE
    )
    _, told = await locking.communicate()
    assert b"BlockingIOError" in told


async def test_a_kill_loses_no_commit(database: Database) -> None:
    await database.open().close()
    for _ in range(2):
        with put_for_ever(database) as process:
            batch = committed(process, at_least=2)
            process.send_signal(signal.SIGKILL)
        store = database.open()
        names = tuple(
            f"user{number}.{place}@people.example"
            for number in range(batch + 1)
            for place in (0, 499)
        )
        facts = await store.facts(Lookups(names))
        assert all(facts[name].contact and facts[name].suppressions for name in names)
        with closing(sqlite3.connect(database.path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            contacts, suppressions = connection.execute(
                "SELECT (SELECT count(*) FROM contact), (SELECT count(*) FROM suppression)"
            ).fetchone()
        assert contacts % 500 == suppressions % 500 == 0  # whole batches only
        counted = await store.counts()
        assert (counted[0], sum(counted[1].values())) == (contacts, suppressions)
        await store.close()


async def test_reads_and_writes_go_on_during_an_import(database: Database) -> None:
    """Reads stay quick, another process can write, and the log stays bounded."""
    store = database.open()
    await store.put_contacts([WHOLE])
    reader = database.open(read_only=True)
    log = database.path.with_name("store.db-wal")
    writes, largest = 0, 0
    with put_for_ever(database) as process:
        committed(process, at_least=0)
        end = time.monotonic() + 1.0
        while time.monotonic() < end or writes < 3:
            name = f"reader{writes}@people.example"
            await store.add_suppressions([entry(name)])  # within its timeout of 2 s
            for _ in range(200):
                assert (await facts_of(reader, ANNA)).contact == WHOLE
            assert (await facts_of(reader, name)).suppressions
            largest = max(largest, log.stat().st_size)
            writes += 1
        process.kill()
    assert largest < 128 * 1024 * 1024


def plan(database: Database, sql: str) -> str:
    values = (b"", b"", b"", b"", "")[: sql.count("?5") + 4]
    with closing(sqlite3.connect(database.path)) as connection:
        found = connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)
        return "\n".join(row[3] for row in found)


def test_no_read_of_the_mail_path_scans_a_table(database: Database) -> None:
    """So ten million rows take no longer: every part is a search by key."""
    database.open()
    asked = statements((1,), domains=2)
    for sql in asked:
        found = plan(database, sql)
        assert "SEARCH suppression USING PRIMARY KEY (wide_key=?)" in found
        assert "SCAN" not in found
    assert "SEARCH contact USING INDEX" in plan(database, asked.everything)
    assert "SEARCH consent_act USING PRIMARY KEY (contact=?)" in plan(database, asked.everything)
