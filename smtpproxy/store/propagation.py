"""What others are told of suppressions: the log of changes, and how far each webhook is."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from smtpproxy.policy.model import Origin

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


class ChangesGone(Exception):
    """The log does not hold what came after `since`: it was trimmed, or it is another log.

    Whoever asks has to begin anew: take `newest`, read an export, then ask since `newest`.
    """

    def __init__(self, since: int, newest: int) -> None:
        super().__init__(f"the changes after {since} are not in the log; its newest is {newest}")
        self.since = since
        self.newest = newest


@dataclass(frozen=True, slots=True)
class WebhookState:
    """How far one webhook is. Written by the courier alone."""

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
    woken: bool = False  # somebody asked for a retry


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be delivered in time, kept until somebody decides."""

    webhook: str
    message_id: str
    body: bytes
    changes: int
    oldest_at: datetime  # of its changes
    died_at: datetime
    attempts: int
    error: str
    retry: bool = False  # somebody asked for it
    id: int = 0  # given by the store


@dataclass(frozen=True, slots=True)
class Arrears:
    """What one webhook has not been told yet."""

    oldest: datetime | None = None  # of the undelivered changes, dead letters included
    dead_letters: int = 0
    disabled: bool = False
