"""How many connections to the upstream there may be: as many as configured, or as it takes.

An MTA that has enough greets with 421, or does not listen for a while (Sendmail). All workers of a
relay share what it takes: who holds more than its share gives some up for who asks for more.
"""

import fcntl
import os
import struct
from collections.abc import Callable
from contextlib import suppress
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


class Table:
    """What the workers share: TABLE_SIZE octets. This one is of a worker that is alone."""

    def __init__(self) -> None:
        self._octets = bytearray(TABLE_SIZE)

    def read(self) -> bytes:
        return bytes(self._octets)

    def write(self, octets: bytes, place: int) -> None:
        self._octets[place : place + len(octets)] = octets


class _File(Table):
    """A table in a file, which is not mapped: a mapping ends the worker with SIGBUS where the file
    is cut short or the disk is full. If it cannot be read or written, each worker is alone."""

    def __init__(self, file: int) -> None:
        self._file = file

    def read(self) -> bytes:
        octets = b""
        with suppress(OSError):
            octets = os.pread(self._file, TABLE_SIZE, 0)
        return octets.ljust(TABLE_SIZE, b"\0")

    def write(self, octets: bytes, place: int) -> None:
        with suppress(OSError):
            os.pwrite(self._file, octets, place)

    def __del__(self) -> None:
        os.close(self._file)


class Workers:
    """What each worker holds and asks for, in a table; this one writes its entry."""

    def __init__(self, table: Table, now: Callable[[], float]) -> None:
        """Take an entry that no living worker has. `now` is the same clock in all workers."""
        self._table, self._now = table, now
        self._asked = self._had = -_ASKS_FOR
        self._held, self._since = 0, 0.0  # and since when it has any
        places = range(0, TABLE_SIZE, _ENTRY.size)
        octets = table.read()
        self._place = next((place for place in places if not self._alive(octets, place)), 0)
        self._write()

    @classmethod
    def alone(cls, now: Callable[[], float]) -> "Workers":
        return cls(Table(), now)

    @classmethod
    def sharing(cls, path: Path, now: Callable[[], float]) -> "Workers":
        """Share a file, which the first creates. Raises OSError."""
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        table = _File(file)
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            return cls(table, now)
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)

    def hold(self, count: int) -> None:
        """Say how many connections this worker has, and that it is alive."""
        if count or self._held:
            self._had = self._now()
        if not self._held:
            self._since = self._now()
        self._held = count
        self._write()

    def ask(self) -> float | None:
        """Ask for more; return when another worker had a connection, None if there is no other."""
        self._asked = now = self._now()
        self._write()
        return max((now if held else had for _, had, held in self._others()), default=None)

    def stop_asking(self) -> None:
        self._asked = -_ASKS_FOR

    def surplus(self, idle: int) -> int:
        """How many this worker gives up to others that ask for more, with `idle` of its own."""
        now, mine = self._now(), self._held
        others = [(abs(now - asked) < _ASKS_FOR, held) for asked, _, held in self._others()]
        poorest = min((held for asks, held in others if asks), default=None)
        if poorest is None or not mine:
            return 0
        all_held = mine + sum(held for _, held in others)
        share = -(-all_held // (1 + sum(asks or held > 0 for asks, held in others)))
        # With fewer connections than workers, one that has none takes its turn: not at once, since
        # the upstream may not listen before it is the next one's.
        turn_over = bool(idle) or now - self._since >= _SEEN_WITHIN
        one = (not poorest and turn_over) or poorest + 1 < mine
        return max(mine - share, -(-idle // 2), int(one))

    def _others(self) -> list[tuple[float, float, int]]:
        """When each asked for more, when it had a connection, how many it has."""
        octets = self._table.read()
        return [
            _ENTRY.unpack_from(octets, place)[1:]
            for place in range(0, TABLE_SIZE, _ENTRY.size)
            if place != self._place and self._alive(octets, place)
        ]

    def _alive(self, octets: bytes, place: int) -> bool:
        seen: float = _ENTRY.unpack_from(octets, place)[0]
        return seen > 0 and abs(self._now() - seen) < _LIVES_FOR  # a loop's clock may be behind

    def _write(self) -> None:
        entry = _ENTRY.pack(self._now(), self._asked, self._had, self._held)
        self._table.write(entry, self._place)


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
        later = max(0, int((self._now() - self._full_at) / MORE_EVERY))
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

    def surplus(self, count: int, idle: int, waiting: bool, owed: int) -> int:
        """How many of `count` connections to give up, while another worker asks for more. That one
        tries each second, so this one tries no more for two.

        `owed`: of the last surplus, those that messages still use.
        """
        if not waiting:
            self._workers.stop_asking()
        self._workers.hold(count)
        now = self._now()
        surplus = self._workers.surplus(idle)
        if now < self._gave_at + _SEEN_WITHIN:
            surplus = min(surplus, owed)
        elif surplus:
            self._gave_at = now
        if surplus:
            self._taken, self._full_at = count - surplus, now + MORE_EVERY
        return surplus
