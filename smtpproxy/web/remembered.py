"""Costly answers, kept for a while."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Remembered(Generic[T]):
    """The answer to `ask`: asked once for all who wait, and again after `every` seconds.

    `ask` must not raise.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]], every: float) -> None:
        self._ask = ask
        self._every = every
        self._asking: asyncio.Task[T] | None = None
        self._good_until = 0.0

    async def __call__(self) -> T:
        now = asyncio.get_running_loop().time()
        if self._asking is None or (self._asking.done() and now >= self._good_until):
            self._asking = asyncio.create_task(self._answer())
            self._good_until = now + self._every
        # shielded: a caller that goes away must not end it for the others
        return await asyncio.shield(self._asking)

    async def _answer(self) -> T:
        return await self._ask()
