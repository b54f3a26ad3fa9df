"""What partners tell each other: hashes of suppressed addresses under a key that both have."""

from collections.abc import AsyncGenerator, AsyncIterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from smtpproxy.policy.model import Origin, Suppression
from smtpproxy.store.keys import KeyPair


@dataclass(frozen=True, slots=True)
class PartnerSnapshot:
    """What is known of a partner's snapshot beside its rows. `key` is a fingerprint."""

    key: str
    sender: str  # the host name of the side that took it
    taken_at: datetime
    imported_at: datetime
    count: int
    digest: str


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """One suppression of a partner. `origin` is what it was there."""

    keys: KeyPair  # under the key shared with the partner
    scope: str
    origin: Origin
    since: datetime


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many suppressions can be told to a partner, of all there are."""

    covered: int
    total: int


class PartnerStore(Protocol):
    """The exchange with the partners that the store was opened with.

    Methods that name a partner raise `KeyError` when it is none of them.
    """

    async def cover(self, addresses: Sequence[str]) -> int:
        """Keep every partner's hash of canonical addresses that are suppressed.

        Returns how many are new. A suppression that is added with its address is covered
        by that; older ones, and those of key texts, are by this alone.
        """
        ...

    async def forget_partners(self) -> int:
        """Forget the hashes under keys of nobody who is a partner now."""
        ...

    async def coverage(self, partner: str) -> Coverage: ...

    def export_to_partner(
        self, partner: str
    ) -> AsyncGenerator[tuple[KeyPair | None, Suppression], None]:
        """Yield every suppression with its keys for the partner; None: not covered."""
        ...

    async def snapshots(self) -> Mapping[str, PartnerSnapshot]:
        """Return the snapshots that count, by partner: of a known one, under its key."""
        ...

    async def take_snapshot(
        self, partner: str, snapshot: PartnerSnapshot, batches: AsyncIterable[Sequence[SnapshotRow]]
    ) -> None:
        """Let a snapshot count in place of the partner's former one, all at once.

        Whatever ends it before, an error in `batches` too, leaves the former one.
        """
        ...
