"""Numbers for many addresses in little memory."""

from array import array
from typing import Literal

_LEAST = 1 << 12
_MARK_BITS = 0xFFFF_FFFF_FFFF_FFFF


class MarkedAddresses:
    """A number for each address: a hash table with open addressing in flat arrays.

    A dict would take five times the memory. With 64-bit hashes, two of a million addresses collide
    once in some 40 million lists, and are then treated as one.
    """

    def __init__(self, numbers: Literal["B", "L"]) -> None:
        """`numbers` is the type code of the numbers: octets or words."""
        self._marks = array("Q", [0]) * _LEAST  # 0: empty
        self._numbers = array(numbers, [0]) * _LEAST
        self._mask = _LEAST - 1
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, address: str, number: int) -> int | None:
        """Set the number of an address; return its former one."""
        # Python hashes text by SipHash with a random key, so nobody can construct collisions.
        mark = (hash(address) & _MARK_BITS) or 1
        marks, mask, place = self._marks, self._mask, mark & self._mask
        while (found := marks[place]) and found != mark:
            place = (place + 1) & mask
        if found:
            before, self._numbers[place] = self._numbers[place], number
            return before
        marks[place], self._numbers[place] = mark, number
        self._count += 1
        if 2 * self._count > self._mask:
            self._grow()
        return None

    def _grow(self) -> None:
        before = self._marks, self._numbers
        size = 2 * len(self._marks)
        self._marks = marks = array("Q", [0]) * size
        self._numbers = array(self._numbers.typecode, [0]) * size
        self._mask = mask = size - 1
        for mark, number in zip(*before, strict=True):
            if mark:
                place = mark & mask
                while marks[place]:
                    place = (place + 1) & mask
                marks[place], self._numbers[place] = mark, number
