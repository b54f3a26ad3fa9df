"""The ledger of copies: who already has a message whose client has no final reply yet."""

import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from smtpproxy.settings import StoreSettings
from smtpproxy.store import open_copies
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sql.copies import CopyLedger
from tests.store.conftest import Database

SENDER, ANN, BOB = "news@shop.example", "ann@people.example", "bøb@people.example"


def digest() -> bytes:
    return b"of the content"


class Clock:
    now = datetime(2026, 11, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def ledger(folder: Path, clock: Clock) -> CopyLedger:
    return open_copies(StoreSettings(f"sqlite://{folder}/store.db", 0.05), clock)


def file_of(folder: Path) -> Path:
    (path,) = folder.glob("*-copies.db")
    return path


def remove(folder: Path) -> None:
    for path in folder.glob("*-copies.db*"):
        path.unlink()


@pytest.fixture
def opened(any_database: Database) -> Callable[[Clock], CopyLedger]:
    return lambda clock: any_database.part(open_copies(any_database.settings(), clock))


async def found(copies: CopyLedger) -> frozenset[str]:
    return await copies.find(SENDER, digest, [ANN, BOB])


async def test_only_a_transactions_recipients_of_that_message_are_forgotten(
    opened: Callable[[Clock], CopyLedger],
) -> None:
    copies = opened(Clock())
    for path in (ANN, BOB):
        await copies.note(SENDER, digest, path)
        await copies.note("<other>", digest, path)
    await copies.forget(SENDER, digest, [ANN])
    assert await found(copies) == {BOB}
    assert await copies.find("<other>", digest, [ANN, BOB]) == {ANN, BOB}
    copies.close()


async def test_other_workers_and_later_processes_know_it(
    opened: Callable[[Clock], CopyLedger],
) -> None:
    copies, other = opened(Clock()), opened(Clock())
    assert await found(other) == frozenset()
    await copies.note(SENDER, digest, ANN)
    assert await found(other) == {ANN}
    copies.close()
    other.close()
    again = opened(Clock())
    assert await found(again) == {ANN}
    again.close()


async def test_copies_are_forgotten_after_five_days(tmp_path: Path) -> None:
    clock = Clock()
    copies = ledger(tmp_path, clock)
    await copies.note(SENDER, digest, ANN)
    clock.now += timedelta(days=5, seconds=1)
    assert await found(copies) == frozenset()
    copies.close()


async def test_a_locked_ledger_is_unavailable(tmp_path: Path) -> None:
    copies = ledger(tmp_path, Clock())
    await copies.note(SENDER, digest, ANN)
    with closing(sqlite3.connect(file_of(tmp_path), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailable):
            await copies.note(SENDER, digest, BOB)
        with pytest.raises(StoreUnavailable):
            await copies.forget(SENDER, digest, [ANN])
    assert await found(copies) == {ANN}
    copies.close()


async def test_a_removed_ledger_is_recreated(tmp_path: Path) -> None:
    """Its content is lost, so a retry may send twice, which beats never."""
    copies = ledger(tmp_path, Clock())
    await copies.note(SENDER, digest, ANN)
    remove(tmp_path)
    with suppress(StoreUnavailable):  # the open file is noticed to be gone: 451, once
        await found(copies)
    assert await found(copies) == frozenset()
    await copies.note(SENDER, digest, BOB)
    assert await found(copies) == {BOB}
    copies.close()


async def test_a_ledger_that_is_not_a_database_is_unavailable(tmp_path: Path) -> None:
    copies = ledger(tmp_path, Clock())
    await copies.note(SENDER, digest, ANN)
    path = file_of(tmp_path)
    copies.close()
    remove(tmp_path)
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreUnavailable):
        await found(copies)
    copies.close()
