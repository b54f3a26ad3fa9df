"""What running the product asks of a store: imports, retention, webhooks, rights."""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Protocol

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.policy.model import (
    Audience,
    Collection,
    Contact,
    Rulebook,
    Source,
    collected,
    collections,
)
from smtpproxy.policy.rules.recipient import restricting

Kind = Literal["contacts", "suppressions"]
State = Literal["running", "complete", "interrupted", "undoing", "undone"]

UNDO_FOR = timedelta(days=90)
"""How long what profiles were before is kept, from the start of an import."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far into its file an import has come: all up to `line` is committed or rejected."""

    line: int = 0  # of the file
    octets: int = 0  # read of it, which may be more than those of the lines
    digest: str = ""  # SHA-256 of these octets, in hexadecimal
    lines: int = 0  # that say something
    rejected: int = 0
    passed: int = 0
    aside: int = 0  # octets of the rejected file
    refusals: int = 0  # of rejected lines, taken in all the same


@dataclass(frozen=True, slots=True)
class Batch:
    """The part of an import that one commit takes in."""

    id: str
    place: Checkpoint


@dataclass(frozen=True, slots=True)
class Undone:
    """What an undo has done so far. Its counts are of contacts, or of suppressions."""

    at: datetime
    by: str
    removed: int = 0  # contacts gone, suppressions lifted
    put_back: int = 0  # as they were before the import
    kept: int = 0  # others have changed or confirmed them since

    def and_then(self, removed: int, put_back: int, kept: int) -> "Undone":
        removed, put_back, kept = (
            self.removed + removed,
            self.put_back + put_back,
            self.kept + kept,
        )
        return Undone(self.at, self.by, removed, put_back, kept)


@dataclass(frozen=True, slots=True)
class ImportRecord:
    """One import. `options` are what decides how its file is read."""

    id: str
    kind: Kind
    file: str
    user: str
    started_at: datetime
    as_of: datetime  # the age of what the file says
    size: int | None = None  # octets; None: it came through a pipe
    options: Mapping[str, str] = field(default_factory=dict)
    state: State = "running"
    ended_at: datetime | None = None
    place: Checkpoint = Checkpoint()
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    older: int = 0
    erased: int = 0  # left out
    undone: Undone | None = None


BRANDS = "brands"
"""The option of an import that says which brands its token was for."""


def brands_of(record: ImportRecord) -> frozenset[str]:
    """Return the brands that an import was begun for; none: it was for all."""
    return frozenset(filter(None, record.options.get(BRANDS, "").split(",")))


class ImportStore(Protocol):
    """The imports on record, and the way back. Ids are as given or unknown: KeyError."""

    async def begin_import(self, record: ImportRecord) -> None:
        """Put an import on record, before its first batch."""
        ...

    async def mark_import(
        self, id: str, state: State, *, at: datetime | None, place: Checkpoint | None = None
    ) -> None:
        """Note in which state an import is, since when it has ended, and how far it came."""
        ...

    async def imports(self) -> Sequence[ImportRecord]:
        """Return all imports, the oldest first."""
        ...

    async def undo_import(
        self, id: str, *, at: datetime, by: str, may_lift: Callable[[str], bool] | None = None
    ) -> Undone | None:
        """Take a part of an import back, in one commit; None: all of it was before.

        To be called until it returns None. New contacts go, with their acts and purchases;
        profiles and suppressions are put back as they were, new suppressions lifted, which
        stays on record. What others have changed or confirmed since stays, and so do suppressions
        of a scope that may not be lifted.
        """
        ...

    def without_import(self, id: str) -> AsyncGenerator[Mapping[str, Contact | None], None]:
        """Yield what would be left of contacts, by address, if an import of contacts was taken
        back; None: nothing."""
        ...

    async def would_undo(self, id: str, *, at: datetime) -> Undone:
        """Return what `undo_import` would do in all, without doing it."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Contacts stay with a sign of life as prospects, or a dealing, no older than these.

    `restricted` are the tags that keep bulk mail from somebody. Whoever objected to all
    marketing before `objected` goes whatever signs of life there are, and whoever is known only by
    requests that were not confirmed, before `requests`.
    """

    prospects: datetime
    customers: datetime
    restricted: frozenset[str] = frozenset()
    objected: datetime | None = None
    requests: datetime | None = None


@dataclass(frozen=True, slots=True)
class Removed:
    """What of one kind was removed, or would be: how many rows, and of which dates."""

    rows: int = 0
    oldest: datetime | None = None
    newest: datetime | None = None

    def __add__(self, other: "Removed") -> "Removed":
        dates = [
            date
            for date in (self.oldest, self.newest, other.oldest, other.newest)
            if date is not None
        ]
        return Removed(self.rows + other.rows, min(dates, default=None), max(dates, default=None))


