"""How many connections to the upstream there may be: as many as configured, or as it accepts.

An MTA that has enough greets with 421, or stops listening for a while (Sendmail). All workers of a
relay share what it accepts: one with more than its share gives some up to those that ask.
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
"""Seconds until one connection more than the upstream accepted is tried."""
_SEEN_WITHIN = 6.0
"""Seconds within which a full upstream notices that a connection has ended, and accepts another."""
_ANSWERS_WITHIN = 24.0
"""Seconds until it answers a message that it was sent before its first refusal."""
_CLOSED_FOR = 16.0
"""Seconds until Sendmail, once it has stopped listening, checks whether it may listen again."""
_TURN = 2.5
"""Seconds that a worker keeps its last connection, or until another has what was given up."""
GREETED_WITHIN = 2.0
"""Seconds within which it greets new connections, unless it leaves them waiting."""
_ASKS_FOR = 2.0  # seconds for which a worker's request counts
_LIVES_FOR = 5.0  # seconds for which a worker counts after its last sign of life
_ENTRY = struct.Struct("=dddq")
"""When it was last alive, asked for more (negative: the upstream did not listen), and had a
connection on which the upstream took a message; how many connections it has."""
TABLE_SIZE = 514 * _ENTRY.size
"""Octets: room for the most workers possible and the process that hands bounces on, twice, because
the old ones drain during a reload."""


class Table:
    """What the workers share: TABLE_SIZE octets. This class serves a worker that is alone."""

    def __init__(self) -> None:
        self._octets = bytearray(TABLE_SIZE)

    def read(self) -> bytes:
        return bytes(self._octets)

    def write(self, octets: bytes, place: int) -> None:
        self._octets[place : place + len(octets)] = octets


class _File(Table):
    """A table in a file, which is not mapped: a mapping ends the worker with SIGBUS if the file is
    cut short or the disk is full. If it cannot be read or written, each worker is alone."""

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
        """Take an entry that belongs to no living worker. `now` is the same clock in all
        workers."""
        self._table, self._now = table, now
        self._asked = self._had = -NEVER
        self._held, self._since = 0, 0.0  # since when it has had any
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
        """Ask for more, because the upstream accepts no more or does not listen."""
        self._asked = self._now() if listens else -self._now()
        self._write()

    def stop_asking(self) -> None:
        self._asked = -NEVER

    def others_had(self, *, greets_all: bool = False) -> float | None:
        """When another worker last had a connection; None if there is no other worker. If the
        upstream `greets_all`, only one on which it took a message counts."""
        now, others = self._now(), self._others()
        return max(
            (now if other.held and not greets_all else other.had for other in others), default=None
        )

    def surplus(self, idle: int) -> tuple[int, float]:
        """How many connections, `idle` of them unused, this worker gives up to others that ask; and
        for how many seconds it then gives up no more."""
        others = self._others()
        asking = [other.held for other in others if other.asks]
        if not asking:
            return 0, 0.0
        mine, poorest = self._held, min(asking)
        # Until it listens again, giving up more is no use.
        closed = any(other.asks and other.closed for other in others)
        turn = _CLOSED_FOR if closed else _TURN
        # With fewer connections than workers, those that have none take turns.
        over = self._now() - self._since >= turn - MORE_EVERY or (idle and not closed)
        one = not poorest or poorest + 1 < mine
        surplus = max(mine - self._share(others), -(-idle // 2), int(one))
        surplus = min(surplus, mine if over else max(mine - 1, 0))
        return surplus, turn

    def another_is_next(self) -> bool:
        """Whether another that asks has been without a connection for longer. This one then keeps
        asking without trying. Never if the upstream does not listen, or nobody has had one
        lately."""
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
        """An equal share of all connections and `more`."""
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
        self._refused_since = NEVER  # while messages wait and it accepts none
        self._gives_at = 0.0  # when it may next give some up
        self._waits = False  # it is another worker's turn

    def __call__(self) -> int:
        """After a refusal, one more may be tried each second."""
        if self._waits:
            return 0
        later = max(0, int((self._now() - self._full_at) / MORE_EVERY))
        return min(self.most, self._taken + later)

    def opened(self, count: int) -> None:
        """Note a new connection, the `count`th; if the upstream never accepted so many, another may
        follow at once, unless that is another worker's share."""
        self._workers.hold(count)
        if count > self._taken:
            at_once = self._workers.may_have_more()
            self._taken, self._full_at = count, self._now() - (MORE_EVERY if at_once else 0)

    def ended(self, *, took: bool) -> None:
        """Note the end of one; the upstream may take a moment to notice. `took`: whether it took a
        message on it."""
        self._ended_at = self._now()
        if took:
            self._workers.have_one()

    def lift(self) -> None:
        """Forget that the upstream accepted no more."""
        self._taken = self.most

    def refused(
        self,
        count: int,
        took: bool,
        *,
        listens: bool,
        greets_all: bool,
        heard_at: float,
        asked_at: float,
    ) -> bool:
        """Note that the upstream accepted no more than `count`, as heard at `heard_at`. Return
        whether messages wait in vain: it `took` no message on a connection of ours, nor of another
        worker, which could give one up. What we sent at `asked_at` is unanswered."""
        now = self._now()
        self._taken, self._full_at = count, now
        self._refused_since = min(self._refused_since, now, heard_at)
        self._workers.ask(listens=listens)
        theirs = self._workers.others_had(greets_all=greets_all)
        until = self._ended_at + _SEEN_WITHIN
        if count:  # it may be slower to greet these than to refuse others
            until = max(until, self._refused_since + _SEEN_WITHIN)
        if asked_at < self._refused_since:  # it would have refused that message by now, too
            until = max(until, self._refused_since + _ANSWERS_WITHIN)
        if theirs is not None:
            until = max(until, theirs + _SEEN_WITHIN, self._refused_since + GREETED_WITHIN)
        if took or now < until:
            return False
        self._taken = max(count, 1)  # the next message tries again
        return True

    def surplus(self, count: int, idle: int, waiting: bool, owed: int, *, took: bool) -> int:
        """How many of `count` connections to give up while another worker asks for more. It tries
        each second, so this one does not try for two.

        `owed`: those of the last surplus that messages still use. `took`: whether the upstream took
        a message on any.
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
