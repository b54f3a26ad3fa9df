"""The tables beside contacts and suppressions, such as counts, whichever kind the database is.

They hold people and requests as keyed hashes.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from hashlib import blake2b

from smtpproxy.mail.address import widened
from smtpproxy.store.sql.rows import Row, to_micros
from smtpproxy.store.sql.session import Session


class SideTables(ABC):
    """The tables of one part, such as "feedback": with SQLite they have a file of their own.

    Their loss costs counts but no proof, so commits are not flushed unless asked.
    """

    @abstractmethod
    def writing(self, *, flushed: bool = False) -> AbstractAsyncContextManager[Session]:
        """Commit at the end, or change nothing after an error. Raises StoreUnavailable.

        Await nothing in it but the session.
        """

    @abstractmethod
    def reading(self) -> AbstractAsyncContextManager[Session]:
        """Read; tables that nobody has written to are empty. Raises StoreUnavailable."""

    @abstractmethod
    def exist(self) -> bool:
        """Whether somebody may have written, so that there can be rows to delete."""

    async def hold_any(self, table: str) -> bool:
        """Whether a table has any row. Raises StoreUnavailable."""
        async with self.reading() as session:
            return bool((await session.fetch_all(f"SELECT EXISTS (SELECT 1 FROM {table})"))[0][0])

    @abstractmethod
    async def hash_key(self) -> bytes:
        """Return the key for hashes, stored with the tables. Raises StoreUnavailable."""

    @abstractmethod
    async def fetch_in(
        self, session: Session, sql: str, values: Sequence[object], *first: object
    ) -> list[Row]:
        """Fetch with a list of values for each `IN ?` in `sql`; `first` are ?1, ?2, …"""

    @abstractmethod
    async def purge_log(self) -> None:
        """Leave nothing of what was deleted outside the tables."""

    @abstractmethod
    def close(self) -> None: ...


AHEAD = timedelta(days=1)
"""How far in the future rows may be dated: the clocks of relays differ."""
_AT_ONCE = 5_000  # rows changed in one transaction, while other writers wait


class SideTable:
    """The base of what keeps its rows in side tables."""

    def __init__(self, tables: SideTables) -> None:
        self._tables = tables

    def close(self) -> None:
        self._tables.close()

    async def _in_steps(self, statement: str, *moments: datetime) -> int:
        """Run a statement whose last value limits the rows, until none are left."""
        done, some = 0, _AT_ONCE
        while some == _AT_ONCE:
            async with self._tables.writing() as session:
                some = await session.run(statement, *map(to_micros, moments), _AT_ONCE)
            done += some
        return done


def keyed_hash(octets: bytes, secret: bytes) -> bytes:
    return blake2b(octets, digest_size=16, key=secret).digest()


def person_hash(address: str, secret: bytes) -> bytes:
    """Hash a canonical address."""
    return keyed_hash(address.encode(), secret)


def mailbox_hash(address: str, secret: bytes) -> bytes:
    """Hash the mailbox of an address, which is the same with any plus-tag."""
    return keyed_hash(widened(address).encode(), secret)


def reader_hash(address: str, secret: bytes) -> bytes:
    """Hash a person who was sent a text: shorter, as there are many, and only counted."""
    return blake2b(address.encode(), digest_size=8, key=secret).digest()
