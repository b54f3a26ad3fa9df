"""Undoing an import of contacts: what is removed, and what stays.

Pure, and the same on every backend. Imports are identified by numbers. A contact consists of items:
acts, purchases, the values of its fields and of its collections. Each item is backed by its
author and by every later import that repeated it; it is removed once all of these are undone.
"""

from collections.abc import Iterable, Iterator, Sequence, Set
from datetime import datetime
from typing import Any
from zlib import crc32

import msgspec
from msgspec.structs import replace

from smtpproxy.policy.model import Collection, ConsentAct, Contact, Purchase, collected, collections
from smtpproxy.store.collected import (
    COLLECTED_FIELDS,
    Item,
    included_in,
    index_of,
    is_void,
    joined_items,
    key_of,
    same_fact,
    weaker,
    with_given,
)
from smtpproxy.store.merge import Known
from smtpproxy.store.records import PROFILE_FIELDS, ContactUpdate
from smtpproxy.store.undo import Fate

_MOST_REPEATS = 4  # imports whose repeated items are kept
_FIELDS = sorted(PROFILE_FIELDS - COLLECTED_FIELDS)
_NO_COLLECTION = Collection()
_encode = msgspec.json.Encoder(order="deterministic").encode


class Replaced(msgspec.Struct, frozen=True):
    """An earlier state of a contact."""

    known: Known
    owner: int | None  # its author
    by: int | None  # the author of the next one


class Repeated(msgspec.Struct, frozen=True, array_like=True):
    """The items of an import that were already on record, as checksums."""

    number: str
    items: frozenset[int]


def repeated_items(
    repeats: Sequence[Repeated], number: int, known: Known, update: ContactUpdate
) -> Sequence[Repeated]:
    """Return `repeats` with the items of import `number` in `update` that `known` already has.

    Returns the same object if there is nothing new.
    """
    stored, given, nothing = known.contact, update.contact, Contact(known.contact.address)
    items = set(map(_sum, filter(included_in(stored.acts), given.acts)))
    items |= set(map(_sum, filter(included_in(stored.purchases), given.purchases)))
    items |= {
        _sum((name, value))
        for name in _FIELDS
        if name in update.given
        and (value := getattr(given, name)) == getattr(stored, name)
        and value != getattr(nothing, name)
    }
    items |= {_sum(item) for item in _repeated_in_collections(collections(stored), update)}
    others = [one for one in repeats if one.number != str(number)]
    for one in repeats:
        if one.number == str(number):
            if items <= one.items:
                return repeats
            items |= one.items
    return (*others, Repeated(str(number), frozenset(items)))[-_MOST_REPEATS:]


def _repeated_in_collections(
    stored: Sequence[Collection], update: ContactUpdate
) -> Iterator[tuple[object, object]]:
    """Yield the update's items of collections that are already on record."""
    first, *more = collections(update.contact)
    given = update.given & COLLECTED_FIELDS
    if "informed_at" in given:
        given |= {"never_informed"}
    for told, names in ((first, given), *((way, COLLECTED_FIELDS) for way in more)):
        told = with_given(told, names)
        index = index_of(stored, told, names)
        if index is None or is_void(told) or not names:
            continue
        key = key_of(stored[index])
        if told.source is stored[index].source:
            yield key, True
        for name in names:
            value = getattr(told, name)
            if value == getattr(stored[index], name) and value != getattr(_NO_COLLECTION, name):
                yield (*key, name), value


def _sum(item: ConsentAct | Purchase | tuple[object, object]) -> int:
    return crc32(_encode(_plain(item)))


def _plain(value: object) -> object:
    """Return a value that is encoded the same for equal ones, also with omitted defaults."""
    if isinstance(value, msgspec.Struct):
        return [_plain(getattr(value, name)) for name in value.__struct_fields__]
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def contact_without(
    chain: Sequence[Replaced],
    now: Known,
    owner: int | None,
    number: int,
    undone: Iterable[int],
    repeats: Sequence[Repeated] = (),
    *,
    keep_withdrawals: bool = False,
) -> tuple[Known | None, Fate]:
    """Return what is left of a contact without an import, after those in `undone`, if anything.

    `owner` is the author of `now`.
    """
    history = _History(chain, now, owner, {*undone, number}, repeats)
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
        return None, "removed"
    own = history.of(number)
    if not own:
        return Known(left, now.as_of), "none" if left == contact else "put back"
    changed = history.changed(own)
    as_of = history.age_before(own[0]) if changed <= reverted else now.as_of
    stays = any(history.brought_by(act, number) for act in acts) or any(
        history.brought_by(one, number) for one in purchases
    )
    kept = own[0] == 0 or not changed <= reverted or stays
    return Known(left, as_of), "kept" if kept else "put back"


