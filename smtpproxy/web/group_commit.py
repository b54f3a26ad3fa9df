"""Suppressions of many requests in one commit: all that wait when one begins.

A commit waits for the disk, which takes it as long for one request as for hundreds. Nobody is
answered before their own is on the disk.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

from smtpproxy.store.protocols import SuppressionEntry, SuppressionStore

_MOST = 500  # requests: one commit holds the loop no longer than a message may wait

Before = Sequence[datetime | None]
"""Since when the very same suppression existed already, for each entry."""


class GroupCommit:
    """Adds suppressions. `writer` gives the store, opened when it is first needed."""

    def __init__(self, writer: Callable[[], SuppressionStore]) -> None:
        self._writer = writer
        self._waiting: list[tuple[Sequence[SuppressionEntry], asyncio.Future[Before]]] = []
        self._working: asyncio.Task[None] | None = None

    async def add(self, entries: Sequence[SuppressionEntry]) -> Before:
        """Return when they are on the disk. Raises StoreUnavailable, ValueError."""
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
                except ValueError:  # one names a key that was retired: the others are innocent
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
            stood = [before[_key(entry)] for entry in entries]
            before.update((_key(entry), entry.since) for entry in entries)
            if not done.done():  # whoever asked may be gone
                done.set_result(stood)


def _key(entry: SuppressionEntry) -> tuple[str, str, str]:
    return entry.address, entry.scope, entry.origin


def _fail(done: asyncio.Future[Before], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
