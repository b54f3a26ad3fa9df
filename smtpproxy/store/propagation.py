"""Propagation to others: the log of changes, the progress of webhooks, and dead letters."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol

from msgspec import Struct

from smtpproxy.policy.model import Origin
from smtpproxy.store.streams import StreamEvent

Action = Literal["added", "moved", "lifted"]


@dataclass(frozen=True, slots=True)
class SuppressionChange:
    """One change. `moved`: the suppression was requested again, later.

    A suppression that was purged or rekeyed is not `lifted`: that permits no mail.
    """

    seq: int  # grows; gaps mean nothing
    at: datetime  # when it was written
    action: Action
    key: str  # the key text of exports
    scope: str
    origin: Origin
    since: datetime


@dataclass(frozen=True, slots=True)
class StreamChange:
    """A warning about a stream or a brand, its pause, or the end of one."""

    seq: int  # among all changes
    at: datetime
    event: StreamEvent | None  # None: deleted since


Topic = Literal["campaign", "feedback", "refusals"]


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to log, identified by `key`. `data` names nobody."""

    key: str
    topic: Topic
    data: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event in the log."""

    seq: int  # among all changes
    at: datetime
    topic: Topic
    data: Mapping[str, object]


LoggedChange = SuppressionChange | StreamChange | LoggedEvent


class ChangesGone(Exception):
    """The log lacks changes after `since`: it was trimmed, or is a different one.

    The client has to start again: keep `newest`, read an export, then ask for changes since it.
    """

    def __init__(self, since: int, newest: int) -> None:
        super().__init__(f"the changes after {since} are not in the log; its newest is {newest}")
        self.since = since
        self.newest = newest


@dataclass(frozen=True, slots=True)
class WebhookState:
    """The progress of one webhook. Only the dispatcher writes it."""

    name: str
    position: int  # the last change that is dealt with
    message_id: str | None = None  # of the current message, the same at every try
    message_end: int | None = None  # the last change that it covers
    failures: int = 0  # in a row
    failing_since: datetime | None = None
    retry_at: datetime | None = None
    disabled_at: datetime | None = None
    last_error: str | None = None
    delivered_at: datetime | None = None
    woken: bool = False  # a retry was requested


class Holding(Struct, frozen=True):
    """The relay that delivers to a webhook, and until when it alone does."""

    relay: str  # its `relay_id`
    until: datetime


@dataclass(frozen=True, slots=True)
class WebhookProgress:
    """How far all webhooks are, at one moment."""

    newest: int  # the number of the newest change there ever was
    states: Mapping[str, WebhookState]
    holdings: Mapping[str, Holding]  # which relay delivers to each, or did last


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be delivered in time, kept until an operator decides."""

    webhook: str
    message_id: str
    body: bytes
    changes: int
    oldest_at: datetime  # of its changes
    died_at: datetime
    attempts: int
    error: str
    retry: bool = False  # requested
    id: int = 0  # given by the store


@dataclass(frozen=True, slots=True)
class Backlog:
    """What one webhook has not received yet."""

    oldest: datetime | None = None  # of the undelivered changes, dead letters included
    dead_letters: int = 0
    disabled: bool = False


_THEIRS = timedelta(days=1)


def of_others(holdings: Mapping[str, Holding], relay: str, now: datetime) -> Sequence[str]:
    """Return the webhooks that another relay delivers to, or did recently."""
    return [
        name
        for name, held in holdings.items()
        if held.relay != relay and now - held.until < _THEIRS
    ]


class ChangeLog(Protocol):
    """The log of changes, which every write of suppressions appends to."""

    async def changes(self, since: int, limit: int) -> Sequence[LoggedChange]:
        """Return up to `limit` changes after number `since`, in order.

        Raises `ChangesGone` if the log does not reach back to it, or never had that number.
        """
        ...

    async def newest_change(self) -> int:
        """Return the number of the newest change there ever was; 0 before the first."""
        ...

    async def trim_changes(self, before: datetime, *, webhooks: Collection[str] = ()) -> int:
        """Delete the changes from before a time; return how many.

        Those that one of `webhooks` has yet to receive stay, unless it is disabled.
        """
        ...


class EventLog(Protocol):
    """Other events in the log of changes. Methods raise StoreUnavailable."""

    async def log_events(
        self, events: Sequence[NewEvent], source: tuple[str, str] | None = None
    ) -> None:
        """Log new events, in order, and save how far a source has been read, in one commit.

        `source` is its name, and its progress in any form.
        """
        ...

    async def event_sources(self) -> Mapping[str, str]:
        """Return the progress of each source, by name."""
        ...

    async def forget_event_sources(self, names: Collection[str]) -> None:
        """Delete the progress of these; they start again."""
        ...


class WebhookStore(Protocol):
    """The progress of webhooks. One relay writes that of each; operators may request retries."""

    async def webhook_holdings(self) -> Mapping[str, Holding]:
        """Return which relay delivers to each webhook, or did last."""
        ...

    async def hold_webhooks(
        self, holdings: Mapping[str, Holding], now: datetime
    ) -> Collection[str]:
        """Reserve webhooks for a relay for some time; return which, without those that another one
        has at `now`."""
        ...

    async def webhook_states(self) -> Mapping[str, WebhookState]: ...

    async def webhook_progress(self) -> WebhookProgress:
        """Return all states and holdings, and the newest change."""
        ...

    async def put_webhook_states(
        self, states: Sequence[WebhookState], dead: Sequence[DeadLetter] = ()
    ) -> None:
        """Store all but `woken`, and dead letters, in one commit."""
        ...

    async def forget_webhooks(self, kept: Collection[str]) -> None:
        """Delete the progress of all but these; dead letters stay."""
        ...

    async def wake_webhook(self, name: str) -> bool:
        """Request a retry now, even of a disabled webhook; False if there is no such webhook."""
        ...

    async def take_wake(self, name: str) -> bool:
        """Return whether a retry was requested, and clear the request."""
        ...

    async def dead_letters(self, webhook: str | None = None) -> Sequence[DeadLetter]:
        """Return those of one webhook, or all, the oldest first."""
        ...

    async def retry_dead_letters(self, webhook: str, letter: int | None = None) -> int:
        """Mark one, or all, for another try; return how many."""
        ...

    async def settle_dead_letter(self, letter: int, error: str | None) -> None:
        """Delete a delivered letter (no error), or keep one that failed again, unmarked."""
        ...

    async def drop_dead_letters(self, webhook: str, letter: int | None = None) -> int:
        """Give up one, or all; return how many."""
        ...

    async def backlog(self) -> Mapping[str, Backlog]:
        """Return the backlog of each webhook that was ever started."""
        ...
