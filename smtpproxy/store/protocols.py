"""What the rest of the product may ask of a store: a few narrow protocols.

Every backend passes the one contract suite in tests/store/. All methods raise `StoreUnavailable`
when the store cannot answer (locked, full, gone): the mail path turns that into 451 4.3.0, never
into a pass. Methods make an address that they are given canonical, and raise `AddressError`.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

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
    """The store is configured well, but not there yet, or this user may not open it."""

    exit_code = 1  # of a command


class StoreOutdated(StoreMisconfigured):
    """The database is of an earlier version; whoever opens it to write brings it up to date."""


class NoStoreYet(StoreInaccessible):
    """Nobody has written to the store so far, so it was not made."""


@dataclass(frozen=True, slots=True)
class SuppressionEntry:
    """A suppression to be added. The address is hashed before it is stored."""

    address: str  # as given, canonicalised by the store; or a key text of an export
    scope: str
    origin: Origin
    since: datetime
    note: str | None = None
    by: str | None = None  # a program, over the API


@dataclass(frozen=True, slots=True)
class LiftedSuppression:
    """A suppression that does not hold any more."""

    scope: str
    origin: Origin
    since: datetime
    note: str | None
    lifted_at: datetime
    reason: str
    given_by: str | None = None  # a program over the API, as `lifted_by`
    lifted_by: str | None = None


@dataclass(frozen=True, slots=True)
class SuppressionPage:
    """Some suppressions, each with its key text; `next` is None at the end."""

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
"""The fields of a contact that an update replaces; purchases and acts only ever add up."""


@dataclass(frozen=True, slots=True)
class ContactUpdate:
    """What one source says of one contact.

    `given` are the profile fields that the source speaks about: the others keep what is
    stored. `as_of` is the age of the source: a profile that is no newer than the stored
    one changes nothing. Without it the profile always counts.
    """

    contact: Contact
    given: frozenset[str] = PROFILE_FIELDS
    as_of: datetime | None = None
    rectifies: bool = False  # by the person's right: not held off by an objection to profiling
    restricted_tags: frozenset[str] = RESTRICTED  # may be added after such an objection too


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What one batch of an import changed."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    erased: int = 0  # in addition: left out, since they were erased
    older: int = 0  # of all these: a differing profile that was no newer than the stored one
    contacts: Mapping[str, Contact] = field(default_factory=dict, compare=False, repr=False)
    """As they are now, by their addresses."""


class ReplicaState(NamedTuple):
    """Of the standby that RCPT may be answered from."""

    lag: float | None  # seconds behind the primary; None: nobody knows yet
    in_use: bool | None  # None: nothing was asked of it yet
    reads: Mapping[str, int]  # of the mail path, by the server that answered: primary, standby


class FactReader(Protocol):
    """The one read of the mail path."""

    async def facts(self, lookups: Lookups) -> Facts:
        """Return what is known of `lookups.addresses`, as one consistent read."""
        ...

    def read(self, lookups: Lookups) -> Awaitable[tuple[Facts, object]]:
        """Return what `facts` does, and a `version` that is no newer than that.

        It may be there at once, without a turn of the event loop (waiting.py).
        """
        ...

    def version(self) -> Awaitable[object]:
        """Return the state of the store: equal values mean that `facts` says the same.

        Cheap: on SQLite no second read.
        """
        ...


class SuppressionStore(Protocol):
    async def add_suppressions(
        self, entries: Sequence[SuppressionEntry], batch: Batch | None = None
    ) -> BatchResult:
        """Add a batch in one commit, with where its import is. One that is there changes nothing.

        There is one per address, scope and origin; a later `since` moves it forward
        (unsubscribing again outweighs a consent in between), an earlier one changes nothing.
        An address that was put right since (`moved_to`) is suppressed as well, and not counted.
        """
        ...

    async def suppress(self, entries: Sequence[SuppressionEntry]) -> Sequence[datetime | None]:
        """Add a batch in one commit, as above; return for each what `standing` said before it."""
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

        What was moved from the moment `since`, or holds from later than `up_to`, stays. `by`, which
        program over the API, and the reason stay on record.
        """
        ...

    async def suppressions(self, address: str) -> Sequence[Suppression]:
        """Return what counts for the address, as `facts` does: widened matches included."""
        ...

    async def authors(self, address: str) -> Mapping[tuple[str, str], str]:
        """Return by scope and origin which programs suppress exactly this address over the API."""
        ...

    async def lifted_suppressions(self, address: str) -> Sequence[LiftedSuppression]:
        """Return what was lifted of exactly this address, in that order."""
        ...

    async def standing(self, entries: Sequence[SuppressionEntry]) -> Sequence[datetime | None]:
        """Return for each entry since when the very same suppression exists; None: it does not."""
        ...

    async def suppression_page(
        self, after: str | None, limit: int, scopes: Collection[str] | None = None
    ) -> SuppressionPage:
        """Return up to `limit` suppressions in the order of their keys, or those of some scopes.

        `after` is the `next` of the page before. Raises ValueError where it is none.
        """
        ...

    def export_suppressions(self) -> AsyncGenerator[tuple[str, Suppression], None]:
        """Yield (key text, suppression): the address itself is not stored.

        The key text may stand for the address in a `SuppressionEntry`, under the same key.
        """
        ...


