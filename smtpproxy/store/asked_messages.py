"""What the relays of one store ask each other about messages that came back: whom a message went
to, and who sent it, is in the journal of the relay that sent it, and reports may come to any."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from msgspec import Struct

from smtpproxy.events import Client

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
