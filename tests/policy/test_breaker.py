"""Shares of complaints, bounces and unsubscribes that warn about or pause a stream."""

import pytest

from smtpproxy.policy.breaker import BreakerRules, Feedback, Tally, findings, judged
from smtpproxy.settings import BreakerSettings

RULES = BreakerSettings().rules
COMPLAINT, DEAD, LEFT, BLOCK = Feedback


def said(tally: Tally, rules: BreakerRules = RULES) -> list[str]:
    return [
        f"{one.level} {one.cause} {one.reports}/{one.messages}" for one in findings(tally, rules)
    ]


@pytest.mark.parametrize(
    ("kind", "reports", "messages", "answer"),
    [
        # complaints: 0.1 % warns, 0.3 % pauses
        (COMPLAINT, 9, 10_000, []),
        (COMPLAINT, 10, 10_000, ["warn complaint 10/10000"]),
        (COMPLAINT, 29, 10_000, ["warn complaint 29/10000"]),
        (COMPLAINT, 30, 10_000, ["pause complaint 30/10000"]),
        # dead addresses: 2 % warns, 5 % pauses
        (DEAD, 19, 1_000, []),
        (DEAD, 20, 1_000, ["warn dead_address 20/1000"]),
        (DEAD, 49, 1_000, ["warn dead_address 49/1000"]),
        (DEAD, 50, 1_000, ["pause dead_address 50/1000"]),
        # unsubscribes: 0.5 to 2 % is normal, and no share pauses
        (LEFT, 19, 1_000, []),
        (LEFT, 20, 1_000, ["warn unsubscribe 20/1000"]),
        (LEFT, 1_000, 1_000, ["warn unsubscribe 1000/1000"]),
        # blocks count against the stream but never pause it
        (BLOCK, 20, 1_000, ["warn block 20/1000"]),
        (BLOCK, 1_000, 1_000, ["warn block 1000/1000"]),
        # too few messages or reports mean nothing
        (COMPLAINT, 499, 499, []),
        (COMPLAINT, 3, 500, ["pause complaint 3/500"]),
        (COMPLAINT, 2, 500, []),
        (DEAD, 0, 0, []),
    ],
)
def test_bounds(kind: Feedback, reports: int, messages: int, answer: list[str]) -> None:
    assert said(Tally(messages, {kind: reports})) == answer


def test_several_are_reported_with_those_that_pause_first() -> None:
    tally = Tally(1_000, {COMPLAINT: 3, DEAD: 20, LEFT: 30})
    assert said(tally) == [
        "pause complaint 3/1000",
        "warn dead_address 20/1000",
        "warn unsubscribe 30/1000",
    ]


def test_each_excess_is_reported() -> None:
    tally = Tally(1_000, dict.fromkeys(Feedback, 50))
    assert said(tally) == [
        "pause complaint 50/1000",
        "pause dead_address 50/1000",
        "warn unsubscribe 50/1000",
        "warn block 50/1000",
    ]


def test_a_disabled_bound_is_never_reached() -> None:
    rules = BreakerSettings(complaints_pause=None, dead_addresses_warn=None).rules
    assert said(Tally(1_000, {COMPLAINT: 1_000, DEAD: 40}), rules) == ["warn complaint 1000/1000"]


BRANDS = {"offers": "shoes", "news": "shoes", "tips": "hats"}


def subjects(tallies: dict[str, Tally], paused: tuple[str, ...] = ()) -> list[str]:
    return [f"{one.level} {name}" for name, one in judged(tallies, BRANDS, RULES, paused)]


def test_small_streams_of_a_brand_are_counted_together() -> None:
    small = Tally(400, {COMPLAINT: 2})
    assert subjects({"offers": small, "news": small}) == ["pause brand:shoes"]
    assert subjects({"offers": small, "tips": small}) == []  # not with those of other brands


def test_a_brand_is_judged_without_its_paused_streams() -> None:
    bad, good = Tally(1_000, {COMPLAINT: 10}), Tally(1_000)
    assert subjects({"offers": bad, "news": good}) == ["pause stream:offers"]
    assert subjects({"offers": bad, "news": good}, ("stream:offers",)) == []
    assert subjects({"offers": bad, "news": bad}, ("brand:shoes",)) == []


def test_the_only_stream_of_a_brand_is_reported_once() -> None:
    assert subjects({"tips": Tally(1_000, {COMPLAINT: 10})}) == ["pause stream:tips"]
