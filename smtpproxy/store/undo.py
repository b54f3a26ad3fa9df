"""Taking an import back: what of it goes, and what stays since others said it too.

Pure, and the same on every backend. An import is its number here. The rule: permissions
that an import brought go; a restriction goes only where that import alone is behind it.
"""

from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from msgspec.structs import replace

from smtpproxy.policy.model import Contact
from smtpproxy.store.merge import Known
from smtpproxy.store.protocols import PROFILE_FIELDS

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
    """Return what stands when an import is taken back; None: it is to be lifted."""
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


@dataclass(frozen=True, slots=True)
class Replaced:
    """A state of a contact that another took the place of."""

    known: Known
    owner: int | None  # whose state it was
    by: int | None  # who replaced it


@dataclass(frozen=True, slots=True)
class Span:
    """What one import did to a contact; `before` is None where it made it."""

    before: Known | None
    after: Known
    place: int  # of `before` in the chain


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a contact without an import; `known` is None: nothing."""

    known: Known | None
    kept: bool  # others had a part in what the import did


def contact_without(
    chain: Sequence[Replaced],
    now: Known,
    owner: int | None,
    number: int,
    undone: Collection[int],
    *,
    keep_withdrawals: bool = False,
) -> Left:
    """Take an import back from a contact. `owner` is whose state `now` is.

    Fields that others have changed since stay, and so do acts and purchases of others.
    """
    known, kept = now, False
    for span in reversed(_spans(chain, now, owner, number)):
        before = span.before
        if before is not None:
            before = _profile_without(chain[: span.place], chain[span.place].owner, before, undone)
        left = _taken_back(known, span, before, keep_withdrawals)
        kept |= left.kept
        if left.known is None:
            return left
        known = left.known
    return Left(known, kept)


def _spans(chain: Sequence[Replaced], now: Known, owner: int | None, number: int) -> list[Span]:
    """Return what an import did, oldest first."""
    found = []
    before: Known | None = None
    begun = (chain[0].owner if chain else owner) == number
    since = 0
    for place, state in enumerate(chain):
        if begun and state.owner == number:
            found.append(Span(before, state.known, since))
            begun = False
        if state.by == number:
            begun, before, since = True, state.known, place
    if begun and owner == number:
        found.append(Span(before, now, since))
    return found


def _taken_back(now: Known, span: Span, before: Known | None, keep_withdrawals: bool) -> Left:
    """`before` is the profile to be put back."""
    contact, after = now.contact, span.after.contact
    nothing = Contact(contact.address)
    old = span.before.contact if span.before else nothing
    wanted = before.contact if before else nothing
    changed = [name for name in _FIELDS if getattr(after, name) != getattr(old, name)]
    untouched = [n for n in changed if getattr(contact, n) == getattr(after, n)]
    acts, purchases = set(after.acts) - set(old.acts), set(after.purchases) - set(old.purchases)
    result = replace(
        contact,
        acts=tuple(
            act for act in contact.acts if act not in acts or (keep_withdrawals and act.withdrawal)
        ),
        purchases=tuple(one for one in contact.purchases if one not in purchases),
        **{name: getattr(wanted, name) for name in untouched},
    )
    if before is None and result == nothing:
        return Left(None, False)
    as_of = now.as_of
    if changed == untouched:  # so that the right file can be imported again
        as_of = before.as_of if before else None
    return Left(Known(result, as_of), before is None or changed != untouched)


def _profile_without(
    chain: Sequence[Replaced], owner: int | None, then: Known, undone: Collection[int]
) -> Known | None:
    """Return `then`, a state of `owner` that came after `chain`, without imports taken back."""
    known: Known | None = then
    for number in sorted(undone, reverse=True):
        if known is not None:
            known = contact_without(chain, known, owner, number, (), keep_withdrawals=True).known
    return known


_FIELDS = sorted(PROFILE_FIELDS)
