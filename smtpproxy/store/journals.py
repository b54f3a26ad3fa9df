"""What the relays of one store know of each other's audit journals: erasures that all of them have
to carry out, and an index of decisions. The journals themselves stay on each relay's disk."""

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
    """A relay that has yet to carry out an erasure; `told_at` is when it last said anything."""

    relay: str
    host: str
    told_at: datetime


class IndexRow(Struct, frozen=True):
    """A row of the index: what was decided about one recipient, and where the record of it is.

    `canonical` is the recipient, as far as that is known to whoever adds the row; None, once read.
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
    """Which rows of the index; None, or none, is any. `id` may be the first characters of one."""

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
        """Say that a relay is there; return the last row of each slot that is in the index."""
        ...

    async def add_erasure(self, address: str, at: datetime) -> int:
        """Note that all journals have to be rid of a person; return the number of the erasure.

        The index is rid of them at once.
        """
        ...

    async def outstanding(self, relay: str, carried_out: int) -> Outstanding:
        """Return what the relay has yet to erase: what it told the store, and what its journal
        says it has `carried_out`, both have to have."""
        ...

    async def carried_out(self, relay: str, outstanding: Outstanding) -> None:
        """Note that these people are in the relay's journal no more."""
        ...

    async def behind(self, erasure: int) -> Sequence[Behind]:
        """Return the relays that have not carried out that erasure yet."""
        ...

    async def key(self) -> PersonKey:
        """Return what persons are known by."""
        ...

    async def add(self, relay: str, rows: Sequence[IndexRow], read: Mapping[int, int]) -> None:
        """Add rows to the index, each once, and note up to which row of each slot it goes."""
        ...

    async def find(self, wanted: IndexQuery, limit: int, *, but: str = "") -> Sequence[IndexRow]:
        """Return the newest rows, newest first; those of the relay `but` are left out."""
        ...

    async def prune(self, before: datetime, *, journals_before: datetime) -> int:
        """Forget rows that are older; return how many.

        And erasures that are much older than what journals have: since `journals_before`.
        """
        ...

    def close(self) -> None: ...
