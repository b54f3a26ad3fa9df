"""The operations of a store besides reads and writes: imports, retention, rectification."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

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
"""How long earlier profiles are kept, from the start of an import."""


class Checkpoint(Struct, frozen=True):
    """How far an import has got in its file: all lines up to `line` are committed or rejected."""

    line: int = 0  # of the file
    octets: int = 0  # read, perhaps beyond that line
    digest: str = ""  # SHA-256 of these octets, in hexadecimal
    lines: int = 0  # that are not blank
    rejected: int = 0
    passed: int = 0
    aside: int = 0  # octets of the rejected file
    refusals: int = 0  # in rejected lines, but stored


class Batch(Struct, frozen=True):
    """The part of an import that is one commit."""

    id: str
    place: Checkpoint


class Undone(Struct, frozen=True):
    """What an undo has done so far, in numbers of contacts or of suppressions."""

    at: datetime
    by: str
    removed: int = 0  # contacts removed, suppressions lifted
    put_back: int = 0  # restored to what they were before the import
    kept: int = 0  # changed or confirmed by others since

    def and_then(self, removed: int, put_back: int, kept: int) -> "Undone":
        return Undone(
            self.at, self.by, self.removed + removed, self.put_back + put_back, self.kept + kept
        )


class ImportRecord(Struct, frozen=True):
    """One import. `options` are those that decide how its file is read."""

    id: str
    kind: Kind
    file: str
    user: str
    started_at: datetime
    as_of: datetime  # the date of the file's data
    size: int | None = None  # octets; None: it came through a pipe
    options: Mapping[str, str] = {}
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
"""The option with the brands of the token that an import was made with."""


def brands_of(record: ImportRecord) -> frozenset[str]:
    """Return the brands that an import was for; empty means all."""
    return frozenset(filter(None, record.options.get(BRANDS, "").split(",")))


class Limits(Struct, frozen=True):
    """Contacts stay with a sign of life since `prospects`, or a dealing since `customers`.

    `restricted` are the tags that keep bulk mail from somebody. People who objected to all
    marketing before `objected` are removed despite any sign of life, and people known only by
    unconfirmed requests, if those are from before `requests`.
    """

    prospects: datetime
    customers: datetime
    restricted: frozenset[str] = frozenset()
    objected: datetime | None = None
    requests: datetime | None = None


class Removed(Struct, frozen=True):
    """What was removed, or would be: how many rows, and their oldest and newest dates."""

    rows: int = 0
    oldest: datetime | None = None
    newest: datetime | None = None

    def __add__(self, other: "Removed") -> "Removed":
        dates = [*filter(None, (self.oldest, self.newest, other.oldest, other.newest))]
        return Removed(self.rows + other.rows, min(dates, default=None), max(dates, default=None))


NOTHING = Removed()


class PurgedContacts(Struct, frozen=True):
    """`orders` counts the suppressions made of withdrawals and objections, and `objected` the
    contacts removed because of an objection to all marketing."""

    removed: Removed = NOTHING
    orders: int = 0
    objected: int = 0


class PurgedSuppressions(Struct, frozen=True):
    """`held` counts suppressions that are old enough, but stay because of a contact."""

    removed: Removed = NOTHING
    held: int = 0


RESTRICTED = Rulebook("").restricted_tags
"""The tags that keep bulk mail from a person, unless a rulebook says otherwise."""


class Correction(Struct, frozen=True):
    """A rectification to make; fields that are None or empty stay as they are."""

    new_address: str | None = None  # canonical
    audience: Audience | None = None
    source: Source | None = None
    collected_at: datetime | None = None
    informed_at: datetime | None = None
    optout_offered: bool | None = None
    language: str | None = None
    add_occupations: frozenset[str] = frozenset()
    remove_occupations: frozenset[str] = frozenset()
    add_tags: frozenset[str] = frozenset()
    remove_tags: frozenset[str] = frozenset()
    restricted_tags: frozenset[str] = RESTRICTED  # those that follow the person
    brands: frozenset[str | None] | None = None  # for audience, occupations; None: all

    def applied(self, contact: Contact) -> Contact:
        """Return the rectified contact; audience and occupations in all collections of `brands`."""
        names = ("source", "collected_at", "informed_at", "optout_offered", "language")
        fields = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.informed_at is not None:
            fields["never_informed"] = False
        ways = tuple(map(self._of_the_person, collections(contact)))
        return replace(
            collected(contact, ways),
            **fields,
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
    """A rectified field, with its texts before and after; None if empty."""

    field: str
    before: str | None
    after: str | None


class Rectification(Struct, frozen=True):
    """What was rectified, when and why."""

    at: datetime
    reason: str
    changes: tuple[Change, ...]


def former_addresses(rectified: Sequence[Rectification]) -> list[str]:
    """Return the earlier addresses of a contact."""
    return [
        change.before
        for one in rectified
        for change in one.changes
        if change.field == "address" and change.before
    ]
