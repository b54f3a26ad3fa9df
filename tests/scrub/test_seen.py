"""Duplicates are found, with little memory."""

from smtpproxy.scrub.run import Seen


def test_it_knows_what_was_there_before_through_every_growth() -> None:
    seen = Seen()
    addresses = [f"{i}@people.example" for i in range(20_000)]
    assert not any(seen.add(address) for address in addresses)
    assert all(seen.add(address) for address in addresses)
    assert not seen.add("another@people.example")
    assert len(seen) == 20_001
