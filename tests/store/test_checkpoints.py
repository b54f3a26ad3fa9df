"""Checkpoints of a write-ahead log lose nothing that others commit at that moment."""

import asyncio
import fcntl
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import smtpproxy
from smtpproxy.policy.model import Contact
from smtpproxy.store import open_mailings
from smtpproxy.store.move import sqlite
from smtpproxy.store.sqlite import connection, side_file
from smtpproxy.store.sqlite.connection import checkpoint, empty_log, open_reader, open_writer
from smtpproxy.store.sqlite.side_tables import SIDE_TABLES
from tests.store.conftest import Database
from tests.store.test_mailings import OFFERS

NOW = datetime(2026, 11, 1, tzinfo=UTC)
ANNA = "anna@people.example"
_READ_LOCKS = 123, 5
"""Octets of the log's index, www.sqlite.org/walformat.html, 2.2."""
_LOCK = "hhqqi"  # struct flock
_LOOK = f"""
import fcntl, struct, sys
with open(sys.argv[1], "rb") as file:
    lock = struct.pack("{_LOCK}", {fcntl.F_WRLCK}, 0, *{_READ_LOCKS}, 0)
    print(struct.unpack("{_LOCK}", fcntl.fcntl(file, {fcntl.F_GETLK}, lock))[0])
"""


def is_read(path: Path) -> bool:
    """Tell whether this process has a read open; only another process can ask."""
    command = [sys.executable, "-S", "-c", _LOOK, f"{path}-shm"]
    return int(subprocess.check_output(command, timeout=30)) != fcntl.F_UNLCK


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each checkpoint, whether a read was open."""
    found: list[bool] = []

    class Watched(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if "wal_checkpoint" in sql:
                (file,) = (row[2] for row in super().execute("PRAGMA database_list"))
                found.append(is_read(Path(file)))
            return super().execute(sql, *values)

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Watched))
    return found


def log_size(database: Database) -> int:
    return size_of_log(database.path)


def size_of_log(path: Path) -> int:
    return Path(f"{path}-wal").stat().st_size


async def test_an_erasure_empties_the_log_while_a_read_is_open(
    database: Database, reads: list[bool]
) -> None:
    store = database.open()
    await store.put_contacts([Contact(ANNA)])
    await store.erase_contact(ANNA, at=NOW)
    assert log_size(database) == 0
    assert reads == [True] * 3


async def test_a_long_log_is_truncated_while_a_read_is_open(
    database: Database, reads: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = database.open()
    await store.put_contacts([Contact(ANNA)])
    assert log_size(database) > 0
    assert not reads
    monkeypatch.setattr(connection, "_LONG_LOG", 0)
    await store.put_contacts([Contact("bert@people.example")])
    assert log_size(database) == 0
    assert reads == [True] * 3
    reader = open_reader(database.path)
    with closing(reader):
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM contact").fetchall()
        await store.put_contacts([Contact("carla@people.example")])  # which succeeds nonetheless
    assert log_size(database) > 0
    assert await store.contact("carla@people.example")


async def test_copying_a_store_holds_a_read_open_while_its_logs_are_truncated(
    database: Database, reads: list[bool]
) -> None:
    await database.open().put_contacts([Contact(ANNA)])
    async with sqlite.open_source(database.path, 5.0) as source:
        async with source.snapshot(""):
            pass
        assert reads == [True] * 3
        await source.tidy()
        assert len(reads) > 2
    assert all(reads)


async def test_a_side_file_is_checkpointed_while_a_read_is_open(
    database: Database, reads: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    moved, loop = asyncio.Event(), asyncio.get_running_loop()

    def move(path: Path) -> bool:
        done = checkpoint(path)
        loop.call_soon_threadsafe(moved.set)
        return done

    monkeypatch.setattr(side_file, "checkpoint", move)
    monkeypatch.setattr(side_file, "_CHECKPOINT_EVERY", 1)
    log = database.part(open_mailings(database.settings()))
    database.open()
    await log.reserve("id", OFFERS, [ANNA], NOW)
    await asyncio.wait_for(moved.wait(), 10)
    assert reads == [True]


def test_sqlites_own_checkpoints_are_off(tmp_path: Path, database: Database) -> None:
    """Except for a copy in the making, which has a single connection."""
    database.open()
    opened: list[Callable[[], sqlite3.Connection]] = [
        lambda: open_writer(database.path, 1.0),
        lambda: side_file.opened(tmp_path / "side.db", SIDE_TABLES["mailings"], read_only=False),
    ]
    for one in opened:
        with closing(one()) as made:
            assert made.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
    places = {
        file.name
        for file in Path(smtpproxy.__file__).parent.rglob("*.py")
        if "wal_checkpoint(" in file.read_text()
    }
    assert places == {"connection.py", "sqlite_target.py"}


def test_a_checkpoint_waits_for_nobody(database: Database) -> None:
    database.open()
    with closing(open_writer(database.path, 1.0)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert not empty_log(database.path)
        writer.execute("COMMIT")
        assert empty_log(database.path)
        writer.execute("PRAGMA user_version = 1000")
        assert checkpoint(database.path)


def test_a_constant_writer_does_not_keep_the_log_from_being_truncated(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.open()
    with closing(open_writer(database.path, 0.0)) as other:

        class Outrun(sqlite3.Connection):
            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                if "wal_checkpoint(PASSIVE" in sql:  # just when the length of the log is known
                    with suppress(sqlite3.OperationalError):
                        other.execute("PRAGMA user_version = 1000")
                return super().execute(sql, *values)

        monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Outrun))
        assert not checkpoint(database.path)
        assert empty_log(database.path)
        assert log_size(database) == 0


async def test_the_log_of_a_busy_side_file_stays_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = side_file.SideFile(tmp_path / "store.db", "confirmations", 5.0)
    row = "INSERT INTO confirmation VALUES (randomblob(1000), 0)"
    sizes = []
    monkeypatch.setattr(side_file, "_CHECKPOINT_EVERY", 50)
    monkeypatch.setattr(connection, "_LONG_LOG", 1_000_000)
    for number in range(1_000):
        async with file.writing() as session:
            await session.run(row)
        await asyncio.sleep(0.0005 * (number % 50 < 20))
        sizes.append((tmp_path / "store-confirmations.db-wal").stat().st_size)
    file.close()
    assert max(sizes) < 4_000_000


async def test_the_log_of_a_store_behind_a_symlink_is_truncated(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.open().close()
    there = database.path.with_name("elsewhere.db")
    database.path.rename(there)
    database.path.symlink_to(there)
    monkeypatch.setattr(connection, "_LONG_LOG", 0)
    await database.open().put_contacts([Contact(ANNA)])
    assert size_of_log(there) == 0
