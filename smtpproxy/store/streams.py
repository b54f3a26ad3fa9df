"""The counts of messages and feedback by stream, and the pauses that result."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, Protocol

from msgspec import Struct

from smtpproxy.policy.breaker import MILLION, Feedback, Tally
from smtpproxy.policy.campaign import Campaign
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


class StreamCounts(Protocol):
    """Counts by stream, across workers and restarts. Methods raise StoreUnavailable."""

    async def add_messages(self, messages: Mapping[str, int], at: datetime, window: float) -> None:
        """Count messages that streams sent, one for each recipient.

        `window` (seconds) is the longest period that will be queried.
        """
        ...

    async def add_heard(
        self,
        stream: str,
        kind: Feedback,
        person: str,
        sent_at: datetime,
        at: datetime,
        window: float,
    ) -> bool:
        """Count feedback `at` a time on a message of `sent_at`; return whether it counts.

        It does not if the person was already counted for that within the window, or if the message
        is not among those counted, and not so new that it soon will be. `person` is a canonical
        address or a key text.
        """
        ...

    async def count_campaign(
        self,
        stream: str,
        key: str,
        id: str,
        people: Mapping[str, bool],
        at: datetime,
        most: int,
    ) -> Campaign:
        """Count people for a campaign while it has fewer than `most`.

        `people` are canonical addresses, each counted once, with True for strangers; `id` is that
        of the decision. Returns the campaign as it was before. Atomic across workers.
        """
        ...

    async def uncount_campaign(
        self, key: str, id: str, people: Mapping[str, bool], most: int
    ) -> None:
        """Undo the count of people by that id, who were not mailed.

        With fewer than `most` people the campaign is on trial again.
        """
        ...

    async def campaign_bounced(
        self, id: str, person: str, at: datetime, share: int, least: int
    ) -> None:
        """Record a dead address, if a campaign counted the person by that id.

        The campaign is marked once there are at least `least` of them, and that share of its people
        (parts per million).
        """
        ...

    async def campaign(self, key: str) -> Campaign: ...

    async def campaigns(self, stream: str) -> Sequence[Campaign]:
        """Return the campaigns of a stream that had enough people, the newest first."""
        ...

    async def tried_since(self, since: datetime, least: int) -> Sequence[tuple[str, Campaign]]:
        """Return the campaigns that `least` people got, each with its stream.

        Those that had enough people before `since` are left out.
        """
        ...

    async def campaign_began(self, key: str) -> str | None:
        """Return the id of the first decision that was counted for a campaign."""
        ...

    async def release_campaigns(self, stream: str) -> int:
        """Delete the findings about a stream's campaigns; return for how many."""
        ...

    async def tallies(self, streams: Mapping[str, datetime]) -> Mapping[str, Tally]:
        """Return each stream's messages since a time, and the feedback on them."""
        ...

    async def prune(self, before: datetime) -> int:
        """Remove older rows; return how many."""
        ...

    def close(self) -> None: ...
