"""The pauses of streams, and the warnings before them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, Protocol

from msgspec import Struct

from smtpproxy.policy.breaker import MILLION
from smtpproxy.policy.model import Pause

PERSON, TIME = "person", "time"
"""Causes other than those of `Feedback`: an operator, or the end of a pause."""


class StreamEvent(Struct, frozen=True, omit_defaults=True):
    """A warning about a stream or a whole brand, its pause, or the end of one."""

    at: datetime
    subject: str  # "stream:NAME" or "brand:NAME"
    action: Literal["warned", "paused", "resumed"]
    cause: str  # the `Feedback`, PERSON or TIME
    reports: int = 0
    messages: int = 0  # within the window
    bound: int = 0  # that was reached, in parts per million
    until: datetime | None = None  # of a pause; None: until an operator resumes it
    reason: str | None = None  # given by an operator


def event_object(event: StreamEvent) -> dict[str, object]:
    """Return the object for commands and webhooks; shares are fractions of 1."""
    counted = {"reports": event.reports, "messages": event.messages, "bound": event.bound / MILLION}
    return {
        "at": event.at,
        "subject": event.subject,
        "action": event.action,
        "cause": event.cause,
        **(counted if event.messages else {}),
        "until": event.until,
        "reason": event.reason,
    }


class StreamStates(Protocol):
    """The pauses of streams and their history. The mail path gets the pauses by `FactReader`.

    Methods raise StoreUnavailable.
    """

    async def pauses(self) -> Sequence[Pause]:
        """Return all pauses on record, even those whose time is over."""
        ...

    async def note_stream(
        self, event: StreamEvent, *, unless_since: datetime | None = None
    ) -> bool:
        """Pause, resume or warn, and record it; if it is so already, return False.

        Only an operator can change a pause in force. A warning given `unless_since` for the same
        cause is not repeated.
        """
        ...

    async def resume_due(self, now: datetime) -> Sequence[StreamEvent]:
        """Resume the streams whose pause is over; return the events."""
        ...

    async def stream_events(
        self, subject: str | None = None, limit: int = 100
    ) -> Sequence[StreamEvent]:
        """Return the events of one subject, or of all, the newest first."""
        ...

    async def trim_stream_events(self, before: datetime) -> int:
        """Delete the events from before a time; return how many."""
        ...

    async def resumed_at(self) -> Mapping[str, datetime]:
        """Return when each subject was last resumed."""
        ...
