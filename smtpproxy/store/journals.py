"""What the relays of one store share about their audit journals: erasures that all have to carry
out, and an index of decisions. The journals themselves stay on each relay's disk."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from smtpproxy.policy.model import Action, Reason

PersonKey = Callable[[str], bytes]
"""Returns the keyed hash of a canonical address."""


class Outstanding(Struct, frozen=True):
    """Erasures that a relay has not carried out yet. `newest` is the number of the last one."""

    newest: int
    people: frozenset[bytes]


class Behind(Struct, frozen=True):
    """A relay that has yet to carry out an erasure; `told_at` is when it was last heard from."""

    relay: str
    host: str
    told_at: datetime


class IndexRow(Struct, frozen=True):
    """A row of the index: the decision about one recipient, and where its record is.

    `canonical` is the recipient, if known when the row is added; None when it is read.
    """

    relay: str
    file: str
    line: int
    recipient: int
    id: str
    at: datetime
    stream: str
    brand: str
    verdict: Action
    reason: Reason
    observed: bool = False
    canonical: str | None = None
    host: str = ""


class IndexQuery(Struct, frozen=True):
    """A query of the index; None or empty means any. `id` may be a prefix."""

    id: str | None = None
    recipients: tuple[str, ...] = ()
    brands: frozenset[str] = frozenset()
    stream: str | None = None
    verdict: Action | None = None
    reason: Reason | None = None
    since: datetime | None = None
    until: datetime | None = None


class SharedJournals(Protocol):
    """Methods raise StoreUnavailable."""

    async def tell(self, relay: str, host: str, at: datetime) -> Mapping[int, int]:
        """Register that a relay is alive; return the last row of each slot in the index."""
        ...

    async def add_erasure(self, address: str, at: datetime) -> int:
        """Request the erasure of a person from all journals; return the number of the erasure.

        The index no longer has them on return.
        """
        ...

    async def outstanding(self, relay: str, carried_out: int) -> Outstanding:
        """Return the erasures that the relay has not reported to the store, or that its journal
        does not have as `carried_out`."""
        ...

    async def carried_out(self, relay: str, outstanding: Outstanding) -> None:
        """Record that these people are no longer in the relay's journal."""
        ...

    async def behind(self, erasure: int) -> Sequence[Behind]:
        """Return the relays that have not carried out that erasure yet."""
        ...

    async def key(self) -> PersonKey:
        """Return the function that hashes addresses."""
        ...

    async def add(self, relay: str, rows: Sequence[IndexRow], read: Mapping[int, int]) -> None:
        """Add rows to the index, each once, and record up to which row of each slot it goes."""
        ...

    async def find(self, wanted: IndexQuery, limit: int, *, but: str = "") -> Sequence[IndexRow]:
        """Return the newest rows, newest first; those of the relay `but` are left out."""
        ...

    async def prune(self, before: datetime, *, journals_before: datetime) -> int:
        """Forget older rows; return how many.

        Also forgets erasures much older than the oldest journals, which begin at `journals_before`.
        """
        ...

    def close(self) -> None: ...
