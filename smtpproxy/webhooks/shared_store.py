"""The store as the webhooks of a process use it: requests at the same moment are done together.

With SQLite a commit waits for the disk and holds up every other writer, and each read opens a
connection: 200 webhooks would commit 400 times for a change.
"""

from collections.abc import Sequence
from datetime import datetime

from smtpproxy.store.propagation import (
    ChangesGone,
    DeadLetter,
    Holding,
    LoggedChange,
    WebhookProgress,
    WebhookState,
)
from smtpproxy.store.sql.store import Store
from smtpproxy.store.together import Together

Part = tuple[int, int]
"""Of the log: the changes after a number, and how many of them at most."""


class SharedStore:
    """What the dispatchers need. Methods raise StoreUnavailable."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._looking: Together[None, WebhookProgress] = Together(self._look)
        self._reading: Together[Part, Sequence[LoggedChange]] = Together(self._read)
        self._putting: Together[tuple[WebhookState, DeadLetter | None], None] = Together(self._put)
        self._holding: Together[tuple[str, Holding, datetime], bool] = Together(self._hold)

    async def progress(self) -> WebhookProgress:
        """Return the state of all webhooks, as of now."""
        return await self._looking(None)

    async def changes(self, since: int, limit: int) -> Sequence[LoggedChange]:
        """Return what `Store.changes` does, or raise ChangesGone."""
        return await self._reading((since, limit))

    async def put(self, state: WebhookState, dead: DeadLetter | None = None) -> None:
        await self._putting((state, dead))

    async def hold(self, name: str, holding: Holding, now: datetime) -> bool:
        """Reserve a webhook for a relay for some time; False if another one has it at `now`."""
        return await self._holding((name, holding, now))

    async def close(self) -> None:
        """Wait for what is under way."""
        for each in (self._looking, self._reading, self._putting, self._holding):
            await each.ended()

    async def _look(self, asked: Sequence[None]) -> Sequence[WebhookProgress]:
        return [await self.store.webhook_progress()] * len(asked)

    async def _read(self, parts: Sequence[Part]) -> Sequence[Sequence[LoggedChange] | ChangesGone]:
        found: dict[Part, Sequence[LoggedChange] | ChangesGone] = {}
        for part in set(parts):
            try:
                found[part] = await self.store.changes(*part)
            except ChangesGone as gone:
                found[part] = gone
        return [found[part] for part in parts]

    async def _put(self, given: Sequence[tuple[WebhookState, DeadLetter | None]]) -> Sequence[None]:
        dead = [letter for _, letter in given if letter is not None]
        await self.store.put_webhook_states([state for state, _ in given], dead)
        return [None] * len(given)

    async def _hold(self, given: Sequence[tuple[str, Holding, datetime]]) -> Sequence[bool]:
        wanted = {name: holding for name, holding, _ in given}
        held = await self.store.hold_webhooks(wanted, max(now for *_, now in given))
        return [name in held for name, *_ in given]
