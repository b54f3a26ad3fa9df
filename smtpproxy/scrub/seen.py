"""Which addresses were there before, in 16 to 32 octets an address."""

from array import array

_LEAST = 1 << 12
_SIZE_BITS = 0xFFFF_FFFF_FFFF_FFFF


class Seen:
    """A set of 64-bit hashes with open addressing in one flat array.

    A set of Python objects would take five times as much. Of a million addresses, two
    different ones share a hash once in some 40 million lists; then one is wrongly marked a
    duplicate, and its verdict is its own all the same.
    """

    def __init__(self) -> None:
        self._table = array("Q", [0]) * _LEAST
        self._mask = _LEAST - 1
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, address: str) -> bool:
        """Return whether it was there before."""
        # Python's own hash of text is SipHash under a random key: nobody can aim at it.
        mark = (hash(address) & _SIZE_BITS) or 1  # 0 is an empty place
        if self._put(self._table, self._mask, mark):
            return True
        self._count += 1
        if 2 * self._count > self._mask:
            self._grow()
        return False

    @staticmethod
    def _put(table: "array[int]", mask: int, mark: int) -> bool:
        place = mark & mask
        while found := table[place]:
            if found == mark:
                return True
            place = (place + 1) & mask
        table[place] = mark
        return False

    def _grow(self) -> None:
        size = 2 * (self._mask + 1)
        table = array("Q", [0]) * size
        for mark in self._table:
            if mark:
                self._put(table, size - 1, mark)
        self._table, self._mask = table, size - 1
