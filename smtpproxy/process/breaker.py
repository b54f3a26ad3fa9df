"""A worker's part in the breaker: it tells how much streams sent, away from the mail path."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

import structlog

from smtpproxy.settings import Settings
from smtpproxy.store import open_breaker, open_store
from smtpproxy.store.breaker import Breaker
from smtpproxy.store.protocols import Store, StoreUnavailable

_EVERY = 1.0  # seconds between two counts
_RESUME_EVERY = 5  # counts

log = structlog.get_logger()


class StoreToWrite:
    """The store to write to, opened at the first need: most of the time nobody writes here."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store: Store | None = None

    def __call__(self) -> Store:
        """Raises StoreUnavailable."""
        if self._store is None:
            self._store = open_store(self._settings.store, self._settings.server.state_dir)
        return self._store

    async def close(self) -> None:
        if self._store is not None:
            await self._store.close()


class WorkerBreaker:
    """Counts what was mailed, once a second; the first worker also ends pauses in time.

    `mailed` are recipients by stream, which somebody else adds to.
    """

    def __init__(self, settings: Settings, number: int, mailed: Mapping[str, int]) -> None:
        self._writer = StoreToWrite(settings)
        self._breaker: Breaker = open_breaker(settings, self._writer)
        self._resumes = number == 0
        self._mailed = mailed
        self._told: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Tell what is not told yet."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._count()
        self._breaker.close()
        await self._writer.close()

    async def _run(self) -> None:
        turn = 0
        while True:
            await asyncio.sleep(_EVERY)
            await self._count()
            turn += 1
            if self._resumes and turn % _RESUME_EVERY == 0:
                try:
                    await self._breaker.resume_due()
                except StoreUnavailable as error:
                    log.warning("streams not resumed", error=str(error))

    async def _count(self) -> None:
        """What cannot be counted now is with the next turn."""
        now = dict(self._mailed)
        new = {name: n - self._told.get(name, 0) for name, n in now.items()}
        if not any(new.values()):
            return
        try:
            await self._breaker.sent(new)
            self._told = now
            await self._breaker.judge(new)
        except StoreUnavailable as error:
            log.warning("streams not counted", error=str(error))
