"""What may be asked of a store when data has outlived its period."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Limits:
    """Contacts stay with a sign of life as prospects, or a dealing, no older than these.

    `restricted` are the tags that keep bulk mail from somebody. Whoever objected to all
    marketing before `objected` goes whatever signs of life there are.
    """

    prospects: datetime
    customers: datetime
    restricted: frozenset[str] = frozenset()
    objected: datetime | None = None


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

    async def journal_read(self) -> Mapping[int, int]:
        """Return the last row of each slot that `renew_suppressions` was told of."""
        ...

    async def renew_suppressions(
        self, matched: Mapping[str, datetime], read: Mapping[int, int] | None = None
    ) -> int:
        """Let what counts for these canonical addresses last from these moments.

        `read` is remembered in the same commit. Returns how many were renewed.
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
