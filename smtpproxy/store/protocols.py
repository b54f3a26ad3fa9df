"""The interface of a store: a few narrow protocols.

Every backend passes the same contract suite in tests/store/. All methods raise `StoreUnavailable`
if the store cannot answer (locked, full, gone): the mail path turns that into 451 4.3.0, never
into a pass. Methods canonicalise the addresses that they are given, or raise `AddressError`.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

from msgspec import Struct

from smtpproxy.policy.model import ConsentAct, Contact, Facts, Lookups, Origin, Suppression
from smtpproxy.store.keys import PartnerStore
from smtpproxy.store.operations import (
    RESTRICTED,
    Batch,
    Correction,
    ImportStore,
    Rectification,
    RetentionStore,
)
from smtpproxy.store.propagation import ChangeLog, EventLog, WebhookStore
from smtpproxy.store.register import RelayRegister
from smtpproxy.store.scopes import ScopeStore
from smtpproxy.store.streams import StreamStates


class StoreUnavailable(Exception):
    """The store could not answer; public text is generic, the cause is chained."""


class StoreMisconfigured(StoreUnavailable):
    """The store cannot be opened as it is; the text names the fault and the fix."""

    exit_code = 2  # of a command: the configuration is wrong


class StoreInaccessible(StoreMisconfigured):
    """The configuration is right, but the store does not exist yet, or the user may not open it."""

    exit_code = 1  # of a command


class StoreOutdated(StoreMisconfigured):
    """The database has an earlier version; opening it to write migrates it."""


class NoStoreYet(StoreInaccessible):
    """The store does not exist, as nobody has written to it yet."""


class SuppressionEntry(Struct, frozen=True):
    """A suppression to add. Its address is hashed before it is stored."""

    address: str  # canonicalised by the store; or a key text of an export
    scope: str
    origin: Origin
    since: datetime
    note: str | None = None
    by: str | None = None  # the program that added it over the API


@dataclass(frozen=True, slots=True)
class LiftedSuppression:
    """A suppression that was lifted."""

    scope: str
    origin: Origin
    since: datetime
    note: str | None
    lifted_at: datetime
    reason: str
    given_by: str | None = None  # a program over the API, like `lifted_by`
    lifted_by: str | None = None


@dataclass(frozen=True, slots=True)
class SuppressionPage:
    """A page of suppressions with their key texts; `next` is None at the end."""

    entries: Sequence[tuple[str, Suppression]]
    next: str | None


PROFILE_FIELDS = frozenset(
    {
        "audience",
        "source",
        "collected_at",
        "informed_at",
        "optout_offered",
        "last_activity_at",
        "occupations",
        "tags",
        "provenance",
        "language",
    }
)
"""The fields of a contact that an update replaces; purchases and acts only accumulate."""


class ContactUpdate(Struct, frozen=True):
    """A contact as one source has it.

    `given` are the profile fields of the source; the others stay as stored. `as_of` is the date
    of the source: a profile that is no newer than the stored one changes nothing. Without it the
    profile always counts.
    """

    contact: Contact
    given: frozenset[str] = PROFILE_FIELDS
    as_of: datetime | None = None
    rectifies: bool = False  # at the person's request: despite their objection to profiling
    restricted_tags: frozenset[str] = RESTRICTED  # may be added even after such an objection


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What one batch of an import changed."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    erased: int = 0  # not counted above: left out, as they had been erased
    older: int = 0  # counted above: the profile differed, but was no newer than the stored one
    contacts: Mapping[str, Contact] = field(default_factory=dict, compare=False, repr=False)
    """The contacts afterwards, by address."""


class ReplicaState(NamedTuple):
    """The state of the standby that RCPT may be answered from."""

    lag: float | None  # seconds behind the primary; None: unknown yet
    in_use: bool | None  # None: not queried yet
    reads: Mapping[str, int]  # of the mail path, by the server that answered: primary, standby


class FactReader(Protocol):
    """The one read of the mail path."""

    async def facts(self, lookups: Lookups) -> Facts:
        """Return the facts about `lookups.addresses`, as one consistent read."""
        ...

    def read(self, lookups: Lookups) -> Awaitable[tuple[Facts, object]]:
        """Return the result of `facts`, and a `version` that is no newer.

        It may be available at once, without a turn of the event loop (waiting.py).
        """
        ...

    def version(self) -> Awaitable[object]:
        """Return a value that is equal as long as `facts` returns the same.

        Cheap: on SQLite no second read.
        """
        ...


class SuppressionStore(Protocol):
    async def add_suppressions(
        self, entries: Sequence[SuppressionEntry], batch: Batch | None = None
    ) -> BatchResult:
        """Add a batch, and the checkpoint of its import, in one commit.

        There is one suppression per address, scope and origin. A later `since` moves it forward
        (unsubscribing again outweighs a consent in between); the same or an earlier one changes
        nothing. If the address was corrected since (`moved_to`), the new one is suppressed as
        well, and not counted.
        """
        ...

    async def suppress(self, entries: Sequence[SuppressionEntry]) -> Sequence[datetime | None]:
        """Add a batch in one commit, as above; return the result of `standing` before it."""
        ...

    async def remove_suppression(
        self,
        address: str,
        *,
        at: datetime,
        reason: str,
        scope: str | None = None,
        origin: Origin | None = None,
        since: datetime | None = None,
        up_to: datetime | None = None,
        by: str | None = None,
    ) -> Sequence[Suppression]:
        """Lift suppressions of the exact address; return those that were lifted.

        One whose time is no longer `since`, or is later than `up_to`, stays. The reason and `by`,
        the program over the API, stay on record.
        """
        ...

    async def suppressions(self, address: str) -> Sequence[Suppression]:
        """Return the suppressions that count for the address, as in `facts`: also widened ones."""
        ...

    async def authors(self, address: str) -> Mapping[tuple[str, str], str]:
        """Return the programs that suppressed exactly this address, by scope and origin."""
        ...

    async def lifted_suppressions(self, address: str) -> Sequence[LiftedSuppression]:
        """Return the lifted suppressions of exactly this address, in the order of lifting."""
        ...

    async def standing(self, entries: Sequence[SuppressionEntry]) -> Sequence[datetime | None]:
        """Return since when the same suppression exists, for each entry; None if it does not."""
        ...

    async def suppression_page(
        self, after: str | None, limit: int, scopes: Collection[str] | None = None
    ) -> SuppressionPage:
        """Return up to `limit` suppressions, of all or some scopes, in the order of their keys.

        `after` is the `next` of the previous page. Raises ValueError if it is not.
        """
        ...

    def export_suppressions(self) -> AsyncGenerator[tuple[str, Suppression], None]:
        """Yield (key text, suppression), as the address itself is not stored.

        Under the same key, a `SuppressionEntry` may have the key text instead of the address.
        """
        ...


class ContactStore(Protocol):
    async def put_contacts(
        self, contacts: Sequence[Contact | ContactUpdate], batch: Batch | None = None
    ) -> BatchResult:
        """Insert or update a batch, and the checkpoint of its import, in one commit.

        An import (with `batch`) leaves out people who were erased; of those who have come back
        by themselves it stores only refusals. Purchases and consent acts are added, never
        removed; an act is replaced only by a more complete one of the same fact. A bare `Contact`
        is an update of its whole profile without a date.
        """
        ...

    async def put_contact(
        self, update: ContactUpdate, only_if: Callable[[Contact | None], bool]
    ) -> BatchResult | None:
        """Insert or update one contact as an import would, if `only_if` accepts the stored one.

        Otherwise returns None and changes nothing.
        """
        ...

    async def contact(self, address: str) -> Contact | None: ...

    async def profiles(
        self, addresses: Sequence[str]
    ) -> Mapping[str, tuple[Contact, datetime | None]]:
        """Return the contacts of canonical addresses, each with the age of its profile."""
        ...

    def export_contacts(self) -> AsyncGenerator[Contact, None]:
        """Yield every contact. Others can write meanwhile: it is not one snapshot."""
        ...

    async def erase_contact(self, address: str, *, at: datetime, scope: str = "marketing") -> bool:
        """Remove profile and acts, and leave an `erasure` suppression.

        Notes and reasons in free text of the address's suppressions are removed too. Returns
        False if there was no contact; the suppression is left all the same.
        """
        ...


class ConsentStore(Protocol):
    async def record_act(self, address: str, act: ConsentAct) -> bool:
        """Add one act to the history; create the contact if there is none.

        A withdrawal also counts for contacts that had this address before a correction
        (`moved_to`). Returns False if the same act is already there.
        """
        ...


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """A live key of the suppressions, and the number of rows under it."""

    version: int
    fingerprint: str
    since: datetime | None  # None: since the store was made
    suppressions: int
    lifted: int


class KeyRotation(Protocol):
    """Replacing the key that addresses of suppressions are hashed with.

    Meanwhile both keys are live: no lookup misses a row under either.
    """

    async def keys(self) -> Sequence[KeyStatus]:
        """Return the live keys, the newest last."""
        ...

    async def start_rekey(self, *, at: datetime, force: bool = False) -> int:
        """Make a new key the newest, unless there are already two; return its version.

        The key is added to the key file of this machine first. Raises `NotEverywhere` as long as
        another relay lacks it, unless `force`.
        """
        ...

    async def rekey(self, addresses: Sequence[str]) -> int:
        """Move the rows of addresses to the newest key; return how many."""
        ...

    def contact_addresses(self) -> AsyncGenerator[Sequence[str], None]:
        """Yield the address of every contact, a few thousand at a time."""
        ...

    async def finish_rekey(self, *, at: datetime) -> bool:
        """Retire the older key. Returns False and changes nothing if a row is still under it."""
        ...


class Counts(Protocol):
    async def counts(self) -> tuple[int, Mapping[tuple[str, str], int]]:
        """Return the number of contacts and suppressions by (scope kind, origin).

        It has every pair of the kinds `all`, `marketing` and `purpose` and an origin.
        """
        ...


class RightsStore(Protocol):
    async def rectify(
        self, address: str, correction: Correction, *, at: datetime, reason: str
    ) -> Rectification | None:
        """Rectify a contact and record that; None if there is no contact.

        With a new address, acts, purchases and suppressions follow, except bounces, which are
        about a mailbox, not the person's wishes; so do later suppressions of the old address,
        which stays suppressed. If nothing changes, nothing is recorded.
        """
        ...

    async def rectifications(self, address: str) -> Sequence[Rectification]:
        """Return the rectifications of exactly this address, oldest first."""
        ...

    async def moved_to(self, address: str) -> Sequence[str]:
        """Return the present addresses of contacts that had exactly this one before."""
        ...

    async def variants(self, address: str) -> Sequence[str]:
        """Return the other contacts whose addresses differ only by a plus-tag."""
        ...


class Store(
    FactReader,
    SuppressionStore,
    ContactStore,
    ConsentStore,
    RightsStore,
    Counts,
    ScopeStore,
    ChangeLog,
    EventLog,
    WebhookStore,
    KeyRotation,
    RelayRegister,
    PartnerStore,
    ImportStore,
    RetentionStore,
    StreamStates,
    Protocol,
):
    def replica(self) -> ReplicaState | None:
        """Return the state of the standby, or None if there is none."""
        ...

    async def ping(self) -> None:
        """Raise `StoreUnavailable` unless a read works now."""
        ...

    async def close(self) -> None: ...
