"""The store in memory keeps the contract."""

import pytest

from smtpproxy.policy.model import Lookups
from smtpproxy.store.memory import MemoryStore
from smtpproxy.store.protocols import StoreUnavailable
from tests.store.contract import StoreContract


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


class TestMemory(StoreContract):
    pass


async def test_it_fails_on_demand(store: MemoryStore) -> None:
    store.fail_with = "locked"
    with pytest.raises(StoreUnavailable, match="locked"):
        await store.facts(Lookups(("anna@people.example",)))
