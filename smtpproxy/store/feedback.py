"""What came back by mail: which reports were read and what was heard, so that nothing is done
twice; which a person has to look at; and which bounces are still to be handed on."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from msgspec import Struct

from smtpproxy.events import Client

_LASTING = timedelta(days=3 * 366)
UNKNOWN = "unknown"
"""The stream of what is about none of ours."""


class HeardEvent(Struct, frozen=True):
    """One thing that was heard. `key` tells it from all others: what has the same is the same.

    `lasting`: it stays known for as long as consents commonly last, and not just with the reports.
    """

    key: bytes
    kind: str  # of `feedback_total`
    stream: str
    lasting: bool = False

    def dated(self, at: datetime) -> datetime:
        """Return the moment that it is noted under: what lasts is dated later, and so stays."""
        return at + _LASTING if self.lasting else at


class ReadReport(Struct, frozen=True):
    """A report that was read. `id` is the name of its file in the maildir."""

    id: str
    at: datetime  # when it came
    kind: str
    why: str
    kept: bool = False  # nobody can be told by it: a person has to look
    people: tuple[str, ...] = ()  # whom it concerns, canonical or key texts
    events: tuple[HeardEvent, ...] = ()
    relay: str = ""  # the host that has the file, once read; empty: the only one, or not known
    hand_on: bytes = b""  # the key of a bounce that is to be handed on; what has the same is not
    decision: str = ""  # that the bounce is about


class HandingOn(Struct, frozen=True):
    """A bounce that is due to be handed on."""

    key: bytes
    report: str
    decision: str
    since: datetime
    tries: int


class Waiting(NamedTuple):
    """How many reports wait for what."""

    kept: int  # for a person
    hand_on: int  # to be handed on
    elsewhere: int  # messages whose record another relay has yet to tell


class FeedbackLog(Protocol):
    """Shared by all that read reports. Methods raise StoreUnavailable."""

    async def known(self, keys: Collection[bytes]) -> frozenset[bytes]:
        """Return which of these events were heard before."""
        ...

    async def note(self, reports: Sequence[ReadReport]) -> None:
        """Put reports on record in one commit. What is known stays as it is, counted once."""
        ...

    async def note_full(self, person: str, key: bytes, at: datetime, since: datetime) -> int:
        """Note that a mailbox was full, once for each key; return how often it was since then."""
        ...

    async def missing(self, ids: Collection[str]) -> frozenset[str]:
        """Return which of these reports are not on record; none where the record itself is gone."""
        ...

    async def kept(self, *, beginning: str = "") -> Sequence[ReadReport]:
        """Return the reports that a person has to look at, oldest first, whose ids begin so."""
        ...

    async def looked_at(self, id: str, person: str | None, event: HeardEvent | None) -> None:
        """Note whom a kept report concerns and what it means, as somebody who looked at it said."""
        ...

    async def due(self, now: datetime, limit: int) -> Sequence[HandingOn]:
        """Return bounces whose next try is due, oldest first."""
        ...

    async def handed_on(self, key: bytes) -> None:
        """Note that the upstream has the bounce, or never will."""
        ...

    async def hand_on_later(self, key: bytes, at: datetime) -> None:
        """Note that a try failed; the next one is due at `at`."""
        ...

    async def keep(self, id: str, why: str) -> None:
        """Have a person look at a report that was read; `why` names what could not be done."""
        ...

    async def totals(self) -> Mapping[tuple[str, ...], float]:
        """Return how much was heard, ever, by kind and stream."""
        ...

    async def counts(self) -> Waiting:
        """Return how many reports wait."""
        ...

    async def purge(self, before: datetime, *, dry_run: bool = False) -> Sequence[str]:
        """Forget the reports that are older; return their ids."""
        ...

    async def remove(self, ids: Collection[str]) -> None:
        """Forget these reports; what was heard by them stays known."""
        ...

    async def forget(self, address: str) -> Sequence[str]:
        """Erase a person; return the ids of the reports that concern them."""
        ...

    def close(self) -> None: ...


ANSWERED_FOR = timedelta(hours=1)
"""For how long an answer stays at most; whoever asked takes it away once it is of no more use."""
ASKED_FOR = timedelta(days=6)
"""For how long a question stays: a day longer than anybody waits."""


class SentMessage(Struct, frozen=True):
    """What the record of a message says of it. Of whom was erased it has no address."""

    client: Client
    reverse_path: str  # that the client gave
    recipients: tuple[str, ...]  # canonical


class AskedMessages(Protocol):
    """Ids are those of decisions. Methods raise StoreUnavailable."""

    async def ask(self, ids: Collection[str], at: datetime) -> Mapping[str, SentMessage]:
        """Ask for the records of messages, however often; return those that were told by now."""
        ...

    async def asked(self, relay: str, limit: int) -> Sequence[str]:
        """Return what was asked and not answered, and the index says that the relay has."""
        ...

    async def answer(
        self, relay: str, messages: Mapping[str, SentMessage | None], at: datetime
    ) -> None:
        """Tell what this relay's journal says; None: no record is there any more."""
        ...

    async def used(self, ids: Collection[str]) -> None:
        """Take these questions back, with what was answered."""
        ...

    async def forget(self, now: datetime) -> None:
        """Take away what nobody took back in time."""
        ...

    def close(self) -> None: ...
