"""Decision ids: ULIDs, 26 characters that sort by time and grow within one process."""

import re
from collections.abc import Callable

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ID = re.compile(f"[0-3][{_ALPHABET}]{{25}}", re.IGNORECASE | re.ASCII)  # to the year 6429
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_RANDOM_BITS = 80
_OCTETS = _RANDOM_BITS // 8
_AT_ONCE = 400 * _OCTETS
_RANDOM_MASK = (1 << _RANDOM_BITS) - 1


class UlidFactory:
    """Makes ids from a clock (milliseconds since 1970) and a source of random octets."""

    def __init__(self, clock: Callable[[], int], random: Callable[[int], bytes]) -> None:
        self._clock = clock
        self._random = random
        self._octets = b""  # random ones, taken from the system for some hundred ids at a time
        self._taken = 0
        self._last = 0

    def __call__(self) -> str:
        number = self._clock() << _RANDOM_BITS
        if number <= self._last:
            number = self._last + 1  # the same millisecond, or the clock was set back
        else:
            if self._taken == len(self._octets):
                self._octets, self._taken = self._random(_AT_ONCE), 0
            octets = self._octets[self._taken : self._taken + _OCTETS]
            self._taken += _OCTETS
            number |= int.from_bytes(octets, "big") & (_RANDOM_MASK >> 1)
        self._last = number
        return "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])


LEAST = 6
"""Characters of an id that are enough to look for it: they tell it to a quarter of an hour."""


def time_span(beginning: str) -> tuple[int, int]:
    """Return the first and the last time of ids that begin so, as `time_of`. Raises ValueError."""
    first, last = beginning.ljust(26, "0"), beginning.ljust(26, "Z")
    if len(beginning) < LEAST or _ID.fullmatch(first) is None:
        raise ValueError(_wrong(beginning))
    return time_of(first), time_of(last)


def time_of(id: str) -> int:
    """Return the time in an id, in milliseconds since 1970. Raises ValueError."""
    if _ID.fullmatch(id) is None:
        raise ValueError(_wrong(id))
    number = 0
    for character in id[:10].upper():
        number = number * 32 + _ALPHABET.index(character)
    return number


def _wrong(id: str) -> str:
    return (
        f"{id!r} is no decision id: 26 letters and digits, as in id=01J9…,"
        f" or its first {LEAST} or more"
    )


def successor(id: str) -> str:
    """Return the id that comes next after `id`."""
    number = 0
    for character in id.upper():
        number = number * 32 + _ALPHABET.index(character)
    return "".join([_PAIRS[number + 1 >> shift & 1023] for shift in range(120, -1, -10)])
