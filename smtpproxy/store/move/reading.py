"""Reading rows from either kind of database: page by page, or the changed ones."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Protocol, TypeVar

from smtpproxy.store.move.tables import KEYS, Key, Sum
from smtpproxy.store.sql.rows import Row

T = TypeVar("T")

BATCH = 20_000
"""Rows held in memory at once."""

NOTED = "noted"
"""The column that numbers the recorded changes of a table."""


class Rows(Protocol):
    """A database. Raises StoreUnavailable."""

    async def columns(self, table: str) -> Sequence[str]: ...

    async def fetch(self, table: str, sql: str, *values: object) -> list[Row]:
        """Run a statement in the database that has `table`."""

    def shown(self, table: str, column: str, of: str = "") -> str:
        """Return the SQL for the value of a column to copy; `of` goes before its name."""


def record_of(table: str) -> str:
    """Return the name of the table that records the keys of changed rows."""
    return f"copying_{table}"


def listed(columns: Sequence[str], of: str = "") -> str:
    return ", ".join(f'{of}"{column}"' for column in columns)


def places(columns: Sequence[str]) -> str:
    return ", ".join("?" * len(columns))


def same(columns: Sequence[str], one: str, other: str) -> str:
    """Return the condition that two rows have the same key."""
    return " AND ".join(f'{one}."{column}" = {other}."{column}"' for column in columns)


async def pages(
    rows: Rows, table: str, columns: Sequence[str], after: Key | None = None
) -> AsyncGenerator[tuple[list[Row], Key | None], None]:
    """Yield pages of rows in key order, each with its last key, and the last page with None.

    Rows with the same key are on the same page.
    """
    key = listed(KEYS[table])
    beyond, within = f"({key}) > ({places(KEYS[table])})", f"({key}) <= ({places(KEYS[table])})"
    wanted = f'SELECT {_shown(rows, table, columns)} FROM "{table}"'
    while True:
        last = await rows.fetch(
            table,
            f'SELECT {key} FROM "{table}" {f"WHERE {beyond} " if after else ""}'
            f"ORDER BY {key} LIMIT 1 OFFSET {BATCH - 1}",
            *(after or ()),
        )
        bounds = [beyond] * bool(after) + [within] * bool(last)
        where = f" WHERE {' AND '.join(bounds)}" if bounds else ""
        upto = last[0] if last else ()
        yield await rows.fetch(table, wanted + where, *(after or ()), *upto), upto or None
        if not last:
            return
        after = last[0]


async def prefetched(found: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """Yield the same items, and fetch the next while the caller works on one."""

    async def following() -> T | None:
        return await anext(found, None)

    asking = asyncio.ensure_future(following())
    try:
        while (one := await asking) is not None:
            asking = asyncio.ensure_future(following())
            await asyncio.sleep(0)  # send the query before the caller goes on
            yield one
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def sum_of(rows: Rows, table: str, columns: Sequence[str]) -> Sum:
    sum = Sum()
    async for some, _ in pages(rows, table, columns):
        sum.add(some)
    return sum


async def count_of(rows: Rows, table: str) -> int:
    return int((await rows.fetch(table, f'SELECT count(*) FROM "{table}"'))[0][0])


async def changes(
    rows: Rows, table: str, columns: Sequence[str]
) -> AsyncIterator[tuple[list[Key], list[Row]]]:
    """Yield the keys on record, and their current rows. A key may come more than once."""
    key, record = listed(KEYS[table]), f'"{record_of(table)}"'
    first, last = (await rows.fetch(table, f"SELECT min({NOTED}), max({NOTED}) FROM {record}"))[0]
    if first is None:
        return
    changed = f"SELECT DISTINCT {key} FROM {record} WHERE {NOTED} BETWEEN ? AND ?"
    wanted = (
        f"SELECT {_shown(rows, table, columns, 'one.')} FROM ({changed}) AS changed "
        f'CROSS JOIN "{table}" AS one WHERE {same(KEYS[table], "one", "changed")}'
    )
    for start in range(first, last + 1, BATCH):
        bounds = start, min(last, start + BATCH - 1)
        if keys := await rows.fetch(table, changed, *bounds):
            yield keys, await rows.fetch(table, wanted, *bounds)


def _shown(rows: Rows, table: str, columns: Sequence[str], of: str = "") -> str:
    return ", ".join(rows.shown(table, column, of) for column in columns)
