"""Reading from a standby, as long as it is not too far behind the primary.

Only provisional lookups go there, which are repeated before they have any effect; all others go to
the primary.
"""

import asyncio
from collections import Counter, deque
from typing import NamedTuple

import structlog
from msgspec import Struct, field

from smtpproxy.policy.model import Facts, Lookups
from smtpproxy.store.postgres.batch import Version
from smtpproxy.store.postgres.reader import PostgresReader
from smtpproxy.store.records import ReplicaState, StoreUnavailable
from smtpproxy.waiting import Pending

_GRAIN = 50  # times kept within the longest lag allowed
_SHORTEST, _LONGEST = 0.05, 2.0  # seconds between two checks
_NEVER = float("-inf")


class _Seen(NamedTuple):
    number: int
    queried_at: float


class Lag(Struct):
    """How far a standby is behind, by its versions and those of the primary.

    A standby with the version that the primary had at some time lacks nothing from before that. So
    an idle one is not behind, and a disconnected one is from the next commit on. Times are in
    seconds of one clock.
    """

    most: float
    primary_queried_at: float = _NEVER
    _newest: Version = (-1, "")  # of the primary
    _seen: deque[_Seen] = field(default_factory=deque)  # on the primary within `most`
    _standby: Version | None = None
    _standby_at: float = _NEVER
    _current_until: float = _NEVER  # the standby lacks nothing from before
    _diverged: bool = False  # the standby has commits that the primary lacks

    def primary_has(self, version: Version, queried_at: float) -> None:
        if queried_at < self.primary_queried_at:
            return
        number, seen = version[0], self._seen
        if number < self._newest[0]:  # another server, which lacks the last commits
            seen.clear()
        standby = self._standby
        if standby is not None and number < standby[0] and queried_at > self._standby_at:
            self._diverged = True
        self.primary_queried_at, self._newest = queried_at, version
        while seen and seen[0].queried_at < queried_at - self.most:
            seen.popleft()
        if seen and seen[-1].number == number:
            seen[-1] = _Seen(number, queried_at)
        elif not seen or seen[-1].queried_at <= queried_at - self.most / _GRAIN:
            seen.append(_Seen(number, queried_at))
        self._compare()

    def standby_has(self, version: Version, at: float) -> None:
        self._standby, self._standby_at = version, at
        self._compare()

    def _compare(self) -> None:
        standby = self._standby
        if standby is None:
            return
        if standby[0] == self._newest[0]:
            self._diverged = standby != self._newest
        if not self._diverged:
            self._current_until = max(self._current_until, self._proof(standby))

    def _proof(self, version: Version) -> float:
        """Return the latest time before which a server with that version lacks nothing."""
        proofs = (seen.queried_at for seen in reversed(self._seen) if seen.number <= version[0])
        return next(proofs, _NEVER)

    def accepts(self, version: Version, now: float) -> bool:
        """Whether an answer with this version is new enough."""
        return not self._diverged and self._proof(version) >= now - self.most

    def is_short(self, now: float) -> bool:
        return self._standby is not None and self.accepts(self._standby, now)

    def seconds(self, now: float) -> float | None:
        """Return the lag, None if unknown; a standby that does not answer falls behind."""
        if self._standby is None or self._current_until == _NEVER:
            return None
        if self._standby[0] >= self._newest[0] and not self._diverged:
            return 0.0
        return now - self._current_until


class ReplicaReader:
    """A `Reader` of the standby for provisional lookups, and otherwise of the primary."""

    def __init__(self, primary: PostgresReader, standby: PostgresReader, most: float) -> None:
        """`most` is the number of seconds that the standby may be behind."""
        self._primary = primary
        self._standby = standby
        self._lag = Lag(most)
        primary.on_version = self._lag.primary_has
        standby.on_version = lambda version, _: self._lag.standby_has(version, _now())
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
        return self._standby.read(lookups).otherwise(lambda read: self._instead(lookups, read))

    def _instead(
        self, lookups: Lookups, read: Pending[tuple[Facts, object]]
    ) -> Pending[tuple[Facts, object]] | None:
        """Return the primary's answer if the standby's is not good enough."""
        if read.error is None:
            if self._lag.accepts(read.value[1], _now()):
                self._answered["standby"] += 1
                return None
            self._use(False, "it is too far behind")
        else:
            self._use(False, str(read.error))
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
        """Query both now and then, and use the standby while it is not too far behind."""
        while True:
            fault = "it is too far behind"
            try:
                if _now() - self._lag.primary_queried_at > self._pause:
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
