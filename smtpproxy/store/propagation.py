"""Propagation to others: the log of changes, the progress of webhooks, and dead letters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

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
