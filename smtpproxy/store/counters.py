"""What the mail path itself writes down: mailings, people sent one text, copies."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.policy.model import NO_FACTS, Facts, Mailing, Stream


class Mailed(Struct, frozen=True):
    """What a person was mailed before, oldest first."""

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
        self, id: str, stream: Stream, addresses: Iterable[str], at: datetime
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


class ConfirmationLimit(Protocol):
    """Counts the relay's own mail to people, across processes. Raises StoreUnavailable."""

    async def take(self, address: str, at: datetime, *, per_address: int, per_day: int) -> bool:
        """Count a mail that is about to be sent to a canonical address.

        False, and nothing is counted, where so many went to it, or to anybody, in 24 hours.
        All spellings of one mailbox count together.
        """
        ...

    async def give_back(self, address: str, at: datetime) -> None:
        """Take a mail back that was counted then: it was not sent."""
        ...

    def close(self) -> None: ...


class BulkCounter(Protocol):
    """Counts people by the fingerprint of what they are sent, across workers."""

    def close(self) -> None: ...

    async def count(
        self, fingerprint: bytes, people: Collection[str], at: datetime, window: float, most: int
    ) -> int:
        """Count a text for canonical addresses; return to how many people it went, these among
        them, within `window` seconds.

        Exact up to `most`; beyond it only that it is more. The same person counts once. One step
        for all workers. Raises StoreUnavailable.
        """
        ...

    async def estimate(
        self, fingerprint: bytes, people: Collection[str], at: datetime, window: float, most: int
    ) -> int:
        """The same, cheaper: what other workers counted may be some seconds old.

        It never fails: what cannot be read or written is not counted.
        """
        ...


COPIES_KEPT = timedelta(days=5)
"""For as long as mail servers commonly retry (RFC 5321 4.5.4.1: at least 4 to 5 days)."""


class CopyLedger(Protocol):
    """Keeps forward paths by message, across workers and over a crash of the process.

    A message is its reverse path and the digest of its content, octet for octet as it came; it
    is asked for only where it matters. Entries end with the final answer to the client, and after
    the days for which mail servers retry. Methods raise StoreUnavailable, and what `digest` raises.
    """

    async def find(
        self, reverse_path: str, digest: Callable[[], bytes], forward_paths: Collection[str]
    ) -> frozenset[str]:
        """Return which of the forward paths have their copy."""
        ...

    async def note(self, reverse_path: str, digest: Callable[[], bytes], forward_path: str) -> None:
        """Keep that a forward path has its copy."""
        ...

    async def forget(
        self, reverse_path: str, digest: Callable[[], bytes], forward_paths: Collection[str]
    ) -> None:
        """The client has its final answer about these; others may be in another transaction."""
        ...

    def close(self) -> None: ...
