"""An unfinished copy is reported, with what to do about it."""

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from smtpproxy.store.configurations import Misfit
from smtpproxy.store.move import sqlite
from smtpproxy.store.move.traces import traces
from smtpproxy.store.records import StoreUnavailable
from tests.kit import postgres
from tests.kit.parts import needs
from tests.store.conftest import Database, OnPostgresql
from tests.store.test_move_meanwhile import PEOPLE, Killed, kinds, known, moved, reopened
from tests.store.test_move_trouble import FROM_FILE, Step, at

pytestmark = needs("postgresql")
__all__ = ["kinds"]
Kinds = tuple[Database, str]


async def found(database: Database) -> list[Misfit]:
    return await traces(database.settings())


def kill() -> None:
    raise Killed


async def test_an_unfinished_copy_is_reported_until_completed_or_given_up(
    tmp_path: Path, kinds: Kinds
) -> None:
    database, new = kinds
    await database.open().put_contacts([known(name) for name in PEOPLE])
    assert await found(database) == []
    for _ in range(2):
        with pytest.raises(Killed):
            await moved(database.url, new, tmp_path, say=at("all rows", kill))
        (one,) = await found(database)
        assert one.subject == database.url
        assert one.text.startswith(f"a copy to {new} was started but not finished")
        assert one.fix == (
            f"smtpproxy store copy '{database.url}' '{new}' resumes it, "
            f"smtpproxy store reopen '{database.url}' gives it up"
        )
        await reopened(database.url)
        assert await found(database) == []
    if new.startswith("sqlite"):
        (half,) = await found(Database(tmp_path, new))
        assert half.subject == str(tmp_path / ".new.db.copy")
    await moved(database.url, new, tmp_path)
    assert await found(Database(tmp_path, new)) == []


@FROM_FILE
async def test_a_partly_closed_store_is_reported(
    tmp_path: Path, kinds: Kinds, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, new = kinds
    await database.open().put_contacts([known(PEOPLE[0])])
    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "_close_tables", Step(3, sqlite._close_tables))
        with pytest.raises(Killed):
            await moved(database.url, new, tmp_path)
    (one,) = await found(database)
    assert one.text == (
        "a store copy was killed while closing it: store-mailings.db, store-streams.db "
        "can't be written"
    )
    await reopened(database.url)
    assert await found(database) == []


async def test_a_read_only_database_is_reported(tmp_path: Path) -> None:
    cluster = postgres.cluster()
    with await asyncio.to_thread(OnPostgresql, tmp_path) as database:
        name = database.url.partition("///")[2].partition("?")[0]
        cluster.sql("postgres", f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        (one,) = await found(database)
        assert one.text.startswith("default_transaction_read_only is on, so every write fails")
        assert one.fails
        with pytest.raises(StoreUnavailable):
            await database.open().put_contacts([known(PEOPLE[0])])
        pooled = replace(database.settings(), prepared_statements=False)
        assert await traces(pooled) == [], "with a pooler each transaction asks to be read-write"
        cluster.sql("postgres", f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await database.close()
