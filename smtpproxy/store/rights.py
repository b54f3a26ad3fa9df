"""Rectification (RGPD 16): what is put right in a contact, and the record that stays of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.policy.model import Audience, Contact, Rulebook, Source
from smtpproxy.policy.rules.recipient import restricting

_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Correction:
    """What is to be put right; what is None or empty stays as it is."""

    new_address: str | None = None  # canonical
    audience: Audience | None = None
    source: Source | None = None
    collected_at: datetime | None = None
    informed_at: datetime | None = None
    optout_offered: bool | None = None
    add_occupations: frozenset[str] = _NOTHING
    remove_occupations: frozenset[str] = _NOTHING
    add_tags: frozenset[str] = _NOTHING
    remove_tags: frozenset[str] = _NOTHING
    restricted_tags: frozenset[str] = Rulebook("").restricted_tags  # those that follow the person

    def applied(self, contact: Contact) -> Contact:
        told = {
            "audience": self.audience,
            "source": self.source,
            "collected_at": self.collected_at,
            "informed_at": self.informed_at,
            "never_informed": None if self.informed_at is None else False,
            "optout_offered": self.optout_offered,
        }
        return replace(
            contact,
            **{name: value for name, value in told.items() if value is not None},
            address=self.new_address or contact.address,
            occupations=(contact.occupations - self.remove_occupations) | self.add_occupations,
            tags=(contact.tags - restricting(contact.tags, self.remove_tags)) | self.add_tags,
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
