"""API operations that show, pause and resume streams, as `smtpproxy stream` does."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Struct

from smtpproxy.access import Access
from smtpproxy.store import open_stream_counts
from smtpproxy.store.breaker import StreamStatus, status_object, subject_of
from smtpproxy.store.streams import PERSON, StreamEvent
from smtpproxy.web.api.operation import (
    Call,
    Operations,
    Time,
    When,
    about,
    operation,
    read_moment,
    refusing,
)
from smtpproxy.web.api.problems import Refused


class PauseShown(Struct, frozen=True):
    """Why the mail of a stream is held back."""

    subject: Annotated[str, about("stream:NAME, or brand:NAME: all of a brand.")]
    since: Time | None
    until: Annotated[Time | None, about("null: until somebody resumes it.")]
    cause: str
    reason: str | None


class BoundReached(Struct, frozen=True):
    """A bound of `[breaker]` that was reached."""

    cause: str
    level: str
    reports: int
    messages: int
    bound: Annotated[float, about("A share of 1.")]


class StreamShown(Struct, frozen=True):
    """The state of a marketing stream, and its feedback within the breaker's window."""

    stream: str
    brand: str
    state: Literal["running", "paused"]
    paused: PauseShown | None
    messages: int
    complaint: int
    dead_address: int
    unsubscribe: int
    block: int
    reached: tuple[BoundReached, ...]


class StreamList(Struct, frozen=True):
    """The marketing streams of the token's brands."""

    streams: tuple[StreamShown, ...]


Subject = Annotated[str, about("A marketing stream, or brand:NAME for all of a brand.")]
Text = Annotated[str, about("Why; must not contain personal data.", min_length=1, max_length=200)]


class PauseRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """What to pause, and until when."""

    stream: Subject
    until: Annotated[When | None, about("When the pause ends automatically.")] = None
    reason: Text | None = None


class ResumeRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """What to resume."""

    stream: Subject
    reason: Text | None = None


class Paused(Struct, frozen=True):
    """What was done."""

    subject: str
    paused: Annotated[bool, about("false: it was already paused in this way.")]


class Resumed(Struct, frozen=True):
    """What was done."""

    subject: str
    resumed: Annotated[bool, about("false: it was not paused by a person or the breaker.")]
    campaigns: Annotated[int, about("New campaigns that no longer have to wait.")]


@dataclass(eq=False)
class Streams(Operations):
    """The operations on streams; `status` returns their states."""

    status: Callable[[], Awaitable[Sequence[StreamStatus]]]

    @operation(
        "streams",
        "GET /v1/streams",
        answer="The streams.",
    )
    async def list_streams(self, call: Call) -> StreamList:
        """Show the state of the marketing streams.

        What they sent within the breaker's window, the feedback on that, and whether they are
        paused.
        """
        found = await self.status()
        shown = [status_object(one) for one in found if call.access.sees_brand(one.brand)]
        return StreamList(msgspec.convert(msgspec.to_builtins(shown), tuple[StreamShown, ...]))

    @operation(
        "pause",
        "POST /v1/streams/pause",
        like='{"stream": "…"}',
        answer="It is paused.",
        problems=("stream_wrong",),
        writes=True,
        keyed=True,
    )
    async def pause_stream(self, call: Call, asked: PauseRequest) -> Paused:
        """Defer the mail of a stream until it is resumed.

        Takes effect with the next message. A transactional stream is never paused.
        """
        subject, now = self._subject(asked.stream, call.access), self.now()
        until = read_moment("until", asked.until, last_moment=True)
        if until is not None and until <= now:
            raise Refused("body_wrong", "until: is in the past")
        event = StreamEvent(now, subject, "paused", PERSON, until=until, reason=asked.reason)
        return Paused(subject, await self.writer().note_stream(event))

    @operation(
        "pause",
        "POST /v1/streams/resume",
        like='{"stream": "…"}',
        answer="It is no longer paused by a person or the breaker.",
        problems=("stream_wrong",),
        writes=True,
        keyed=True,
    )
    async def resume_stream(self, call: Call, asked: ResumeRequest) -> Resumed:
        """End a pause, and the waits of new campaigns.

        A pause in the configuration stays.
        """
        subject = self._subject(asked.stream, call.access)
        event = StreamEvent(self.now(), subject, "resumed", PERSON, reason=asked.reason)
        with closing(open_stream_counts(self.settings.store)) as counts:
            resumed = await self.writer().note_stream(event)
            return Resumed(subject, resumed, await counts.release_campaigns(asked.stream))

    def _subject(self, name: str, access: Access) -> str:
        """Return the subject. Raises Refused, for streams of other brands as for unknown ones."""
        own = [s for s in self.settings.streams.values() if access.sees_brand(s.brand)]
        with refusing("stream_wrong"):
            return subject_of(own, name)
