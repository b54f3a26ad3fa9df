"""Rectifying a contact at the person's request (RGPD 16), perhaps with a new address."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from smtpproxy.policy.model import Contact, Origin, Suppression, collections
from smtpproxy.policy.rules.recipient import restricting
from smtpproxy.store.collected import is_void, key_of, renamed
from smtpproxy.store.merge import Known
from smtpproxy.store.operations import Change, Correction
from smtpproxy.store.records import PROFILE_FIELDS, ContactUpdate, SuppressionEntry

_EMPTY = Contact("")
_FIELDS = ("address", *sorted(PROFILE_FIELDS))
_OF_THE_PERSON = ("audience", "occupations")  # in each collection, and rectified in all


def corrected(
    known: Known, target: Known | None, correction: Correction, at: datetime
) -> tuple[ContactUpdate, tuple[Change, ...]]:
    """Return the update that rectifies a contact, and its changes.

    `target` is the contact that already has the new address. Its profile stays, if it has one;
    tags that restrict either restrict the result, and the histories are joined.
    """
    old = known.contact
    base = old
    if target is not None and _has_profile(target.contact):
        base = replace(
            target.contact,
            tags=target.contact.tags | restricting(old.tags, correction.restricted_tags),
        )
    after = correction.applied(replace(base, address=old.address))
    if base is not old:
        present = {key_of(way) for way in collections(after)}
        added = (
            replace(way, as_of=way.as_of or known.as_of)
            for way in collections(old)
            if not is_void(way)
        )
        others = (*after.others, *(way for way in added if key_of(way) not in present))
        after = replace(after, others=others)
    else:
        old = renamed(old, collections(after)[0].name)
    # With a source dated in the future on record, `at` would be no newer: then it has no date.
    ages = [one.as_of for one in (known, target) if one is not None and one.as_of is not None]
    as_of = None if any(age >= at for age in ages) else at
    update = ContactUpdate(
        replace(
            after,
            purchases=old.purchases,
            acts=old.acts,
            first_contacted_at=old.first_contacted_at,
            profiling_objected_at=old.profiling_objected_at,
            preferences=old.preferences,
        ),
        as_of=as_of,
        rectifies=True,
        restricted_tags=correction.restricted_tags,
    )
    return update, _changes(known.contact, after)


def follows(origin: Origin) -> bool:
    """Whether what suppresses an old address does so with the new one: a bounce is a mailbox's."""
    return origin is not Origin.BOUNCE


def following(suppressions: Sequence[Suppression], address: str) -> list[SuppressionEntry]:
    """Return the suppressions of an old address as those of the new one."""
    return [
        SuppressionEntry(address, one.scope, one.origin, one.since, one.note)
        for one in suppressions
        if follows(one.origin) and one.domain is None and one.read_as is None
    ]


def _has_profile(contact: Contact) -> bool:
    return any(getattr(contact, name) != getattr(_EMPTY, name) for name in PROFILE_FIELDS)


def _changes(before: Contact, after: Contact) -> tuple[Change, ...]:
    pairs = [(name, _value(before, name), _value(after, name)) for name in _FIELDS]
    earlier = {key_of(way): way for way in before.others}
    pairs += [
        (name, getattr(earlier[key], name), getattr(way, name))
        for way in after.others
        if (key := key_of(way)) in earlier
        for name in _OF_THE_PERSON
    ]
    changes = [Change(name, _text(b), _text(a)) for name, b, a in pairs if b != a]
    return tuple(dict.fromkeys(changes))


def _value(contact: Contact, name: str) -> Any:
    if name == "informed_at" and contact.never_informed:
        return False  # on record, unlike a notice of which nothing is
    return getattr(contact, name)


def _text(value: Any) -> str | None:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, frozenset):
        return ", ".join(sorted(value)) or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or isinstance(value, str):
        return None if value is None else str(value)
    hands = [*value.chain, value] if value.supplier or not value.chain else value.chain
    return " → ".join(hand.supplier or "?" for hand in hands)
