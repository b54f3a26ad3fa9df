"""Which parts of a record count for a stream: what was said to its brand, by collection.

The law's exceptions apply to the same seller (CPCE art. L. 34-5), and consent to whoever it was
given to.
A permission names its brand, unless there is only one; a refusal without a brand counts against
all.
"""

from collections.abc import Iterable
from datetime import datetime

from msgspec.structs import replace

from smtpproxy.policy.model import (
    BUILT_IN_BRAND,
    Collection,
    ConsentAct,
    Contact,
    Reading,
    Stream,
    collected,
    collections,
)
from smtpproxy.policy.rules import RecipientCase


def is_own(brand: str | None, stream: Stream) -> bool:
    """Whether a permission given to `brand` may allow mail of the stream. None: not on record."""
    return brand in stream.own_brands


def concerns(brand: str | None, stream: Stream) -> bool:
    """Whether a refusal given to `brand` counts against the stream.

    A stream of the built-in brand may speak for anybody. A missing brand may have been renamed.
    """
    if brand is None or brand == stream.brand or stream.brand == BUILT_IN_BRAND:
        return True
    return bool(stream.all_brands) and brand not in stream.all_brands


def by_collection(case: RecipientCase) -> tuple[RecipientCase, ...]:
    """Return one case for each collection of the stream's brand, with what that collection brought.

    Whatever no collection brought is in each. If there is no collection, the record does not say
    how this brand obtained the address: then there is one case, with a contact of another brand.
    """
    contact, facts, stream = case.facts.contact, case.facts, case.stream
    if facts.readings:
        facts = replace(facts, readings=_concerning(facts.readings, stream))
    if contact is None:
        return (case if facts is case.facts else replace(case, facts=facts),)
    if facts is case.facts and has_one_collection(contact, stream):
        return (case,)
    own = [each for each in collections(contact) if is_own(each.brand, stream)]
    own = own or [Collection(contact.brand)]
    active = max((at for each in own if (at := each.last_activity_at)), default=None)
    return tuple(
        replace(case, facts=replace(facts, contact=_seen_from(contact, each, stream, active)))
        for each in own
    )


def has_one_collection(contact: Contact, stream: Stream) -> bool:
    """Whether there is one collection, and everything on record is the brand's and came by it."""
    if contact.others:
        return False
    own = stream.own_brands
    if contact.brand not in own:
        return False
    for act in contact.acts:
        if act.brand not in own or act.came_by is not None:
            return False
    for purchase in contact.purchases:
        if purchase.brand not in own or purchase.came_by is not None:
            return False
    return True


def _seen_from(
    contact: Contact, collection: Collection, stream: Stream, active: datetime | None
) -> Contact:
    name = collection.name
    return replace(
        collected(contact, (collection,)),
        last_activity_at=active,
        acts=_said_to(contact.acts, stream, name),
        purchases=tuple(
            one
            for one in contact.purchases
            if is_own(one.brand, stream) and one.came_by in (None, name)
        ),
    )


def _concerning(readings: Iterable[Reading], stream: Stream) -> tuple[Reading, ...]:
    """The acts for other addresses that may refuse: withdrawals, and what ended them."""
    return tuple(replace(one, acts=_said_to(one.acts, stream, None)) for one in readings)


def _said_to(
    acts: Iterable[ConsentAct], stream: Stream, collection: str | None
) -> tuple[ConsentAct, ...]:
    return tuple(
        act
        for act in acts
        if (
            concerns(act.brand, stream)
            if act.withdrawal
            else is_own(act.brand, stream) and act.came_by in (None, collection)
        )
    )
