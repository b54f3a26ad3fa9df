"""Undoing an import: what goes of the contacts that it told of, and what stays.

Pure, and the same on every backend. An import is its number here. What a contact holds are items:
its acts, its purchases, the values of its fields and of its collections. Behind each stands who
brought it, and every later import that said it again; it goes when all of these are taken back.
"""

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zlib import crc32

import msgspec
from msgspec.structs import replace

from smtpproxy.policy.model import (
    Collection,
    ConsentAct,
    Contact,
    Purchase,
    collected,
    collections,
)
from smtpproxy.store.collected import (
    COLLECTED_FIELDS,
    Item,
    is_told,
    is_void,
    joined_items,
    key_of,
    place_of,
    said,
    same_fact,
    weaker,
)
from smtpproxy.store.merge import Known
from smtpproxy.store.protocols import PROFILE_FIELDS, ContactUpdate
from smtpproxy.store.undo import Fate

_TOLD_BY = 4  # imports of which it is kept what they said again
_FIELDS = sorted(PROFILE_FIELDS - COLLECTED_FIELDS)
_NO_COLLECTION = Collection()
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
    items |= {_sum(one) for one in said.purchases if is_told(one, there.purchases)}
    items |= {
        _sum((name, value))
        for name in _FIELDS
        if name in update.given
        and (value := getattr(said, name)) == getattr(there, name)
        and value != getattr(nothing, name)
    }
    items |= {_sum(item) for item in _collected_again(collections(there), update)}
    others = [one for one in told if one.number != str(number)]
    for one in told:
        if one.number == str(number):
            if items <= one.items:
                return told
            items |= one.items
    return (*others, Told(str(number), frozenset(items)))[-_TOLD_BY:]


def _collected_again(
    there: Sequence[Collection], update: ContactUpdate
) -> Iterator[tuple[object, object]]:
    """Yield what the update says of collections that is on record already."""
    first, *more = collections(update.contact)
    given = update.given & COLLECTED_FIELDS
    if "informed_at" in given:
        given |= {"never_informed"}
    for told, names in ((first, given), *((way, COLLECTED_FIELDS) for way in more)):
        told = said(told, names)
        place = place_of(there, told, names)
        if place is None or is_void(told) or not names:
            continue
        key = key_of(there[place])
        if told.source is there[place].source:
            yield key, True
        for name in names:
            value = getattr(told, name)
            if value == getattr(there[place], name) and value != getattr(_NO_COLLECTION, name):
                yield (*key, name), value


def _sum(item: ConsentAct | Purchase | tuple[object, object]) -> int:
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
    undone: Iterable[int],
    told: Sequence[Told] = (),
    *,
    keep_withdrawals: bool = False,
) -> Left:
    """Take an import back from a contact, when those in `undone` were before.

    `owner` is whose state `now` is; `told` is what imports said again.
    """
    history = _History(chain, now, owner, {*undone, number}, told)
    contact = now.contact
    acts = joined_items((), history.acts(keep_withdrawals=keep_withdrawals))
    purchases = joined_items((), history.held(contact.purchases))
    fields: dict[str, Any] = {name: history.value(name) for name in _FIELDS}
    left = replace(contact, acts=acts, purchases=tuple(purchases), **fields)
    ways = history.collections()
    if ways != collections(contact):
        left = collected(left, ways)
    was, remains = _values(contact), _values(left)
    reverted = {name for name in was | remains if was.get(name) != remains.get(name)}
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


def _values(contact: Contact) -> dict[object, object]:
    """Return what is on record by its name: a field's, a collection's key, or both."""
    found: dict[object, object] = {name: getattr(contact, name) for name in _FIELDS}
    for way in collections(contact):
        if is_void(way) and way.brand is None:
            continue
        key = key_of(way)
        found[key] = True
        found |= {(*key, name): getattr(way, name) for name in COLLECTED_FIELDS}
    return found


