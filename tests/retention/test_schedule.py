"""When the daily run is due, in local time, on days of 23 and 25 hours too."""

import os
import time as clock
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta

import pytest

from smtpproxy.purge_runs import is_due, latest


@pytest.fixture(autouse=True)
def paris() -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "Europe/Paris"
    clock.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    clock.tzset()


def utc(day: int, hour: int, minute: int = 0, month: int = 6) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=UTC)


LATEST = [
    (utc(10, 1, 30), time(3, 30), utc(10, 1, 30)),
    (utc(10, 1, 29), time(3, 30), utc(9, 1, 30)),
    (utc(10, 23, 0), time(3, 30), utc(10, 1, 30)),
    # local midnight falls on another day in UTC
    (utc(9, 22, 10), time(0, 5), utc(9, 22, 5)),
    (utc(9, 22, 4), time(0, 5), utc(8, 22, 5)),
    # 29 March: 02:30 does not exist and is taken as 03:30
    (utc(29, 1, 30, month=3), time(2, 30), utc(29, 1, 30, month=3)),
    (utc(29, 1, 29, month=3), time(2, 30), utc(28, 1, 30, month=3)),
    # 25 October: 02:30 occurs twice, and the first counts
    (utc(25, 1, 45, month=10), time(2, 30), utc(25, 0, 30, month=10)),
]


@pytest.mark.parametrize(("now", "at", "expected"), LATEST)
def test_the_latest_due_moment(now: datetime, at: time, expected: datetime) -> None:
    assert latest(now, at) == expected


@pytest.mark.parametrize("month", [3, 6, 10])
def test_a_run_is_due_once_a_day(month: int) -> None:
    at, last, now, runs = time(2, 30), utc(20, 0, month=month), utc(20, 0, month=month), 0
    while now < utc(30, 0, month=month):
        if is_due(last, now, at):
            last, runs = now, runs + 1
        now += timedelta(minutes=5)
    assert runs == 10


def test_missed_runs_are_made_up_once() -> None:
    at, last = time(3, 30), utc(1, 2)
    after_a_week = utc(8, 9)
    assert is_due(last, after_a_week, at)
    assert not is_due(after_a_week, after_a_week + timedelta(hours=2), at)
    assert is_due(after_a_week, utc(9, 1, 30), at)


def test_after_a_run_dated_in_the_future_one_is_due() -> None:
    """One of the clocks was wrong, and somebody must be told before that day."""
    assert is_due(utc(10, 9), utc(9, 8), time(3, 30))
    assert not is_due(utc(9, 8, 30), utc(9, 8), time(3, 30)), "small steps back are ignored"
