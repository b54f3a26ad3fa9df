"""Who was mailed when on marketing streams: what caps and first messages are judged by."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.policy.model import NO_FACTS, Facts, Mailing


class Mailed(Struct, frozen=True):
    """What somebody was mailed before, oldest first."""

    mailings: tuple[Mailing, ...] = ()
    first_at: datetime | None = None


class MailingLog(Protocol):
    """Counts mail across workers. Addresses are canonical. Raises StoreUnavailable."""

    def close(self) -> None: ...

    async def known(self, addresses: Sequence[str]) -> Mapping[str, Mailed]:
        """Return what each was mailed before; who was not may be left out."""
        ...

    async def prune(
        self, before: datetime, *, first_before: datetime, dry_run: bool = False
    ) -> int:
        """Remove the messages, and the first messages, that are older.

        Returns how many messages that are, or would be.
        """
        ...

    async def forget(self, address: str) -> None:
        """Erase a person."""
        ...

    async def reserve(
        self, id: str, stream: str, addresses: Iterable[str], at: datetime
    ) -> Mapping[str, Mailed]:
        """Count a message that is about to be put to the upstream; return what was before it.

        One step for all workers: no other message is counted in between.
        """
        ...

    async def release(self, id: str, addresses: Iterable[str]) -> None:
        """Take the count of a message back: these were not mailed."""
        ...


def with_mailings(facts: Facts, mailed: Mapping[str, Mailed]) -> Facts:
    """Return `facts` with what was mailed before, in the place of what they said of it."""
    told = {
        address: replace(
            facts.get(address, NO_FACTS), mailings=known.mailings, first_mailed_at=known.first_at
        )
        for address, known in mailed.items()
    }
    return {**facts, **told}
