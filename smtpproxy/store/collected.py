"""Merging the collections, acts and purchases of one address with those in a file.

Pure. A collection is identified by brand, source and suppliers: a newer file with the same ones
corrects it, and a different source makes another one. An act or purchase is identified by its own
fields, but its brand and its collection may come later. A collection on record without a brand is
replaced by a brand's if that says everything it says.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from msgspec.structs import replace

from smtpproxy.policy.contact import Collection, ConsentAct, Contact, Purchase, collections
from smtpproxy.policy.model import Source

COLLECTED_FIELDS = frozenset(Collection.__struct_fields__) - {"brand", "as_of"}
"""The fields of a collection other than its brand."""

GATHERED = frozenset({"occupations", "last_activity_at"})
"""Fields that profile a person: no import changes them after an objection to profiling."""

Key = tuple[str | None, Source | None, str | None]
Item = TypeVar("Item", ConsentAct, Purchase)
_FEW = 20
"""Items that are compared one with another; more are looked up by what is the same fact."""

_NOTHING = Collection()


def key_of(way: Collection) -> Key:
    """Return the identity of a collection: its brand, source and suppliers."""
    return (way.brand, way.source, way.name)


def with_given(told: Collection, given: frozenset[str]) -> Collection:
    """Return a collection with its given fields only."""
    fields = {name: getattr(told, name) for name in given}
    return Collection(told.brand, as_of=told.as_of, **fields)


def index_of(ways: Sequence[Collection], told: Collection, given: frozenset[str]) -> int | None:
    """Return the index of the collection that `told` is about; None if it is a new one.

    Without a source that is the newest of its brand, without suppliers the newest with its
    source. A collection that has no source yet gets this one.
    """
    own = [index for index, way in enumerate(ways) if way.brand == told.brand and not is_void(way)]
    if told.source is None or "source" not in given:
        return own[0] if own else None
    any_supplier = "provenance" not in given
    same = [
        index
        for index in own
        if ways[index].source is told.source and (any_supplier or ways[index].name == told.name)
    ]
    unsourced = [index for index in own if ways[index].source is None]
    return next(iter(same or unsourced), None)


def corrected(way: Collection, told: Collection, given: frozenset[str]) -> Collection:
    """Return the collection with a newer file's fields; `last_activity_at` never goes back."""
    changes: dict[str, Any] = {
        name: value for name in given if (value := getattr(told, name)) != getattr(way, name)
    }
    newest, active = way.last_activity_at, told.last_activity_at
    if newest and (active is None or active < newest):
        changes.pop("last_activity_at", None)
    return replace(way, **changes) if changes else way


def joined(
    ways: Sequence[Collection],
    told: Collection,
    given: frozenset[str],
    *,
    frozen: bool = False,
) -> tuple[tuple[Collection, ...], bool]:
    """Return the collections merged with `told`, and whether it differed but was no newer.

    The first is the newest, and remains so unless `told` is newer, by `as_of`. `frozen`: the
    fields that profile the person do not change.
    """
    if frozen:
        given -= GATHERED
    told = with_given(told, given)
    index = index_of(ways, told, given)
    known = None if index is None else ways[index]
    behind = known is not None and no_newer(told.as_of, known.as_of)
    if index is None or known is None or (behind and known.source is None is not told.source):
        return _added(ways, told), False
    now = corrected(known, told, given)
    if behind:
        return tuple(ways), now != known
    rest = [way for at, way in enumerate(ways) if at != index]
    if told.as_of is not None:
        now = replace(now, as_of=told.as_of)
    elif now == known:
        return tuple(ways), False
    if index and rest and no_newer(told.as_of, rest[0].as_of):
        return (*ways[:index], now, *ways[index + 1 :]), False
    return (now, *rest), False


def _added(ways: Sequence[Collection], told: Collection) -> tuple[Collection, ...]:
    """Return the collections and one more, unless one of them includes it."""
    if is_void(told) or any(_includes_collection(way, told) for way in ways):
        return tuple(ways)
    ways = [
        way
        for way in ways
        if not (
            _includes_collection(told, way) or (is_void(way) and way.brand in (None, told.brand))
        )
    ]
    if ways and no_newer(told.as_of, ways[0].as_of):
        return (*ways, told)
    return (told, *ways)


def no_newer(told: datetime | None, known: datetime | None) -> bool:
    return told is not None and known is not None and told <= known


def is_void(way: Collection) -> bool:
    """Whether only the brand is on record."""
    return replace(way, brand=None, as_of=None) == _NOTHING


