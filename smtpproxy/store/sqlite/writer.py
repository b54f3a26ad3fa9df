"""Writes: aiosqlite, one transaction at a time, on a thread of its own."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiosqlite

from smtpproxy.store.protocols import StoreUnavailable
from smtpproxy.store.sqlite.connection import FileWatch, is_busy, open_writer, unavailable
from smtpproxy.store.sqlite.rows import Row

_LOOK_SECONDS = 0.002


class SqliteWriter:
    """The one writing connection of a store. Opened with the first write."""

    def __init__(self, path: Path, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        self._turn = asyncio.Lock()
        self._connection: aiosqlite.Connection | None = None
        self._watch: FileWatch | None = None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        """Hold the write lock; commit at the end, or change nothing when it ends in an error.

        Raises:
            StoreUnavailable: no write lock within the timeout, or the write failed.
        """
        async with self._alone() as connection:
            await self._begin(connection)
            try:
                yield connection
                await connection.execute("COMMIT")
            except BaseException:
                await connection.rollback()
                raise

    async def _begin(self, connection: aiosqlite.Connection) -> None:
        """Take the write lock. SQLite's own waiting looks too seldom to get in between the
        batches of another process's import."""
        deadline = time.monotonic() + self._timeout
        await connection.execute("PRAGMA busy_timeout = 0")
        try:
            while True:
                try:
                    await connection.execute("BEGIN IMMEDIATE")
                    return
                except sqlite3.Error as error:
                    if not is_busy(error) or time.monotonic() > deadline:
                        raise
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            await connection.execute(f"PRAGMA busy_timeout = {int(self._timeout * 1000)}")

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[aiosqlite.Connection]:
        """Take a turn on the connection: transactions of tasks must not mix."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._turn.acquire()
        except TimeoutError as error:
            raise StoreUnavailable("other writes hold the database") from error
        try:
            yield await self._current()
        except (sqlite3.Error, OSError) as error:
            raise unavailable(error) from error
        finally:
            self._turn.release()

    async def _current(self) -> aiosqlite.Connection:
        if self._watch is not None and not self._watch.same():
            await self.close()
        if self._connection is None:
            self._watch = FileWatch(self._path)
            self._connection = await aiosqlite.Connection(
                lambda: open_writer(self._path, self._timeout), iter_chunk_size=1000
            )
        return self._connection

    async def empty_log(self) -> None:
        """Move the log into the database and cut it, unless a reader is in the way."""
        with suppress(StoreUnavailable):
            async with self._alone() as connection:
                await connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    async def close(self) -> None:
        if self._connection is not None:
            connection, self._connection, self._watch = self._connection, None, None
            await connection.close()


async def fetch_all(connection: aiosqlite.Connection, sql: str, *values: object) -> list[Row]:
    return [tuple(row) for row in await connection.execute_fetchall(sql, values)]


async def run_many(connection: aiosqlite.Connection, sql: str, values: Iterable[Row]) -> int:
    """Run `sql` for each of `values`; return how many rows it changed."""
    async with await connection.executemany(sql, values) as cursor:
        changed: int = cursor.rowcount
        return max(changed, 0)
