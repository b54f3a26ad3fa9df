"""The journal of changes: written at each commit before anybody is told, and read back whole."""

import asyncio
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from smtpproxy.policy.model import ConsentAct, Contact, Origin
from smtpproxy.store.change_journal import Change, Journal, JournalGap, Position, files
from smtpproxy.store.records import StoreUnavailable, SuppressionEntry
from smtpproxy.store.sql.store import Store
from tests.store.conftest import Database

NOW = datetime(2026, 11, 29, 10, tzinfo=UTC)
ANNE, BEN = "anne@people.example", "ben@people.example"


def read(folder: Path) -> list[Change]:
    return [line.change for line in Journal(folder / "audit").after(Position())]


async def suppress(store: Store, address: str) -> None:
    await store.suppress([SuppressionEntry(address, "marketing", Origin.UNSUBSCRIBE, NOW)])


async def test_refusals_are_in_the_journal_when_the_write_returns(database: Database) -> None:
    store = database.open()
    await suppress(store, ANNE)
    assert [change.action for change in read(database.folder)] == ["added"]
    await store.remove_suppression(ANNE, at=NOW, reason="a mistake")
    await store.record_act(BEN, ConsentAct("offers", NOW, withdrawal=True))
    await store.erase_contact(BEN, at=NOW)
    told = read(database.folder)
    assert [change.action for change in told] == ["added", "lifted", "withdrawn", "added"]
    assert (told[2].purpose, told[2].since) == ("offers", NOW)
    assert (told[3].origin, told[3].key) == ("erasure", told[2].key)


async def test_it_holds_no_address(database: Database) -> None:
    store = database.open()
    await suppress(store, ANNE)
    await store.record_act(BEN, ConsentAct("offers", NOW, withdrawal=True))
    (path,) = files(database.folder / "audit")
    assert "people.example" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_storing_a_contact_adds_nothing(database: Database) -> None:
    store = database.open()
    await store.put_contacts([Contact(ANNE)])
    assert not files(database.folder / "audit")


async def test_a_failed_write_is_reported_and_made_up_for_by_the_next(
    database: Database,
) -> None:
    store = database.open()
    await store.ping()
    lock = database.folder / "audit" / "changes.lock"
    lock.mkdir(parents=True)
    with pytest.raises(StoreUnavailable, match="journal of changes"):
        await suppress(store, ANNE)
    assert await store.suppressions(ANNE), "the suppression holds all the same"
    lock.rmdir()
    await suppress(store, BEN)
    assert len(read(database.folder)) == 2


async def test_a_line_cut_short_by_a_crash_is_ignored(database: Database) -> None:
    store = database.open()
    await suppress(store, ANNE)
    (path,) = files(database.folder / "audit")
    with path.open("ab") as file:
        file.write(b'{"n":2,"aft')
    assert len(read(database.folder)) == 1
    await suppress(store, BEN)
    assert len(read(database.folder)) == 2


@pytest.mark.parametrize("left", [b"\0" * 200_000, b"\0" * 4096 + b'8,"at":"2026"}\n'], ids=len)
async def test_zeros_left_by_a_power_cut_are_ignored(database: Database, left: bytes) -> None:
    store = database.open()
    await suppress(store, ANNE)
    (path,) = files(database.folder / "audit")
    with path.open("ab") as file:
        file.write(left)
    await suppress(store, BEN)
    assert len(read(database.folder)) == 2


async def test_lines_that_the_disk_lost_are_written_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsync reports a loss once: the same request, repeated, would find the lines in the file."""
    store = database.open()
    await suppress(store, BEN)
    whole = files(database.folder / "audit")[0].read_bytes()

    def fails(file: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fails)
        with pytest.raises(
            StoreUnavailable, match=r"changes-\d{4}-\d\d.ndjson: Input/output error"
        ):
            await suppress(store, ANNE)
    assert files(database.folder / "audit")[0].read_bytes() == whole
    await suppress(store, ANNE)
    assert len(read(database.folder)) == 2


WRITER = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from smtpproxy.policy.model import Origin
from smtpproxy.settings import StoreSettings
from smtpproxy.store import open_store
from smtpproxy.store.records import SuppressionEntry

async def write(folder, name):
    store = open_store(StoreSettings(f"sqlite://{folder}/store.db", 20.0), Path(folder))
    for number in range(40):
        entry = SuppressionEntry(f"{name}{number}@people.example", "all", Origin.MANUAL,
                                 datetime.now(UTC))
        await store.suppress([entry])
    await store.close()

asyncio.run(write(*sys.argv[1:]))
"""


async def test_several_processes_write_one_chain(database: Database) -> None:
    await database.open().ping()
    writers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, str(database.folder), name, stderr=subprocess.PIPE
        )
        for name in ("one", "two", "three")
    ]
    for writer in writers:
        _, told = await asyncio.wait_for(writer.communicate(), 60)
        assert writer.returncode == 0, told
    told = read(database.folder)
    assert len({change.key for change in told}) == len(told) == 120


def test_past_months_expire(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for month in (9, 10, 11):
        at = datetime(2026, month, 3, tzinfo=UTC)
        with journal.locked():
            place = journal.append([(Change(at, "backup"), (0, 0))], at)
    assert journal.expire(datetime(2026, 10, 20, tzinfo=UTC)) == 1
    assert [path.name for path in files(tmp_path)] == [
        "changes-2026-10.ndjson",
        "changes-2026-11.ndjson",
    ]
    assert list(journal.after(place)) == []
    with pytest.raises(JournalGap, match="change 1 is missing"):
        list(journal.after(Position()))


def test_setting_the_clock_back_does_not_break_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for month in (11, 10):
        at = datetime(2026, month, 3, tzinfo=UTC)
        with journal.locked():
            journal.append([(Change(at, "backup"), (0, 0))], at)
    assert [line.n for line in journal.after(Position())] == [1, 2]
