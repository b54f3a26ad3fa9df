"""The counts that the mail path keeps: mailings, and people sent the same text."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.policy.model import NO_FACTS, Facts, Mailing, Stream


class Mailed(Struct, frozen=True):
    """What a person has been mailed, oldest first."""

    mailings: tuple[Mailing, ...] = ()
    first_at: datetime | None = None


class MailingLog(Protocol):
    """Counts mail across workers. Addresses are canonical. Raises StoreUnavailable."""

    def close(self) -> None: ...

    async def known(self, addresses: Sequence[str]) -> Mapping[str, Mailed]:
        """Return what each was mailed before; people without mail may be left out."""
        ...

    async def prune(
        self, before: datetime, *, first_before: datetime, dry_run: bool = False
    ) -> int:
        """Remove older messages and first messages.

        Returns how many messages were removed, or would be.
        """
        ...

    async def forget(self, address: str) -> None:
        """Erase a person."""
        ...

    async def reserve(
        self, id: str, stream: Stream, addresses: Iterable[str], at: datetime
    ) -> Mapping[str, Mailed]:
        """Count a message before it goes to the upstream; return what was mailed before it.

        Atomic across workers: no other message is counted in between.
        """
        ...

    async def release(self, id: str, addresses: Iterable[str]) -> None:
        """Undo the count of a message for people who were not mailed."""
        ...


def with_mailings(facts: Facts, mailed: Mapping[str, Mailed]) -> Facts:
    """Return `facts` with their mailings replaced."""
    changed = {
        address: replace(
            facts.get(address, NO_FACTS), mailings=known.mailings, first_mailed_at=known.first_at
        )
        for address, known in mailed.items()
    }
    return {**facts, **changed}


class BulkCounter(Protocol):
    """Counts people by the fingerprint of what they are sent, across workers."""

    def close(self) -> None: ...

    async def count(
        self, fingerprint: bytes, people: Collection[str], at: datetime, window: float, most: int
    ) -> int:
        """Count a text for canonical addresses; return how many people were sent it within `window`
        seconds, including these.

        Exact up to `most`; any higher number means "more". A person counts once. Atomic across
        workers. Raises StoreUnavailable.
        """
        ...

    async def estimate(
        self, fingerprint: bytes, people: Collection[str], at: datetime, window: float, most: int
    ) -> int:
        """Do the same, cheaper: the counts of other workers may be some seconds old.

        Never fails: what cannot be read or written is not counted.
        """
        ...