NOTHING = Removed()


@dataclass(frozen=True, slots=True)
class PurgedContacts:
    """`orders` counts the suppressions that their withdrawals and objections became.

    `objected` counts those who went since they had objected to all marketing.
    """

    removed: Removed = NOTHING
    orders: int = 0
    objected: int = 0


@dataclass(frozen=True, slots=True)
class PurgedSuppressions:
    """`held` counts those that are old enough, and stay since a contact has the address."""

    removed: Removed = NOTHING
    held: int = 0


class RetentionStore(Protocol):
    """Removing what has outlived its period, a little at a time: others go on writing.

    `at` is now. What is dated after it has not happened. With `dry_run` nothing is changed,
    and the answers are what would be done.
    """

    async def purge_contacts(
        self, limits: Limits, *, at: datetime, dry_run: bool = False
    ) -> PurgedContacts:
        """Remove contacts, once their withdrawals and objections are suppressions.

        Of whoever objected to all marketing the suppression is kept, and nothing else.

        The suppressions of an address whose contact goes last from now.
        """
        ...

    async def trim_notes(
        self, before: datetime, is_motive: Callable[[str], bool], *, dry_run: bool = False
    ) -> int:
        """Forget notes of suppressions, and reasons for lifting one, that are free text and older.

        Return how many.
        """
        ...

    async def renew_suppressions(self, matched: Mapping[str, datetime]) -> int:
        """Let what counts for these canonical addresses last from these moments.

        Returns how many were renewed.
        """
        ...

    async def purge_suppressions(
        self,
        before: datetime,
        *,
        dry_run: bool = False,
        matched: Iterable[Mapping[str, datetime]] = (),
    ) -> PurgedSuppressions:
        """Remove those that were given, added, matched and held before then, and are held no more.

        Held is one that counts for an address that a contact has. `matched` are for a dry
        run: matches that have not renewed anything.
        """
        ...

    async def purge_lifted(self, before: datetime, *, dry_run: bool = False) -> Removed:
        """Remove the record of suppressions that were lifted before then."""
        ...


_NOTHING: frozenset[str] = frozenset()


RESTRICTED = Rulebook("").restricted_tags
"""The tags that keep bulk mail from a person, unless a rulebook says otherwise."""


@dataclass(frozen=True, slots=True)
class Correction:
    """What is to be put right; what is None or empty stays as it is."""

    new_address: str | None = None  # canonical
    audience: Audience | None = None
    source: Source | None = None
    collected_at: datetime | None = None
    informed_at: datetime | None = None
    optout_offered: bool | None = None
    language: str | None = None
    add_occupations: frozenset[str] = _NOTHING
    remove_occupations: frozenset[str] = _NOTHING
    add_tags: frozenset[str] = _NOTHING
    remove_tags: frozenset[str] = _NOTHING
    restricted_tags: frozenset[str] = RESTRICTED  # those that follow the person
    brands: frozenset[str | None] | None = None  # audience, occupations: whose; None: of all

    def applied(self, contact: Contact) -> Contact:
        """Return the contact put right: what the person is, in every collection of `brands`."""
        told = {
            "source": self.source,
            "collected_at": self.collected_at,
            "informed_at": self.informed_at,
            "never_informed": None if self.informed_at is None else False,
            "optout_offered": self.optout_offered,
            "language": self.language,
        }
        ways = tuple(map(self._of_the_person, collections(contact)))
        return replace(
            collected(contact, ways),
            **{name: value for name, value in told.items() if value is not None},
            address=self.new_address or contact.address,
            tags=(contact.tags - restricting(contact.tags, self.remove_tags)) | self.add_tags,
        )

    def _of_the_person(self, way: Collection) -> Collection:
        if self.brands is not None and way.brand not in self.brands:
            return way
        return replace(
            way,
            audience=self.audience or way.audience,
            occupations=(way.occupations - self.remove_occupations) | self.add_occupations,
        )


class Change(Struct, frozen=True):
    """One field that was put right, in words; None: nothing."""

    field: str
    before: str | None
    after: str | None


class Rectification(Struct, frozen=True):
    """What was put right, when and why."""

    at: datetime
    reason: str
    changes: tuple[Change, ...]


def former_addresses(rectified: Sequence[Rectification]) -> list[str]:
    """Return the addresses that a contact had before."""
    return [
        change.before
        for one in rectified
        for change in one.changes
        if change.field == "address" and change.before
    ]
