"""How many connections to the upstream there may be: as many as configured, or as it takes.

An MTA that has enough greets with 421, or does not listen for a while (Sendmail). All workers of a
relay share what it takes: who holds more than its share gives some up for who asks for more.
"""

import fcntl
import mmap
import os
import struct
from collections.abc import Callable
from pathlib import Path

MORE_EVERY = 1.0
"""Seconds until one connection more than the upstream took is tried."""
_SEEN_WITHIN = 6.0
"""Seconds until an upstream that takes no more takes one for a connection that has ended: Sendmail
listens again after five."""
GREETED_WITHIN = 2.0
"""Seconds until it has greeted those who asked, unless it leaves them waiting."""
_ASKS_FOR = 2.0  # seconds that a worker's wish for more counts
_LIVES_FOR = 5.0  # seconds that a worker counts after its last sign of life
_ENTRY = struct.Struct("=dddq")  # when it was alive, asked for more, had any; its connections
TABLE_SIZE = 512 * _ENTRY.size
"""Octets, with room for as many workers as there may be, twice: those of a reload drain."""


class Workers:
    """What each worker holds and asks for, in memory that they share; this one writes its entry."""

    def __init__(self, table: bytearray | mmap.mmap, now: Callable[[], float]) -> None:
        """Take an entry that no living worker has. `now` is the same clock in all workers."""
        self._table, self._now = table, now
        self._asked = self._had = -_ASKS_FOR
        self._held = 0
        places = range(0, TABLE_SIZE, _ENTRY.size)
        self._place = next((place for place in places if not self._alive(place)), 0)
        self._write()

    @classmethod
    def alone(cls, now: Callable[[], float]) -> "Workers":
        return cls(bytearray(TABLE_SIZE), now)

    @classmethod
    def sharing(cls, path: Path, now: Callable[[], float]) -> "Workers":
        """Share a file, which the first creates. Raises OSError."""
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file).st_size < TABLE_SIZE:
                os.ftruncate(file, TABLE_SIZE)
            return cls(mmap.mmap(file, TABLE_SIZE), now)
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # the mapping keeps the file open
            os.close(file)

    def hold(self, count: int) -> None:
        """Say how many connections this worker has, and that it is alive."""
        if count or self._held:
            self._had = self._now()
        self._held = count
        self._write()

    def ask(self) -> float | None:
        """Ask for more; return when another worker had a connection, None if there is no other."""
        self._asked = now = self._now()
        self._write()
        return max((now if held else had for _, had, held in self._others()), default=None)

    def stop_asking(self) -> None:
        self._asked = -_ASKS_FOR

    def share(self) -> int | None:
        """This worker's fair share, if another asks for more."""
        now = self._now()
        others = [(abs(now - asked) < _ASKS_FOR, held) for asked, _, held in self._others()]
        if not any(asks for asks, _ in others):
            return None
        all_held = self._held + sum(held for _, held in others)
        return -(-all_held // (1 + sum(asks or held > 0 for asks, held in others)))

    def _others(self) -> list[tuple[float, float, int]]:
        """When each asked for more, when it had a connection, how many it has."""
        return [
            _ENTRY.unpack_from(self._table, place)[1:]
            for place in range(0, TABLE_SIZE, _ENTRY.size)
            if place != self._place and self._alive(place)
        ]

    def _alive(self, place: int) -> bool:
        seen: float = _ENTRY.unpack_from(self._table, place)[0]
        return seen > 0 and abs(self._now() - seen) < _LIVES_FOR  # a loop's clock may be behind

    def _write(self) -> None:
        _ENTRY.pack_into(self._table, self._place, self._now(), self._asked, self._had, self._held)


class UpstreamLimit:
    """How many connections this worker may have now."""

    def __init__(self, most: int, workers: Workers, now: Callable[[], float]) -> None:
        self.most = most
        self._workers, self._now = workers, now
        self._taken = most  # at `_full_at`
        self._full_at = self._ended_at = self._gave_at = -_SEEN_WITHIN
        self._refused_since = 0.0

    def __call__(self) -> int:
        """Each second after a refusal may try one more."""
        later = int((self._now() - self._full_at) / MORE_EVERY)
        return min(self.most, self._taken + later)

    def opened(self, count: int) -> None:
        """Note one more, `count` now; if that is more than the upstream took before, another may
        follow at once."""
        self._workers.hold(count)
        if count > self._taken:
            self._taken, self._full_at = count, self._now() - MORE_EVERY

    def ended(self) -> None:
        """Note the end of one: the upstream may not know yet that it may take another."""
        self._ended_at = self._now()

    def refused(self, count: int) -> bool:
        """Note that the upstream took no more than `count`. Return whether messages wait in vain:
        it has none of ours, nor of another worker, which could give one up."""
        now, before = self._now(), self._full_at
        self._taken, self._full_at = count, now
        if now > before + GREETED_WITHIN:
            self._refused_since = now
        theirs = self._workers.ask()
        until = self._ended_at + _SEEN_WITHIN
        if theirs is not None:
            until = max(until, theirs + _SEEN_WITHIN, self._refused_since + GREETED_WITHIN)
        if count or now < until:
            return False
        self._taken = 1  # the next message tries again
        return True

    def surplus(self, count: int, waiting: bool) -> int:
        """How many of `count` connections are beyond this worker's share, while another asks for
        more. Then this one tries no more for a second."""
        if not waiting:
            self._workers.stop_asking()
        self._workers.hold(count)
        share, now = self._workers.share(), self._now()
        if share is None or count <= share or now < self._gave_at + _SEEN_WITHIN:
            return 0
        self._taken, self._full_at, self._gave_at = share, now, now
        return count - share
