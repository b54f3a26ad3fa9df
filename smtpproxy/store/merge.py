"""What a new word about an address changes in what is known: the same on every backend."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from smtpproxy.policy.model import (
    ConsentAct,
    Contact,
    Origin,
    Purchase,
    Reading,
    RecipientFacts,
    Suppression,
)
from smtpproxy.policy.rules.recipient import restricting
from smtpproxy.store.protocols import PROFILE_FIELDS, BatchResult, ContactUpdate

WIDENED_ORIGINS = frozenset(
    {
        Origin.UNSUBSCRIBE,
        Origin.COMPLAINT,
        Origin.OBJECTION,
        Origin.ERASURE,
        Origin.EXTERNAL,
    }
)
"""Origins that hold for all variants of a mailbox; the others for the exact address alone."""

FROZEN = frozenset({"occupations", "tags", "last_activity_at"})
"""What is gathered about a person: after an objection to profiling, no import changes it."""

MARKS = ("first_contacted_at", "profiling_objected_at")
"""Moments that an update may set or move back, and never clear or move forward."""

SCOPE_KINDS = ("all", "marketing", "purpose")


@dataclass(frozen=True, slots=True)
class Known:
    """A contact as stored, with the age of its profile."""

    contact: Contact
    as_of: datetime | None = None


@dataclass(frozen=True, slots=True)
class Merged:
    """What is known after an update, and what that changed."""

    known: Known
    new_acts: tuple[ConsentAct, ...]
    changed: bool  # the contact differs from before
    touched: bool  # its row differs: changed, or the same profile of a newer source
    older: bool  # the update's profile differs, but is no newer than the stored one


def as_update(contact: Contact | ContactUpdate) -> ContactUpdate:
    """Return the update that `contact` is."""
    return contact if isinstance(contact, ContactUpdate) else ContactUpdate(contact)


def merge(known: Known | None, update: ContactUpdate) -> Merged:
    """Apply `update`: the newer profile stands, purchases and acts add up."""
    told = update.contact
    if known is None:
        contact = _with_history(told, told.purchases, told.acts)
        return Merged(Known(contact, update.as_of), contact.acts, True, True, False)
    before = known.contact
    profile = _with_profile(before, update)
    older = _no_newer(update.as_of, known.as_of)
    new_acts = tuple(act for act in ordered_acts(told.acts) if act not in before.acts)
    contact = _with_history(
        _with_marks(before if older else profile, told),
        before.purchases + told.purchases,
        before.acts + new_acts,
    )
    as_of = known.as_of if older or update.as_of is None else update.as_of
    changed = contact != before
    return Merged(
        known=Known(contact, as_of),
        new_acts=new_acts,
        changed=changed,
        touched=changed or as_of != known.as_of,
        older=older and profile != before,
    )


def refusals(update: ContactUpdate) -> ContactUpdate | None:
    """Return what an import may say of somebody who was erased and came back: that they refuse.

    None when it says nothing of the kind.
    """
    told = update.contact
    acts = tuple(act for act in told.acts if act.withdrawal)
    if not acts and told.profiling_objected_at is None:
        return None
    contact = Contact(told.address, acts=acts, profiling_objected_at=told.profiling_objected_at)
    return ContactUpdate(contact, frozenset(), update.as_of)


def _no_newer(update: datetime | None, stored: datetime | None) -> bool:
    return update is not None and stored is not None and update <= stored


def _with_profile(before: Contact, update: ContactUpdate) -> Contact:
    told = update.contact
    changes: dict[str, Any] = {
        name: getattr(told, name)
        for name in update.given & PROFILE_FIELDS
        if getattr(told, name) != getattr(before, name)
    }
    if "informed_at" in update.given and told.never_informed != before.never_informed:
        changes["never_informed"] = told.never_informed
    newest = before.last_activity_at
    if update.rectifies:
        return replace(before, **changes) if changes else before
    if newest and (told.last_activity_at is None or told.last_activity_at < newest):
        changes.pop("last_activity_at", None)  # what a person did cannot be undone
    if before.profiling_objected_at is not None and changes:
        changes = {name: value for name, value in changes.items() if name not in FROZEN}
        added = restricting(told.tags, update.restricted_tags) - before.tags
        if "tags" in update.given and added:
            changes["tags"] = before.tags | added
    return replace(before, **changes) if changes else before


def _with_marks(contact: Contact, told: Contact) -> Contact:
    changes = {
        name: at
        for name in MARKS
        if (at := getattr(told, name)) is not None
        and ((stored := getattr(contact, name)) is None or at < stored)
    }
    return replace(contact, **changes) if changes else contact


def _with_history(
    contact: Contact, purchases: tuple[Purchase, ...], acts: tuple[ConsentAct, ...]
) -> Contact:
    purchases, acts = ordered_purchases(purchases), ordered_acts(acts)
    if purchases == contact.purchases and acts == contact.acts:
        return contact
    return replace(contact, purchases=purchases, acts=acts)


def ordered_purchases(purchases: tuple[Purchase, ...]) -> tuple[Purchase, ...]:
    """Each once, oldest first."""
    if len(purchases) < 2:
        return purchases
    return tuple(sorted(set(purchases), key=lambda one: (one.at, one.product, one.kind)))


def ordered_acts(acts: tuple[ConsentAct, ...]) -> tuple[ConsentAct, ...]:
    """Each once, oldest first; of one moment the withdrawal is last: it is what counts."""
    if len(acts) < 2:
        return acts
    return tuple(sorted(dict.fromkeys(acts), key=lambda act: (act.at, act.withdrawal)))


def oldest_first(suppressions: Iterable[Suppression]) -> tuple[Suppression, ...]:
    return tuple(sorted(suppressions, key=lambda suppression: suppression.since))


def with_readings(
    own: RecipientFacts | None, others: Iterable[tuple[str, RecipientFacts | None]]
) -> RecipientFacts | None:
    """Add what keeps mail from the other addresses that an address may be read as.

    Nothing of theirs that would let mail through is taken over.
    """
    suppressions, found = [], []
    for address, known in others:
        if known is None:
            continue
        suppressions += [replace(one, read_as=address) for one in known.suppressions]
        if known.contact is not None and any(act.withdrawal for act in known.contact.acts):
            found.append(Reading(address, known.contact.acts))
    if not suppressions and not found:
        return own
    known = own or RecipientFacts()
    return replace(
        known,
        suppressions=oldest_first([*known.suppressions, *suppressions]),
        readings=tuple(found),
    )


class Tally:
    """Adds up what a batch changed."""

    __slots__ = ("added", "changed", "erased", "older", "unchanged")

    def __init__(self) -> None:
        self.added = self.changed = self.unchanged = self.older = self.erased = 0

    def count(self, *, new: bool, changed: bool, older: bool = False) -> None:
        if new:
            self.added += 1
        elif changed:
            self.changed += 1
        else:
            self.unchanged += 1
        self.older += older

    def result(self) -> BatchResult:
        return BatchResult(self.added, self.changed, self.unchanged, self.erased, self.older)
