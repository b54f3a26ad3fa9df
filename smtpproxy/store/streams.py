"""The pauses of streams, and the warnings before them."""

from datetime import datetime
from typing import Literal

from msgspec import Struct

from smtpproxy.policy.breaker import MILLION

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
