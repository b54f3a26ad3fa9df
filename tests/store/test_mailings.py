"""The log of who was mailed when, on every backend and across processes."""

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from smtpproxy.policy.model import Lookups, Mailing, Stream
from smtpproxy.store import open_mailings
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sql.mailings import Mailed, MailingLog
from smtpproxy.store.sqlite.side_file import SideFile
from tests.store.conftest import Database

T0 = datetime(2026, 3, 1, 10, 0, 0, 123456, tzinfo=UTC)
DAY = timedelta(days=1)
OFFERS, NEWS = Stream("offers", purpose="offers"), Stream("news", purpose="news", brand="shop")
ANNA, BEN = "anna@people.example", "ben@people.example"


@pytest.fixture
def log(any_database: Database) -> MailingLog:
    return any_database.part(open_mailings(any_database.settings()))


async def test_a_reservation_returns_earlier_mailings(log: MailingLog) -> None:
    assert await log.reserve("A", OFFERS, [ANNA, BEN], T0) == {ANNA: Mailed(), BEN: Mailed()}
    before = await log.reserve("B", NEWS, [ANNA], T0 + DAY)
    assert before == {ANNA: Mailed((Mailing("offers", T0, "offers"),), T0)}
    known = await log.known([ANNA])
    assert known[ANNA].mailings == (
        Mailing("offers", T0, "offers"),
        Mailing("news", T0 + DAY, "news", "shop"),
    )
    log.close()


async def test_a_released_mailing_does_not_count(log: MailingLog) -> None:
    await log.reserve("A", OFFERS, [ANNA, BEN], T0)
    await log.reserve("B", OFFERS, [ANNA], T0 + DAY)
    await log.release("A", [ANNA])
    known = await log.known([ANNA, BEN])
    assert known[ANNA] == Mailed((Mailing("offers", T0 + DAY, "offers"),), T0 + DAY)
    assert known[BEN] == Mailed((Mailing("offers", T0, "offers"),), T0)
    await log.release("B", [ANNA])
    assert (await log.known([ANNA])).get(ANNA, Mailed()) == Mailed()
    log.close()


async def test_the_first_mailing_outlives_the_count(log: MailingLog) -> None:
    await log.reserve("A", OFFERS, [ANNA], T0)
    await log.reserve("B", OFFERS, [ANNA], T0 + DAY)
    assert await log.prune(T0 + DAY, first_before=T0) == 1
    assert await log.known([ANNA]) == {ANNA: Mailed((Mailing("offers", T0 + DAY, "offers"),), T0)}
    assert await log.prune(T0 + 2 * DAY, first_before=T0 + DAY) == 1
    assert (await log.known([ANNA])).get(ANNA, Mailed()) == Mailed()
    log.close()


async def test_mailings_from_a_clock_that_was_ahead_get_the_date_of_the_correction(
    log: MailingLog,
) -> None:
    await log.correct(T0)
    for number, at in enumerate((T0 + 200 * DAY, T0 + 201 * DAY)):
        await log.reserve(f"ahead {number}", OFFERS, [ANNA], at)
    await log.reserve("right", NEWS, [ANNA, BEN], T0 - DAY)
    await log.reserve("another clock", NEWS, [BEN], T0 + DAY)
    await log.correct(T0)
    known = await log.known([ANNA, BEN])
    sent = [(one.stream, one.at) for one in known[ANNA].mailings]
    assert sent == [("news", T0 - DAY), ("offers", T0), ("offers", T0)]
    assert known[ANNA].first_at == T0 - DAY
    assert [one.at for one in known[BEN].mailings] == [T0 - DAY, T0 + DAY]
    await log.release("ahead 0", [ANNA])
    assert len((await log.known([ANNA]))[ANNA].mailings) == 2
    log.close()


async def test_a_message_counted_twice_while_a_clock_was_ahead_counts_once(log: MailingLog) -> None:
    """As if a count could not be released and was then made again."""
    for at in (T0, T0 + 200 * DAY):
        await log.reserve("A", OFFERS, [ANNA], at)
    for at in (T0 + 200 * DAY, T0 + 201 * DAY, T0 + 202 * DAY):
        await log.reserve("B", NEWS, [ANNA, BEN], at)
    await log.correct(T0)
    known = await log.known([ANNA, BEN])
    sent = [(one.stream, one.at) for one in known[ANNA].mailings]
    assert sorted(sent) == [("news", T0), ("offers", T0)]
    assert [one.stream for one in known[BEN].mailings] == ["news"]
    log.close()


