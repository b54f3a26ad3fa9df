"""Undoing an import of suppressions: which are removed, and which stay because of others.

Pure, and the same on every backend. Imports are identified by numbers. A restriction is removed
only if no other import or person has given it. Contacts: undo_contact.py.
"""

from collections.abc import Container
from datetime import datetime
from typing import Literal

from msgspec import Struct

SEVERAL = 0
"""Instead of the number of an import: a person, or more than one other import."""

Fate = Literal["removed", "put back", "kept", "none"]

_DEPTH = 4  # earlier versions of a suppression that are kept


class Version(Struct, frozen=True):
    """A version of a suppression. `owner` is the import that made it, or None."""

    since: datetime
    note: str | None
    owner: int | None = None
    also: int | None = None  # who else gave the same


class Standing(Struct, frozen=True):
    """A suppression with its earlier versions, the newest of them last."""

    now: Version
    earlier: tuple[Version, ...] = ()


def updated(standing: Standing | None, told: Version) -> Standing:
    """Return the suppression after `told` by an import (its owner) or by somebody else (None).

    A later `since` moves it forward; an earlier one confirms it.
    """
    if standing is None:
        return Standing(told)
    now = standing.now
    if told.since <= now.since:
        if now.owner in (None, told.owner) or now.also == told.owner is not None:
            return standing
        also = told.owner if told.owner is not None and now.also is None else SEVERAL
        return Standing(Version(now.since, now.note, now.owner, also), standing.earlier)
    note = told.note if told.note is not None else now.note
    moved = Version(told.since, note, told.owner)
    if now.owner == told.owner:
        return Standing(moved, standing.earlier)
    earlier = (*standing.earlier, now)
    if len(earlier) > _DEPTH:  # the versions before the oldest are lost, and with them its owner
        oldest = earlier[-_DEPTH]
        earlier = (Version(oldest.since, oldest.note), *earlier[1 - _DEPTH :])
    return Standing(moved, earlier)


def without(standing: Standing, number: int, undone: Container[int]) -> Standing | None:
    """Return the suppression after an import is undone, or None to lift it."""
    now = standing.now
    if now.also == number:
        return Standing(Version(now.since, now.note, now.owner), standing.earlier)
    if now.owner != number:
        return standing
    if now.also == SEVERAL:
        return Standing(Version(now.since, now.note))
    if now.also is not None:
        return Standing(Version(now.since, now.note, now.also), standing.earlier)
    earlier = list(standing.earlier)
    while earlier:
        before = earlier.pop()
        also = None if before.also in (None, number) or _gone(before.also, undone) else before.also
        if not (before.owner == number or _gone(before.owner, undone)):
            return Standing(Version(before.since, before.note, before.owner, also), tuple(earlier))
        if also is not None:
            owner = also if also != SEVERAL else None
            return Standing(Version(before.since, before.note, owner), tuple(earlier))
    return None


def fate(before: Standing, after: Standing | None, number: int) -> Fate:
    """Return how the undoing is counted: "none" if the suppression was never the import's own."""
    if after is None:
        return "removed"
    if before.now.owner == number and before.now.also is None:
        return "put back"
    return "none" if before.now.also == number else "kept"


def _gone(owner: int | None, undone: Container[int]) -> bool:
    return owner is not None and owner in undone
