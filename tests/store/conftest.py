"""A database in a folder of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from smtpproxy.settings import StoreSettings
from smtpproxy.store import open_store
from smtpproxy.store.protocols import Store


class Database:
    """Where a test's database is, and stores opened on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "store.db"
        self.key_path = folder / "suppression.key"
        self.opened: list[Store] = []

    def open(self, *, read_only: bool = False, timeout: float = 2.0) -> Store:
        settings = StoreSettings(f"sqlite://{self.path}", timeout)
        store = open_store(settings, self.folder, read_only=read_only)
        self.opened.append(store)
        return store


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(tmp_path)
    yield database
    for store in database.opened:
        await store.close()
