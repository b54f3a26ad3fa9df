"""Replacing the key while others read and write, and being killed halfway."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from smtpproxy.policy.model import Lookups
from smtpproxy.store import key_files
from smtpproxy.store.keys import KeyRing
from smtpproxy.store.records import StoreMisconfigured
from smtpproxy.store.sql.store import Store
from tests.store.answering import REPOSITORY, Answering
from tests.store.conftest import Database
from tests.store.contract import ANNA, T0, entry, facts_of

NAMES = tuple(f"user{number}@people.example" for number in range(60))

REKEY = """
import asyncio, sys
from pathlib import Path
from smtpproxy.settings import StoreSettings
from smtpproxy.store import open_store
from tests.store.contract import T0
from tests.store.test_rekeying import NAMES

async def main():
    store = open_store(StoreSettings(sys.argv[1], 20.0), Path(sys.argv[2]))
    while True:
        await store.start_rekey(at=T0)
        print("started", flush=True)
        for start in range(0, len(NAMES), 10):
            await store.rekey(NAMES[start : start + 10])
        print("moved", flush=True)
        assert await store.finish_rekey(at=T0)
        print("finished", flush=True)

asyncio.run(main())
"""


def rekeying(database: Database) -> "subprocess.Popen[str]":
    """Start a process that replaces the key again and again, and reports each step."""
    return subprocess.Popen(
        [sys.executable, "-c", REKEY, database.url, str(database.folder)],
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
        text=True,
    )


@pytest.fixture
def database(any_database: Database) -> Database:
    return any_database


async def filled(database: Database) -> Store:
    store = database.open()
    await store.add_suppressions([entry(name) for name in NAMES])
    return store


async def test_no_reader_ever_misses_a_suppression(database: Database) -> None:
    """A reader that stays open finds them all, one at a time and many at once."""
    await filled(database)
    reader = database.open(read_only=True)
    with rekeying(database) as process:
        assert process.stdout is not None
        rounds = 0
        while rounds < 8:
            rounds += process.stdout.readline() == "finished\n"
            for name in NAMES[::7]:
                assert (await facts_of(reader, name)).suppressions
            facts = await reader.facts(Lookups(NAMES))
            assert all(facts[name].suppressions for name in NAMES)
        process.kill()


async def test_a_key_added_while_the_file_is_read_is_read_too(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the reader would think that its older copy of the file is the wrong file."""
    await filled(database)
    others = [database.open()]

    def reads_and_another_adds_a_key(state_dir: Path) -> KeyRing:
        keys = key_files.load_keys(state_dir)
        while others:
            with ThreadPoolExecutor(1) as thread:
                thread.submit(asyncio.run, rekey_and_close(others.pop())).result(10)
        return keys

    for place in ("sql.live_keys", "sqlite.live_keys"):
        monkeypatch.setattr(f"smtpproxy.store.{place}.load_keys", reads_and_another_adds_a_key)
    assert (await facts_of(database.open(read_only=True), NAMES[0])).suppressions


async def rekey_and_close(store: Store) -> None:
    await store.start_rekey(at=T0)
    await store.close()


async def test_a_running_process_notices_a_new_key_at_its_next_read(database: Database) -> None:
    store = await filled(database)
    with Answering(database.url, database.folder) as answering:
        await store.start_rekey(at=T0)
        await store.add_suppressions([entry(ANNA)])  # stored under the new key
        assert answering.ask(ANNA).suppressions
        assert answering.ask(NAMES[0]).suppressions
        await store.rekey(NAMES)
        assert await store.finish_rekey(at=T0)
        assert answering.ask(NAMES[0]).suppressions


async def test_a_writer_opened_earlier_uses_the_newest_key(
    database: Database,
) -> None:
    """Otherwise what it adds after the old key is retired would match nobody."""
    store, other = await filled(database), database.open()
    await other.add_suppressions([entry(NAMES[0])])
    await store.start_rekey(at=T0)
    await store.rekey(NAMES)
    assert await store.finish_rekey(at=T0)
    await other.add_suppressions([entry(ANNA)])
    assert (await facts_of(store, ANNA)).suppressions
    assert [key.suppressions for key in await store.keys()] == [len(NAMES) + 1]


async def test_a_kill_leaves_every_suppression_in_force(database: Database) -> None:
    await (await filled(database)).close()
    for at_least in ("moved", "started", "finished"):
        with rekeying(database) as process:
            assert process.stdout is not None
            while process.stdout.readline().strip() != at_least:
                pass
            process.send_signal(signal.SIGKILL)
        store = database.open()
        facts = await store.facts(Lookups(NAMES))
        assert all(facts[name].suppressions for name in NAMES)
        if database.path.exists():
            with closing(sqlite3.connect(database.path)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        await store.close()
    store = database.open()
    await store.start_rekey(at=T0)
    await store.rekey(NAMES)
    assert await store.finish_rekey(at=T0)
    assert len(key_files.load_keys(database.folder).keys) == 1
    assert [path.name for path in database.folder.glob("*.aside")] == []


def test_files_that_another_process_is_writing_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / key_files.FILE_NAME
    key_files.create_secret(path, "1\n")
    others = tmp_path / f"{path.name}.{os.getppid()}.0a1b2c3d.aside"
    others.touch()
    key_files.replace_secret(path, "2\n")
    assert others.exists()


async def test_a_key_that_is_only_in_the_file_is_used_next_time(database: Database) -> None:
    """After a kill between file and database, no second key is made."""
    store = await filled(database)
    (status,) = await store.keys()
    made = key_files.add_key(database.folder, {1: status.fingerprint}).newest
    assert (await facts_of(database.open(), NAMES[0])).suppressions
    assert await store.start_rekey(at=T0) == 2
    assert (await store.keys())[-1].fingerprint == made.fingerprint


async def test_a_retired_key_left_in_the_file_is_harmless(database: Database) -> None:
    """As after a kill between database and file."""
    store = await filled(database)
    await store.start_rekey(at=T0)
    both = database.key_path.read_bytes()
    await store.rekey(NAMES)
    assert await store.finish_rekey(at=T0)
    database.key_path.write_bytes(both)
    again = database.open()
    assert (await facts_of(again, NAMES[0])).suppressions
    assert [key.version for key in await again.keys()] == [2]
    assert await again.start_rekey(at=T0) == 3
    assert key_files.load_keys(database.folder).versions == (2, 3)


async def test_a_file_without_a_live_key_is_refused(database: Database) -> None:
    store = await filled(database)
    old = database.key_path.read_bytes()
    await store.start_rekey(at=T0)
    database.key_path.write_bytes(old)
    for read_only in (True, False):
        with pytest.raises(StoreMisconfigured, match=r"not in suppression\.key"):
            await database.open(read_only=read_only).ping()


async def test_the_key_file_stays_readable_by_its_owner_only(database: Database) -> None:
    store = await filled(database)
    await store.start_rekey(at=T0)
    assert database.key_path.stat().st_mode & 0o777 == 0o600
