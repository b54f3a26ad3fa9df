"""The read of the mail path: one statement for all who wait in a turn of the event loop."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from smtpproxy.mail.address import domains_over, readings
from smtpproxy.policy.model import (
    NO_FACTS,
    ConsentAct,
    Facts,
    Lookups,
    Pause,
    RecipientFacts,
    Suppression,
)
from smtpproxy.store.closed import closed_text
from smtpproxy.store.keys import KeyRing, Partner
from smtpproxy.store.merge import oldest_first, ordered_acts, with_readings
from smtpproxy.store.postgres import migrations
from smtpproxy.store.postgres import statements as columns
from smtpproxy.store.postgres.connection import Lease
from smtpproxy.store.postgres.errors import NO_PRIMARY, NO_STANDBY, unavailable
from smtpproxy.store.postgres.statements import FIRST_ACT, FIRST_CONTACT, question
from smtpproxy.store.postgres.synchronous import check_waits
from smtpproxy.store.protocols import StoreMisconfigured, StoreUnavailable
from smtpproxy.store.sql import rows
from smtpproxy.waiting import Pending

_MOST_NAMES = 1_000  # in one statement: others take the next one
_RETRY = 0.05  # seconds
_TALLY = "SELECT kind, origin, n FROM tally"

Version = tuple[int, str]
"""The number of the last commit that judgements depend on, and what tells it from others of that
number: a server that took over may lack some of the one before."""


class _Asked(NamedTuple):
    """Somebody who waits for facts and the state that they are of."""

    lookups: Lookups
    answer: Pending[tuple[Facts, object]]
    until: float  # on the loop's clock


class PostgresReader:
    """Asks for all who wait over one connection, and over the next ones while that one is busy.

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
        self._keys: KeyRing | None = None
        self._waiting: list[_Asked] = []
        self._is_called = False  # to send what waits, when this turn of the loop is over
        self._running: set[asyncio.Task[None]] = set()

    def read(self, lookups: Lookups) -> Pending[tuple[Facts, object]]:
        """Facts and the version of all that is stored, of the same snapshot."""
        loop = asyncio.get_running_loop()
        timeout = self._lease.database.target.timeout
        asked = _Asked(lookups, Pending(), loop.time() + timeout)
        self._waiting.append(asked)
        if not self._is_called:
            self._is_called = True
            loop.call_soon(self._send)
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

    def _send(self) -> None:
        """Put what waits into statements, as long as there is a connection for one."""
        self._is_called = False
        database, now = self._lease.database, asyncio.get_running_loop().time()
        most = database.target.connections
        while self._waiting and len(self._running) < max(1, most - 2):
            some, names = 0, 0
            while some < len(self._waiting) and names < _MOST_NAMES:
                names += len(self._waiting[some].lookups.addresses)
                some += 1
            batch, self._waiting = self._waiting[:some], self._waiting[some:]
            begun = sum(asked.until for asked in batch) - len(batch) * database.target.timeout
            database.waited += max(0.0, len(batch) * now - begun)
            task = asyncio.create_task(self._answer(batch))
            self._running.add(task)
            task.add_done_callback(self._sent)
        database.queued = len(self._waiting)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if self._waiting and not self._is_called:
            self._is_called = True
            asyncio.get_running_loop().call_soon(self._send)

    async def _answer(self, batch: Sequence[_Asked]) -> None:
        failures: list[StoreUnavailable] = []
        try:
            async with asyncio.timeout_at(batch[0].until):
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

    async def _found(self, batch: Sequence[_Asked], failures: list[StoreUnavailable]) -> "_Found":
        """Ask until there is an answer: a connection may be lost, and a key come or go.

        `failures` gets the last one.
        """
        names = _Names(batch)
        while True:
            try:
                if (found := await self._asked_once(names)) is not None:
                    return found
                self._keys = None
                failures[:] = [StoreUnavailable("the live keys of the suppressions change")]
            except StoreMisconfigured:
                raise
            except StoreUnavailable as error:
                if isinstance(error.__cause__, TimeoutError):
                    raise
                failures[:] = [error]
                # To be cancelled in the middle of a failure may have been the same failure.
                if asyncio.get_running_loop().time() >= batch[0].until:
                    raise
            if self._lease.target.server == "standby":
                raise failures[-1]
            await asyncio.sleep(_RETRY)

    async def _asked_once(self, names: "_Names") -> "_Found | None":
        """Ask; None: under other keys than are live."""
        target = self._lease.database.target
        async with self._lease.database.connection() as connection:
            keys = await self._known_keys(connection)
            values = names.values(keys, self._partners)
            asked_at = asyncio.get_running_loop().time()
            found = _Found(names, map(tuple, await connection.fetch(self._question, *values)))
        if found.moved_to is not None:
            self._keys = None
            raise StoreMisconfigured(closed_text(target.url, found.moved_to))
        if found.is_standby is not (target.server == "standby"):
            raise StoreUnavailable(NO_PRIMARY if found.is_standby else NO_STANDBY)
        if target.synchronous:
            check_waits(found.commits_wait)
        if found.live != _live(keys):
            return None
        if self.heard is not None:
            self.heard(found.version, asked_at)
        return found

    async def _known_keys(self, connection: Any) -> KeyRing:
        if self._keys is None:
            await migrations.check_version(connection, self._lease.target.url)
            self._keys = await migrations.live_keys(connection, self._state_dir)
        return self._keys

    def close(self) -> None:
        for task in self._running:
            task.cancel()
        _fail(self._waiting, StoreUnavailable("the store is closed"))
        self._waiting = []


