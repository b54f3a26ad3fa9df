"""What a new word about an address changes in what is known: the same on every backend."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from msgspec.structs import replace

from smtpproxy.policy.model import (
    ConsentAct,
    Contact,
    Dealing,
    Origin,
    Purchase,
    Suppression,
)
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
    """Return the update that `contact` is.

    Raises ValueError for what no backend keeps yet and would give back as more than it is:
    a pending agreement as a full one, an inquiry as a sale.
    """
    update = contact if isinstance(contact, ContactUpdate) else ContactUpdate(contact)
    if any(act.pending for act in update.contact.acts):
        raise ValueError("a pending agreement cannot be stored yet")
    if any(purchase.kind is not Dealing.SALE for purchase in update.contact.purchases):
        raise ValueError("of dealings, only sales can be stored yet")
    return update


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
        before if older else profile, before.purchases + told.purchases, before.acts + new_acts
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


def _no_newer(update: datetime | None, stored: datetime | None) -> bool:
    return update is not None and stored is not None and update <= stored


def _with_profile(before: Contact, update: ContactUpdate) -> Contact:
    told = update.contact
    changes = {
        name: getattr(told, name)
        for name in update.given & PROFILE_FIELDS
        if getattr(told, name) != getattr(before, name)
    }
    newest = before.last_activity_at
    if newest and (told.last_activity_at is None or told.last_activity_at < newest):
        changes.pop("last_activity_at", None)  # what a person did cannot be undone
    return replace(before, **changes) if changes else before


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
    return tuple(sorted(set(purchases), key=lambda purchase: (purchase.at, purchase.product)))


def ordered_acts(acts: tuple[ConsentAct, ...]) -> tuple[ConsentAct, ...]:
    """Each once, oldest first; of one moment the withdrawal is last: it is what counts."""
    if len(acts) < 2:
        return acts
    return tuple(sorted(dict.fromkeys(acts), key=lambda act: (act.at, act.withdrawal)))


def oldest_first(suppressions: Iterable[Suppression]) -> tuple[Suppression, ...]:
    return tuple(sorted(suppressions, key=lambda suppression: suppression.since))


class Tally:
    """Adds up what a batch changed."""

    __slots__ = ("added", "changed", "older", "unchanged")

    def __init__(self) -> None:
        self.added = self.changed = self.unchanged = self.older = 0

    def count(self, *, new: bool, changed: bool, older: bool = False) -> None:
        if new:
            self.added += 1
        elif changed:
            self.changed += 1
        else:
            self.unchanged += 1
        self.older += older

    def result(self) -> BatchResult:
        return BatchResult(self.added, self.changed, self.unchanged, self.older)
