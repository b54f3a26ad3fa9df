"""Processes with a low limit of open files."""

import os
import resource
import sys
from collections.abc import Iterator

import pytest

from smtpproxy.open_files import next_file, raise_limit, room_for_clients


@pytest.fixture
def hard() -> Iterator[int]:
    """The hard limit, up to which a process may raise its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_limit_is_raised_as_far_as_permitted(hard: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (800, hard))
    assert room_for_clients() == 700
    raise_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)


def test_the_next_file_has_the_lowest_free_number(hard: int) -> None:
    number = next_file()
    assert os.dup(0) == number
    assert next_file() > number
    os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    assert next_file() == sys.maxsize
