"""Which personal parts of a slot are recorded as erased: 8 octets each, in order."""

from array import array
from bisect import bisect_left
from enum import IntFlag

from smtpproxy.sinks.audit.anchors import Parts

_FLAGS = 2
_PLACES = 20  # bits: a message has fewer recipients


class Erasure(IntFlag):
    """What is recorded of a part. `DONE`: it was seen to be gone. `SEALED`: that is proven."""

    NONE = 0
    DONE = 1
    SEALED = 2


class ErasedParts:
    """Filled, sorted, then asked of one line after the other."""

    def __init__(self) -> None:
        self._keys = array("Q")
        self._ends: list[tuple[int, int]] = []  # of each row's keys: its number, and where
        self._next = 0

    def add(self, anchor: int, parts: Parts, *, done: bool) -> None:
        flags = Erasure.DONE if done else Erasure.NONE
        for n, *places in parts:
            for place in places:
                if 0 <= n < 1 << 42 and 0 <= place < 1 << _PLACES:
                    self._keys.append((n << _PLACES | place) << _FLAGS | flags)
        self._ends.append((anchor, len(self._keys)))

    def sort(self, sealed: int) -> None:
        """Put them in order. Rows up to the anchor `sealed` are proven."""
        start = 0
        for anchor, end in self._ends:
            if anchor <= sealed:
                for index in range(start, end):
                    self._keys[index] |= Erasure.SEALED
            start = end
        self._keys = array("Q", sorted(self._keys))

    @property
    def due(self) -> int | None:
        """The number of the next line of which a part is recorded."""
        if self._next < len(self._keys):
            return self._keys[self._next] >> _PLACES + _FLAGS
        return None

    def of(self, n: int) -> dict[int, Erasure]:
        """Return what is recorded of a line, by the place of the part. Lines come in order."""
        self._next = bisect_left(self._keys, n << _PLACES + _FLAGS, self._next)
        found: dict[int, Erasure] = {}
        while self.due == n:
            key = self._keys[self._next]
            place = key >> _FLAGS & (1 << _PLACES) - 1
            found[place] = found.get(place, Erasure.NONE) | Erasure(key & 3)
            self._next += 1
        return found
