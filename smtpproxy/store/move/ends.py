"""What either end of a copy can do, and the state of the copy that both keep in a table meanwhile.

All methods raise StoreUnavailable.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

import msgspec

from smtpproxy.store.move.reading import Rows
from smtpproxy.store.move.tables import Key
from smtpproxy.store.sql.live_keys import Live
from smtpproxy.store.sql.rows import Row
from smtpproxy.store.sqlite.moves import STATE as STATE

FIND_STATE = f"SELECT name, value FROM {STATE}"
COPY_ROW = "begun"
"""The name of the copy's own row; the other rows have the names of tables, and their progress."""


class RunningCopy(NamedTuple):
    """A copy that both sides know of; `other` is where the rows go to, or come from."""

    id: str
    other: str


class Progress(NamedTuple):
    """How far a table is copied; `key` is that of the last row."""

    key: Key | None = None
    all: bool = False


class Reopened(NamedTuple):
    """A store that answers again; `other` is where it was, or was being, copied to, if known."""

    other: str | None
    was_closed: bool


encode = msgspec.msgpack.encode
decode_copy = msgspec.msgpack.Decoder(RunningCopy).decode
_decode_progress = msgspec.msgpack.Decoder(Progress).decode


def copy_of(state: Mapping[str, bytes]) -> RunningCopy | None:
    return decode_copy(state[COPY_ROW]) if COPY_ROW in state else None


def progress_of(state: Mapping[str, bytes], table: str) -> Progress:
    return _decode_progress(state[table]) if table in state else Progress()


class Source(Rows, Protocol):
    async def moved_to(self) -> str | None:
        """Return where it was copied to if it is closed, or that it is still being filled."""

    async def live_keys(self) -> Live: ...

    async def running_copy(self) -> RunningCopy | None:
        """Return the copy for which all changes are recorded."""

    async def schema(self) -> object:
        """Return a value that differs after any change of tables or triggers, even if undone."""

    async def begin(self, copy: RunningCopy) -> None:
        """Record changes from now on; those recorded for another copy are deleted."""

    def snapshot(self, part: str) -> AbstractAsyncContextManager[None]:
        """Read from one snapshot; at the end, delete the changes that were recorded before it."""

    def writes_stopped(self) -> AbstractAsyncContextManager[None]: ...

    async def numbers(self) -> Mapping[str, int]:
        """Return the highest number ever assigned, by table."""

    async def secrets(self) -> Mapping[str, bytes]:
        """Return the secrets that persons are hashed with, by part."""

    async def close(self, text: str, place: str) -> None:
        """Refuse all reads and writes from now on, with `text`; on disk when it returns."""

    async def tidy(self) -> None:
        """Delete what is left of the state and the recorded changes."""


class Target(Rows, Protocol):
    async def running_copy(self) -> RunningCopy | None:
        """Return the unfinished copy that it holds."""

    async def has_rows(self, table: str) -> bool: ...

    async def live_keys(self) -> Live: ...

    async def begin(self, copy: RunningCopy) -> None:
        """Delete all rows, and answer nobody until `commit`."""

    async def invalidate(self) -> None:
        """Make sure that nobody can resume the copy."""

    async def progress(self, table: str) -> Progress: ...

    async def set_progress(self, table: str, progress: Progress) -> None: ...

    def transaction(self, table: str, *, flushed: bool) -> AbstractAsyncContextManager[None]:
        """Write to a table in one transaction; if `flushed`, it is on disk at the end."""

    async def write(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None: ...

    async def find(
        self, table: str, columns: Sequence[str], by: Sequence[str], keys: Sequence[Key]
    ) -> list[Row]: ...

    async def remove(
        self, table: str, columns: Sequence[str], by: Sequence[str], keys: Sequence[Key]
    ) -> list[Row]:
        """Remove the rows whose columns `by` are among `keys`; return them."""

    async def optimize(self) -> None:
        """Vacuum, analyze or checkpoint, so that counting rows and the first queries are quick."""

    async def watch(self) -> None:
        """Detect from now on whether anybody else writes to it."""

    async def lock(self) -> None:
        """Keep everybody else from the tables until `commit` or `rollback`."""

    async def rollback(self) -> None:
        """Undo `lock` and `finish`."""

    async def is_untouched(self) -> bool:
        """Return whether nobody else can have written since `watch`."""

    async def finish(self, numbers: Mapping[str, int], secrets: Mapping[str, bytes]) -> None:
        """Do all that is left to do before `commit`."""

    async def commit(self) -> None:
        """Make it a store that answers; on disk when it returns."""

    async def tidy(self) -> None:
        """Do what can wait until it is in use."""
