"""A store moves from SQLite to PostgreSQL, or back: `smtpproxy store copy`.

The source is held: it is read by everybody and written by nobody. All is copied in one transaction,
read again and compared; then the source is closed for good, and only then what was copied counts.
At any moment at most one of the two answers. A copy that ends before that has changed nothing; one
that ends between these two leaves the source closed and the target empty, and is done again.
"""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from smtpproxy.store.key_files import load_keys
from smtpproxy.store.move.tables import MADE_WITH_A_STORE, TABLES, Sum
from smtpproxy.store.protocols import StoreMisconfigured, StoreUnavailable, without_password
from smtpproxy.store.sql.live_keys import Live, chosen
from smtpproxy.store.sql.rows import Row

BATCH = 20_000
"""Rows that are held at once."""


class Rows(Protocol):
    """A database that nobody else writes, as long as it is held. Raises StoreUnavailable."""

    async def columns(self, table: str) -> Sequence[str]: ...

    def read(self, table: str, columns: Sequence[str]) -> AsyncIterator[Sequence[Row]]:
        """Yield all rows, some at once, in any order."""
        ...

    async def live(self) -> Live: ...


class Source(Rows, Protocol):
    async def moved_to(self) -> str | None:
        """Return where it was copied to before, where it is closed."""
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


class Target(Rows, Protocol):
    async def is_empty(self, table: str) -> bool: ...

    async def write(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None: ...

    async def clear(self, tables: frozenset[str]) -> None: ...

    async def finish(self, numbers: Mapping[str, int], secrets: Mapping[str, bytes]) -> None: ...

    async def commit(self) -> None:
        """Let all of it count, on the disk on return."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """A database of one kind: `source` and `target` hold it for as long as they are open."""

    url: str
    source: AbstractAsyncContextManager[Source]
    target: AbstractAsyncContextManager[Target]

    @property
    def shown(self) -> str:
        return without_password(self.url)


@dataclass(frozen=True, slots=True)
class Moved:
    """What was copied, by table; `seconds` is for how long nobody could write."""

    sums: Mapping[str, Sum]
    seconds: float
    before: bool = False  # all of it was there already


async def move(old: Place, new: Place, text: str, state_dir: Path) -> Moved:
    """Copy a store, prove the copy, and close the source: what it is asked is answered by `text`.

    Raises StoreMisconfigured: the two do not fit together; StoreUnavailable. Then the target is as
    it was.
    """
    async with old.source as source:
        began = time.monotonic()
        place = await source.moved_to()
        if place not in (None, new.shown):
            raise StoreMisconfigured(f"{old.shown}: was copied to {place}, which counts now")
        async with new.target as target:
            live = await source.live()
            chosen(load_keys(state_dir), live, old.shown)
            columns = {table: await _same_columns(source, target, table) for table in TABLES}
            if filled := await _first_with_rows(target):
                if place is None:
                    raise StoreMisconfigured(
                        f"{new.shown}: has rows in {filled} already; a store is copied to one "
                        "that nobody has written to"
                    )
                sums = {table: await _sum(source, table, columns[table]) for table in TABLES}
                await _prove(target, columns, sums, new.shown)
                return Moved(sums, time.monotonic() - began, before=True)
            for key in await target.live():
                if key not in live:
                    raise StoreMisconfigured(
                        f"{new.shown}: knows another key ({key[1]}) than {old.shown}; copy "
                        "suppression.key before smtpproxy migrate, and make the database anew"
                    )
            await target.clear(MADE_WITH_A_STORE)
            sums = {}
            for table in TABLES:
                sums[table] = await _copy(source, target, table, columns[table])
            await target.finish(await source.numbers(), await source.secrets())
            await _prove(target, columns, sums, new.shown)
            await source.close(text, new.shown)
            try:
                await target.commit()
            except StoreUnavailable as error:
                error.add_note(f"{old.shown} is closed; run the same command again")
                raise
            return Moved(sums, time.monotonic() - began)


async def _same_columns(source: Rows, target: Rows, table: str) -> Sequence[str]:
    columns = await source.columns(table)
    if not columns or set(columns) != set(await target.columns(table)):
        raise StoreMisconfigured(
            f"{table}: the two databases have other columns; bring both up to date with "
            "smtpproxy migrate of this release"
        )
    return columns


async def _first_with_rows(target: Target) -> str | None:
    for table in TABLES:
        if table not in MADE_WITH_A_STORE and not await target.is_empty(table):
            return table
    return None


async def _copy(source: Source, target: Target, table: str, columns: Sequence[str]) -> Sum:
    sum = Sum()
    async for rows in source.read(table, columns):
        sum.add(rows)
        await target.write(table, columns, rows)
    return sum


async def _sum(store: Rows, table: str, columns: Sequence[str]) -> Sum:
    sum = Sum()
    async for rows in store.read(table, columns):
        sum.add(rows)
    return sum


async def _prove(
    target: Target, columns: Mapping[str, Sequence[str]], sums: Mapping[str, Sum], shown: str
) -> None:
    for table in TABLES:
        found = await _sum(target, table, columns[table])
        if found != sums[table]:
            raise StoreUnavailable(
                f"{shown}: {table} has {found.rows:,} rows with checksum {found}, and the source "
                f"has {sums[table].rows:,} with {sums[table]}"
            )
