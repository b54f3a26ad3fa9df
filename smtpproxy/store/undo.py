"""Undoing an import: what goes of its suppressions, and what stays since others brought it too.

Pure, and the same on every backend. An import is its number here. A restriction goes only where
that import alone is behind it. Contacts: undo_contact.py.
"""

from collections.abc import Container
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

SEVERAL = 0
"""In the place of an import: a person, or more than one other import."""

Fate = Literal["removed", "put back", "kept", "none"]

_DEPTH = 4  # versions of a suppression that are kept


@dataclass(frozen=True, slots=True)
class Version:
    """What a suppression was. `owner` is the import that made it so, or None."""

    since: datetime
    note: str | None
    owner: int | None = None
    also: int | None = None  # who else said so


@dataclass(frozen=True, slots=True)
class Standing:
    """What a suppression is, and was; the newest earlier version is the last."""

    now: Version
    earlier: tuple[Version, ...] = ()


def said(standing: Standing | None, told: Version) -> Standing:
    """Return what stands after `told`, of an import (its owner) or of somebody else (None).

    A later `since` moves it forward; else it is confirmed.
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
    if len(earlier) > _DEPTH:  # nobody knows any more what was before the oldest
        oldest = earlier[-_DEPTH]
        earlier = (Version(oldest.since, oldest.note), *earlier[1 - _DEPTH :])
    return Standing(moved, earlier)


def without(standing: Standing, number: int, undone: Container[int]) -> Standing | None:
    """Return what remains when an import is undone; None: lift it."""
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
    """Tell how taking an import back is counted; it is "none" of what was never its own."""
    if after is None:
        return "removed"
    if before.now.owner == number and before.now.also is None:
        return "put back"
    return "none" if before.now.also == number else "kept"


def _gone(owner: int | None, undone: Container[int]) -> bool:
    return owner is not None and owner in undone