def _values(contact: Contact) -> dict[object, object]:
    """Return the values on record, by field name, collection key, or both."""
    found: dict[object, object] = {name: getattr(contact, name) for name in _FIELDS}
    for way in collections(contact):
        if is_void(way) and way.brand is None:
            continue
        key = key_of(way)
        found[key] = True
        found |= {(*key, name): getattr(way, name) for name in COLLECTED_FIELDS}
    return found


class _History:
    """The states of a contact, and the author of each."""

    def __init__(
        self,
        chain: Sequence[Replaced],
        now: Known,
        owner: int | None,
        gone: Set[int],
        repeats: Sequence[Repeated],
    ) -> None:
        self._states = [*[one.known for one in chain], now]
        self._authors = [chain[0].owner if chain else owner, *[one.by for one in chain]]
        self._gone = gone
        self._repeats = [one for one in repeats if int(one.number) not in gone]
        self._values = [_values(state.contact) for state in self._states]
        contacts = [state.contact for state in self._states]
        self._all = frozenset(item for one in contacts for item in (*one.acts, *one.purchases))
        self._included = [(included_in(one.acts), included_in(one.purchases)) for one in contacts]

    def of(self, number: int) -> list[int]:
        """Return the states that an import made."""
        return [index for index, author in enumerate(self._authors) if author == number]

    def holds(self, item: ConsentAct | Purchase) -> bool:
        """Whether an import that was not undone, or a command, backs an item."""
        return self._is_backed(self._brought_in(item) if item in self._all else None, item)

    def acts(self, *, keep_withdrawals: bool) -> Iterator[ConsentAct]:
        """Yield the acts that are still backed, in the most complete form that is."""
        for act in self._states[-1].contact.acts:
            if keep_withdrawals and act.withdrawal:
                yield act
            else:
                yield from self.held((act,))

    def held(self, items: Sequence[Item]) -> Iterator[Item]:
        """Yield the items that are still backed, or their earlier, less complete forms."""
        for item in items:
            if self.holds(item):
                yield item
            else:
                yield from filter(self.holds, self._were(item))

    def _were(self, item: Item) -> Iterator[Item]:
        """Yield the earlier forms of an item, the newest first, and the forms others gave it."""
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
        """Return the state that brought the item when it was last added."""
        present = self._has(item)
        last = len(present) - 1
        while last > 0 and not present[last]:
            last -= 1
        return _since(present, last if present[last] else len(present) - 1)

    def value(self, name: str) -> object:
        """Return the newest value of a field that is still backed."""
        return self._newest(name, getattr(Contact(""), name))

    def collections(self) -> tuple[Collection, ...]:
        """Return the collections that are still backed, with the values that are."""
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
            if self._newest(key, None) is None:  # its source is no longer backed
                way, fields["provenance"] = replace(way, source=None), None
                if is_void(replace(way, **fields)):
                    continue
            found.append(replace(way, **fields))
        return tuple({key_of(way): way for way in reversed(found)}.values())[::-1]

    def _newest(self, name: object, nothing: object) -> object:
        """Return the newest of `_values` with that name that is still backed."""
        values = [known.get(name, nothing) for known in self._values]
        index = len(values) - 1
        while index >= 0:
            first = _since([value == values[index] for value in values], index)
            if self._is_backed(first, (name, values[index])):
                return values[index]
            index = first - 1
        return nothing

    def changed(self, own: Sequence[int]) -> set[object]:
        """Return the names of the values that these states changed."""
        nothing = _values(Contact(""))
        pairs = [(self._values[n - 1] if n else nothing, self._values[n]) for n in own]
        return {name for a, b in pairs for name in a | b if a.get(name) != b.get(name)}

    def age_before(self, index: int) -> datetime | None:
        """Return the date of the profile that counts once a state is undone."""
        before = list(zip(self._states, self._authors, strict=True))[:index][::-1]
        return next((state.as_of for state, a in before if a not in self._gone), None)

    def is_gone(self) -> bool:
        """Whether nothing else brought the contact itself."""
        return self._authors[0] in self._gone and not self._repeats

    def _has(self, item: ConsentAct | Purchase) -> list[bool]:
        """Return for each state whether it had the item, or a more complete form of it."""
        if isinstance(item, ConsentAct):
            return [has_act(item) for has_act, _ in self._included]
        return [has_purchase(item) for _, has_purchase in self._included]

    def _is_backed(
        self, first: int | None, item: ConsentAct | Purchase | tuple[object, object]
    ) -> bool:
        """Whether the author of the state `first`, or an import that repeated the item, remains."""
        if first is not None and self._authors[first] not in self._gone:
            return True
        return bool(self._repeats) and any(_sum(item) in one.items for one in self._repeats)


def _since(present: Sequence[bool], index: int) -> int:
    """Return the first state of the run of states, ending at `index`, that have something."""
    while index > 0 and present[index - 1]:
        index -= 1
    return index
