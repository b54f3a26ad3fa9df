"""Reading a broken or locked database fails in time: never a wrong answer, never a hang."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest

from smtpproxy.policy.model import Contact, Lookups
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sql.store import Store
from tests.store.conftest import Database
from tests.store.contract import ANNA, T0, WHOLE, entry, facts_of

ASK = Lookups((ANNA,))


@pytest.fixture
async def reader(database: Database) -> Store:
    """A store open for reading that has already read its content."""
    await database.open().put_contacts([WHOLE])
    store = database.open(read_only=True, timeout=0.2)
    assert (await facts_of(store, ANNA)).contact == WHOLE
    return store


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock the whole database, even against readers."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        yield


@asynccontextmanager
async def ticking() -> AsyncIterator[None]:
    """Check that the event loop keeps running: one blocked by SQLite would take a turn or two."""
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.001)
            turns += 1

    task = asyncio.create_task(tick())
    yield
    task.cancel()
    assert turns > 10


async def assert_unavailable(store: Store) -> None:
    with pytest.raises(StoreUnavailable):
        await store.facts(ASK)
    with pytest.raises(StoreUnavailable):
        await store.ping()


def move(database: Database, folder: str) -> Path:
    """Move the whole database away."""
    target = database.folder / folder
    target.mkdir()
    for path in database.folder.glob("store.db*"):
        path.rename(target / path.name)
    return target / "store.db"


def copy(source: Path, target: Path) -> None:
    """Replace a database by a copy in one step, as a restore does."""
    aside = target.with_suffix(".new")
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(aside)) as other:
        one.backup(other)
        other.execute("PRAGMA journal_mode = WAL")
    for leftover in ("-wal", "-shm"):
        target.with_name(target.name + leftover).unlink(missing_ok=True)
    aside.rename(target)


async def test_a_lasting_lock_makes_reads_fail(database: Database, reader: Store) -> None:
    elsewhere = move(database, "elsewhere")
    copy(elsewhere, database.path)
    with locked(database.path):
        async with ticking():
            await assert_unavailable(reader)  # while the lock is still held
    assert (await facts_of(reader, ANNA)).contact == WHOLE


async def test_a_lock_that_ends_in_time_is_waited_for(database: Database) -> None:
    await database.open().put_contacts([WHOLE])
    reader = database.open(read_only=True, timeout=10.0)
    elsewhere = move(database, "elsewhere")
    copy(elsewhere, database.path)
    with locked(database.path):
        asked = asyncio.create_task(facts_of(reader, ANNA))
        await asyncio.sleep(0)
        assert not asked.done()
    assert (await asked).contact == WHOLE


async def test_a_writer_does_not_block_readers(database: Database, reader: Store) -> None:
    with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        other.execute("DELETE FROM contact")
        assert (await facts_of(reader, ANNA)).contact == WHOLE
        other.execute("COMMIT")
    assert (await facts_of(reader, ANNA)).contact is None


async def test_an_erasure_waiting_for_a_reader_blocks_nobody(database: Database) -> None:
    """The reader may be an export or a copy of the store; the log is truncated when it ends."""
    store, other = database.open(timeout=30.0), database.open()
    await store.put_contacts([WHOLE])
    await other.add_suppressions([entry("before@people.example")])
    with closing(sqlite3.connect(database.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM contact").fetchall()
        erasing = asyncio.create_task(store.erase_contact(ANNA, at=T0))
        while True:
            if await other.contact(ANNA) is None:
                break
            await asyncio.sleep(0.001)
        for n in range(3):
            await other.add_suppressions([entry(f"p{n}@people.example")])
        assert not erasing.done()
    assert await erasing
    assert Path(f"{database.path}-wal").stat().st_size == 0  # noqa: ASYNC240


async def test_a_write_fails_if_another_takes_too_long(database: Database) -> None:
    store = database.open(timeout=0.2)
    with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with ticking():
            with pytest.raises(StoreUnavailable, match="another process"):
                await store.add_suppressions([entry()])
    await store.add_suppressions([entry()])
    assert (await facts_of(store, ANNA)).suppressions


async def test_a_missing_file_is_noticed_at_once(database: Database, reader: Store) -> None:
    elsewhere = move(database, "elsewhere")
    await assert_unavailable(reader)
    for path in elsewhere.parent.iterdir():
        path.rename(database.folder / path.name)
    assert (await facts_of(reader, ANNA)).contact == WHOLE


async def test_a_write_to_a_missing_file_fails(database: Database) -> None:
    store = database.open()
    await store.add_suppressions([entry()])
    move(database, "elsewhere")
    with pytest.raises(StoreUnavailable):
        await store.add_suppressions([entry("bert@people.example")])


async def test_a_write_without_a_thread_fails_and_the_next_one_succeeds(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    store = database.open()
    with monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", start)
        with pytest.raises(StoreUnavailable, match="new thread"):
            await store.add_suppressions([entry()])
    await store.add_suppressions([entry()])


async def test_a_replaced_file_is_read_at_once(database: Database, reader: Store) -> None:
    elsewhere = move(database, "elsewhere")
    copy(elsewhere, database.path)
    with closing(sqlite3.connect(database.path)) as other:
        other.execute("UPDATE contact SET audience = 'consumer'")
        other.commit()
    found = (await facts_of(reader, ANNA)).contact
    assert found is not None
    assert found.audience == "consumer"


async def test_a_file_under_another_key_is_not_read(database: Database, reader: Store) -> None:
    other = Database(database.folder / "other")
    await other.open().close()
    move(database, "elsewhere")
    copy(other.path, database.path)
    with pytest.raises(StoreUnavailable, match=r"not in suppression\.key"):
        await reader.facts(ASK)


@pytest.mark.parametrize("size", [0, 100, 4096, 8192])
async def test_a_truncated_file_is_not_read(database: Database, reader: Store, size: int) -> None:
    with closing(sqlite3.connect(database.path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert (await facts_of(reader, ANNA)).contact == WHOLE
    os.truncate(database.path, size)
    await assert_unavailable(reader)


async def test_a_damaged_page_is_an_error_or_harmless(database: Database, reader: Store) -> None:
    """Page by page: what SQLite cannot read must not become "nobody is suppressed"."""
    await database.open().add_suppressions([entry()])
    with closing(sqlite3.connect(database.path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    good = await facts_of(reader, ANNA)
    assert good.suppressions
    whole = database.path.read_bytes()
    failures = 0
    for start in range(0, len(whole), 4096):
        with database.path.open("r+b") as file:
            file.seek(start)
            file.write(b"\xa5" * 4096)
        try:
            assert await facts_of(database.open(read_only=True), ANNA) == good
        except StoreUnavailable:
            failures += 1
        database.path.write_bytes(whole)
    assert failures > 3
    assert await facts_of(database.open(read_only=True), ANNA) == good


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE suppression",
        "ALTER TABLE contact DROP COLUMN purchases",
        "UPDATE contact SET audience = 'martian'",
        "UPDATE contact SET purchases = 'none'",
        f"UPDATE contact SET collected_at = {2**62}",
    ],
)
async def test_content_that_cannot_be_decoded_is_unavailable(
    database: Database, reader: Store, change: str
) -> None:
    with closing(sqlite3.connect(database.path)) as other:
        other.execute(change)
        other.commit()
    with pytest.raises(StoreUnavailable):
        await reader.facts(ASK)


async def test_a_store_for_reading_does_not_write(reader: Store) -> None:
    with pytest.raises(StoreUnavailable, match="reading only"):
        await reader.put_contacts([Contact(ANNA)])


async def test_a_write_that_fails_half_way_changes_nothing(database: Database) -> None:
    store = database.open()
    with closing(sqlite3.connect(database.path)) as other:
        other.execute(
            "CREATE TRIGGER full BEFORE INSERT ON consent_act BEGIN SELECT RAISE(ABORT, 'x'); END"
        )
    with pytest.raises(StoreUnavailable):
        await store.put_contacts([WHOLE])
    assert await store.contact(ANNA) is None
    assert await store.counts() == await database.open(read_only=True).counts()
    with closing(sqlite3.connect(database.path)) as other:
        other.execute("DROP TRIGGER full")
    await store.put_contacts([WHOLE])
    assert await store.contact(ANNA) == WHOLE


async def test_tasks_share_a_store(database: Database) -> None:
    """Transactions of tasks do not mix, and cancelling one loses no other."""
    store = database.open()
    names = [f"user{number}@people.example" for number in range(40)]
    tasks = [asyncio.create_task(store.add_suppressions([entry(name)])) for name in names]
    await asyncio.sleep(0)
    tasks[20].cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    kept = [
        name
        for name, result in zip(names, done, strict=True)
        if not isinstance(result, BaseException)
    ]
    assert len(kept) >= 39
    found = await store.facts(Lookups(tuple(names), contacts=False))
    assert set(kept) <= set(found)


@pytest.mark.parametrize("read_only", [True, False])
async def test_a_database_that_stays_locked_cannot_be_opened(
    database: Database, read_only: bool
) -> None:
    await database.open().close()
    with locked(database.path), pytest.raises(StoreUnavailable, match="another process"):
        database.open(read_only=read_only, timeout=0.2)
    await database.open(read_only=read_only).ping()


async def test_cancelling_a_large_read_harms_no_other(database: Database) -> None:
    store = database.open()
    everybody = tuple(f"user{number}@people.example" for number in range(300))
    await store.put_contacts([Contact(name) for name in everybody])
    for turns in range(1, 5):
        reading = asyncio.create_task(store.facts(Lookups(everybody)))
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert len(await store.facts(Lookups(everybody))) == 300