async def test_nothing_is_left_of_a_forgotten_person(log: MailingLog) -> None:
    await log.reserve("A", OFFERS, [ANNA, BEN], T0)
    await log.forget(ANNA)
    assert (await log.known([ANNA])).get(ANNA, Mailed()) == Mailed()
    assert (await log.known([BEN]))[BEN].first_at == T0
    log.close()


async def test_the_store_returns_mailings_on_request(
    any_database: Database, log: MailingLog
) -> None:
    store = any_database.open()
    assert await store.facts(Lookups((ANNA,), mailings=True)) in ({}, {ANNA: _no_facts()})
    await log.reserve("A", OFFERS, [ANNA], T0)
    facts = await store.facts(Lookups((ANNA,), mailings=True))
    assert (facts[ANNA].mailings, facts[ANNA].first_mailed_at) == (
        (Mailing("offers", T0, "offers"),),
        T0,
    )
    assert await store.facts(Lookups((ANNA,))) == {}
    await store.erase_contact(ANNA, at=T0)
    facts = await store.facts(Lookups((ANNA,), mailings=True))
    assert facts[ANNA].mailings == ()
    log.close()


def _no_facts() -> object:
    from smtpproxy.policy.model import RecipientFacts

    return RecipientFacts()


async def test_the_file_holds_no_address(tmp_path: Path) -> None:
    log = MailingLog(SideFile(tmp_path / "store.db", "mailings", 2.0))
    await log.reserve("A", OFFERS, [ANNA], T0)
    log.close()
    _holds_nobody(tmp_path)


def _holds_nobody(folder: Path) -> None:
    files = list(folder.iterdir())
    assert files
    for file in files:
        assert b"anna" not in file.read_bytes()
        assert file.stat().st_mode & 0o777 == 0o600


async def test_a_lasting_lock_is_an_internal_failure(tmp_path: Path) -> None:
    log = MailingLog(SideFile(tmp_path / "store.db", "mailings", 0.05))
    await log.reserve("A", OFFERS, [ANNA], T0)
    with closing(sqlite3.connect(tmp_path / "store-mailings.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable):
            await log.reserve("B", OFFERS, [ANNA], T0)
        other.execute("ROLLBACK")
    await log.reserve("C", OFFERS, [ANNA], T0 + DAY)
    assert len((await log.known([ANNA]))[ANNA].mailings) == 2
    log.close()


async def test_a_damaged_file_is_an_internal_failure(tmp_path: Path) -> None:
    (tmp_path / "store-mailings.db").write_bytes(b"no database at all " * 300)
    log = MailingLog(SideFile(tmp_path / "store.db", "mailings", 0.05))
    with pytest.raises(StoreUnavailable):
        await log.reserve("A", OFFERS, [ANNA], T0)


COUNTING = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from smtpproxy.policy.model import Stream
from smtpproxy.store.sql.mailings import MailingLog
from smtpproxy.store.sqlite.side_file import SideFile

async def main():
    log = MailingLog(SideFile(Path(sys.argv[1]), "mailings", 20.0))
    sys.stdin.readline()
    for number in range(200):
        id = f"{sys.argv[2]}-{number}"
        before = await log.reserve(id, Stream("offers"), ["anna@people.example"], datetime.now(UTC))
        print(len(before["anna@people.example"].mailings))
    log.close()

asyncio.run(main())
"""


async def test_concurrent_processes_count_every_mailing_once(tmp_path: Path) -> None:
    def start(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", COUNTING, str(tmp_path / "store.db"), name]
        return subprocess.Popen(command, stdin=-1, stdout=-1, text=True)

    children = [start(name) for name in "abc"]
    outputs = await asyncio.gather(
        *(asyncio.to_thread(child.communicate, "go\n", 60) for child in children)
    )
    seen = sorted(int(line) for out, _ in outputs for line in out.split())
    assert seen == list(range(600))


async def test_a_reader_waits_for_tables_being_created(database: Database) -> None:
    store = database.open(read_only=False)
    await store.close()
    reading = database.open(read_only=True)
    database.path.with_name("store-mailings.db").touch()  # as a worker does just before
    asked = asyncio.create_task(reading.facts(Lookups((ANNA,), mailings=True)))
    await asyncio.sleep(0.05)
    log = MailingLog(SideFile(database.path, "mailings", 2.0))
    await log.reserve("A", OFFERS, [ANNA], T0)
    assert (await asked)[ANNA].mailings == (Mailing("offers", T0, "offers"),)
    log.close()
