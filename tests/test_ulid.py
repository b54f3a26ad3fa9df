"""Decision ids (ULIDs)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpproxy.events import UlidFactory, successor, time_of

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def factory(times: list[int], octet: int = 0xAB) -> UlidFactory:
    return UlidFactory(lambda: times.pop(0), lambda count: bytes([octet]) * count)


def test_the_published_example() -> None:
    """https://github.com/ulid/spec: 01ARYZ6S41… encodes 1469918176385."""
    assert factory([1469918176385])()[:10] == "01ARYZ6S41"
    assert time_of("01ARYZ6S41TSV4RRFFQ69G5FAV") == 1469918176385


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**47 - 1), min_size=1, max_size=20))
def test_ids_increase_whatever_the_clock_does(times: list[int]) -> None:
    new = factory(list(times))
    ids = [new() for _ in times]
    assert ids == sorted(set(ids))
    assert all(len(each) == 26 and set(each) <= set(ALPHABET) for each in ids)
    assert time_of(ids[0]) == times[0]


@pytest.mark.parametrize("octet", [0x00, 0x7F, 0xFF])
def test_many_ids_in_one_millisecond_keep_its_time(octet: int) -> None:
    """There is room to count up from any random octets."""
    count = 10_000
    new = factory([1_700_000_000_000] * count, octet)
    ids = [new() for _ in range(count)]
    assert len(set(ids)) == count
    assert ids == sorted(ids)
    assert set(map(time_of, ids)) == {1_700_000_000_000}


def test_a_clock_that_was_set_back_does_not_move_ids_back() -> None:
    new = factory([2000, 1000, 1000, 3000])
    ids = [new() for _ in range(4)]
    assert ids == sorted(ids)
    assert list(map(time_of, ids)) == [2000, 2000, 2000, 3000]


def test_two_factories_do_not_make_the_same_ids() -> None:
    one, other = factory([1000], 0x01), factory([1000], 0x02)
    assert one() != other()


def test_lower_case_ids_are_accepted() -> None:
    assert time_of("01aryz6s41tsv4rrffq69g5fav") == 1469918176385


@pytest.mark.parametrize(
    "id",
    [
        "",
        "01ARYZ6S41TSV4RRFFQ69G5FA",
        "01ARYZ6S41TSV4RRFFQ69G5FAVX",
        "01ARYZ6S41TSV4RRFFQ69G5FAI",
        "01ARYZ6S41TSV4RRFFQ69G5FA-",
        "41ARYZ6S41TSV4RRFFQ69G5FAV",
        "ZZZZZZZZZZZZZZZZZZZZZZZZZZ",
        "01ARYZ6S41TSV4RRFFQ69G5FA\u017f",
        "01J9…",
    ],
)
def test_a_malformed_id_is_rejected(id: str) -> None:
    with pytest.raises(ValueError, match=r"is not a decision id: 26 letters and digits"):
        time_of(id)


@pytest.mark.parametrize(
    ("id", "following"),
    [
        ("01J9ZK3W5V7Q8R9S0T1V2W3X4Y", "01J9ZK3W5V7Q8R9S0T1V2W3X4Z"),
        ("01J9ZK3W5V7Q8R9S0T1V2W3X4Z", "01J9ZK3W5V7Q8R9S0T1V2W3X50"),
        ("01J9ZZZZZZZZZZZZZZZZZZZZZZ", "01JA0000000000000000000000"),
    ],
)
def test_the_successor_is_the_next_possible_id(id: str, following: str) -> None:
    assert successor(id) == following