def _includes_collection(named: Collection, way: Collection) -> bool:
    """Whether `way` is the same collection without its brand, and has no other facts."""
    if way.brand is not None or named.brand is None or key_of(way)[1:] != key_of(named)[1:]:
        return False
    return all(
        (value := getattr(way, name)) == getattr(named, name) or value == getattr(_NOTHING, name)
        for name in COLLECTED_FIELDS
    )


def renamed(contact: Contact, name: str | None) -> Contact:
    """Return the contact, after its newest collection got a new name, with that name in its acts
    and purchases."""
    was = collections(contact)[0].name
    if was is None or was == name:
        return contact
    return replace(
        contact,
        acts=tuple(replace(a, came_by=name) if a.came_by == was else a for a in contact.acts),
        purchases=tuple(
            replace(one, came_by=name) if one.came_by == was else one for one in contact.purchases
        ),
    )


def alike(ways: Iterable[Collection]) -> frozenset[Collection]:
    """Return the collections without order and age, to compare them."""
    return frozenset(replace(way, as_of=None) for way in ways)


def joined_items(before: tuple[Item, ...], told: Iterable[Item]) -> tuple[Item, ...]:
    """Return `before`, corrected in place, followed by the new items."""
    told = tuple(told)
    if not before and len(told) < 2:  # most contacts of a first import
        return told
    many = len(before) + len(told) > _FEW
    items: list[Item | None] = list(before)
    places: dict[Item | None, list[int]] = {}  # of those that may include each other
    for index, item in enumerate(before):
        places.setdefault(same_fact(item) if many else None, []).append(index)
    for item in told:
        alike = places.setdefault(same_fact(item) if many else None, [])
        if any((known := items[n]) is not None and _includes(known, item) for n in alike):
            continue
        less = [n for n in alike if (known := items[n]) is not None and _includes(item, known)]
        if not less or (isinstance(item, ConsentAct) and item.withdrawal):
            alike.append(len(items))
            items.append(item)
            continue
        items[less[0]] = item
        for n in less[1:]:
            items[n] = None
    return tuple(item for item in items if item is not None)


def included_in(items: Sequence[Item]) -> Callable[[Item], bool]:
    """Return a function that tells whether one of `items` says all that an item says."""
    if len(items) <= _FEW:
        return lambda item: any(_includes(known, item) for known in items)
    alike: dict[Item, list[Item]] = {}
    for known in items:
        alike.setdefault(same_fact(known), []).append(known)
    return lambda item: any(_includes(known, item) for known in alike.get(same_fact(item), ()))


def weaker(item: Item, names: Iterable[str | None]) -> list[Item]:
    """Return the less complete forms that `item` may have had before, the fullest first.

    `names` are those of the collections that it may belong to.
    """
    came = [item.came_by] if item.came_by else [None, *sorted(filter(None, names))]
    found = [
        replace(item, brand=brand, came_by=name)
        for name in came
        for brand in dict.fromkeys((item.brand, None))
    ]
    if isinstance(item, ConsentAct):
        found += [replace(one, conditional=None) for one in found]
        if item.evidence.recorded_by is not None:
            found += [_unsigned(one) for one in found]
    return [one for one in dict.fromkeys(found) if one != item]


def same_fact(item: Item) -> Item:
    """Return the item without the fields that may be added later, to compare it."""
    item = _unsigned(item)
    if isinstance(item, ConsentAct):
        return replace(item, brand=None, came_by=None, conditional=None)
    return replace(item, brand=None, came_by=None)


def _unsigned(item: Item) -> Item:
    """Return the item without who recorded it."""
    if not isinstance(item, ConsentAct) or item.evidence.recorded_by is None:
        return item
    return replace(item, evidence=replace(item.evidence, recorded_by=None))


def _includes(fuller: Item, item: Item) -> bool:
    """Whether both are equal, or `fuller` is the same fact with more on record.

    That is a brand, an answer, or that it came from the person and not from a list. Two partial
    items are never combined. A withdrawal without a brand is the stricter one.
    """
    if fuller == item:
        return True
    if same_fact(fuller) != same_fact(item):
        return False
    if isinstance(item, ConsentAct) and isinstance(fuller, ConsentAct):
        if item.withdrawal:
            return fuller.brand in (None, item.brand)
        if item.conditional not in (None, fuller.conditional):
            return False  # a yes and a no are both kept, and the stricter counts
    return item.brand in (None, fuller.brand) and fuller.came_by in (None, item.came_by)
