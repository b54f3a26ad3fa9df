"""The store as the webhooks of a process use it: what many ask for at once is done once.

With SQLite a commit waits for the disk and holds up every other writer, and each read opens a
connection: 200 webhooks would commit 400 times for a change.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Generic, TypeVar

from smtpproxy.store.propagation import (
    ChangesGone,
    DeadLetter,
    Holding,
    LoggedChange,
    WebhookProgress,
    WebhookState,
)
from smtpproxy.store.sql.store import Store

Item = TypeVar("Item")
Result = TypeVar("Result")


class Together(Generic[Item, Result]):
    """Runs some work for all who have asked by the time it begins; they share its result, or its
    exception. It runs once at a time."""

    def __init__(self, work: Callable[[Sequence[Item]], Awaitable[Result]]) -> None:
        self._work = work
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
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                result = await self._work([item for item, _ in batch])
            except Exception as error:
                for _, done in batch:
                    if not done.done():  # the caller may be gone
                        done.set_exception(error)
            else:
                for _, done in batch:
                    if not done.done():
                        done.set_result(result)
        self._running = None


Part = tuple[int, int]
"""Of the log: the changes after a number, and how many of them at most."""


class SharedStore:
    """What the dispatchers need. Methods raise StoreUnavailable."""

    def __init__(self, store: Store) -> None:
        self.letters: Store = store
        self._store = store
        self._looking: Together[None, WebhookProgress] = Together(self._look)
        self._reading: Together[Part, dict[Part, Sequence[LoggedChange] | ChangesGone]] = Together(
            self._read
        )
        self._putting: Together[tuple[WebhookState, DeadLetter | None], None] = Together(self._put)
        self._holding: Together[tuple[str, Holding, datetime], set[str]] = Together(self._hold)

    async def progress(self) -> WebhookProgress:
        """Return the state of all webhooks, as of now."""
        return await self._looking(None)

    async def changes(self, since: int, limit: int) -> Sequence[LoggedChange]:
        """Return what `Store.changes` does, or raise ChangesGone."""
        found = (await self._reading((since, limit)))[since, limit]
        if isinstance(found, ChangesGone):
            raise found
        return found

    async def put(self, state: WebhookState, dead: DeadLetter | None = None) -> None:
        await self._putting((state, dead))

    async def hold(self, name: str, holding: Holding, now: datetime) -> bool:
        """Reserve a webhook for a relay for some time; False if another one has it at `now`."""
        return name in await self._holding((name, holding, now))

    async def close(self) -> None:
        """Wait for what is under way."""
        for each in (self._looking, self._reading, self._putting, self._holding):
            await each.ended()

    async def _look(self, _: Sequence[None]) -> WebhookProgress:
        return await self._store.webhook_progress()

    async def _read(
        self, parts: Sequence[Part]
    ) -> dict[Part, Sequence[LoggedChange] | ChangesGone]:
        found: dict[Part, Sequence[LoggedChange] | ChangesGone] = {}
        for part in set(parts):
            try:
                found[part] = await self._store.changes(*part)
            except ChangesGone as gone:
                found[part] = gone
        return found

    async def _put(self, given: Sequence[tuple[WebhookState, DeadLetter | None]]) -> None:
        dead = [letter for _, letter in given if letter is not None]
        await self._store.put_webhook_states([state for state, _ in given], dead)

    async def _hold(self, given: Sequence[tuple[str, Holding, datetime]]) -> set[str]:
        wanted = {name: holding for name, holding, _ in given}
        return set(await self._store.hold_webhooks(wanted, max(now for *_, now in given)))
