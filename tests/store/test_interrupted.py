"""A write cancelled at any statement leaves nothing behind on its connection."""

import asyncio
import contextlib
import warnings
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import aiosqlite
import asyncpg
import pytest

from smtpproxy.policy.model import ConsentAct
from tests.store.conftest import Database

ADDRESS = "anna@people.example"
_MOST_TURNS = 4  # of the event loop, after a statement


class Cancelling:
    """Cancels a write at its n-th statement: while it runs, or some turns of the loop later."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._left, self._turns = 0, 0
        self._task: asyncio.Task[bool] | None = None
        monkeypatch.setattr(aiosqlite.Connection, "_execute", self._heard(_of_sqlite))
        monkeypatch.setattr(asyncpg.Connection, "execute", self._heard(asyncpg.Connection.execute))

    def _heard(self, run: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def heard(*values: Any, **more: Any) -> Any:
            self._left -= 1
            if self._left or self._task is None:
                return await run(*values, **more)
            if not self._turns:
                self._task.cancel()
            result = await run(*values, **more)
            self._in(self._turns, self._task)
            return result

        return heard

    def _in(self, turns: int, task: "asyncio.Task[bool]") -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self._in, turns - 1, task)
        else:
            task.cancel()

    async def at(self, statement: int, turns: int, write: Awaitable[bool]) -> bool:
        """Return whether the write has that many statements."""
        self._left, self._turns = statement, turns
        self._task = asyncio.ensure_future(write)
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._task = None
        return self._left <= 0


_of_sqlite = aiosqlite.Connection._execute


async def test_the_next_writer_is_not_blocked(
    any_database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cancelling = Cancelling(monkeypatch)
    store, other = any_database.open(), any_database.open()
    act = ConsentAct("offers", datetime(2026, 1, 1, tzinfo=UTC), withdrawal=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # asyncpg warns of what is left on a connection
        for turns in range(_MOST_TURNS):
            statement = 1
            while await cancelling.at(statement, turns, store.record_act(ADDRESS, act)):
                await other.record_act(ADDRESS, act)
                await store.record_act(ADDRESS, act)
                statement += 1
            assert statement > 3
    assert not caplog.records
