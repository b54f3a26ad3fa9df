"""Undoing an import: what goes, and what stays since others brought it too.

Pure, and the same on every backend. An import is its number here. Of suppressions: a
restriction goes only where that import alone is behind it. What a contact holds are items:
its acts, its purchases and the values of its fields. Behind each stands who brought it, and
every later import that said it again; it goes when all of these are taken back.
"""

from collections.abc import Collection, Container, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from zlib import crc32

import msgspec
from msgspec.structs import replace

from smtpproxy.policy.model import ConsentAct, Contact, Purchase
from smtpproxy.store.merge import Known, is_told, joined_acts
from smtpproxy.store.protocols import PROFILE_FIELDS, ContactUpdate

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


_TOLD_BY = 4  # imports of which it is kept what they said again
_FIELDS = sorted({*PROFILE_FIELDS, "never_informed"})  # told with `informed_at`
_encode = msgspec.json.Encoder(order="deterministic").encode


@dataclass(frozen=True, slots=True)
class Replaced:
    """A state of a contact that another took the place of."""

    known: Known
    owner: int | None  # whose state it was
    by: int | None  # who replaced it


class Told(msgspec.Struct, frozen=True, array_like=True):
    """What an import said that was there already: the sums of these items."""

    number: str
    items: frozenset[int]


def told_again(
    told: Sequence[Told], number: int, known: Known, update: ContactUpdate
) -> Sequence[Told]:
    """Return what was said again, with what `update` of an import says of `known`.

    The same object comes back where that is nothing new.
    """
    there, said, nothing = known.contact, update.contact, Contact(known.contact.address)
    items = {_sum(act) for act in said.acts if is_told(act, there.acts)}
    items |= {_sum(one) for one in said.purchases if one in there.purchases}
    given = {*update.given, "never_informed"} if "informed_at" in update.given else update.given
    items |= {
        _sum((name, value))
        for name in _FIELDS
        if name in given
        and (value := getattr(said, name)) == getattr(there, name)
        and value != getattr(nothing, name)
    }
    others = [one for one in told if one.number != str(number)]
    for one in told:
        if one.number == str(number):
            if items <= one.items:
                return told
            items |= one.items
    return (*others, Told(str(number), frozenset(items)))[-_TOLD_BY:]


def _sum(item: ConsentAct | Purchase | tuple[str, object]) -> int:
    return crc32(_encode(_plain(item)))


def _plain(value: object) -> object:
    """Return a value so that equal ones are written alike: omitted defaults are not always."""
    if isinstance(value, msgspec.Struct):
        return [_plain(getattr(value, name)) for name in value.__struct_fields__]
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a contact without an import; `known` is None: nothing."""

    known: Known | None
    fate: Fate


def contact_without(
    chain: Sequence[Replaced],
    now: Known,
    owner: int | None,
    number: int,
    undone: Collection[int],
    told: Sequence[Told] = (),
    *,
    keep_withdrawals: bool = False,
) -> Left:
    """Take an import back from a contact, when those in `undone` were before.

    `owner` is whose state `now` is; `told` is what imports said again.
    """
    history = _History(chain, now, owner, {*undone, number}, told)
    contact = now.contact
    acts = joined_acts((), history.acts(keep_withdrawals=keep_withdrawals))
    purchases = [one for one in contact.purchases if history.holds(one)]
    fields: dict[str, Any] = {name: history.value(name) for name in _FIELDS}
    reverted = {name for name in _FIELDS if fields[name] != getattr(contact, name)}
    left = replace(contact, acts=acts, purchases=tuple(purchases), **fields)
    if left == Contact(contact.address) and history.is_gone():
        return Left(None, "removed")
    own = history.of(number)
    if not own:
        return Left(Known(left, now.as_of), "none" if left == contact else "put back")
    changed = history.changed(own)
    as_of = history.age_before(own[0]) if changed <= reverted else now.as_of
    stays = any(history.brought_by(act, number) for act in acts) or any(
        history.brought_by(one, number) for one in purchases
    )
    kept = own[0] == 0 or not changed <= reverted or stays
    return Left(Known(left, as_of), "kept" if kept else "put back")


class _History:
    """The states of a contact, and who made each of the one before."""

    def __init__(
        self,
        chain: Sequence[Replaced],
        now: Known,
        owner: int | None,
        gone: Collection[int],
        told: Sequence[Told],
    ) -> None:
        self._states = [*[one.known for one in chain], now]
        self._authors = [chain[0].owner if chain else owner, *[one.by for one in chain]]
        self._gone = gone
        self._told = [one for one in told if int(one.number) not in gone]

    def of(self, number: int) -> list[int]:
        """Return the states that an import made."""
        return [place for place, author in enumerate(self._authors) if author == number]

    def holds(self, item: ConsentAct | Purchase) -> bool:
        """Whether an import that was not undone, or a command, also brought an item."""
        return self._stands(self._brought_in(item), item)

    def acts(self, *, keep_withdrawals: bool) -> Iterator[ConsentAct]:
        """Yield the acts that somebody stands behind, each as far as it was told by them."""
        for act in self._states[-1].contact.acts:
            unanswered = replace(act, conditional=None)
            if (keep_withdrawals and act.withdrawal) or self.holds(act):
                yield act
            elif unanswered != act and self.holds(unanswered):
                yield unanswered

    def brought_by(self, item: ConsentAct | Purchase, number: int) -> bool:
        return self._authors[self._brought_in(item)] == number

    def _brought_in(self, item: ConsentAct | Purchase) -> int:
        """Return since which state the item was there, when it was there last."""
        there = self._has(item)
        last = len(there) - 1
        while last > 0 and not there[last]:
            last -= 1
        return _since(there, last if there[last] else len(there) - 1)

    def value(self, name: str) -> object:
        """Return the newest value of a field that somebody stands behind."""
        values: list[object] = [getattr(state.contact, name) for state in self._states]
        place = len(values) - 1
        while place >= 0:
            first = _since([value == values[place] for value in values], place)
            if self._stands(first, (name, values[place])):
                return values[place]
            place = first - 1
        return getattr(Contact(self._states[-1].contact.address), name)

    def changed(self, own: Sequence[int]) -> set[str]:
        """Return the fields that these states have otherwise than those before."""
        nothing = Contact(self._states[-1].contact.address)
        pairs = [
            (self._states[n - 1].contact if n else nothing, self._states[n].contact) for n in own
        ]
        return {name for name in _FIELDS for a, b in pairs if getattr(a, name) != getattr(b, name)}

    def age_before(self, place: int) -> datetime | None:
        """Return the age of the profile that stands when a state is taken back."""
        return next((s.as_of for s, a in self._before(place) if a not in self._gone), None)

    def is_gone(self) -> bool:
        """Whether nothing else brought the contact itself."""
        return self._authors[0] in self._gone and not self._told

    def _before(self, place: int) -> list[tuple[Known, int | None]]:
        return list(zip(self._states, self._authors, strict=True))[:place][::-1]

    def _has(self, item: ConsentAct | Purchase) -> list[bool]:
        return [
            item in state.contact.acts or item in state.contact.purchases for state in self._states
        ]

    def _stands(self, first: int, item: ConsentAct | Purchase | tuple[str, object]) -> bool:
        """Whether who made the state `first`, or who said the item again, was not taken back."""
        if self._authors[first] not in self._gone:
            return True
        return bool(self._told) and any(_sum(item) in one.items for one in self._told)


def _since(there: Sequence[bool], place: int) -> int:
    """Return since which state something has been there that is at `place`."""
    while place > 0 and there[place - 1]:
        place -= 1
    return place
