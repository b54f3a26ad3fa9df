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
from typing import NamedTuple

from smtpproxy.waiting import NEVER

MORE_EVERY = 1.0
"""Seconds until one connection more than the upstream took is tried."""
_SEEN_WITHIN = 6.0
"""Seconds until an upstream that takes no more takes one for a connection that has ended."""
_CLOSED_FOR = 16.0
"""Seconds until Sendmail, which had enough and does not listen, looks whether it still has."""
_TURN = 2.5
"""Seconds that a worker keeps its last connection; until another has taken what was given up."""
GREETED_WITHIN = 2.0
"""Seconds until it has greeted those who asked, unless it leaves them waiting."""
_ASKS_FOR = 2.0  # seconds that a worker's wish for more counts
_LIVES_FOR = 5.0  # seconds that a worker counts after its last sign of life
_ENTRY = struct.Struct("=dddq")
"""When it was alive, asked for more (below zero: of an upstream that did not listen) and had a
connection on which the upstream took a message; how many connections it has."""
TABLE_SIZE = 514 * _ENTRY.size
"""Octets, with room for as many workers as there may be and the process that hands bounces on,
twice: those of a reload drain."""


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


class _Other(NamedTuple):
    """What another worker says."""

    asks: bool  # for more
    closed: bool  # the upstream did not listen to it
    had: float  # when it had a connection on which the upstream took a message
    held: int


class Workers:
    """What each worker holds and asks for, in a table; this one writes its entry."""

    def __init__(self, table: Table, now: Callable[[], float]) -> None:
        """Take an entry that no living worker has. `now` is the same clock in all workers."""
        self._table, self._now = table, now
        self._asked = self._had = -NEVER
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
        if not self._held:
            self._since = self._now()
        self._held = count
        self._write()

    def have_one(self) -> None:
        """Say that this worker has, or had until now, one on which the upstream took a message."""
        self._had = self._now()
        self._write()

    def ask(self, *, listens: bool) -> None:
        """Ask for more, of an upstream that says that it takes no more, or does not listen."""
        self._asked = self._now() if listens else -self._now()
        self._write()

    def stop_asking(self) -> None:
        self._asked = -NEVER

    def others_had(self, *, greets_all: bool = False) -> float | None:
        """When another worker had a connection, None if there is no other. If the upstream
        `greets_all`, one on which it took a message."""
        now, others = self._now(), self._others()
        return max(
            (now if other.held and not greets_all else other.had for other in others), default=None
        )

    def surplus(self, idle: int) -> tuple[int, float]:
        """How many this worker gives up to others that ask for more, with `idle` of its own; and
        for how many seconds it then gives up no more."""
        others = self._others()
        asking = [other.held for other in others if other.asks]
        if not asking:
            return 0, 0.0
        mine, poorest = self._held, min(asking)
        # One that does not listen has room at its next look: to give up more before is no use.
        closed = any(other.asks and other.closed for other in others)
        turn = _CLOSED_FOR if closed else _TURN
        # With fewer connections than workers, those that have none take turns.
        over = self._now() - self._since >= turn - MORE_EVERY or (idle and not closed)
        one = not poorest or poorest + 1 < mine
        surplus = max(mine - self._share(others), -(-idle // 2), int(one))
        surplus = min(surplus, mine if over else max(mine - 1, 0))
        return surplus, turn

    def another_is_next(self) -> bool:
        """Whether another that asks has been without a connection for longer than this one, which
        then asks on without trying. Not if it does not listen, or nobody has had any lately."""
        others, now = self._others(), self._now()
        lately = any(other.held or other.had > now - _SEEN_WITHIN for other in others)
        if self._asked < 0 or not lately:
            return False
        if any(other.asks and not other.held and other.had < self._had for other in others):
            self._asked = now
            return True
        return False

    def may_have_more(self) -> bool:
        """Whether one more is this worker's share, if others ask for more."""
        others = self._others()
        asked = any(other.asks for other in others)
        return not asked or self._held < self._share(others, more=1)

    def _share(self, others: list[_Other], more: int = 0) -> int:
        """An equal share of all connections, and of so many `more`."""
        count = self._held + sum(other.held for other in others) + more
        return -(-count // (1 + sum(other.asks or other.held > 0 for other in others)))

    def _others(self) -> list[_Other]:
        octets, now = self._table.read(), self._now()
        return [
            _Other(abs(now - abs(asked)) < _ASKS_FOR, asked < 0, had, held)
            for place in range(0, TABLE_SIZE, _ENTRY.size)
            if place != self._place and self._alive(octets, place)
            for _, asked, had, held in (_ENTRY.unpack_from(octets, place),)
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
        self._full_at = self._ended_at = -_SEEN_WITHIN
        self._refused_since = NEVER  # while messages wait and it takes none
        self._gives_at = 0.0  # it gives up none before
        self._waits = False  # it is another worker's turn

    def __call__(self) -> int:
        """Each second after a refusal may try one more."""
        if self._waits:
            return 0
        later = max(0, int((self._now() - self._full_at) / MORE_EVERY))
        return min(self.most, self._taken + later)

    def opened(self, count: int) -> None:
        """Note one more, `count` now; if that is more than the upstream took before, another may
        follow at once, unless it is the share of another worker."""
        self._workers.hold(count)
        if count > self._taken:
            at_once = self._workers.may_have_more()
            self._taken, self._full_at = count, self._now() - (MORE_EVERY if at_once else 0)

    def ended(self, *, took: bool) -> None:
        """Note the end of one: the upstream may not know yet that it may take another. `took`:
        whether it has taken a message on it."""
        self._ended_at = self._now()
        if took:
            self._workers.have_one()

    def refused(self, count: int, took: bool, *, listens: bool, greets_all: bool) -> bool:
        """Note that the upstream took no more than `count`. Return whether messages wait in vain:
        it `took` none of ours, nor of another worker, which could give one up."""
        now = self._now()
        self._taken, self._full_at = count, now
        self._refused_since = min(self._refused_since, now)
        self._workers.ask(listens=listens)
        theirs = self._workers.others_had(greets_all=greets_all)
        until = self._ended_at + _SEEN_WITHIN
        if count:  # it may answer them later than those that it refuses
            until = max(until, self._refused_since + _SEEN_WITHIN)
        if theirs is not None:
            until = max(until, theirs + _SEEN_WITHIN, self._refused_since + GREETED_WITHIN)
        if took or now < until:
            return False
        self._taken = max(count, 1)  # the next message tries again
        return True

    def surplus(self, count: int, idle: int, waiting: bool, owed: int, *, took: bool) -> int:
        """How many of `count` connections to give up, while another worker asks for more. That one
        tries each second, so this one tries no more for two.

        `owed`: of the last surplus, those that messages still use. `took`: whether the upstream has
        taken a message on any.
        """
        now = self._now()
        if took:
            self._workers.have_one()
        if not waiting:
            self._workers.stop_asking()
        if not waiting and count == idle:
            self._refused_since = NEVER
        self._waits = waiting and not count and self._workers.another_is_next()
        self._workers.hold(count)
        surplus, pause = self._workers.surplus(idle)
        if now < self._gives_at:
            surplus = min(surplus, owed)
        elif surplus:
            self._gives_at = now + pause
        if surplus:
            self._taken, self._full_at = count - surplus, now + MORE_EVERY
        return surplus
