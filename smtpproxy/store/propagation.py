"""What others are told: the log of changes, how far webhooks are, and their dead letters."""

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
    """One change. `moved` is a suppression that was asked for again, later.

    What was purged or put under another key is not `lifted`: nobody may mail again for it.
    """

    seq: int  # grows; gaps mean nothing
    at: datetime  # when it was written here
    action: Action
    key: str  # the key text of exports
    scope: str
    origin: Origin
    since: datetime


@dataclass(frozen=True, slots=True)
class StreamChange:
    """A stream, or a brand, was warned of, paused or resumed."""

    seq: int  # among all changes
    at: datetime
    event: StreamEvent | None  # None: it is forgotten


Topic = Literal["campaign", "feedback", "refusals"]


@dataclass(frozen=True, slots=True)
class NewEvent:
    """What happened, to be told. `data` names nobody; what has the same `key` is the same."""

    key: str
    topic: Topic
    data: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """What happened, as it was logged."""

    seq: int  # among all changes
    at: datetime
    topic: Topic
    data: Mapping[str, object]


LoggedChange = SuppressionChange | StreamChange | LoggedEvent


class ChangesGone(Exception):
    """The log does not hold what came after `since`: it was trimmed, or it is another log.

    The client has to begin again: take `newest`, read an export, then ask since `newest`.
    """

    def __init__(self, since: int, newest: int) -> None:
        super().__init__(f"the changes after {since} are not in the log; its newest is {newest}")
        self.since = since
        self.newest = newest


@dataclass(frozen=True, slots=True)
class WebhookState:
    """How far one webhook is. Written by the dispatcher alone."""

    name: str
    position: int  # nothing up to this change has to be sent any more
    message_id: str | None = None  # of the message under way, the same at every try
    message_end: int | None = None  # the last change that it covers
    failures: int = 0  # in a row
    failing_since: datetime | None = None
    retry_at: datetime | None = None
    disabled_at: datetime | None = None
    last_error: str | None = None
    delivered_at: datetime | None = None
    woken: bool = False  # a retry was requested


class Holding(Struct, frozen=True):
    """Which relay delivers to a webhook, and until when nobody else does."""

    relay: str  # its `relay_id`
    until: datetime


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
    """What one webhook has not been told yet."""

    oldest: datetime | None = None  # of the undelivered changes, dead letters included
    dead_letters: int = 0
    disabled: bool = False


_THEIRS = timedelta(days=1)


def of_others(holdings: Mapping[str, Holding], relay: str, now: datetime) -> Sequence[str]:
    """Return the webhooks to which another relay delivers, or did lately."""
    return [
        name
        for name, held in holdings.items()
        if held.relay != relay and now - held.until < _THEIRS
    ]


class ChangeLog(Protocol):
    """The log of what changed, which every write of suppressions keeps."""

    async def changes(self, since: int, limit: int) -> Sequence[LoggedChange]:
        """Return up to `limit` changes after number `since`, in order.

        Raises `ChangesGone` when the log does not reach back so far, or never came so far.
        """
        ...

    async def newest_change(self) -> int:
        """Return the number of the newest change there ever was; 0 before the first."""
        ...

    async def trim_changes(self, before: datetime, *, webhooks: Collection[str] = ()) -> int:
        """Forget the changes from before then; return how many.

        What one of `webhooks` has still to be told stays, unless it is disabled.
        """
        ...


class EventLog(Protocol):
    """What else is told, in the log of changes. Methods raise StoreUnavailable."""

    async def log_events(
        self, events: Sequence[NewEvent], source: tuple[str, str] | None = None
    ) -> None:
        """Log what was not logged before, in order; in the same commit note how far a source is.

        `source` is its name, and its state in whatever form.
        """
        ...

    async def event_sources(self) -> Mapping[str, str]:
        """Return how far each source is, by its name."""
        ...

    async def forget_event_sources(self, names: Collection[str]) -> None:
        """Forget how far these are: they begin anew."""
        ...


class WebhookStore(Protocol):
    """How far webhooks are. One relay writes of each; people may ask for retries."""

    async def webhook_holdings(self) -> Mapping[str, Holding]:
        """Return who delivers to each webhook, or did last."""
        ...

    async def hold_webhook(self, name: str, holding: Holding, now: datetime) -> bool:
        """Have a relay deliver to a webhook for a time; False while another one does at `now`."""
        ...

    async def webhook_states(self) -> Mapping[str, WebhookState]: ...

    async def put_webhook_state(self, state: WebhookState, dead: DeadLetter | None = None) -> None:
        """Store all but `woken`; with `dead`, bury that message in the same commit."""
        ...

    async def forget_webhooks(self, kept: Collection[str]) -> None:
        """Forget how far all others are; their dead letters stay."""
        ...

    async def wake_webhook(self, name: str) -> bool:
        """Ask for a retry now, of a disabled one too; False when there is no such webhook."""
        ...

    async def take_wake(self, name: str) -> bool:
        """Tell whether a retry was asked for, once."""
        ...

    async def dead_letters(self, webhook: str | None = None) -> Sequence[DeadLetter]:
        """Return those of one webhook, or all, the oldest first."""
        ...

    async def retry_dead_letters(self, webhook: str, letter: int | None = None) -> int:
        """Mark one, or all, to be tried once more; return how many."""
        ...

    async def settle_dead_letter(self, letter: int, error: str | None) -> None:
        """Delivered (no error): it goes. Failed again: it stays, unmarked, with the error."""
        ...

    async def drop_dead_letters(self, webhook: str, letter: int | None = None) -> int:
        """Give one, or all, up; return how many."""
        ...

    async def backlog(self) -> Mapping[str, Backlog]:
        """Return what each webhook that was ever started has not been told yet."""
        ...
