"""The verdict on an address is found again, using little memory."""

from typing import Literal

import pytest

from smtpproxy.scrub.marked import MarkedAddresses


@pytest.mark.parametrize("kind", ["B", "L"])
def test_every_verdict_survives_growth_of_the_table(kind: Literal["B", "L"]) -> None:
    marked = MarkedAddresses(kind)
    addresses = [f"{i}@people.example" for i in range(20_000)]
    assert all(marked.put(address, i % 250) is None for i, address in enumerate(addresses))
    assert all(marked.put(address, 7) == i % 250 for i, address in enumerate(addresses))
    assert marked.put("another@people.example", 1) is None
    assert len(marked) == 20_001
