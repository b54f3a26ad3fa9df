"""The reads of the mail path: directly from SQLite on the event loop (docs/adr/0002)."""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from smtpproxy.mail.address import domains_over, readings
from smtpproxy.policy.model import NO_FACTS, Facts, Lookups, Pause, RecipientFacts
from smtpproxy.store.keys import Partner
from smtpproxy.store.merge import facts_about, oldest_first, ordered_acts
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sql import rows
from smtpproxy.store.sql.rows import PAUSES, record_of
from smtpproxy.store.sqlite import live_keys
from smtpproxy.store.sqlite.connection import check_up_to_date, is_busy, open_reader, unavailable
from smtpproxy.store.sqlite.many import ManyReader
from smtpproxy.store.sqlite.statements import Statements, statements
from smtpproxy.store.sqlite.watches import FileWatch, LogRemoved, LogWatch
from smtpproxy.waiting import Pending

T = TypeVar("T")

_values = msgspec.json.Decoder(rows.Row).decode
_AGE = 2  # in the first column: the age of the partners' snapshots
_CHUNK = 50  # addresses read before other sessions get their turn
_RETRY_SECONDS = 0.005
_opened = count()


class _Link:
    """One read-only connection and its queries. Raises sqlite3.Error."""

    def __init__(self, path: Path, state_dir: Path, partners: Sequence[Partner]) -> None:
        self.file = FileWatch(path)
        self._opened = next(_opened)
        self._version: tuple[int, bytes] | None = None
        self._connection = open_reader(path)
        self._execute = self._connection.cursor().execute
        try:
            check_up_to_date(self._connection, path)
            keys = live_keys.load(self._connection, state_dir, path)
            self.log = LogWatch(path)
        except BaseException:
            self._connection.close()
            raise
        first, *others = keys.keys
        self._lookup = first.lookup
        self._more = [key.lookup for key in (*others, *(partner.key for partner in partners))]
        self._keys: Callable[[str], tuple[bytes, ...]] = (
            self._all_keys if self._more else first.lookup
        )
        self._first_read = f"SELECT 1 FROM {live_keys.view(keys.versions)} LIMIT 1"
        self._pauses: tuple[Pause, ...] = ()  # of streams, as of the version
        self._versions, self._partners = keys.versions, partners
        self._many = ManyReader(self._execute, self._keys, keys.versions, partners)
        self._prepared: dict[tuple[int, bool], Statements] = {}  # by number of keys, and age

    def version(self) -> object:
        """Return the state of the database after the last commit; it differs by connection."""
        version = self._opened, self.log.state()
        if version != self._version:
            found = self._execute(PAUSES).fetchall()
            self._pauses = tuple([record_of(Pause, row) for row in found])
            self._version = version
        return version

    def read(self, lookups: Lookups) -> tuple[Facts, object]:
        """Return facts, and a state that they are no older than: the last one read.

        That is recent, as every transaction reads it before anything is mailed. With pauses it is
        read again: they hold transactions back, and may be over."""
        version = self.version() if self._pauses else self._version or self.version()
        return self.facts(lookups), version

    def facts(self, lookups: Lookups) -> Facts:
        """Read all addresses, and those they may be read as, from one snapshot."""
        addresses = lookups.addresses
        if len(addresses) == 1 and not readings(address := addresses[0]):
            known = self._one(lookups, address)
            if self._pauses and lookups.pauses:
                known = replace(known or NO_FACTS, pauses=self._pauses)
            return {} if known is None else {address: known}
        self.begin()
        try:
            return self.some(addresses, lookups)
        finally:
            self.end()

    def begin(self) -> None:
        """Hold one snapshot until `end`. The first read takes it, not BEGIN."""
        self._execute("BEGIN")
        try:
            self._execute(self._first_read).fetchone()
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        self._execute("COMMIT")

    def some(self, addresses: Sequence[str], lookups: Lookups) -> dict[str, RecipientFacts]:
        return facts_about(addresses, partial(self._one, lookups), self._pauses_for(lookups))

    def many(self, addresses: Sequence[str], lookups: Lookups) -> dict[str, RecipientFacts]:
        """Return what `some` returns, if no snapshots are asked for, in half the time."""
        found = self._many.read(addresses, contacts=lookups.contacts)
        pauses = self._pauses_for(lookups)
        return facts_about(addresses, found.get, pauses, partial(self._one, lookups))

    def _pauses_for(self, lookups: Lookups) -> tuple[Pause, ...]:
        return self._pauses if lookups.pauses else ()

    def _one(self, lookups: Lookups, name: str) -> RecipientFacts | None:
        """Read the facts about one canonical name, in one statement."""
        keys = self._keys(name)
        kind = len(keys), lookups.snapshots
        asked = self._prepared.get(kind) or self._prepare(*kind)
        values = map(bytearray, keys)  # for bytes sqlite3 looks up an adapter each time
        if lookups.contacts:
            found = self._execute(asked.everything, (*values, name)).fetchall()
        else:
            found = self._execute(asked.suppressions, (*values,)).fetchall()
        return self._read(found, name, keys) if found else None

    def _prepare(self, keys: int, age: bool) -> Statements:
        asked = statements(self._versions, self._partners, domains=self._domains(keys), age=age)
        self._prepared[keys, age] = asked
        return asked

    def _domains(self, keys: int) -> int:
        """Return the number of whole domains that a name with so many keys is under."""
        return keys // (1 + len(self._more)) - 2

    def _all_keys(self, name: str) -> tuple[bytes, ...]:
        """Return a name's keys under the live keys, then under the partners' keys."""
        keys: tuple[bytes, ...] = self._lookup(name)
        for lookup in self._more:
            keys += lookup(name)
        return keys

    def _read(self, found: list[rows.Row], name: str, keys: tuple[bytes, ...]) -> RecipientFacts:
        suppressions, acts = [], []
        person: str | None = None
        snapshot_at: datetime | None = None
        newest_snapshot_at: datetime | None = None
        for kind, data, act in found:
            if kind is None:
                person = data
                if act is not None:
                    acts.append(rows.act(_values(act)))
            elif kind == _AGE:
                snapshot_at, newest_snapshot_at = map(rows.optional_moment, _values(data))
            elif isinstance(kind, bytes):
                width = 2 + self._domains(len(keys))
                domain = domains_over(name)[keys.index(kind) % width - 2]
                suppressions.append(rows.suppression(*_values(data), widened=False, domain=domain))
            else:
                suppressions.append(rows.suppression(*_values(data), widened=not kind))
        return RecipientFacts(
            oldest_first(suppressions) if suppressions else (),
            rows.contact(_values(person), ordered_acts(tuple(acts))) if person else None,
            snapshot_at=snapshot_at,
            newest_snapshot_at=newest_snapshot_at,
        )

    def tally(self) -> dict[tuple[str, str], int]:
        """Return the count of each (kind, origin); contacts are ("contact", "")."""
        found = self._execute("SELECT kind, origin, n FROM tally").fetchall()
        return {(kind, origin): n for kind, origin, n in found}

    def close(self) -> None:
        self._connection.close()


