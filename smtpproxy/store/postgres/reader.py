"""The reads of the mail path: one statement for all lookups of a turn of the event loop."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from smtpproxy.policy.model import Facts, Lookups
from smtpproxy.store.closed import closed_text
from smtpproxy.store.keys import KeyRing, Partner
from smtpproxy.store.postgres.batch import Found, Names, Version
from smtpproxy.store.postgres.connection import Database, Lease
from smtpproxy.store.postgres.errors import NO_PRIMARY, NO_STANDBY, unavailable
from smtpproxy.store.postgres.migrations import check_version
from smtpproxy.store.postgres.session import PostgresSession, check_waits
from smtpproxy.store.postgres.statements import VERSION, facts_query
from smtpproxy.store.records import StoreMisconfigured, StoreUnavailable
from smtpproxy.store.sql.live_keys import LiveKeys
from smtpproxy.waiting import Pending

_MOST_NAMES = 1_000  # in one statement
_BATCH_WAIT = 0.005
"""Seconds that lookups wait for the answer to earlier ones, to share the next statement."""
_TICK = 0.001  # seconds: the resolution of the loop's clock
_RETRY = 0.05  # seconds
_TALLY = "SELECT kind, origin, n FROM tally"


class _Waiting(NamedTuple):
    """Lookups that wait for facts and the version of these."""

    lookups: Lookups
    answer: Pending[tuple[Facts, object]]
    until: float  # on the loop's clock


class PostgresReader:
    """Runs one statement for all waiting lookups.

    Lookups that come while it runs wait for its answer, and share the next statement; after a
    while they use another connection instead. `on_version` receives each version, and when it was
    queried on the loop's clock. A standby is queried once, without retries: the caller can then
    use the primary.
    """

    def __init__(
        self,
        lease: Lease,
        state_dir: Path,
        partners: Sequence[Partner] = (),
    ) -> None:
        self._lease = lease
        self.on_version: Callable[[Version, float], None] | None = None
        self._live_keys = LiveKeys("store.url", state_dir)
        self._partners = partners
        self._query = facts_query(partners)
        self._database: Database  # as of the last lookups
        self._keys: KeyRing | None = None
        self._live = ""  # the text of these keys in the database
        self._waiting: list[_Waiting] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = 0  # tasks that have not finished
        self._lacks_connection = False
        self._is_called = False  # the waiting lookups are sent after this turn of the loop
        self._is_closed = False
        self._is_timed = False  # a timer will send the waiting lookups
        self._due = 0.0  # the time of the timer, on the loop's clock
        self._was_late = False

    def read(self, lookups: Lookups) -> Pending[tuple[Facts, object]]:
        """Return facts and the version of the store, from the same snapshot."""
        if self._is_closed:
            return Pending.failed(StoreUnavailable("the store is closed"))
        self._database = database = self._lease.database
        now = database.loop.time()
        one = _Waiting(lookups, Pending(), now + database.target.timeout)
        self._waiting.append(one)
        if not self._running:
            self._call()
        elif not self._is_called and not self._is_timed:
            self._set_timer(now + _BATCH_WAIT)
        return one.answer

    def facts(self, lookups: Lookups) -> Pending[Facts]:
        return self.read(lookups).then(lambda answer: answer.result()[0])

    def version(self) -> Pending[object]:
        """Return the version now, which includes everything committed so far."""
        return self.read(Lookups((), contacts=False)).then(lambda answer: answer.result()[1])

    async def tally(self) -> dict[tuple[str, str], int]:
        async with self._lease.database.connection() as connection:
            await self._known_keys(connection)
            return {(kind, origin): n for kind, origin, n in await connection.fetch(_TALLY)}

    def _call(self) -> None:
        """Send the waiting lookups after this turn of the loop, if there is a connection."""
        target = self._database.target
        if self._running < max(1, target.connections - 2):
            self._running += 1
            self._is_called = True
            task = self._database.loop.create_task(self._answer_all())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._lacks_connection = True
            self._database.queued = len(self._waiting)

    def _set_timer(self, until: float) -> None:
        self._is_timed, self._due = True, until
        self._database.loop.call_at(until, self._on_timer)

    def _on_timer(self) -> None:
        self._is_timed = False
        if not self._waiting or self._is_called:
            return
        now = self._database.loop.time()
        due = self._waiting[0].until - self._database.target.timeout + _BATCH_WAIT
        if now + _TICK < due:  # it came later than the one the timer was set for
            self._set_timer(due)
        elif now - self._due > _TICK and not self._was_late:
            # The loop itself was late. The answer may have come, and is read before the next timer.
            self._was_late = True
            self._set_timer(now + _TICK)
        else:
            self._was_late = False
            self._call()

    async def _answer_all(self) -> None:
        """Answer all waiting lookups, including those that come meanwhile."""
        self._is_called = False
        try:
            while self._waiting:
                batch = self._next_batch()
                if self._waiting and not self._is_called:
                    self._call()
                await self._answer(batch)
                if self._waiting and not self._is_called:
                    await asyncio.sleep(0)  # let others of this turn of the loop join
        finally:
            self._running -= 1

    def _next_batch(self) -> Sequence[_Waiting]:
        some, names = 0, 0
        while some < len(self._waiting) and names < _MOST_NAMES:
            names += len(self._waiting[some].lookups.addresses)
            some += 1
        batch, self._waiting = self._waiting[:some], self._waiting[some:]
        if self._lacks_connection:
            database = self._database
            now = database.loop.time()
            began = [one.until - database.target.timeout for one in batch]
            database.waited += sum(max(0.0, now - at - _BATCH_WAIT) for at in began)
            database.queued = len(self._waiting)
            self._lacks_connection = bool(self._waiting)
        return batch

    async def _answer(self, batch: Sequence[_Waiting]) -> None:
        failures: list[StoreUnavailable] = []
        try:
            found = await self._found(batch, failures)
            for one in batch:
                one.answer.settle((found.facts(one.lookups), found.version))
        except TimeoutError as error:
            _fail(batch, failures[-1] if failures else unavailable(error))
        except asyncio.CancelledError:
            _fail(batch, StoreUnavailable("the store is closed"))
            raise
        except StoreUnavailable as error:
            _fail(batch, error)
        except Exception as error:
            _fail(batch, StoreUnavailable("the database failed"), error)

    async def _found(self, batch: Sequence[_Waiting], failures: list[StoreUnavailable]) -> Found:
        """Retry until there is an answer: a connection may be lost, a key added or retired.

        `failures` gets the last failure. Raises TimeoutError, StoreUnavailable.
        """
        names, until = Names([one.lookups for one in batch]), batch[0].until
        while True:
            try:
                if (found := await self._try(names, until)) is not None:
                    return found
                self._keys = None
                failures[:] = [StoreUnavailable("the live keys of the suppressions change")]
            except StoreMisconfigured:
                raise
            except StoreUnavailable as error:
                if isinstance(error.__cause__, TimeoutError):
                    raise failures[-1] if failures else error from error.__cause__
                failures[:] = [error]
            left = until - self._database.loop.time()
            if left <= 0 or self._lease.target.server == "standby":
                raise failures[-1]
            await asyncio.sleep(min(_RETRY, left))

    async def _try(self, names: Names, until: float) -> Found | None:
        """Run the statement once; None if other keys than ours are live."""
        database = self._database
        queried_at = database.loop.time()
        target = database.target
        if (keys := self._keys) is None:
            async with asyncio.timeout_at(until), database.connection() as connection:
                keys = await self._known_keys(connection)
        if names.names:
            values = names.values(keys, self._partners)
            found = Found(names, await database.fetch(self._query, values, until))
        else:
            found = Found(names, await database.fetch(VERSION, (), until))
        if found.moved_to is not None:
            self._keys = None
            raise StoreMisconfigured(closed_text(target.url, found.moved_to))
        if found.is_standby is not (target.server == "standby"):
            raise StoreUnavailable(NO_PRIMARY if found.is_standby else NO_STANDBY)
        if target.synchronous:
            check_waits(found.commits_wait)
        if found.live != self._live:
            return None
        if self.on_version is not None:
            self.on_version(found.version, queried_at)
        return found

    async def _known_keys(self, connection: Any) -> KeyRing:
        if self._keys is None:
            await check_version(connection, self._lease.target.url)
            self._keys = await self._live_keys.current(PostgresSession(connection))
            self._live = " ".join(f"{key.version}:{key.fingerprint}" for key in self._keys.keys)
        return self._keys

    def close(self) -> None:
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        _fail(self._waiting, StoreUnavailable("the store is closed"))
        self._waiting = []


def _fail(
    batch: Iterable[_Waiting], error: StoreUnavailable, cause: Exception | None = None
) -> None:
    error.__cause__ = error.__cause__ or cause
    for one in batch:
        one.answer.fail(error)
