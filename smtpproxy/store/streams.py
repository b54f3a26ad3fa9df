"""What is known of streams: how many messages they sent, what was heard of these, what followed."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, Protocol

from msgspec import Struct

from smtpproxy.policy.breaker import MILLION, Feedback, Tally
from smtpproxy.policy.campaign import Campaign
from smtpproxy.policy.model import Pause

PERSON, TIME = "person", "time"
"""Causes beside those of `Feedback`: somebody did it, or the time of a pause is over."""


class StreamEvent(Struct, frozen=True, omit_defaults=True):
    """A stream, or all of a brand, was warned of, paused or resumed."""

    at: datetime
    subject: str  # "stream:NAME" or "brand:NAME"
    action: Literal["warned", "paused", "resumed"]
    cause: str  # what was heard too often (`Feedback`), PERSON or TIME
    reports: int = 0
    messages: int = 0  # of these within the window
    bound: int = 0  # that was reached, parts per million
    until: datetime | None = None  # of a pause; None: until a person resumes it
    reason: str | None = None  # as a person gave it


def event_object(event: StreamEvent) -> dict[str, object]:
    """Return what commands and webhooks say of it; shares are of 1."""
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
    """Which streams are paused, and how that came. `FactReader` hands the pauses to the mail path.

    Methods raise StoreUnavailable.
    """

    async def pauses(self) -> Sequence[Pause]:
        """Return those on record; the time of some may be over."""
        ...

    async def note_stream(
        self, event: StreamEvent, *, unless_since: datetime | None = None
    ) -> bool:
        """Pause, resume or warn, and put that on record; False, and nothing is changed, where it is
        so already.

        A pause that stands gives way only to a person. A warning is not repeated that was given
        `unless_since` for the same cause.
        """
        ...

    async def resume_due(self, now: datetime) -> Sequence[StreamEvent]:
        """Resume what was to be paused until then or before; return what was done."""
        ...

    async def stream_events(
        self, subject: str | None = None, limit: int = 100
    ) -> Sequence[StreamEvent]:
        """Return what became of one subject, or of all, the newest first."""
        ...

    async def trim_stream_events(self, before: datetime) -> int:
        """Forget what became of streams before then; return how much."""
        ...

    async def resumed_at(self) -> Mapping[str, datetime]:
        """Return when each subject was resumed last."""
        ...


class StreamCounts(Protocol):
    """Counts by stream, across workers and restarts. Methods raise StoreUnavailable."""

    async def add_messages(self, messages: Mapping[str, int], at: datetime, window: float) -> None:
        """Count messages that streams sent, one for each recipient.

        `window` (seconds) is the longest time that anybody will ask about.
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
        """Count what is heard `at` a moment of a message of then; False where it does not count.

        So it is where the person was counted for it within the window, or the message is not among
        those counted, and is not so new that it soon will be. `person` is a canonical address or a
        key text.
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
        """Count a campaign for people, True for strangers, while it has had fewer than `most`.

        Returns what was known before; one step for all workers. `people` are canonical addresses,
        each counted once, and `id` is that of the decision.
        """
        ...

    async def uncount_campaign(
        self, key: str, id: str, people: Mapping[str, bool], most: int
    ) -> None:
        """Take back that people were counted by that id: they were not mailed.

        With fewer than `most` then, the campaign is on trial again.
        """
        ...

    async def campaign_bounced(
        self, id: str, person: str, at: datetime, share: int, least: int
    ) -> None:
        """Note that somebody's address does not exist, where a campaign counted them by that id.

        From `least` of them on, and that share of its people (parts per million), it is said of
        the campaign.
        """
        ...

    async def campaign(self, key: str) -> Campaign:
        """Return what is known of one campaign."""
        ...

    async def campaigns(self, stream: str) -> Sequence[Campaign]:
        """Return those of a stream that had enough people, the newest first."""
        ...

    async def tried_since(self, since: datetime, least: int) -> Sequence[tuple[str, Campaign]]:
        """Return the campaigns that so many people got, each with its stream.

        Those that had enough people before `since` are left out.
        """
        ...

    async def campaign_began(self, key: str) -> str | None:
        """Return the id of the first decision that a campaign was counted by."""
        ...

    async def release_campaigns(self, stream: str) -> int:
        """Forget what was found of the campaigns of a stream; return of how many."""
        ...

    async def tallies(self, streams: Mapping[str, datetime]) -> Mapping[str, Tally]:
        """Return what each stream sent since then, and what was heard of that."""
        ...

    async def prune(self, before: datetime) -> int:
        """Remove what is older; return how many rows."""
        ...

    def close(self) -> None: ...
