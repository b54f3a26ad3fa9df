"""The read of the mail path: straight from SQLite on the event loop (docs/adr/0002)."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from smtpproxy.policy.model import Facts, Lookups, RecipientFacts
from smtpproxy.store.keys import SuppressionKey
from smtpproxy.store.merge import WIDENED_ORIGINS, oldest_first, ordered_acts
from smtpproxy.store.protocols import StoreUnavailable
from smtpproxy.store.sqlite import rows
from smtpproxy.store.sqlite.connection import FileWatch, is_busy, open_reader, unavailable
from smtpproxy.store.sqlite.rows import ACT_COLUMNS, CONTACT_COLUMNS
from smtpproxy.store.sqlite.schema import check_key, check_up_to_date

T = TypeVar("T")

_FIRST_ACT = 1 + len(CONTACT_COLUMNS.split(","))
_WIDTH = _FIRST_ACT + len(ACT_COLUMNS.split(","))
_ORIGINS = ", ".join(f"'{origin}'" for origin in sorted(WIDENED_ORIGINS))

_SUPPRESSIONS = """
SELECT exact_key = ?2, scope, origin, since, note{padding} FROM suppression
WHERE wide_key = ?1 AND (exact_key = ?2 OR origin IN ({origins}))
"""
SUPPRESSIONS_ALONE = _SUPPRESSIONS.format(padding="", origins=_ORIGINS)
# One statement is one snapshot and takes the read lock once. A first column of NULL is
# the contact, with one of its acts in each row.
EVERYTHING = f"""
{_SUPPRESSIONS.format(padding=", NULL" * (_WIDTH - 5), origins=_ORIGINS)}
UNION ALL
SELECT NULL, {CONTACT_COLUMNS}, {ACT_COLUMNS}
FROM contact LEFT JOIN consent_act ON consent_act.contact = contact.id
WHERE address = ?3
"""
_CHUNK = 50  # addresses read before other sessions get their turn
_RETRY_SECONDS = 0.005


class _Link:
    """One read-only connection and the questions asked over it. Raises what SQLite raises."""

    __slots__ = ("_connection", "_execute", "_key", "_watch")

    def __init__(self, path: Path, key: SuppressionKey) -> None:
        self._key = key
        self._watch = FileWatch(path)
        self._connection = open_reader(path)
        self._execute = self._connection.cursor().execute
        try:
            check_up_to_date(self._connection, path)
            check_key(self._connection, key, path)
        except BaseException:
            self._connection.close()
            raise

    def is_current(self) -> bool:
        return self._watch.same()

    def facts(self, lookups: Lookups) -> Facts:
        """Read all addresses from one snapshot."""
        if len(lookups.addresses) == 1:
            return self.some(lookups.addresses, lookups.contacts)
        self.begin()
        try:
            return self.some(lookups.addresses, lookups.contacts)
        finally:
            self.end()

    def begin(self) -> None:
        """Hold one snapshot until `end`. It is taken with a first read, not with BEGIN."""
        self._execute("BEGIN")
        try:
            self._execute("SELECT 1 FROM tally").fetchone()
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        self._execute("COMMIT")

    def some(self, addresses: Sequence[str], contacts: bool) -> dict[str, RecipientFacts]:
        return {
            address: found
            for address in addresses
            if (found := self._recipient(address, contacts)) is not None
        }

    def _recipient(self, address: str, contacts: bool) -> RecipientFacts | None:
        wide, exact = self._key.pair(address)
        if contacts:
            found = self._execute(EVERYTHING, (wide, exact, address)).fetchall()
        else:
            found = self._execute(SUPPRESSIONS_ALONE, (wide, exact)).fetchall()
        if not found:
            return None
        suppressions, acts, person = [], [], None
        for row in found:
            if row[0] is not None:
                suppressions.append(rows.suppression(*row[1:5], widened=not row[0]))
                continue
            person = row
            if row[_FIRST_ACT] is not None:
                acts.append(rows.act(row[_FIRST_ACT:]))
        return RecipientFacts(
            oldest_first(suppressions) if suppressions else (),
            person and rows.contact(person[1:_FIRST_ACT], ordered_acts(tuple(acts))),
        )

    def tally(self) -> dict[tuple[str, str], int]:
        """Return the count of each (kind, origin); contacts are ("contact", "")."""
        found = self._execute("SELECT kind, origin, n FROM tally").fetchall()
        return {(kind, origin): n for kind, origin, n in found}

    def close(self) -> None:
        self._connection.close()


class SqliteReader:
    """Reads facts over a read-only connection, on the thread of the event loop.

    A read takes some 20 microseconds, a thread hop ten times that. It never waits: while
    the database is locked, it tries again from the event loop until `timeout`.
    """

    def __init__(self, path: Path, key: SuppressionKey, timeout: float) -> None:
        self._path = path
        self._key = key
        self._timeout = timeout
        self._link: _Link | None = _Link(path, key)
        self._many: _Link | None = None
        self._turn = asyncio.Lock()  # of reads of many
        self._closed = False

    async def facts(self, lookups: Lookups) -> Facts:
        if len(lookups.addresses) > _CHUNK:
            return await self._facts_of_many(lookups)
        try:
            return self._current().facts(lookups)
        except Exception as error:
            cause = self._failed(error)
        return await self._ask_again(lambda link: link.facts(lookups), cause)

    async def tally(self) -> dict[tuple[str, str], int]:
        return await self._ask(_Link.tally)

    async def _facts_of_many(self, lookups: Lookups) -> Facts:
        """Read over a connection of its own, whose snapshot can outlast a turn of the loop."""
        facts: dict[str, RecipientFacts] = {}
        async with self._turn:
            link = await self._ask(lambda _: self._begun())
            try:
                for start in range(0, len(lookups.addresses), _CHUNK):
                    some = lookups.addresses[start : start + _CHUNK]
                    facts |= link.some(some, lookups.contacts)
                    await asyncio.sleep(0)
                link.end()
            except Exception as error:
                self._drop()
                raise unavailable(error) from error
            except BaseException:  # cancelled
                self._drop()
                raise
        return facts

    def _begun(self) -> _Link:
        """Return the connection for many, in a transaction."""
        self._many = self._renewed(self._many)
        self._many.begin()
        return self._many

    async def _ask(self, question: Callable[[_Link], T]) -> T:
        try:
            return question(self._current())
        except Exception as error:
            cause = self._failed(error)
        return await self._ask_again(question, cause)

    async def _ask_again(self, question: Callable[[_Link], T], cause: Exception) -> T:
        """Try until the timeout, letting the other sessions run meanwhile."""
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline:
            await asyncio.sleep(_RETRY_SECONDS)
            try:
                return question(self._current())
            except Exception as error:
                cause = self._failed(error)
        raise unavailable(cause) from cause

    def _current(self) -> _Link:
        """Return the connection for few."""
        if self._closed:
            raise StoreUnavailable("the store is closed")
        self._link = self._renewed(self._link)
        return self._link

    def _renewed(self, link: _Link | None) -> _Link:
        """Return `link`; a new one when the file was replaced or a read failed."""
        if link is not None:
            if link.is_current():
                return link
            self._drop()
        return _Link(self._path, self._key)

    def _failed(self, error: Exception) -> Exception:
        """Return an error that another try may mend; raise for all others."""
        if is_busy(error):
            return error
        self._drop()
        if isinstance(error, StoreUnavailable):
            raise error
        raise unavailable(error) from error

    def _drop(self) -> None:
        """Close what is open; the next read opens it anew."""
        for link in filter(None, (self._link, self._many)):
            link.close()
        self._link = self._many = None

    def close(self) -> None:
        self._closed = True
        self._drop()
