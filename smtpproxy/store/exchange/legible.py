"""What of a rejected record is legible, so far as it is about what a person refuses."""

import dataclasses
from collections.abc import Sequence

import msgspec
from msgspec import structs

from smtpproxy.store.exchange.contact_record import Word, Words
from smtpproxy.store.protocols import ContactUpdate

EVERY_PURPOSE = "*"
"""Stands for the purpose of a withdrawal that does not say from what."""


def words_in(value: object) -> Words:
    """Return those of a list that are words."""
    found = value if isinstance(value, list) else []
    return [word for word in found if isinstance(word, str) and _is_word(word)]


def _is_word(text: str) -> bool:
    try:
        msgspec.convert(text, Word)
    except msgspec.ValidationError:
        return False
    return True


def agreed(readings: Sequence[ContactUpdate | None]) -> ContactUpdate | None:
    """Return what a row refuses by all of its readings; None: nothing, or they differ."""
    found = {_refused(one): one for one in readings}
    update = next(iter(found.values())) if len(found) == 1 else None
    if update is None:
        return None
    tags = frozenset.intersection(*(one.contact.tags for one in readings if one is not None))
    return dataclasses.replace(update, contact=structs.replace(update.contact, tags=tags))


def _refused(update: ContactUpdate | None) -> frozenset[object]:
    """Return what tells readings apart: not their tags, of which few restrict."""
    if update is None:
        return frozenset()
    contact = update.contact
    acts = ((act.purpose, act.brand) for act in contact.acts)
    return frozenset({contact.address, contact.profiling_objected_at is not None, *acts})