class ContactStore(Protocol):
    async def put_contacts(
        self, contacts: Sequence[Contact | ContactUpdate], batch: Batch | None = None
    ) -> BatchResult:
        """Insert or update a batch in one commit, with where its import is.

        An import (with `batch`) leaves people out who were erased; of those who came back by
        themselves it takes withdrawals and objections. Purchases and consent acts are added,
        never removed; an act is replaced only where it is told for the first time whether it
        was a condition. A bare `Contact` is an update of its whole profile without an age.
        """
        ...

    async def put_contact(
        self, update: ContactUpdate, only_if: Callable[[Contact | None], bool]
    ) -> BatchResult | None:
        """Insert or update one contact as an import would, if what is stored then fits.

        None, and nothing is changed, where it does not.
        """
        ...

    async def contact(self, address: str) -> Contact | None: ...

    async def profiles(
        self, addresses: Sequence[str]
    ) -> Mapping[str, tuple[Contact, datetime | None]]:
        """Return the contacts of canonical addresses, each with the age of its profile."""
        ...

    def export_contacts(self) -> AsyncGenerator[Contact, None]:
        """Yield every contact. The store stays open to writers: it is no single snapshot."""
        ...

    async def erase_contact(self, address: str, *, at: datetime, scope: str = "marketing") -> bool:
        """Remove profile and acts and leave an `erasure` suppression.

        Notes and reasons of the address's suppressions that may hold an address go too.
        Returns False when there was no contact; the suppression is left all the same.
        """
        ...


class ConsentStore(Protocol):
    async def record_act(self, address: str, act: ConsentAct) -> bool:
        """Add one act to the history; create the contact if there is none.

        A withdrawal is also one of whoever had this address before it was put right (`moved_to`).
        Returns False when the very same act is there already.
        """
        ...


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """A live key of the suppressions and what is stored under it."""

    version: int
    fingerprint: str
    since: datetime | None  # None: since the store was made
    suppressions: int
    lifted: int


class KeyRotation(Protocol):
    """Replacing the key that addresses of suppressions are hashed under.

    Old and new keys hold meanwhile: no lookup ever misses what is stored under one.
    """

    async def keys(self) -> Sequence[KeyStatus]:
        """Return the live keys, the newest last."""
        ...

    async def start_rekey(self, *, at: datetime, force: bool = False) -> int:
        """Make a new key the newest, unless there are two already; return its version.

        It is in the key file of this machine first. Raises `NotEverywhere` while it is not in
        those of all relays, unless `force`.
        """
        ...

    async def rekey(self, addresses: Sequence[str]) -> int:
        """Move what is stored of addresses as given to the newest key; return how many rows."""
        ...

    def contact_addresses(self) -> AsyncGenerator[Sequence[str], None]:
        """Yield the address of every contact, a few thousand at a time."""
        ...

    async def finish_rekey(self, *, at: datetime) -> bool:
        """Retire the older key; False, and nothing is changed, while a row is under it."""
        ...


class Counts(Protocol):
    async def counts(self) -> tuple[int, Mapping[tuple[str, str], int]]:
        """Return the number of contacts and suppressions by (scope kind, origin).

        Every pair is there: kinds `all`, `marketing` and `purpose`, and each origin.
        """
        ...


class RightsStore(Protocol):
    async def rectify(
        self, address: str, correction: Correction, *, at: datetime, reason: str
    ) -> Rectification | None:
        """Put a contact right and keep a record of it; None when there is no contact.

        With a new address, acts, purchases and suppressions follow, but for bounces, which
        concern a mailbox, not a person's wishes; so does what suppresses the old one later. What
        suppresses the old address stays. Where nothing would change, nothing is recorded.
        """
        ...

    async def rectifications(self, address: str) -> Sequence[Rectification]:
        """Return what was put right of exactly this address, oldest first."""
        ...

    async def moved_to(self, address: str) -> Sequence[str]:
        """Return the present addresses of contacts that had exactly this one before."""
        ...

    async def variants(self, address: str) -> Sequence[str]:
        """Return the other contacts whose addresses differ from it by a plus-tag alone."""
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
        """Tell of the standby that is read from, None where there is none."""
        ...

    async def ping(self) -> None:
        """Raise `StoreUnavailable` unless a read works now."""
        ...

    async def close(self) -> None: ...
