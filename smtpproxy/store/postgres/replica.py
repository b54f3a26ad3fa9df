"""Reading from a standby, as long as it is not too far behind the primary.

Only what is asked again before anything comes of it is read there: all else asks the primary.
"""

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from smtpproxy.policy.model import Facts, Lookups
from smtpproxy.store.postgres.batch import Version
from smtpproxy.store.postgres.reader import PostgresReader
from smtpproxy.store.protocols import ReplicaState, StoreUnavailable
from smtpproxy.waiting import Pending

_GRAIN = 50  # so many moments are kept of the time that a standby may be behind
_SHORTEST, _LONGEST = 0.05, 2.0  # seconds between two looks
_NEVER = float("-inf")


class _Seen(NamedTuple):
    number: int
    asked_at: float


@dataclass(slots=True)
class Lag:
    """How far a standby is behind, by the versions that it and the primary say.

    A standby that says the version which the primary had at a moment lacks nothing from before it.
    So one that is idle is not behind, and one that is cut off is from the next commit on. Times are
    those of one clock, in seconds.
    """

    most: float
    primary_asked_at: float = _NEVER
    _newest: Version = (-1, "")  # of the primary
    _seen: deque[_Seen] = field(default_factory=deque)  # of it too, no longer ago than `most`
    _said: Version | None = None  # by the standby
    _said_at: float = _NEVER
    _current_until: float = _NEVER  # it lacks nothing from before
    _parted: bool = False  # its commits are not those of the primary

    def primary_said(self, version: Version, asked_at: float) -> None:
        if asked_at < self.primary_asked_at:
            return
        number, seen = version[0], self._seen
        if number < self._newest[0]:  # another server, which lacks the last commits
            seen.clear()
        if self._said is not None and number < self._said[0] and asked_at > self._said_at:
            self._parted = True
        self.primary_asked_at, self._newest = asked_at, version
        while seen and seen[0].asked_at < asked_at - self.most:
            seen.popleft()
        if seen and seen[-1].number == number:
            seen[-1] = _Seen(number, asked_at)
        elif not seen or seen[-1].asked_at <= asked_at - self.most / _GRAIN:
            seen.append(_Seen(number, asked_at))
        self._compare()

    def standby_said(self, version: Version, at: float) -> None:
        self._said, self._said_at = version, at
        self._compare()

    def _compare(self) -> None:
        said = self._said
        if said is None:
            return
        if said[0] == self._newest[0]:
            self._parted = said != self._newest
        if not self._parted:
            self._current_until = max(self._current_until, self._proof(said))

    def _proof(self, said: Version) -> float:
        """The last moment that a server which says so lacks nothing from before."""
        proofs = (seen.asked_at for seen in reversed(self._seen) if seen.number <= said[0])
        return next(proofs, _NEVER)

    def accepts(self, said: Version, now: float) -> bool:
        """Whether an answer of this version is new enough."""
        return not self._parted and self._proof(said) >= now - self.most

    def is_short(self, now: float) -> bool:
        return self._said is not None and self.accepts(self._said, now)

    def seconds(self, now: float) -> float | None:
        """None: nobody knows yet. A standby that does not answer has what it had."""
        if self._said is None or self._current_until == _NEVER:
            return None
        if self._said[0] >= self._newest[0] and not self._parted:
            return 0.0
        return now - self._current_until


class ReplicaReader:
    """A `Reader` of the primary, and of the standby where that will do."""

    def __init__(self, primary: PostgresReader, standby: PostgresReader, most: float) -> None:
        """`most` is how many seconds the standby may be behind."""
        self._primary = primary
        self._standby = standby
        self._lag = Lag(most)
        primary.heard = self._lag.primary_said
        standby.heard = lambda version, _: self._lag.standby_said(version, _now())
        self._pause = min(max(most / 4, _SHORTEST), _LONGEST)
        self._in_use: bool | None = None
        self._answered: Counter[str] = Counter()
        self._watching: asyncio.Task[None] | None = None

    def read(self, lookups: Lookups) -> Pending[tuple[Facts, object]]:
        if not lookups.provisional:
            return self._ask_primary(lookups)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        if not self._in_use:
            return self._ask_primary(lookups)
        return self._standby.read(lookups).otherwise(lambda said: self._instead(lookups, said))

    def _instead(
        self, lookups: Lookups, said: Pending[tuple[Facts, object]]
    ) -> Pending[tuple[Facts, object]] | None:
        if said.error is None:
            if self._lag.accepts(said.value[1], _now()):
                self._answered["standby"] += 1
                return None
            self._use(False, "it is too far behind")
        else:
            self._use(False, str(said.error))
        return self._ask_primary(lookups)

    def _ask_primary(self, lookups: Lookups) -> Pending[tuple[Facts, object]]:
        self._answered["primary"] += 1
        return self._primary.read(lookups)

    def facts(self, lookups: Lookups) -> Pending[Facts]:
        return self._primary.facts(lookups)

    def version(self) -> Pending[object]:
        self._answered["primary"] += 1
        return self._primary.version()

    async def tally(self) -> dict[tuple[str, str], int]:
        return await self._primary.tally()

    def state(self) -> ReplicaState:
        lag = self._lag.seconds(_now()) if self._in_use is not None else None
        return ReplicaState(lag, self._in_use, dict(self._answered))

    async def _watch(self) -> None:
        """Ask both, where the mail did not: the standby is used while it is not too far behind."""
        while True:
            fault = "it is too far behind"
            try:
                if _now() - self._lag.primary_asked_at > self._pause:
                    await self._primary.version()
                await self._standby.version()
            except StoreUnavailable as error:
                fault = str(error)
                self._use(False, fault)
            else:
                self._use(self._lag.is_short(_now()), fault)
            await asyncio.sleep(self._pause)

    def _use(self, use: bool, fault: str) -> None:
        if use is self._in_use:
            return
        self._in_use = use
        log = structlog.get_logger()
        if use:
            log.info("the standby of store.replica_url is read from")
        else:
            log.warning("the standby of store.replica_url is not read from", error=fault)

    def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        self._primary.close()
        self._standby.close()


def _now() -> float:
    return asyncio.get_running_loop().time()
