"""Many addresses in little memory."""

from array import array
from typing import Literal

_LEAST = 1 << 12
_MARK_BITS = 0xFFFF_FFFF_FFFF_FFFF


class MarkedAddresses:
    """A number for each address: 64-bit hashes with open addressing in one flat array.

    A dict of Python objects would take five times as much. Of a million addresses, two
    different ones share a hash once in some 40 million lists, and are then taken for one.
    """

    def __init__(self, numbers: Literal["B", "L"]) -> None:
        """`numbers` is the type code of the numbers: octets or words."""
        self._marks = array("Q", [0]) * _LEAST  # 0 is an empty place
        self._numbers = array(numbers, [0]) * _LEAST
        self._mask = _LEAST - 1
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, address: str, number: int) -> int | None:
        """Set the number of an address; return the one that it had."""
        # Python's own hash of text is SipHash under a random key: nobody can aim at it.
        mark = (hash(address) & _MARK_BITS) or 1
        place = self._place(mark)
        if self._marks[place]:
            before, self._numbers[place] = self._numbers[place], number
            return before
        self._marks[place], self._numbers[place] = mark, number
        self._count += 1
        if 2 * self._count > self._mask:
            self._grow()
        return None

    def _place(self, mark: int) -> int:
        place = mark & self._mask
        while (found := self._marks[place]) and found != mark:
            place = (place + 1) & self._mask
        return place

    def _grow(self) -> None:
        marks, numbers = self._marks, self._numbers
        size = 2 * len(marks)
        self._marks = array("Q", [0]) * size
        self._numbers = array(numbers.typecode, [0]) * size
        self._mask = size - 1
        for mark, number in zip(marks, numbers, strict=True):
            if mark:
                place = self._place(mark)
                self._marks[place], self._numbers[place] = mark, number
