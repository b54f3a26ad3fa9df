"""What is told again, and what is told anew: collections, acts and purchases of one address.

Pure. A collection is its brand, its source and its suppliers: a newer file about the same one
corrects it, another source makes another one. An act or purchase is its own fields; whom it was
said to and what it came by may be told later. What is told without a brand and turns out to be a
brand's becomes that, where nothing but what the brand's own file says goes with it.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from msgspec.structs import replace

from smtpproxy.policy.contact import Collection, ConsentAct, Contact, Purchase, collections
from smtpproxy.policy.model import Source

COLLECTED_FIELDS = frozenset(
    {
        "source",
        "collected_at",
        "informed_at",
        "never_informed",
        "optout_offered",
        "last_activity_at",
        "provenance",
        "audience",
        "occupations",
    }
)
"""What a collection says beside its brand."""

GATHERED = frozenset({"occupations", "last_activity_at"})
"""What of it is gathered about a person: after an objection to profiling, no import changes it."""

Key = tuple[str | None, Source | None, str | None]
Item = TypeVar("Item", ConsentAct, Purchase)

_NOTHING = Collection()


def key_of(way: Collection) -> Key:
    """Return what makes it this collection: its brand, its source, its suppliers."""
    return (way.brand, way.source, way.name)


def said(told: Collection, given: frozenset[str]) -> Collection:
    """Return a collection with what is told of it alone."""
    fields = {name: getattr(told, name) for name in given}
    return Collection(told.brand, as_of=told.as_of, **fields)


def place_of(ways: Sequence[Collection], told: Collection, given: frozenset[str]) -> int | None:
    """Return which of the collections `told` is about, None: another one.

    Without a source it is about the newest of its brand, without suppliers about the newest of
    its source. One that has no source yet gets it.
    """
    own = [place for place, way in enumerate(ways) if way.brand == told.brand and not is_void(way)]
    if told.source is None or "source" not in given:
        return own[0] if own else None
    whoever = "provenance" not in given
    same = [
        place
        for place in own
        if ways[place].source is told.source and (whoever or ways[place].name == told.name)
    ]
    unsourced = [place for place in own if ways[place].source is None]
    return next(iter(same or unsourced), None)


def corrected(
    way: Collection, told: Collection, given: frozenset[str], *, rectifies: bool = False
) -> Collection:
    """Return the collection as a newer file tells it; what a person did last never goes back."""
    changes: dict[str, Any] = {
        name: value for name in given if (value := getattr(told, name)) != getattr(way, name)
    }
    newest, active = way.last_activity_at, told.last_activity_at
    if newest and (active is None or active < newest) and not rectifies:
        changes.pop("last_activity_at", None)
    return replace(way, **changes) if changes else way


def joined(
    ways: Sequence[Collection],
    told: Collection,
    given: frozenset[str],
    *,
    frozen: bool = False,
) -> tuple[tuple[Collection, ...], bool]:
    """Return the collections with what is told, and whether it differed but was no newer.

    The first is the newest, and stays so unless what is told is newer. `as_of` of each is its
    age. `frozen`: what was gathered about the person is not added to.
    """
    if frozen:
        given -= GATHERED
    told = said(told, given)
    place = place_of(ways, told, given)
    known = None if place is None else ways[place]
    behind = known is not None and _no_newer(told.as_of, known.as_of)
    if place is None or known is None or (behind and known.source is None is not told.source):
        return _added(ways, told), False
    now = corrected(known, told, given)
    if behind:
        return tuple(ways), now != known
    rest = [way for at, way in enumerate(ways) if at != place]
    if told.as_of is not None:
        now = replace(now, as_of=told.as_of)
    elif now == known:
        return tuple(ways), False
    if place and rest and _no_newer(told.as_of, rest[0].as_of):
        return (*ways[:place], now, *ways[place + 1 :]), False
    return (now, *rest), False


def _added(ways: Sequence[Collection], told: Collection) -> tuple[Collection, ...]:
    """Return the collections and one more, unless one of them says all of that."""
    if is_void(told) or any(_says_all_of(way, told) for way in ways):
        return tuple(ways)
    ways = [
        way
        for way in ways
        if not (_says_all_of(told, way) or (is_void(way) and way.brand == told.brand))
    ]
    if ways and _no_newer(told.as_of, ways[0].as_of):
        return (*ways, told)
    return (told, *ways)


def _no_newer(told: datetime | None, known: datetime | None) -> bool:
    return told is not None and known is not None and told <= known


def is_void(way: Collection) -> bool:
    """Whether nothing is on record but the brand."""
    return replace(way, brand=None, as_of=None) == _NOTHING


def _says_all_of(named: Collection, way: Collection) -> bool:
    """Whether `way` is the same collection, without its brand and with no fact of its own."""
    if way.brand is not None or named.brand is None or key_of(way)[1:] != key_of(named)[1:]:
        return False
    return all(
        (value := getattr(way, name)) == getattr(named, name) or value == getattr(_NOTHING, name)
        for name in COLLECTED_FIELDS
    )


def renamed(contact: Contact, name: str | None) -> Contact:
    """Return the contact whose newest collection is now called so, with what came by it."""
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
    """Return them without their order and age."""
    return frozenset(replace(way, as_of=None) for way in ways)


def joined_items(before: tuple[Item, ...], told: Iterable[Item]) -> tuple[Item, ...]:
    """Return `before`, corrected in place, with the items that are new behind it."""
    items = list(before)
    for item in told:
        if is_told(item, items):
            continue
        places = [place for place, known in enumerate(items) if _says_all_that(item, known)]
        if not places or (isinstance(item, ConsentAct) and item.withdrawal):
            items.append(item)
            continue
        items[places[0]] = item
        for place in reversed(places[1:]):
            del items[place]
    return tuple(items)


def is_told(item: Item, items: Iterable[Item]) -> bool:
    """Whether `items` say all that `item` says."""
    return any(_says_all_that(known, item) for known in items)


def weaker(item: Item, names: Iterable[str | None]) -> list[Item]:
    """Return what `item` may have been told as before it was what it is, the fullest first.

    `names` are those of the collections that it may have come by.
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
    """Return the item without what may be told later."""
    item = _unsigned(item)
    if isinstance(item, ConsentAct):
        return replace(item, brand=None, came_by=None, conditional=None)
    return replace(item, brand=None, came_by=None)


def _unsigned(item: Item) -> Item:
    """Return it whoever recorded it."""
    if not isinstance(item, ConsentAct) or item.evidence.recorded_by is None:
        return item
    return replace(item, evidence=replace(item.evidence, recorded_by=None))


def _says_all_that(fuller: Item, item: Item) -> bool:
    """Whether one is the other, or the same with more on record: with its brand, told by the
    person and not by a list, with an answer. What two of them say together is said by nobody.

    A withdrawal without a brand is the stricter one.
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
