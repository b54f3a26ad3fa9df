"""Connections that are used again at once: a pool takes a task and three turns of the event loop to
lend one and to have it back, which is more than most questions cost."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from smtpproxy.store.postgres.session import is_over

if TYPE_CHECKING:
    from asyncpg import Connection, Pool, Record
    from asyncpg.prepared_stmt import PreparedStatement

_LOOK = 30.0  # seconds


class Lent:
    """A connection that the pool has lent, with what is prepared on it until it goes back."""

    __slots__ = ("_prepared", "connection", "keeper")

    def __init__(self, connection: "Connection", keeper: "KeptConnections") -> None:
        self.connection = connection
        self.keeper = keeper
        self._prepared: dict[str, PreparedStatement] = {}

    async def fetch(self, sql: str, values: Sequence[Any], within: float) -> "Sequence[Record]":
        """Ask what is asked again and again, so that it stays prepared. Raises as asyncpg does."""
        prepared = self._prepared.get(sql)
        if prepared is None:
            prepared = self._prepared[sql] = await self.connection.prepare(sql, timeout=within)
        rows: Sequence[Record] = await prepared.fetch(*values, timeout=within)
        return rows

    async def give_back(self) -> None:
        """Let the pool have it. Raises what asyncpg does."""
        await self.keeper.pool.release(self.connection)


class KeptConnections:
    """Those of a pool that nobody uses now. What was not needed for a while, the pool gets back."""

    def __init__(self, pool: "Pool", loop: asyncio.AbstractEventLoop) -> None:
        self.pool = pool
        self._loop = loop
        self._kept: list[Lent] = []  # the last one used is the first to be used again
        self._unused = 0  # so many were there all the time since the last look
        self._timer: asyncio.TimerHandle | None = None
        self._given_back: set[asyncio.Task[None]] = set()
        self._retired = False

    def __len__(self) -> int:
        return len(self._kept)

    def take(self) -> Lent | None:
        """Return one that is there, and has not ended meanwhile."""
        while self._kept:
            lent = self._kept.pop()
            self._unused = min(self._unused, len(self._kept))
            if not is_over(lent.connection):
                return lent
            self.give_back(lent)
        return None

    def keep(self, lent: Lent) -> bool:
        """Have it for the next one who needs it; False: it is the pool's."""
        if self._retired:
            return False
        self._kept.append(lent)
        if self._timer is None:
            self._timer = self._loop.call_later(_LOOK, self._look)
        return True

    def _look(self) -> None:
        self._timer = None
        unused, self._kept = self._kept[: self._unused], self._kept[self._unused :]
        self._unused = len(self._kept)
        if self._kept:
            self._timer = self._loop.call_later(_LOOK, self._look)
        for lent in unused:
            self.give_back(lent)

    def retire(self) -> None:
        """Keep none any more, neither those that are there nor those that are lent."""
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
        """Let the pool have it, and do not wait for that."""
        task = self._loop.create_task(lent.give_back())
        self._given_back.add(task)
        task.add_done_callback(self._is_given_back)

    def _is_given_back(self, task: asyncio.Task[None]) -> None:
        self._given_back.discard(task)
        if not task.cancelled():
            task.exception()  # the pool has ended, or this one: it is not lent any more
