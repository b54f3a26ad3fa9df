"""The errors and the records of a store, and the one read of the mail path."""

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

from msgspec import Struct

from smtpproxy.policy.model import Contact, Facts, Lookups, Origin, Suppression
from smtpproxy.store.collected import COLLECTED_FIELDS
from smtpproxy.store.operations import RESTRICTED


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


def with_cause(error: Exception) -> str:
    """Return the text of a failure for the operator: with its cause, unless it has it already."""
    if isinstance(error, StoreMisconfigured):
        return str(error)
    cause = error.__cause__
    why = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause or "")
    return str(error) if why in str(error) else f"{error} ({why})"


class SuppressionEntry(Struct, frozen=True):
    """A suppression to add. Its address is hashed before it is stored."""

    address: str  # canonicalised by the store; or a key text of an export
    scope: str
    origin: Origin
    since: datetime
    note: str | None = None
    by: str | None = None  # the program that added it over the API


class LiftedSuppression(Struct, frozen=True):
    """A suppression that was lifted."""

    scope: str
    origin: Origin
    since: datetime
    note: str | None
    lifted_at: datetime
    reason: str
    given_by: str | None = None  # a program over the API, like `lifted_by`
    lifted_by: str | None = None


Place = tuple[bytes, bytes, str, str]
"""The place of a suppression in the order of their keys: its keys, scope and origin."""


class SuppressionPage(NamedTuple):
    """A page of suppressions with their key texts; `next` is None at the end."""

    entries: Sequence[tuple[str, Suppression]]
    next: Place | None


PROFILE_FIELDS = COLLECTED_FIELDS - {"never_informed"} | {"tags", "language"}
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

    def facts(self, lookups: Lookups) -> Awaitable[Facts]:
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


class KeyStatus(Struct, frozen=True):
    """A live key of the suppressions, and the number of rows under it."""

    version: int
    fingerprint: str
    since: datetime | None  # None: since the store was made
    suppressions: int
    lifted: int
