"""How the parts of a store reach its database, whichever it is.

Statements are written once, in what SQLite and PostgreSQL both understand: `?` or `?1` for a value,
lists as JSON. What differs is in a `Dialect`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

from smtpproxy.store.sql.rows import Row


class Session(Protocol):
    """A connection for as long as it is lent."""

    async def fetch_all(self, sql: str, *values: object) -> list[Row]: ...

    async def run(self, sql: str, *values: object) -> int:
        """Return how many rows it changed."""
        ...

    async def run_many(self, sql: str, values: Iterable[Row]) -> int:
        """Run `sql` for each of `values`; return how many rows it changed."""
        ...


class Writer(Protocol):
    """Writes, one transaction at a time. Raises StoreUnavailable."""

    def transaction(self) -> AbstractAsyncContextManager[Session]:
        """Hold the right to write; commit at the end, or change nothing where it ends in an error.

        Nobody else writes meanwhile: what was read in it still holds when it is written.
        """
        ...

    async def forget_pages(self) -> None:
        """Let no log hold pages as they were any more, as far as that is in our hands."""
        ...


class Dialect(NamedTuple):
    """The statements that a database wants in its own words."""

    newest_change: str  # the number of the newest there ever was
    kept: str  # makes the table of what a purge leaves
    earlier_texts: tuple[str, str, str]
    """What suppressions were before may be free text: the texts before ?1, how many rows have text
    ?2, and how it is forgotten."""


class Connections(ABC):
    """What the parts of one store are mixed into."""

    _dialect: Dialect
    _state_dir: Path

    @abstractmethod
    def _to_write(self) -> Writer:
        """Raises StoreUnavailable: the store is open for reading only."""

    @abstractmethod
    def _reading(self, *, snapshot: bool = False) -> AbstractAsyncContextManager[Session]:
        """A connection of its own for a long read; all of it from one snapshot where asked."""
