"""A worker's part in the breaker: it reports how much streams sent, away from the mail path."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count

import structlog

from smtpproxy.events import Emit, WorkFailed
from smtpproxy.settings import Settings
from smtpproxy.store import open_breaker, open_store
from smtpproxy.store.breaker import SENT_EVERY, Breaker
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sql.store import Store

_LOOK_EVERY = 5  # counts

log = structlog.get_logger()


class StoreToWrite:
    """The store for writing, opened at first use, because writing is rare here."""

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
    """Counts what was mailed, once a second; the first worker also ends pauses when they are due.

    `mailed` returns how many recipients were mailed, by stream.
    """

    def __init__(
        self,
        settings: Settings,
        number: int,
        mailed: Callable[[], Mapping[str, int]],
        emit: Emit,
    ) -> None:
        self._writer = StoreToWrite(settings)
        self._breaker: Breaker = open_breaker(settings, self._writer)
        self.paused: tuple[str, ...] = ()  # subjects, as the first worker knows them
        self._looks = number == 0
        self._mailed = mailed
        self._emit = emit
        self._reported: Mapping[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Report what has not been reported yet."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._count()
        self._breaker.close()
        await self._writer.close()

    async def _run(self) -> None:
        for turn in count(1):
            await asyncio.sleep(SENT_EVERY)
            try:
                await self._count()
                if self._looks and turn % _LOOK_EVERY == 0:
                    await self._breaker.resume_due()
                    self.paused = await self._breaker.paused()
            except StoreUnavailable as error:
                self._failed("streams not looked at", error)
            except Exception as error:  # a fault of the program: mail goes on
                log.error("internal error", exc_info=error)
                self._emit(WorkFailed("streams"))

    async def _count(self) -> None:
        """Count what is new; if that fails, it is counted the next time."""
        now = self._mailed()
        new = {name: n - self._reported.get(name, 0) for name, n in now.items()}
        if not any(new.values()):
            return
        try:
            await self._breaker.sent(new)
            self._reported = now
        except StoreUnavailable as error:
            self._failed("streams not counted", error)

    def _failed(self, event: str, error: StoreUnavailable) -> None:
        log.warning(event, error=str(error))
        self._emit(WorkFailed("streams"))
