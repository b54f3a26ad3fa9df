"""The part of the SQLite store that tells others: the log of changes, and the webhooks."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime

import aiosqlite

from smtpproxy.store.operations import Arrears, DeadLetter, SuppressionChange, WebhookState
from smtpproxy.store.sqlite import changes, webhooks
from smtpproxy.store.sqlite.connection import SqliteWriter


class Propagation:
    """Keeps `SuppressionChanges` and `WebhookStore` for the store that it is mixed into."""

    def _to_write(self) -> SqliteWriter:
        raise NotImplementedError

    def _reading(self) -> AbstractAsyncContextManager[aiosqlite.Connection]:
        raise NotImplementedError

    async def changes(self, since: int, limit: int) -> Sequence[SuppressionChange]:
        async with self._reading() as connection:
            return await changes.after(connection, since, limit)

    async def newest_change(self) -> int:
        async with self._reading() as connection:
            return await changes.newest_number(connection)

    async def trim_changes(self, before: datetime, *, webhooks: Collection[str] = ()) -> int:
        async with self._reading() as connection:
            upto = await changes.trimmable(connection, before, webhooks)
        total = 0
        while True:
            async with self._to_write().transaction() as connection:
                trimmed = await changes.trim(connection, upto)
            total += trimmed
            if trimmed < changes.AT_ONCE:
                return total

    async def webhook_states(self) -> Mapping[str, WebhookState]:
        async with self._reading() as connection:
            return await webhooks.states(connection)

    async def put_webhook_state(self, state: WebhookState, dead: DeadLetter | None = None) -> None:
        async with self._to_write().transaction() as connection:
            await webhooks.put_state(connection, state, dead)

    async def forget_webhooks(self, kept: Collection[str]) -> None:
        async with self._to_write().transaction() as connection:
            await webhooks.forget(connection, kept)

    async def wake_webhook(self, name: str) -> bool:
        async with self._to_write().transaction() as connection:
            return await webhooks.wake(connection, name)

    async def take_wake(self, name: str) -> bool:
        async with self._to_write().transaction() as connection:
            return await webhooks.take_wake(connection, name)

    async def dead_letters(self, webhook: str | None = None) -> Sequence[DeadLetter]:
        async with self._reading() as connection:
            return await webhooks.letters(connection, webhook)

    async def retry_dead_letters(self, webhook: str, letter: int | None = None) -> int:
        async with self._to_write().transaction() as connection:
            return await webhooks.retry(connection, webhook, letter)

    async def settle_dead_letter(self, letter: int, error: str | None) -> None:
        async with self._to_write().transaction() as connection:
            await webhooks.settle(connection, letter, error)

    async def drop_dead_letters(self, webhook: str, letter: int | None = None) -> int:
        async with self._to_write().transaction() as connection:
            return await webhooks.drop(connection, webhook, letter)

    async def arrears(self) -> Mapping[str, Arrears]:
        async with self._reading() as connection:
            return await webhooks.arrears(connection)
