"""Suppressions of the same moment have a fixed order, so that every store reports the same one."""

from itertools import permutations

from smtpproxy.policy.model import Origin, Suppression
from smtpproxy.store.merge import oldest_first
from tests.store.contract import T0


def test_the_order_of_rows_does_not_matter() -> None:
    orders = [
        Suppression("marketing", Origin.OBJECTION, T0),
        Suppression("marketing", Origin.MANUAL, T0, domain="@people.example"),
        Suppression("all", Origin.MANUAL, T0),
    ]
    assert len({oldest_first(each) for each in permutations(orders)}) == 1
