"""Pauses grow, are randomized, and are at most an hour."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.webhooks.delivery import LONGEST, pause


def test_pauses_double_up_to_an_hour() -> None:
    found = [pause(failures, 1.0).total_seconds() for failures in range(1, 15)]
    assert found[:4] == [1, 2, 4, 8]
    assert found[-2:] == [3600, 3600]


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_pauses_are_at_most_an_hour_and_at_least_half_their_length(
    failures: int, random: float
) -> None:
    found = pause(failures, random)
    assert pause(failures, 1.0) / 2 <= found <= LONGEST


def test_a_receiver_may_ask_for_longer_but_not_for_ever() -> None:
    assert pause(1, 0.0, timedelta(minutes=2)) == timedelta(minutes=2)
    assert pause(1, 0.0, timedelta(days=9)) == LONGEST
    assert pause(9, 1.0, timedelta(0)) == pause(9, 1.0)