def _fail(batch: Iterable[_Asked], error: StoreUnavailable, cause: Exception | None = None) -> None:
    error.__cause__ = error.__cause__ or cause
    for asked in batch:
        asked.answer.fail(error)


def _live(keys: KeyRing) -> str:
    return " ".join(f"{key.version}:{key.fingerprint}" for key in keys.keys)


class _Names:
    """What a batch asks about, each once: addresses and what else they may be read as."""

    def __init__(self, batch: Sequence[_Asked]) -> None:
        known: dict[str, bool] = {}  # whether the contact is asked for
        for asked in batch:
            for address in asked.lookups.addresses:
                for name in (address, *readings(address)):
                    known[name] = known.get(name, False) or asked.lookups.contacts
        self.names = list(known)
        self.domains: list[tuple[str, str]] = []  # (name, whole domain that it is under)
        self._contacts = [name for name, wanted in known.items() if wanted]

    def values(self, keys: KeyRing, partners: Sequence[Partner]) -> list[list[Any]]:
        """Return what the statement asks with."""
        own: list[tuple[Any, ...]] = []
        domains: list[tuple[Any, ...]] = []
        told: list[tuple[Any, ...]] = []
        told_domains: list[tuple[Any, ...]] = []
        self.domains = [(name, over) for name in self.names for over in domains_over(name)]
        first = 0  # of the name's own in `domains`
        for place, name in enumerate(self.names):
            over: Sequence[bytes] = ()
            for key in keys.keys:
                wide, exact, *over = key.lookup(name)
                own.append((place, wide, exact))
                domains += enumerate(over, first)
            for partner, key in partners:
                wide, exact, *over = key.lookup(name)
                told.append((partner, key.fingerprint, place, wide, exact))
                told_domains += [
                    (partner, key.fingerprint, at, each) for at, each in enumerate(over, first)
                ]
            first += len(over)
        values = [*_columns(own, 3), *_columns(domains, 2), self._contacts]
        if partners:
            values += [*_columns(told, 5), *_columns(told_domains, 4)]
        return values


def _columns(table: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [[row[at] for row in table] for at in range(width)]


class _Found:
    """What the statement found."""

    def __init__(self, names: _Names, found: Iterable[rows.Row]) -> None:
        self.version: Version = (0, "")
        self.is_standby = False
        self.live = ""
        self.commits_wait = False
        self.moved_to: str | None = None
        self._pauses: tuple[Pause, ...] = ()
        self._has_partners = False
        self._snapshot_at: datetime | None = None
        self._suppressions: dict[str, list[Suppression]] = {}
        self._people: dict[str, rows.Row] = {}
        self._acts: dict[str, list[tuple[int, ConsentAct]]] = {}  # with their numbers
        for row in found:
            self._take(names, row)
        self._pauses = tuple(sorted(self._pauses, key=lambda pause: pause.subject))

    def _take(self, names: _Names, row: rows.Row) -> None:
        what, place, same, text, other, number, more, last = row[:FIRST_CONTACT]
        if what == columns.STATE:
            self.live, self.moved_to, self.version = text, other, (number, more)
            self.is_standby = same
            self.commits_wait = bool(place)
        elif what == columns.PAUSE:
            self._pauses += (rows.read_pause((text, number, other, last, more)),)
        elif what == columns.SNAPSHOTS:
            self._has_partners, self._snapshot_at = True, rows.optional_moment(number)
        elif what == columns.CONTACT:
            address = row[FIRST_CONTACT + 1]
            self._people[address] = row[FIRST_CONTACT:FIRST_ACT]
            if last is not None:
                self._acts.setdefault(address, []).append((last, rows.act(row[FIRST_ACT:])))
        elif what == columns.OF_DOMAIN:
            name, domain = names.domains[place]
            found = rows.suppression(text, other, number, more, widened=False, domain=domain)
            self._suppressions.setdefault(name, []).append(found)
        else:
            found = rows.suppression(text, other, number, more, widened=not same)
            self._suppressions.setdefault(names.names[place], []).append(found)

    def facts(self, lookups: Lookups) -> Facts:
        """Return what is known of the addresses of one who asked."""
        facts: dict[str, RecipientFacts] = {}
        for address in lookups.addresses:
            known = self._one(address, lookups)
            if others := readings(address):
                known = with_readings(known, [(one, self._one(one, lookups)) for one in others])
            if lookups.pauses and self._pauses:
                known = replace(known or NO_FACTS, pauses=self._pauses)
            if known is not None:
                facts[address] = known
        return facts

    def _one(self, name: str, lookups: Lookups) -> RecipientFacts | None:
        suppressions = self._suppressions.get(name, ())
        person = self._people.get(name) if lookups.contacts else None
        of_snapshots = lookups.snapshots and self._has_partners
        if not suppressions and person is None and not of_snapshots:
            return None
        acts = tuple(act for _, act in sorted(self._acts.get(name, ()), key=itemgetter(0)))
        return RecipientFacts(
            oldest_first(sorted(suppressions, key=lambda one: (one.scope, one.origin))),
            None if person is None else rows.contact(person, ordered_acts(acts)),
            snapshot_at=self._snapshot_at if of_snapshots else None,
        )
