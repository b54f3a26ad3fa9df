"""Statements for both databases over a connection to PostgreSQL, and safe transactions: none counts
as committed before it is, perhaps also on a standby."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from smtpproxy.store.records import StoreInaccessible, StoreUnavailable
from smtpproxy.store.sql.rows import Row

if TYPE_CHECKING:
    from asyncpg import Connection

WAITS = """(
    current_setting('synchronous_commit') NOT IN ('off', 'local')
    AND current_setting('synchronous_standby_names') <> ''
)"""
"""SQL for whether commits wait for a standby. Any role may ask; it can change during a session."""

NO_WAIT = (
    "store.require_synchronous: commits of the database do not wait for a standby; set"
    " synchronous_standby_names, and synchronous_commit to on"
)

_UNKNOWN = "the database did not confirm it in time, so it may or may not be written: do it again"
_PLACE = re.compile(r"\?(\d*)")
_FOR_US = re.compile(r"/\*(.*?)\*/", re.DOTALL)
_INSERTION = re.compile(
    r"\s*(?P<head>INSERT INTO (?P<table>\w+)\s+\((?P<columns>[^()]+)\)\s+)"
    r"VALUES \(\$1(?:, \$\d+)*\)"
    r"\s*(?P<rest>(?:ON CONFLICT(?: \((?P<key>[^()]+)\))?.*)?)\Z",
    re.DOTALL,
)


def check_waits(waits: object) -> None:
    """Raise StoreInaccessible unless commits wait."""
    if not waits:
        raise StoreInaccessible(NO_WAIT)


@lru_cache(maxsize=512)
def translated(sql: str) -> tuple[str, tuple[int, ...]]:
    """Return a statement for PostgreSQL, and which of its values are $1, $2, …

    Values that do not occur are left out, as they would have no type.
    """
    places: list[int] = []
    last = -1

    def place(match: re.Match[str]) -> str:
        nonlocal last
        last = int(match[1]) - 1 if match[1] else last + 1
        if last not in places:
            places.append(last)
        return f"${places.index(last) + 1}"

    ours = _FOR_US.sub(r"\1", sql).replace("AS BLOB)", "AS bytea)")
    return _PLACE.sub(place, ours), tuple(places)


class PostgresSession:
    """A `Session` over an asyncpg connection."""

    __slots__ = ("_connection",)

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection

    async def fetch_all(self, sql: str, *values: object) -> list[Row]:
        text, places = translated(sql)
        return [tuple(row) for row in await self._connection.fetch(text, *_chosen(values, places))]

    async def run(self, sql: str, *values: object) -> int:
        text, places = translated(sql)
        status: str = await self._connection.execute(text, *_chosen(values, places))
        count = status.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    async def run_many(self, sql: str, values: Iterable[Row]) -> int:
        text, places = translated(sql)
        rows: list[Sequence[object]] = [*values]
        if rows and places != tuple(range(len(rows[0]))):
            rows = [_chosen(each, places) for each in rows]
        if len(rows) > 1 and (insertion := _INSERTION.match(text)):
            return await self._insert(insertion, rows)
        # Pipelined: all are sent before the first answer comes.
        return len(await self._connection.fetchmany(f"{text} RETURNING 1", rows)) if rows else 0

    async def _insert(self, insertion: re.Match[str], rows: Sequence[Sequence[object]]) -> int:
        """Insert all rows in one statement, so that triggers run once; in several if rows conflict
        with each other, which PostgreSQL refuses within one statement."""
        names = [name.strip() for name in insertion["columns"].split(",")]
        if not insertion["rest"]:  # asyncpg looks at each value of an array twice
            status = await self._connection.copy_records_to_table(
                insertion["table"], records=rows, columns=names
            )
            return int(status.rpartition(" ")[2])
        if insertion[0] not in _types:
            prepared = await self._connection.prepare(insertion[0], name="")
            _types[insertion[0]] = [one.name for one in prepared.get_parameters()]
        arrays = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(_types[insertion[0]], 1))
        given = f"SELECT * FROM unnest({arrays}) AS given ({insertion['columns']})"
        text = f"{insertion['head']}{given} {insertion['rest']}"
        key = [names.index(name) for name in (insertion["key"] or "").split(", ") if name]
        changed = 0
        for some in _without_conflicts(rows, key) if key else [rows]:
            status = await self._connection.execute(text, *map(list, zip(*some, strict=True)))
            changed += int(status.rpartition(" ")[2])
        return changed


_types: dict[str, list[str]] = {}
"""The types of the values of insertions, which are the same in every database."""


def _without_conflicts(
    rows: Sequence[Sequence[object]], key: Sequence[int]
) -> Iterator[Sequence[Sequence[object]]]:
    """Yield the rows in parts without duplicate keys; rows with the same key keep their order."""
    while rows:
        part: dict[tuple[object, ...], Sequence[object]] = {}
        later = []
        for row in rows:
            values = tuple([row[place] for place in key])
            if values in part:
                later.append(row)
            else:
                part[values] = row
        yield list(part.values())
        rows = later


def _chosen(values: Sequence[object], places: tuple[int, ...]) -> list[object]:
    return [values[place] for place in places]


@asynccontextmanager
async def transaction(
    connection: "Connection", within: float | None, how: str
) -> AsyncIterator[PostgresSession]:
    """Run a transaction; its begin and its end may take `within` seconds each.

    `how` sets the isolation level, whatever the database's default: writers wait for each other
    instead. Raises StoreUnavailable if it is unknown whether it was committed: then repeat it.
    """
    try:
        await connection.execute(f"BEGIN {how}", timeout=within)
        yield PostgresSession(connection)
        await _commit(connection, within)
    except BaseException:
        await _roll_back(connection, within)
        raise


async def _commit(connection: "Connection", within: float | None) -> None:
    """Commit. After the timeout the connection is cut and the server goes on waiting, perhaps for
    the standby: if the wait were cancelled, the commit would stand without the standby."""
    from asyncpg import exceptions as pg

    gone = (pg.PostgresConnectionError, pg.OperatorInterventionError, pg.InterfaceError, OSError)
    warnings: list[Any] = []

    def warned(_: object, warning: object) -> None:
        warnings.append(warning)

    connection.add_log_listener(warned)
    committing = asyncio.ensure_future(connection.execute("COMMIT"))
    try:
        await asyncio.wait({committing}, timeout=within)
        if not committing.done():
            connection.terminate()
        if await committing != "COMMIT":
            raise StoreUnavailable("the database rolled back what was written")
    except gone as error:
        raise StoreUnavailable(_UNKNOWN) from error
    finally:
        if not is_over(connection):
            connection.remove_log_listener(warned)
        if not committing.done():  # we are cancelled ourselves
            committing.cancel()
            await asyncio.wait({committing})
    if warnings:  # "canceling wait for synchronous replication": an operator cancelled the wait
        raise StoreUnavailable(f"the database wrote it, but the standby did not ({warnings[0]})")


async def _roll_back(connection: "Connection", within: float | None) -> None:
    """Roll back; without an answer in time, end the connection and with it the transaction.

    If we were cancelled, a transaction may have begun that asyncpg does not know of yet.
    """
    if is_over(connection):
        return
    try:
        await connection.execute("ROLLBACK", timeout=within)
    except BaseException as error:
        if not is_over(connection):
            connection.terminate()
        if not isinstance(error, Exception):
            raise


def is_over(connection: "Connection") -> bool:
    """Whether a connection has ended; the pool's proxy then raises on any use."""
    from asyncpg import InterfaceError

    try:
        return bool(connection.is_closed())
    except InterfaceError:
        return True
