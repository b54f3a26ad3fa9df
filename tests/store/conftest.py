"""A database in a folder of its own."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol, TypeVar

import pytest

from smtpproxy.settings import StoreSettings
from smtpproxy.store import open_store
from smtpproxy.store.sql import imports
from smtpproxy.store.sql.store import Store
from tests.kit import lent_databases, postgres
from tests.kit.parts import needs
from tests.kit.store import put_tables


class Closable(Protocol):
    def close(self) -> None: ...


Part = TypeVar("Part", bound=Closable)


class Database:
    """A test's database (a file, unless `url` is given) and the stores opened on it."""

    def __init__(self, folder: Path, url: str = "") -> None:
        self.folder = folder
        self.path = folder / "store.db"
        self.url = url or f"sqlite://{self.path}"
        self.key_path = folder / "suppression.key"
        self.opened: list[Store] = []
        self.parts: list[Closable] = []

    def open(self, *, read_only: bool = False, timeout: float = 2.0) -> Store:
        store = open_store(self.settings(timeout), self.folder, read_only=read_only)
        self.opened.append(store)
        return store

    def settings(self, timeout: float = 2.0) -> StoreSettings:
        return StoreSettings(self.url, timeout)

    def part(self, part: Part) -> Part:
        """Close `part` when the test ends."""
        self.parts.append(part)
        return part

    async def close(self) -> None:
        for part in self.parts:
            part.close()
        for store in self.opened:
            await store.close()


class OnPostgresql:
    """A PostgreSQL database for one test; its key is in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._name = lent_databases.borrow()
        url = postgres.cluster().url(self._name)
        postgres.migrated(url, folder)
        self._database = Database(folder, url)

    def __enter__(self) -> Database:
        return self._database

    def __exit__(self, *_: object) -> None:
        lent_databases.give_back(self._name)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports are undone a few rows per commit."""
    monkeypatch.setattr(imports, "_PART", 20)
    monkeypatch.setattr(imports, "_SPAN", 50)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(tmp_path)
    yield database
    await database.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs("postgresql"))])
async def any_database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """Each kind of database in turn."""
    if request.param == "sqlite":
        database = Database(tmp_path)
        put_tables(database.path)
        yield database
        await database.close()
        return
    postgres.cluster()  # in the main thread: PostgreSQL ends with it
    with await asyncio.to_thread(OnPostgresql, tmp_path) as database:
        yield database
        await database.close()