class SqliteReader:
    """Reads facts over a read-only connection, on the thread of the event loop.

    A read takes some 20 microseconds, a thread hop ten times that. It never blocks: while the
    database is locked, it is retried from the event loop until `timeout`.
    """

    def __init__(
        self, path: Path, state_dir: Path, timeout: float, partners: Sequence[Partner] = ()
    ) -> None:
        self._path = path
        self._state_dir = state_dir
        self._partners = partners
        self._timeout = timeout
        self._closed = False
        self._link: _Link | None = self._opened()
        self._many: _Link | None = None
        self._turn = asyncio.Lock()  # of reads of many

    def read(self, lookups: Lookups) -> Pending[tuple[Facts, object]]:
        """Return facts, and a state of the store that they are no older than."""
        if len(lookups.addresses) > _CHUNK:
            return Pending.of(self._many_read(lookups))
        try:
            return Pending(self._present().read(lookups), done=True)
        except Exception as error:
            return self._once_more(lambda: self._present().read(lookups), error)

    def facts(self, lookups: Lookups) -> Pending[Facts]:
        if len(lookups.addresses) > _CHUNK:
            return Pending.of(self._facts_of_many(lookups))
        return self._ask(lambda: self._checked().facts(lookups))

    def version(self) -> Pending[object]:
        try:
            return Pending(self._checked().version(), done=True)
        except Exception as error:
            return self._once_more(lambda: self._checked().version(), error)

    def tally(self) -> Pending[dict[tuple[str, str], int]]:
        return self._ask(lambda: self._checked().tally())

    async def _many_read(self, lookups: Lookups) -> tuple[Facts, object]:
        version = await self.version()
        return await self._facts_of_many(lookups), version

    async def _facts_of_many(self, lookups: Lookups) -> Facts:
        """Read over a separate connection, whose snapshot can outlast a turn of the loop."""
        facts: dict[str, RecipientFacts] = {}
        async with self._turn:
            link = await self._ask(self._in_transaction)
            try:
                read = link.some if lookups.snapshots else link.many
                for start in range(0, len(lookups.addresses), _CHUNK):
                    facts |= read(lookups.addresses[start : start + _CHUNK], lookups)
                    await asyncio.sleep(0)
                link.end()
            except Exception as error:
                self._drop()
                raise unavailable(error) from error
            except BaseException:  # cancelled
                self._drop()
                raise
        return facts

    def _in_transaction(self) -> _Link:
        """Return the connection for many, in a transaction."""
        link = self._many
        if link is None or not link.file.same():
            link = self._many = self._opened_again(link)
        link.log.check()
        link.version()
        link.begin()
        return link

    def _ask(self, question: Callable[[], T]) -> Pending[T]:
        """Return the answer at once, unless the database is busy. Raises StoreUnavailable."""
        try:
            return Pending(question(), done=True)
        except Exception as error:
            return self._once_more(question, error)

    def _once_more(self, question: Callable[[], T], error: Exception) -> Pending[T]:
        """Retry a failed query, if that may help. Raises StoreUnavailable."""
        return Pending.of(self._ask_again(question, self._failed(error)))

    async def _ask_again(self, question: Callable[[], T], cause: Exception) -> T:
        """Retry until the timeout, letting other sessions run meanwhile."""
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline:
            await asyncio.sleep(_RETRY_SECONDS)
            try:
                return question()
            except Exception as error:
                cause = self._failed(error)
        raise unavailable(cause) from cause

    def _present(self) -> _Link:
        """Return the connection for few addresses; a new one if the file was replaced, or a read
        failed."""
        link = self._link
        if link is None or not link.file.same():
            link = self._link = self._opened_again(link)
        return link

    def _checked(self) -> _Link:
        """Return `_present`, after checking that others still write to the log that it reads."""
        link = self._present()
        link.log.check()
        return link

    def _opened_again(self, replaced: _Link | None) -> _Link:
        if replaced is not None:
            self._drop()
        return self._opened()

    def _opened(self) -> _Link:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        return _Link(self._path, self._state_dir, self._partners)

    def _failed(self, error: Exception) -> Exception:
        """Return an error that another try may fix; raise for all others."""
        if isinstance(error, LogRemoved):
            raise error  # a new connection would see another state: stop reading
        if is_busy(error):
            return error
        self._drop()
        if live_keys.is_gone(error):
            return error  # a key was added or retired: the next connection uses the current ones
        if isinstance(error, StoreUnavailable):
            raise error
        raise unavailable(error) from error

    def _drop(self) -> None:
        """Close the connections; the next read opens new ones."""
        for link in filter(None, (self._link, self._many)):
            link.close()
        self._link = self._many = None

    def close(self) -> None:
        self._closed = True
        self._drop()
