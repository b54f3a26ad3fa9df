"""The part of the store in memory that tells others: the log of changes, and the webhooks."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from smtpproxy.policy.model import Suppression
from smtpproxy.store.propagation import (
    Action,
    Arrears,
    ChangesGone,
    DeadLetter,
    SuppressionChange,
    WebhookState,
)


class MemoryPropagation:
    """Keeps `SuppressionChanges` and `WebhookStore` for the store that it is mixed into."""

    def __init__(self) -> None:
        self._changes: list[SuppressionChange] = []
        self._newest = 0
        self._webhooks: dict[str, WebhookState] = {}
        self._letters: dict[int, DeadLetter] = {}
        self._last_letter = 0

    def _check(self) -> None:
        raise NotImplementedError

    def _changed(self, action: Action, key: str, what: Suppression) -> None:
        self._newest += 1
        at = datetime.now(UTC)
        self._changes.append(
            SuppressionChange(self._newest, at, action, key, what.scope, what.origin, what.since)
        )

    async def changes(self, since: int, limit: int) -> Sequence[SuppressionChange]:
        self._check()
        oldest = self._changes[0].seq if self._changes else self._newest + 1
        if since > self._newest or since < oldest - 1:
            raise ChangesGone(since, self._newest)
        return [change for change in self._changes if change.seq > since][:limit]

    async def newest_change(self) -> int:
        self._check()
        return self._newest

    async def trim_changes(self, before: datetime, *, webhooks: Collection[str] = ()) -> int:
        self._check()
        needed = [
            state.position
            for state in self._webhooks.values()
            if state.name in webhooks and state.disabled_at is None
        ]
        kept = [change.seq for change in self._changes if change.at >= before]
        upto = min([*needed, kept[0] - 1 if kept else self._newest])
        trimmed = sum(change.seq <= upto for change in self._changes)
        del self._changes[:trimmed]
        return trimmed

    async def webhook_states(self) -> Mapping[str, WebhookState]:
        self._check()
        return dict(self._webhooks)

    async def put_webhook_state(self, state: WebhookState, dead: DeadLetter | None = None) -> None:
        self._check()
        known = self._webhooks.get(state.name)
        self._webhooks[state.name] = replace(state, woken=known.woken if known else False)
        if dead is not None:
            self._last_letter += 1
            self._letters[self._last_letter] = replace(dead, id=self._last_letter)

    async def forget_webhooks(self, kept: Collection[str]) -> None:
        self._check()
        self._webhooks = {name: state for name, state in self._webhooks.items() if name in kept}

    async def wake_webhook(self, name: str) -> bool:
        self._check()
        if name not in self._webhooks:
            return False
        self._webhooks[name] = replace(self._webhooks[name], woken=True)
        return True

    async def take_wake(self, name: str) -> bool:
        self._check()
        state = self._webhooks.get(name)
        if state is None or not state.woken:
            return False
        self._webhooks[name] = replace(state, woken=False)
        return True

    async def dead_letters(self, webhook: str | None = None) -> Sequence[DeadLetter]:
        self._check()
        return [each for each in self._letters.values() if webhook in (None, each.webhook)]

    async def retry_dead_letters(self, webhook: str, letter: int | None = None) -> int:
        self._check()
        found = self._which(webhook, letter)
        self._letters |= {id: replace(self._letters[id], retry=True) for id in found}
        return len(found)

    async def settle_dead_letter(self, letter: int, error: str | None) -> None:
        self._check()
        known = self._letters.pop(letter, None)
        if error is not None and known is not None:
            failed = replace(known, retry=False, attempts=known.attempts + 1, error=error)
            self._letters = dict(sorted({**self._letters, letter: failed}.items()))

    async def drop_dead_letters(self, webhook: str, letter: int | None = None) -> int:
        self._check()
        return len([self._letters.pop(id) for id in self._which(webhook, letter)])

    def _which(self, webhook: str, letter: int | None) -> list[int]:
        return [
            id
            for id, known in self._letters.items()
            if known.webhook == webhook and letter in (None, id)
        ]

    async def arrears(self) -> Mapping[str, Arrears]:
        self._check()
        found = {}
        for name, state in self._webhooks.items():
            letters = [each for each in self._letters.values() if each.webhook == name]
            waiting = [change.at for change in self._changes if change.seq > state.position][:1]
            oldest = min([*waiting, *(each.oldest_at for each in letters)], default=None)
            found[name] = Arrears(oldest, len(letters), state.disabled_at is not None)
        return found
