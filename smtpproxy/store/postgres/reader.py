"""The read of the mail path: one statement for all who wait in a turn of the event loop."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from smtpproxy.policy.model import Facts, Lookups
from smtpproxy.store.closed import closed_text
from smtpproxy.store.keys import KeyRing, Partner
from smtpproxy.store.postgres import migrations
from smtpproxy.store.postgres.batch import Found, Names, Version
from smtpproxy.store.postgres.connection import Database, Lease
from smtpproxy.store.postgres.errors import NO_PRIMARY, NO_STANDBY, unavailable
from smtpproxy.store.postgres.statements import VERSION, question
from smtpproxy.store.postgres.synchronous import check_waits
from smtpproxy.store.protocols import StoreMisconfigured, StoreUnavailable
from smtpproxy.waiting import Pending

_MOST_NAMES = 1_000  # in one statement: others take the next one
_PATIENCE = 0.005
"""Seconds that questions wait for the answer to those before, to be asked together after it."""
_TICK = 0.001  # seconds: the loop's clock counts no less
_RETRY = 0.05  # seconds
_TALLY = "SELECT kind, origin, n FROM tally"


class _Asked(NamedTuple):
    """Somebody who waits for facts and the state that they are of."""

    lookups: Lookups
    answer: Pending[tuple[Facts, object]]
    until: float  # on the loop's clock


class PostgresReader:
    """Asks for all who wait, in one statement. Whoever comes while it is answered waits for that,
    and shares the next one; not for long: another connection is used then.

    `heard` is told each version, and when it was asked for, on the loop's clock. Where the target
    is a standby it is asked once: whoever wants more asks the primary.
    """

    def __init__(
        self,
        lease: Lease,
        state_dir: Path,
        partners: Sequence[Partner] = (),
        heard: Callable[[Version, float], None] | None = None,
    ) -> None:
        self._lease = lease
        self.heard = heard
        self._state_dir = state_dir
        self._partners = partners
        self._question = question(partners)
        self._database: Database  # as the last one who asked found it
        self._keys: KeyRing | None = None
        self._live = ""  # these keys, as the database says it
        self._waiting: list[_Asked] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = 0  # of them, those that are not at their end
        self._lacks = False  # those who wait lack a connection
        self._is_called = False  # to send what waits, when this turn of the loop is over
        self._is_closed = False
        self._is_timed = False  # to send what waits, when that has taken too long
        self._due = 0.0  # then, on the loop's clock
        self._was_late = False

    def read(self, lookups: Lookups) -> Pending[tuple[Facts, object]]:
        """Facts and the version of all that is stored, of the same snapshot."""
        if self._is_closed:
            return Pending.failed(StoreUnavailable("the store is closed"))
        self._database = database = self._lease.database
        now = database.loop.time()
        asked = _Asked(lookups, Pending(), now + database.target.timeout)
        self._waiting.append(asked)
        if not self._running:
            self._call()
        elif not self._is_called and not self._is_timed:
            self._wait(now + _PATIENCE)
        return asked.answer

    def facts(self, lookups: Lookups) -> Pending[Facts]:
        return self.read(lookups).then(lambda answer: answer.result()[0])

    def version(self) -> Pending[object]:
        """The version now: whatever is committed by then is in it."""
        return self.read(Lookups((), contacts=False)).then(lambda answer: answer.result()[1])

    async def tally(self) -> dict[tuple[str, str], int]:
        async with self._lease.database.connection() as connection:
            await self._known_keys(connection)
            return {(kind, origin): n for kind, origin, n in await connection.fetch(_TALLY)}

    def _call(self) -> None:
        """Send what waits once this turn of the loop is over, if there is a connection for it."""
        target = self._database.target
        if self._running < max(1, target.connections - 2):
            self._running += 1
            self._is_called = True
            task = self._database.loop.create_task(self._answer_all())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._lacks = True
            self._database.queued = len(self._waiting)

    def _wait(self, until: float) -> None:
        self._is_timed, self._due = True, until
        self._database.loop.call_at(until, self._impatient)

    def _impatient(self) -> None:
        self._is_timed = False
        if not self._waiting or self._is_called:
            return
        now = self._database.loop.time()
        due = self._waiting[0].until - self._database.target.timeout + _PATIENCE
        if now + _TICK < due:  # it came after the one that we were waiting for
            self._wait(due)
        elif now - self._due > _TICK and not self._was_late:
            # We were late ourselves. The answer may be there, and is read before this comes again.
            self._was_late = True
            self._wait(now + _TICK)
        else:
            self._was_late = False
            self._call()

    async def _answer_all(self) -> None:
        """Answer all who wait, those too who come meanwhile."""
        self._is_called = False
        try:
            while self._waiting:
                batch = self._next_batch()
                if self._waiting and not self._is_called:
                    self._call()
                await self._answer(batch)
                if self._waiting and not self._is_called:
                    await asyncio.sleep(0)  # others of this turn of the loop ask, too
        finally:
            self._running -= 1

    def _next_batch(self) -> Sequence[_Asked]:
        some, names = 0, 0
        while some < len(self._waiting) and names < _MOST_NAMES:
            names += len(self._waiting[some].lookups.addresses)
            some += 1
        batch, self._waiting = self._waiting[:some], self._waiting[some:]
        if self._lacks:
            database = self._database
            now = database.loop.time()
            began = [asked.until - database.target.timeout for asked in batch]
            database.waited += sum(max(0.0, now - at - _PATIENCE) for at in began)
            database.queued = len(self._waiting)
            self._lacks = bool(self._waiting)
        return batch

    async def _answer(self, batch: Sequence[_Asked]) -> None:
        failures: list[StoreUnavailable] = []
        try:
            found = await self._found(batch, failures)
            for asked in batch:
                asked.answer.settle((found.facts(asked.lookups), found.version))
        except TimeoutError as error:
            _fail(batch, failures[-1] if failures else unavailable(error))
        except asyncio.CancelledError:
            _fail(batch, StoreUnavailable("the store is closed"))
            raise
        except StoreUnavailable as error:
            _fail(batch, error)
        except Exception as error:
            _fail(batch, StoreUnavailable("the database failed"), error)

    async def _found(self, batch: Sequence[_Asked], failures: list[StoreUnavailable]) -> Found:
        """Ask until there is an answer: a connection may be lost, and a key come or go.

        `failures` gets the last one. Raises TimeoutError, StoreUnavailable.
        """
        names, until = Names([asked.lookups for asked in batch]), batch[0].until
        while True:
            try:
                if (found := await self._asked_once(names, until)) is not None:
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

    async def _asked_once(self, names: Names, until: float) -> Found | None:
        """Ask; None: under other keys than are live."""
        database = self._database
        asked_at = database.loop.time()
        target = database.target
        if (keys := self._keys) is None:
            async with asyncio.timeout_at(until), database.connection() as connection:
                keys = await self._known_keys(connection)
        if names.names:
            values = names.values(keys, self._partners)
            found = Found(names, await database.ask(self._question, values, until))
        else:
            found = Found(names, await database.ask(VERSION, (), until))
        if found.moved_to is not None:
            self._keys = None
            raise StoreMisconfigured(closed_text(target.url, found.moved_to))
        if found.is_standby is not (target.server == "standby"):
            raise StoreUnavailable(NO_PRIMARY if found.is_standby else NO_STANDBY)
        if target.synchronous:
            check_waits(found.commits_wait)
        if found.live != self._live:
            return None
        if self.heard is not None:
            self.heard(found.version, asked_at)
        return found

    async def _known_keys(self, connection: Any) -> KeyRing:
        if self._keys is None:
            await migrations.check_version(connection, self._lease.target.url)
            self._keys = await migrations.live_keys(connection, self._state_dir)
            self._live = " ".join(f"{key.version}:{key.fingerprint}" for key in self._keys.keys)
        return self._keys

    def close(self) -> None:
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        _fail(self._waiting, StoreUnavailable("the store is closed"))
        self._waiting = []


def _fail(batch: Iterable[_Asked], error: StoreUnavailable, cause: Exception | None = None) -> None:
    error.__cause__ = error.__cause__ or cause
    for asked in batch:
        asked.answer.fail(error)
