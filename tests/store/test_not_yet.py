"""What the policy knows and no store keeps yet is refused, never kept as something else."""

from datetime import UTC, datetime

import pytest

from smtpproxy.policy.model import ConsentAct, Contact, Dealing, Purchase
from smtpproxy.store.memory import MemoryStore

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ADDRESS = "jeanne@people.example"
PENDING = ConsentAct("offers", NOW, method="double_opt_in", pending=True)


async def test_a_pending_agreement_is_not_kept_as_a_full_one() -> None:
    store = MemoryStore()
    with pytest.raises(ValueError, match="pending"):
        await store.record_act(ADDRESS, PENDING)
    assert await store.contact(ADDRESS) is None


async def test_an_inquiry_is_not_kept_as_a_sale() -> None:
    store = MemoryStore()
    inquiry = Purchase("shoes", NOW, Dealing.INQUIRY)
    with pytest.raises(ValueError, match="sales"):
        await store.put_contacts([Contact(ADDRESS, purchases=(inquiry,))])
    assert await store.contact(ADDRESS) is None
