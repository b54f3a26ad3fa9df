"""Every kind of store keeps the contract."""

import pytest

from smtpproxy.store.sql.store import Store
from tests.store.conftest import Database
from tests.store.contract import StoreContract


@pytest.fixture
def store(any_database: Database) -> Store:
    return any_database.open()


class TestStore(StoreContract):
    pass
