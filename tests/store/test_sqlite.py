"""The SQLite store keeps the contract, alone and as a writer with a reader beside it."""

import pytest

from smtpproxy.store.protocols import Store
from tests.store.conftest import Database
from tests.store.contract import StoreContract


@pytest.fixture
def store(database: Database) -> Store:
    return database.open()


class TestSqlite(StoreContract):
    pass
