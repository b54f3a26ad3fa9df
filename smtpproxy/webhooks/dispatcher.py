"""Delivers the log of changes to one webhook: in order, at least once, until accepted.

A message is in the store before it is sent, and the position moves only after the receiver has
accepted it. So a dispatcher that was killed sends the same message again, with the same id, and
leaves nothing out.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.settings import WebhookSettings
from smtpproxy.store.propagation import (
    ChangesGone,
    DeadLetter,
    Holding,
    WebhookProgress,
    WebhookState,
)
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.webhooks.delivery import (
    LONGEST,
    Kind,
    Message,
    Outcome,
    message,
    of_one_type,
    pause,
    wants,
)
from smtpproxy.webhooks.shared_store import SharedStore

_POLL = 1.0  # seconds between two polls of the log
_AFTER_TROUBLE = 5.0
_LEASE = timedelta(seconds=60)

log = structlog.get_logger()


Post = Callable[[str, bytes], Awaitable[Outcome]]
"""Sends a message: its id and body."""


class Environment(Struct, frozen=True):
    """What comes from outside."""

    now: Callable[[], datetime]
    random: Callable[[], float]
    new_id: Callable[[], str]
    count: Callable[[str, Kind], None]  # webhook, outcome
    relay: str  # its `relay_id`


@dataclass(eq=False)
class WebhookDispatcher:
    """The deliveries of one webhook."""

    webhook: WebhookSettings
    store: SharedStore
    post: Post
    environment: Environment

    def __post_init__(self) -> None:
        self._log = log.bind(webhook=self.webhook.name)
        self._lease = _LEASE + timedelta(seconds=self.webhook.timeout)
        self._held_until = datetime.fromtimestamp(0, UTC)

    async def run(self) -> None:
        """Deliver until cancelled; when the store does not answer, try again.

        All webhooks look at the log at the same moment of each second, so that they share reads.
        """
        while True:
            wait = _POLL
            try:
                while await self.step():
                    pass
            except StoreUnavailable as error:
                self._log.warning("webhook waits for the store", error=str(error))
                wait = _AFTER_TROUBLE
            await asyncio.sleep(wait - asyncio.get_running_loop().time() % _POLL)

    async def step(self) -> bool:
        """Do the next thing that is due; False when there is nothing to do now."""
        progress = await self.store.progress()
        if not await self._holds(progress):
            return False
        state = await self._state(progress)
        if state.woken:
            state = await self._wake(state)
        if state.disabled_at is not None:
            return False
        if state.retry_at is not None:
            wait = state.retry_at - self.environment.now()
            if timedelta() < wait <= LONGEST:  # longer only after a clock that was ahead
                return False
        try:
            due = await self._due(state, progress.newest)
        except ChangesGone as error:
            await self._restart(state, error)
            return True
        if due is None:
            return False
        state, what = due
        if what is None:  # this part of the log has no wanted change
            await self.store.put(state)
            return True
        if state.message_id is None:
            state = replace(state, message_id=what.id, message_end=what.end)
            await self.store.put(state)
        outcome = await self._deliver(what.id, what.body)
        await self._note(state, what, outcome)
        return outcome.kind == "delivered"

    async def _holds(self, progress: WebhookProgress) -> bool:
        """Return whether this relay holds the lease to deliver, among those that share the store.

        If it is killed, another relay follows after the lease. If it only hangs that long, a
        message is sent twice, and none is left out.
        """
        now = self.environment.now()
        # Longer than a lease, if the clock was put back: others would wait as long for the lease.
        if self._lease / 2 < self._held_until - now <= self._lease:
            return True
        name, relay = self.webhook.name, self.environment.relay
        held = progress.holdings.get(name)
        if held is not None and held.relay != relay and held.until > now:
            return False
        until = now + self._lease
        if not await self.store.hold(name, Holding(relay, until), now):
            return False
        self._held_until = until
        return True

    async def release(self) -> None:
        """Release the lease, so that another relay can deliver at once. Raises StoreUnavailable."""
        now = self.environment.now()
        if self._held_until > now:
            self._held_until = now
            holding = Holding(self.environment.relay, now)
            await self.store.hold(self.webhook.name, holding, now)

    async def _state(self, progress: WebhookProgress) -> WebhookState:
        """Return the state; a new webhook starts with changes from now on."""
        state = progress.states.get(self.webhook.name)
        if state is None:
            state = WebhookState(self.webhook.name, progress.newest)
            await self.store.put(state)
        return state

    async def _due(
        self, state: WebhookState, newest: int
    ) -> tuple[WebhookState, Message | None] | None:
        """Return the next message with its state, or only a state with a later position."""
        if state.position == newest:
            return None
        if state.message_end is not None:
            limit = state.message_end - state.position
        else:
            limit = self.webhook.batch
        found = await self.store.changes(state.position, limit)
        if state.message_end is not None:
            found = [change for change in found if change.seq <= state.message_end]
        elif not found:
            return None
        wanted = [change for change in found if wants(self.webhook, change)]
        end = found[-1].seq if state.message_end is None else state.message_end
        if not wanted:
            return replace(state, position=end, message_id=None, message_end=None), None
        first = of_one_type(wanted)
        if len(first) < len(wanted):  # the others go into the next message
            end = first[-1].seq
        return state, message(state.message_id or f"msg_{self.environment.new_id()}", first, end)

    async def _deliver(self, id: str, body: bytes) -> Outcome:
        outcome = await self.post(id, body)
        self.environment.count(self.webhook.name, outcome.kind)
        return outcome

    async def _note(self, state: WebhookState, what: Message, outcome: Outcome) -> None:
        now = self.environment.now()
        if outcome.kind == "delivered":
            if state.failures:
                self._log.info("webhook works again", failures=state.failures)
            await self.store.put(WebhookState(state.name, what.end, delivered_at=now))
        elif outcome.kind == "gone":
            self._log.error("webhook disabled", error=outcome.text)
            await self.store.put(replace(state, disabled_at=now, last_error=outcome.text))
        else:
            await self._failed(state, what, outcome, now)

    async def _failed(
        self, state: WebhookState, what: Message, outcome: Outcome, now: datetime
    ) -> None:
        """Schedule another attempt; after `give_up_after` of failures, make a dead letter."""
        since = min(state.failing_since or now, now)
        failures = state.failures + 1
        wait = pause(failures, self.environment.random(), outcome.retry_after)
        state = replace(
            state,
            failures=failures,
            failing_since=since,
            retry_at=now + wait,
            last_error=outcome.text,
        )
        if now - since < timedelta(seconds=self.webhook.give_up_after):
            self._log.warning(
                "webhook failed",
                error=outcome.text,
                failures=failures,
                again_in=round(wait.total_seconds(), 1),
            )
            await self.store.put(state)
            return
        self._log.error(
            "webhook message is dead", error=outcome.text, id=what.id, changes=what.changes
        )
        dead = DeadLetter(
            state.name,
            what.id,
            what.body,
            what.changes,
            what.oldest_at,
            now,
            failures,
            outcome.text,
        )
        buried = replace(state, position=what.end, message_id=None, message_end=None)
        await self.store.put(buried, dead)

    async def _wake(self, state: WebhookState) -> WebhookState:
        """Carry out a requested retry, of marked dead letters and of everything waiting."""
        self._log.info("webhook retry requested")
        for letter in await self.store.store.dead_letters(self.webhook.name):
            if letter.retry and await self._holds(await self.store.progress()):
                outcome = await self._deliver(letter.message_id, letter.body)
                error = None if outcome.kind == "delivered" else outcome.text
                await self.store.store.settle_dead_letter(letter.id, error)
        awake = replace(state, disabled_at=None, retry_at=None)
        await self.store.put(awake)
        await self.store.store.take_wake(state.name)
        return replace(awake, woken=False)

    async def _restart(self, state: WebhookState, error: ChangesGone) -> None:
        """Restart at the newest change: the log was trimmed or replaced; an export is needed."""
        text = (
            f"the changes after {error.since} are no longer in the log: give the receiver"
            " a whole export"
        )
        self._log.error("webhook missed changes", since=error.since, newest=error.newest)
        await self.store.put(
            replace(
                state,
                position=error.newest,
                message_id=None,
                message_end=None,
                last_error=text,
            )
        )
