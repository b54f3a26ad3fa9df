"""What the rest of the product may ask of a store: a few narrow protocols.

Every backend passes the one contract suite in tests/store/. All methods raise
`StoreUnavailable` when the store cannot answer (locked, full, gone): the mail path
turns that into 451 4.3.0, never into a pass.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from smtpproxy.policy.model import ConsentAct, Contact, Facts, Lookups, Origin, Suppression


class StoreUnavailable(Exception):
    """The store could not answer; public text is generic, the cause is chained."""


@dataclass(frozen=True, slots=True)
class SuppressionEntry:
    """A suppression to be added. The address is hashed before it is stored."""

    address: str  # as given; canonicalised by the store
    scope: str
    origin: Origin
    since: datetime
    note: str | None = None


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What one batch of an import changed."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0


class FactReader(Protocol):
    """The one read of the mail path."""

    async def facts(self, lookups: Lookups) -> Facts:
        """Return what is known of `lookups.addresses`, as one consistent read."""
        ...


class SuppressionStore(Protocol):
    async def add_suppressions(self, entries: Sequence[SuppressionEntry]) -> BatchResult:
        """Add a batch in one commit. Adding one that is there changes nothing."""
        ...

    async def remove_suppression(
        self, address: str, *, scope: str | None = None, origin: Origin | None = None
    ) -> int:
        """Lift suppressions of the exact address; return how many were lifted."""
        ...

    async def suppressions(self, address: str) -> Sequence[Suppression]: ...

    def export_suppressions(self) -> AsyncIterator[tuple[str, Suppression]]:
        """Yield (hex key, suppression): the address itself is not stored."""
        ...


class ContactStore(Protocol):
    async def put_contacts(self, contacts: Sequence[Contact]) -> BatchResult:
        """Insert or update a batch in one commit. Consent acts are added, never replaced."""
        ...

    async def contact(self, address: str) -> Contact | None: ...

    def export_contacts(self) -> AsyncIterator[Contact]: ...

    async def erase_contact(self, address: str, *, at: datetime) -> bool:
        """Remove profile and acts and leave an `erasure` suppression of scope `all`."""
        ...


class ConsentStore(Protocol):
    async def record_act(self, address: str, act: ConsentAct) -> bool:
        """Add one act to the history; create the contact when there is none.

        Returns False when the very same act is there already.
        """
        ...


class Counts(Protocol):
    async def counts(self) -> tuple[int, Mapping[tuple[str, str], int]]:
        """Return the number of contacts and suppressions by (scope kind, origin)."""
        ...


class Store(FactReader, SuppressionStore, ContactStore, ConsentStore, Counts, Protocol):
    async def ping(self) -> None:
        """Raise `StoreUnavailable` unless a read works now."""
        ...

    async def close(self) -> None: ...
