"""A database in a folder of its own."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from smtpproxy.settings import StoreSettings
from smtpproxy.store import open_store
from smtpproxy.store.protocols import Store
from tests.kit import postgres
from tests.kit.parts import needs


class Database:
    """Where a test's database is, and stores opened on it: in a file, unless `url` says where."""

    def __init__(self, folder: Path, url: str = "") -> None:
        self.folder = folder
        self.path = folder / "store.db"
        self.url = url or f"sqlite://{self.path}"
        self.key_path = folder / "suppression.key"
        self.opened: list[Store] = []

    def open(self, *, read_only: bool = False, timeout: float = 2.0) -> Store:
        settings = StoreSettings(self.url, timeout)
        store = open_store(settings, self.folder, read_only=read_only)
        self.opened.append(store)
        return store

    async def close(self) -> None:
        for store in self.opened:
            await store.close()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(tmp_path)
    yield database
    await database.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs("postgresql"))])
async def any_database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """Each kind of database: what a test says of a store holds for all of them."""
    if request.param == "sqlite":
        database = Database(tmp_path)
        yield database
        await database.close()
        return
    pytest.importorskip("asyncpg")  # comes with the next `make`
    server = postgres.cluster()  # in the main thread, with which it ends
    name = server.create(await asyncio.to_thread(postgres.template))
    await asyncio.to_thread(postgres.migrated, server.url(name), tmp_path)
    database = Database(tmp_path, server.url(name))
    yield database
    await database.close()
    server.drop(name)
