"""How many people a text was sent to, counted exactly or cheaply across all workers."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from smtpproxy.store import open_bulk_counter
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sql.bulk import BulkCounter
from smtpproxy.store.sqlite.side_file import SideFile
from tests.store.conftest import Database

T0 = datetime(2026, 6, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
TEXT, OTHER = b"t" * 16, b"o" * 16
HOUR = 3_600.0

Open = Callable[[], BulkCounter]


@pytest.fixture
def opened(any_database: Database) -> Open:
    return lambda: any_database.part(open_bulk_counter(any_database.settings()))


async def test_each_person_counts_once_per_text(opened: Open) -> None:
    log = opened()
    assert await log.count(TEXT, ["a@x", "b@x"], T0, HOUR, 10) == 2
    assert await log.count(TEXT, ["b@x", "c@x"], T0 + SECOND, HOUR, 10) == 3
    assert await log.count(OTHER, ["a@x"], T0, HOUR, 10) == 1
    log.close()


async def test_a_recipient_listed_twice_counts_once(opened: Open) -> None:
    log = opened()
    assert await log.count(TEXT, ["a@x", "b@x", "a@x"], T0, HOUR, 10) == 2


async def test_an_estimate_counts_from_when_it_was_made(opened: Open) -> None:
    log = opened()
    await log.estimate(TEXT, ["a@x"], T0, HOUR, 10)
    await log.estimate(TEXT, ["b@x"], T0 + SECOND / 2, HOUR, 10)  # not merged yet
    assert await log.estimate(TEXT, ["c@x"], T0 + 3_601 * SECOND, HOUR, 10) == 1


async def test_recipients_older_than_the_window_do_not_count(opened: Open) -> None:
    log = opened()
    await log.count(TEXT, ["a@x", "b@x"], T0, HOUR, 10)
    await log.count(TEXT, ["b@x"], T0 + 1800 * SECOND, HOUR, 10)
    assert await log.count(TEXT, ["c@x"], T0 + 3600 * SECOND, HOUR, 10) == 2
    assert await log.count(TEXT, ["c@x"], T0 + 9000 * SECOND, HOUR, 10) == 1
    log.close()


async def test_counts_made_while_a_clock_was_ahead_are_corrected(opened: Open) -> None:
    log = opened()
    await log.count(TEXT, ["a@x", "b@x"], T0 + timedelta(days=300), HOUR, 10)
    assert await log.count(TEXT, ["c@x"], T0, HOUR, 10) == 3
    await log.correct(T0)
    assert await log.count(TEXT, ["c@x"], T0 + SECOND, HOUR, 10) == 3
    assert await log.count(TEXT, ["c@x"], T0 + 3_601 * SECOND, HOUR, 10) == 1


async def test_two_workers_count_together(opened: Open) -> None:
    one, two = opened(), opened()
    assert await one.count(TEXT, ["a@x"], T0, HOUR, 10) == 1
    assert await two.count(TEXT, ["b@x"], T0, HOUR, 10) == 2
    one.close()
    two.close()


async def test_ongoing_bulk_stays_bulk_and_keeps_few_rows(opened: Open) -> None:
    log = opened()
    for number in range(200):
        counted = await log.count(TEXT, [f"{number}@x"], T0 + number * SECOND, HOUR, 5)
        assert (counted > 5) == (number >= 5)
        assert counted <= 12
    log.close()


async def test_estimates_are_merged_after_a_second(opened: Open) -> None:
    one, two = opened(), opened()
    for number in range(5):
        await one.estimate(TEXT, [f"{number}@x"], T0, HOUR, 10)
    for number in range(5, 8):
        assert await two.estimate(TEXT, [f"{number}@x"], T0, HOUR, 10) <= 8
    later = T0 + 2 * SECOND
    await one.estimate(TEXT, ["1@x"], later, HOUR, 10)
    assert await two.estimate(TEXT, ["7@x"], later, HOUR, 10) == 8
    one.close()
    two.close()


async def test_with_a_broken_file_exact_counts_fail_but_estimates_do_not(tmp_path: Path) -> None:
    (tmp_path / "store-bulk.db").write_bytes(b"no database" * 200)
    log = BulkCounter(SideFile(tmp_path / "store.db", "bulk", 0.05))
    with pytest.raises(StoreUnavailable):
        await log.count(TEXT, ["a@x"], T0, HOUR, 10)
    assert await log.estimate(TEXT, ["a@x"], T0, HOUR, 10) == 1
    log.close()


async def test_rows_older_than_every_window_are_removed(opened: Open) -> None:
    log, looking = opened(), opened()
    texts = [hour.to_bytes(16) for hour in range(3)]
    for hour, text in enumerate(texts):
        people = [f"anna{hour}.{number}@x.example" for number in range(2_000)]
        await log.count(text, people, T0 + hour * 7200 * SECOND, HOUR, 10_000)
    later = T0 + 14_400 * SECOND

    async def kept(text: bytes) -> int:
        return await looking.count(text, [], later, 24 * HOUR, 10_000)

    async with asyncio.timeout(20):
        while await kept(texts[0]) or await kept(texts[1]):
            await log.count(TEXT, ["b@x"], later, HOUR, 10)
            await asyncio.sleep(0.01)
    assert await kept(texts[2]) == 2_000


async def test_no_address_is_on_the_disk(tmp_path: Path) -> None:
    log = BulkCounter(SideFile(tmp_path / "store.db", "bulk", 2.0))
    await log.count(TEXT, ["anna@x.example"], T0, HOUR, 10)
    for name in ("store-bulk.db", "store-bulk.db-wal"):
        octets = (tmp_path / name).read_bytes()
        assert octets
        assert b"anna" not in octets
    log.close()
