"""Commits the suppressions of many requests at once: all those waiting when a commit begins.

A commit waits for the disk, as long for one request as for hundreds. Each request is answered only
when its own suppressions are on disk.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

from smtpproxy.store.protocols import SuppressionEntry
from smtpproxy.store.sql.store import Store

_MOST = 500  # requests, so that a commit does not block the loop longer than a message may wait

Before = Sequence[datetime | None]
"""For each entry, since when the same suppression already existed, or None."""


class GroupCommit:
    """Adds suppressions. `writer` returns the store, opened at first use."""

    def __init__(self, writer: Callable[[], Store]) -> None:
        self._writer = writer
        self._waiting: list[tuple[Sequence[SuppressionEntry], asyncio.Future[Before]]] = []
        self._working: asyncio.Task[None] | None = None

    async def add(self, entries: Sequence[SuppressionEntry]) -> Before:
        """Return once the entries are on disk. Raises StoreUnavailable, ValueError."""
        done: asyncio.Future[Before] = asyncio.get_running_loop().create_future()
        self._waiting.append((entries, done))
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return await done

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                try:
                    await self._commit(batch)
                except ValueError:  # one names a retired key: the others must not fail for it
                    for one in batch:
                        await self._alone(one)
                except Exception as error:
                    for _, done in batch:
                        _fail(done, error)
        finally:
            self._working = None

    async def _alone(self, one: tuple[Sequence[SuppressionEntry], asyncio.Future[Before]]) -> None:
        try:
            await self._commit([one])
        except Exception as error:
            _fail(one[1], error)

    async def _commit(
        self, batch: Sequence[tuple[Sequence[SuppressionEntry], asyncio.Future[Before]]]
    ) -> None:
        store = self._writer()
        every = [entry for entries, _ in batch for entry in entries]
        before = dict(zip(map(_key, every), await store.suppress(every), strict=True))
        for entries, done in batch:
            existed = [before[_key(entry)] for entry in entries]
            before.update((_key(entry), entry.since) for entry in entries)
            if not done.done():  # the caller may be gone
                done.set_result(existed)


def _key(entry: SuppressionEntry) -> tuple[str, str, str]:
    return entry.address, entry.scope, entry.origin


def _fail(done: asyncio.Future[Before], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