class _History:
    """The states of a contact, and who made each of the one before."""

    def __init__(
        self,
        chain: Sequence[Replaced],
        now: Known,
        owner: int | None,
        gone: Set[int],
        told: Sequence[Told],
    ) -> None:
        self._states = [*[one.known for one in chain], now]
        self._authors = [chain[0].owner if chain else owner, *[one.by for one in chain]]
        self._gone = gone
        self._told = [one for one in told if int(one.number) not in gone]
        self._values = [_values(state.contact) for state in self._states]

    def of(self, number: int) -> list[int]:
        """Return the states that an import made."""
        return [place for place, author in enumerate(self._authors) if author == number]

    def holds(self, item: ConsentAct | Purchase) -> bool:
        """Whether an import that was not undone, or a command, also brought an item."""
        was = any(
            item in state.contact.acts or item in state.contact.purchases for state in self._states
        )
        return self._stands(self._brought_in(item) if was else None, item)

    def acts(self, *, keep_withdrawals: bool) -> Iterator[ConsentAct]:
        """Yield the acts that somebody stands behind, each as far as it was told by them."""
        for act in self._states[-1].contact.acts:
            if keep_withdrawals and act.withdrawal:
                yield act
            else:
                yield from self.held((act,))

    def held(self, items: Sequence[Item]) -> Iterator[Item]:
        """Yield what somebody stands behind, or what it was before more was told of it."""
        for item in items:
            if self.holds(item):
                yield item
            else:
                yield from filter(self.holds, self._were(item))

    def _were(self, item: Item) -> Iterator[Item]:
        """Yield what an item may have been before, the newest first, or was told as by others."""
        names = {way.name for known in self._states for way in collections(known.contact)}
        yield from weaker(item, names)
        fact, kind = same_fact(item), type(item)
        now = {*self._states[-1].contact.acts, *self._states[-1].contact.purchases}
        for one in self._items():
            if isinstance(one, kind) and one not in now and same_fact(one) == fact:
                yield one

    def _items(self) -> Iterator[ConsentAct | Purchase]:
        """Yield the acts and purchases of all states, the newest state's first."""
        for known in reversed(self._states):
            yield from known.contact.acts
            yield from known.contact.purchases

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
        return self._newest(name, getattr(Contact(""), name))

    def collections(self) -> tuple[Collection, ...]:
        """Return those that somebody stands behind, with the values that somebody does."""
        newest: dict[Any, Collection] = {}
        for state in reversed(self._states):
            for way in collections(state.contact):
                newest.setdefault(key_of(way), way)
        found = []
        for key, way in newest.items():
            fields = {
                name: self._newest((*key, name), getattr(_NO_COLLECTION, name))
                for name in COLLECTED_FIELDS - {"source"}
            }
            if self._newest(key, None) is None:  # nobody says any more how it was obtained
                way, fields["provenance"] = replace(way, source=None), None
                if is_void(replace(way, **fields)):
                    continue
            found.append(replace(way, **fields))
        return tuple({key_of(way): way for way in reversed(found)}.values())[::-1]

    def _newest(self, name: object, nothing: object) -> object:
        """Return the newest value of one of `_values` that somebody stands behind."""
        values = [known.get(name, nothing) for known in self._values]
        place = len(values) - 1
        while place >= 0:
            first = _since([value == values[place] for value in values], place)
            if self._stands(first, (name, values[place])):
                return values[place]
            place = first - 1
        return nothing

    def changed(self, own: Sequence[int]) -> set[object]:
        """Return what these states have otherwise than those before, by its name."""
        nothing = _values(Contact(""))
        pairs = [(self._values[n - 1] if n else nothing, self._values[n]) for n in own]
        return {name for a, b in pairs for name in a | b if a.get(name) != b.get(name)}

    def age_before(self, place: int) -> datetime | None:
        """Return the age of the profile that stands when a state is taken back."""
        return next((s.as_of for s, a in self._before(place) if a not in self._gone), None)

    def is_gone(self) -> bool:
        """Whether nothing else brought the contact itself."""
        return self._authors[0] in self._gone and not self._told

    def _before(self, place: int) -> list[tuple[Known, int | None]]:
        return list(zip(self._states, self._authors, strict=True))[:place][::-1]

    def _has(self, item: ConsentAct | Purchase) -> list[bool]:
        """Return in which states the item was there, or more was told of it."""
        if isinstance(item, ConsentAct):
            return [is_told(item, state.contact.acts) for state in self._states]
        return [is_told(item, state.contact.purchases) for state in self._states]

    def _stands(
        self, first: int | None, item: ConsentAct | Purchase | tuple[object, object]
    ) -> bool:
        """Whether who made the state `first`, or who said the item again, was not taken back."""
        if first is not None and self._authors[first] not in self._gone:
            return True
        return bool(self._told) and any(_sum(item) in one.items for one in self._told)


def _since(there: Sequence[bool], place: int) -> int:
    """Return since which state something has been there that is at `place`."""
    while place > 0 and there[place - 1]:
        place -= 1
    return place
