"""Does at once what many ask of the store at once: a commit waits for the disk, as long for one as
for hundreds, and holds up every other writer."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Together(Generic[Item, Result]):
    """Runs some work for all who have asked by the time it begins, at most `most` of them.

    It runs once at a time, and returns a result for each; one that is an exception is raised. If
    the work itself raises, it does so for all of them.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        most: int | None = None,
    ) -> None:
        self._work = work
        self._most = most
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Result:
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await done

    async def ended(self) -> None:
        """Return once nothing is being done."""
        while self._running is not None:
            await asyncio.wait({self._running})

    async def _run(self) -> None:
        try:
            while batch := self._waiting[: self._most]:
                del self._waiting[: self._most]
                results: Sequence[Result | Exception]
                try:
                    results = await self._work([item for item, _ in batch])
                except Exception as error:
                    results = [error] * len(batch)
                for (_, done), result in zip(batch, results, strict=True):
                    if done.done():  # the caller may be gone
                        continue
                    if isinstance(result, Exception):
                        done.set_exception(result)
                    else:
                        done.set_result(result)
        finally:
            self._running = None
