"""Connections kept for immediate reuse: asyncpg's pool takes a task and three turns of the event
loop to lend one and take it back, which is more than most queries cost."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from smtpproxy.store.postgres.session import is_over

if TYPE_CHECKING:
    from asyncpg import Connection, Pool, Record
    from asyncpg.prepared_stmt import PreparedStatement

_UNUSED = 30.0  # seconds after which a connection goes back to the pool


class Lent:
    """A connection lent by the pool, with the statements prepared on it."""

    __slots__ = ("_prepared", "connection", "keeper")

    def __init__(self, connection: "Connection", keeper: "KeptConnections") -> None:
        self.connection = connection
        self.keeper = keeper
        self._prepared: dict[str, PreparedStatement] = {}

    async def fetch(self, sql: str, values: Sequence[Any], within: float) -> "Sequence[Record]":
        """Run a statement and keep it prepared. Raises as asyncpg does."""
        prepared = self._prepared.get(sql)
        if prepared is None:
            prepared = self._prepared[sql] = await self.connection.prepare(sql, timeout=within)
        rows: Sequence[Record] = await prepared.fetch(*values, timeout=within)
        return rows

    async def give_back(self) -> None:
        """Return it to the pool. Raises as asyncpg does."""
        await self.keeper.pool.release(self.connection)


class KeptConnections:
    """The idle connections of a pool, which gets back those that are not needed for a while."""

    def __init__(self, pool: "Pool", loop: asyncio.AbstractEventLoop) -> None:
        self.pool = pool
        self._loop = loop
        self._kept: list[Lent] = []  # the last one used is the first to be used again
        self._unused = 0  # the lowest number kept since the last check
        self._timer: asyncio.TimerHandle | None = None
        self._given_back: set[asyncio.Task[None]] = set()
        self._retired = False

    def __len__(self) -> int:
        return len(self._kept)

    def take(self) -> Lent | None:
        """Return an idle connection that has not ended, if there is one."""
        while self._kept:
            lent = self._kept.pop()
            self._unused = min(self._unused, len(self._kept))
            if not is_over(lent.connection):
                return lent
            self.give_back(lent)
        return None

    def keep(self, lent: Lent) -> bool:
        """Keep it for the next user; False if it has to go back to the pool."""
        if self._retired:
            return False
        self._kept.append(lent)
        if self._timer is None:
            self._timer = self._loop.call_later(_UNUSED, self._give_back_unused)
        return True

    def _give_back_unused(self) -> None:
        self._timer = None
        unused, self._kept = self._kept[: self._unused], self._kept[self._unused :]
        self._unused = len(self._kept)
        if self._kept:
            self._timer = self._loop.call_later(_UNUSED, self._give_back_unused)
        for lent in unused:
            self.give_back(lent)

    def retire(self) -> None:
        """Give all connections back to the pool, those in use once they are returned."""
        kept, self._kept, self._retired = self._kept, [], True
        for lent in kept:
            self.give_back(lent)

    def terminate(self) -> None:
        """End all connections of the pool."""
        self._kept, self._retired = [], True
        if self._timer is not None:
            self._timer.cancel()
        self.pool.terminate()

    def give_back(self, lent: Lent) -> None:
        """Return it to the pool, without waiting for that."""
        task = self._loop.create_task(lent.give_back())
        self._given_back.add(task)
        task.add_done_callback(self._is_given_back)

    def _is_given_back(self, task: asyncio.Task[None]) -> None:
        self._given_back.discard(task)
        if not task.cancelled():
            task.exception()  # the pool or the connection has ended: nothing to do
