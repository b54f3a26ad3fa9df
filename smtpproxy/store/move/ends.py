"""What either end of a copy has to be able to do. Raises StoreUnavailable."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from smtpproxy.store.move.reading import Rows
from smtpproxy.store.move.tables import Key
from smtpproxy.store.sql.live_keys import Live
from smtpproxy.store.sql.rows import Row


class Begun(NamedTuple):
    """A copy that both sides know of; `other` is where the rows go, or come from."""

    id: str
    other: str


class Reached(NamedTuple):
    """How far the rows of a table were copied; `key` is the last one's."""

    key: Key | None = None
    all: bool = False


class Reopened(NamedTuple):
    """Where a store was copied to, or was to be, where that is known; it answers again, or did all
    the time."""

    other: str | None
    was_closed: bool


class Source(Rows, Protocol):
    async def moved_to(self) -> str | None:
        """Return where it was copied to before, where it is closed; or that it is half a copy."""
        ...

    async def live(self) -> Live: ...

    async def begun(self) -> Begun | None:
        """Return for which copy all changes are put on record."""
        ...

    async def shape(self) -> object:
        """Return what is another once anybody has changed tables or triggers, or back again."""
        ...

    async def begin(self, copy: Begun) -> None:
        """Put changes on record from now on; those for another copy are forgotten."""
        ...

    def snapshot(self, part: str) -> AbstractAsyncContextManager[None]:
        """Read as of one moment; the changes that are on record then are forgotten at the end."""
        ...

    def stopped(self) -> AbstractAsyncContextManager[None]:
        """Let nobody write."""
        ...

    async def numbers(self) -> Mapping[str, int]:
        """Return the newest number that was ever given, by table."""
        ...

    async def secrets(self) -> Mapping[str, bytes]:
        """Return what the persons are hashed with, by part."""
        ...

    async def close(self, text: str, place: str) -> None:
        """Refuse all reads and writes from now on, with `text`; it is on the disk on return."""
        ...

    async def tidy(self) -> None:
        """Forget what was noted for the copy, where that could wait."""
        ...


class Target(Rows, Protocol):
    async def begun(self) -> Begun | None:
        """Return which copy it is half of."""
        ...

    async def has_rows(self, table: str) -> bool: ...

    async def live(self) -> Live: ...

    async def begin(self, copy: Begun) -> None:
        """Forget all rows, and answer nobody until `commit`."""
        ...

    async def spoil(self) -> None:
        """Be half of no copy that anybody can go on with."""
        ...

    async def reached(self, table: str) -> Reached: ...

    async def reach(self, table: str, reached: Reached) -> None: ...

    def step(self, table: str, *, flushed: bool) -> AbstractAsyncContextManager[None]:
        """Write to a table all at once; `flushed`: it is on the disk at the end."""
        ...

    async def write(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None: ...

    async def find(
        self, table: str, columns: Sequence[str], by: Sequence[str], keys: Sequence[Key]
    ) -> list[Row]: ...

    async def remove(
        self, table: str, columns: Sequence[str], by: Sequence[str], keys: Sequence[Key]
    ) -> list[Row]:
        """Remove the rows whose columns `by` are among `keys`; return them."""
        ...

    async def settle(self) -> None:
        """Do what makes it quick to count rows, and to be in use."""
        ...

    async def watch(self) -> None:
        """Know from now on whether anybody else writes to it."""
        ...

    async def hold(self) -> None:
        """Let nobody else have the tables until `commit`, or `leave`."""
        ...

    async def leave(self) -> None:
        """Undo `hold`, and `finish`."""
        ...

    async def is_ours(self) -> bool:
        """Tell whether nobody else can have written since `watch`."""
        ...

    async def finish(self, numbers: Mapping[str, int], secrets: Mapping[str, bytes]) -> None:
        """Do all that is left to do before `commit`."""
        ...

    async def commit(self) -> None:
        """Let all of it count, on the disk on return."""
        ...

    async def tidy(self) -> None:
        """Do what can wait until it is in use."""
        ...
