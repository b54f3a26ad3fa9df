"""The access of a store's parts to its database, whichever kind it is.

Statements are written once, in SQL for both databases: `?` or `?1` is a value, lists are JSON, and
text in a comment `/*…*/` is for PostgreSQL only. The few that differ are in a `Dialect`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from smtpproxy.store.keys import KeyPair, Partner
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sql.rows import Row

if TYPE_CHECKING:
    from smtpproxy.store.sql.live_keys import LiveKeys


class Session(Protocol):
    """A borrowed connection."""

    async def fetch_all(self, sql: str, *values: object) -> list[Row]: ...

    async def run(self, sql: str, *values: object) -> int:
        """Return the number of changed rows."""
        ...

    async def run_many(self, sql: str, values: Iterable[Row]) -> int:
        """Run `sql` for each of `values`; return the number of changed rows."""
        ...


def put_row(table: str, columns: str) -> str:
    """Return the statement that inserts a row, or replaces these columns of the one that has the
    same value in the first."""
    key, *others = columns.split(", ")
    values = ", ".join("?" * (1 + len(others)))
    changes = ", ".join(f"{one} = excluded.{one}" for one in others)
    return (
        f"INSERT INTO {table} ({columns}) VALUES ({values})"
        f" ON CONFLICT ({key}) DO UPDATE SET {changes}"
    )


def listed(values: Iterable[object]) -> str:
    """Return values as a list that a statement reads with `json_each`."""
    return msgspec.json.encode(tuple(values)).decode()


def looked_up(table: str, condition: str) -> str:
    """Return the join with the rows of a table that a condition, which an index serves, holds for.

    A plan that PostgreSQL made while the table was small would otherwise read all of it each time.
    """
    return (
        f"CROSS JOIN /*LATERAL (SELECT * FROM*/ {table} /*WHERE {condition} OFFSET 0) AS {table}*/"
    )


ASKED_WIDE = "wide_key = substr(CAST(?1 AS BLOB), asked.key * 48 + 1, 16)"
ASKED_EXACT = "exact_key = substr(CAST(?1 AS BLOB), asked.key * 48 + 17, 32)"
"""The conditions for the keys of `asked`, where a statement has `json_each(?2) AS asked`."""
ASKED_SUPPRESSIONS = f"json_each(?2) AS asked {looked_up('suppression', ASKED_WIDE)}"


def asked(pairs: Iterable[KeyPair], about: Sequence[object] = ()) -> tuple[bytes, str]:
    """Return ?1 and ?2 of a statement about many keys, with a value for each if it needs one."""
    octets = b"".join([wide + exact for wide, exact in pairs])
    return octets, listed(about or [0] * (len(octets) // 48))


class Dialect(NamedTuple):
    """The statements that differ between databases."""

    newest_change: str  # the highest number ever assigned
    earlier_texts: tuple[str, str, str]
    """For notes in earlier versions of suppressions: find the texts before ?1, count the rows with
    text ?2, and replace it."""


class Connections(ABC):
    """The base of the parts of a store."""

    _dialect: Dialect
    _state_dir: Path
    _keys: "LiveKeys"
    _partners: Sequence[Partner]
    _read_only: bool

    def _writing(self) -> AbstractAsyncContextManager[Session]:
        """Commit at the end, or change nothing after an error. Raises StoreUnavailable.

        Nobody else writes meanwhile, so what was read in it is still true at the commit.
        """
        if self._read_only:
            raise StoreUnavailable("the store is open for reading only")
        return self._transaction()

    @abstractmethod
    def _transaction(self) -> AbstractAsyncContextManager[Session]: ...

    @abstractmethod
    async def _purge_log(self) -> None:
        """Remove deleted data from the log, if the database lets us."""

    @abstractmethod
    def _reading(self, *, snapshot: bool = False) -> AbstractAsyncContextManager[Session]:
        """Return a separate connection for a long read, perhaps from one snapshot."""
