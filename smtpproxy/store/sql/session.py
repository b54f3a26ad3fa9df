"""The access of a store's parts to its database, whichever kind it is.

Statements are written once, in SQL for both databases: `?` or `?1` is a value, and
lists are JSON. The few that differ are in a `Dialect`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sql.rows import Row


class Session(Protocol):
    """A borrowed connection."""

    async def fetch_all(self, sql: str, *values: object) -> list[Row]: ...

    async def run(self, sql: str, *values: object) -> int:
        """Return the number of changed rows."""
        ...

    async def run_many(self, sql: str, values: Iterable[Row]) -> int:
        """Run `sql` for each of `values`; return the number of changed rows."""
        ...


class Writer(Protocol):
    """Writes, one transaction at a time. Raises StoreUnavailable."""

    def transaction(self) -> AbstractAsyncContextManager[Session]:
        """Commit at the end, or change nothing after an error.

        Nobody else writes meanwhile, so what was read in it is still true at the commit.
        """
        ...

    async def purge_log(self) -> None:
        """Remove deleted data from the log, if the database lets us."""
        ...


class Dialect(NamedTuple):
    """The statements that differ between databases."""

    newest_change: str  # the highest number ever assigned
    kept: str  # creates the table of the suppressions that a purge keeps
    earlier_texts: tuple[str, str, str]
    """For notes in earlier versions of suppressions: find the texts before ?1, count the rows with
    text ?2, and replace it."""


class Connections(ABC):
    """The base of the parts of a store."""

    _dialect: Dialect
    _state_dir: Path
    _writer: Writer | None

    def _to_write(self) -> Writer:
        """Raises StoreUnavailable if the store is open for reading only."""
        if self._writer is None:
            raise StoreUnavailable("the store is open for reading only")
        return self._writer

    @abstractmethod
    def _reading(self, *, snapshot: bool = False) -> AbstractAsyncContextManager[Session]:
        """Return a separate connection for a long read, perhaps from one snapshot."""
