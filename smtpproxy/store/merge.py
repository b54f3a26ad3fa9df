"""Merging an update into a contact, and deciding when a contact has outlived its period.

A contact is removed when the person has been silent for the period (rules A9 and A17). Their
withdrawals and objections are kept as suppressions, which name nobody (A35).
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from operator import attrgetter
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.mail.address import readings
from smtpproxy.policy.contact import wishes_about
from smtpproxy.policy.model import (
    EVERY_PURPOSE,
    NO_FACTS,
    Collection,
    ConsentAct,
    Contact,
    Frequency,
    Origin,
    Pause,
    Preference,
    Purchase,
    Reading,
    RecipientFacts,
    Suppression,
    collected,
    collections,
)
from smtpproxy.policy.rules.recipient import restricting
from smtpproxy.store.collected import (
    COLLECTED_FIELDS,
    GATHERED,
    alike,
    joined,
    joined_items,
    no_newer,
    renamed,
)
from smtpproxy.store.operations import Limits, Removed
from smtpproxy.store.records import PROFILE_FIELDS, ContactUpdate, SuppressionEntry

FROZEN = GATHERED | {"tags"}
"""Fields that no import changes after an objection to profiling."""

MARKS = ("first_contacted_at", "profiling_objected_at")
"""Times that an update may set or move back, but never clear or move forward."""


class Known(Struct, frozen=True):
    """A contact as stored, with the age of its profile."""

    contact: Contact
    as_of: datetime | None = None


class Merged(Struct, frozen=True):
    """A contact after an update, and what that changed."""

    known: Known
    new_acts: tuple[ConsentAct, ...]
    corrected: bool  # a known act was replaced by a more complete one
    changed: bool  # the contact differs from before
    touched: bool  # its row differs: changed, or the same profile from a newer source
    older: bool  # the update's profile differs, but is no newer than the stored one


def as_update(contact: Contact | ContactUpdate) -> ContactUpdate:
    """Return a bare contact as an update of its whole profile."""
    return contact if isinstance(contact, ContactUpdate) else ContactUpdate(contact)


def merge(known: Known | None, update: ContactUpdate) -> Merged:
    """Apply `update`: the newer profile counts, purchases and acts accumulate."""
    told = update.contact
    if known is None:
        contact = _with_history(told, joined_items((), told.purchases), joined_items((), told.acts))
        if told.preferences or told.others:
            others = tuple(replace(way, as_of=way.as_of or update.as_of) for way in told.others)
            wishes = newest_preferences(told.preferences)
            contact = replace(contact, preferences=wishes, others=others)
        known = Known(contact, update.as_of)
        return Merged(known, contact.acts, False, changed=True, touched=True, older=False)
    before = known.contact
    profile = _with_profile(before, update)
    if update.rectifies:
        profile = renamed(profile, collections(told)[0].name)
    older = no_newer(update.as_of, known.as_of)
    ways, behind = _with_collections(known, update)
    acts = joined_items(profile.acts, told.acts)
    contact = before if older else profile
    if "tags" not in update.given and (tags := _restrictions(known, update)):
        contact = replace(contact, tags=contact.tags | tags)
    contact = _with_history(
        _with_marks(contact, told),
        joined_items(profile.purchases, told.purchases),
        acts,
    )
    same = alike(ways) == alike(collections(before))
    if ways != collections(before):
        contact = collected(contact, ways)
    as_of = known.as_of if older or update.as_of is None else update.as_of
    changed = not same or collected(contact, collections(before)) != before
    return Merged(
        known=Known(contact, as_of),
        new_acts=ordered_acts(acts[len(before.acts) :]),
        corrected=acts[: len(before.acts)] != before.acts,
        changed=changed,
        touched=changed or as_of != known.as_of or contact != before,
        older=(older and profile != before) or behind,
    )


def refusals(update: ContactUpdate) -> ContactUpdate | None:
    """Return the refusals in an update, or None if there are none.

    Nothing else may be imported about a person who was erased and came back.
    """
    told = update.contact
    contact = Contact(
        told.address,
        tags=restricting(told.tags, update.restricted_tags),
        acts=tuple(act for act in told.acts if act.withdrawal),
        profiling_objected_at=told.profiling_objected_at,
        preferences=tuple(one for one in told.preferences if one.frequency is not Frequency.ALL),
    )
    if contact == Contact(told.address):
        return None
    tags = update.restricted_tags
    return ContactUpdate(contact, frozenset(), update.as_of, restricted_tags=tags)


def _with_collections(known: Known, update: ContactUpdate) -> tuple[tuple[Collection, ...], bool]:
    """Return the collections, and whether the update differs in one of them but is no newer."""
    told = update.contact
    if update.rectifies:
        return collections(told), False
    newest, *others = collections(known.contact)
    ways: tuple[Collection, ...] = (replace(newest, as_of=known.as_of), *others)
    given = update.given & COLLECTED_FIELDS
    if "informed_at" in given:
        given |= {"never_informed"}
    frozen = known.contact.profiling_objected_at is not None
    first, *more = [replace(way, as_of=way.as_of or update.as_of) for way in collections(told)]
    behind = False
    if given:
        ways, behind = joined(ways, first, given, frozen=frozen)
    for way in more:
        ways, differs = joined(ways, way, COLLECTED_FIELDS, frozen=frozen)
        behind |= differs
    return (replace(ways[0], as_of=None), *ways[1:]), behind


def _restrictions(known: Known, update: ContactUpdate) -> frozenset[str]:
    """Return the restricting tags that an update adds without replacing all, unless it is older."""
    if update.as_of is not None and known.as_of is not None and update.as_of < known.as_of:
        return frozenset()
    return restricting(update.contact.tags, update.restricted_tags) - known.contact.tags


def _with_profile(before: Contact, update: ContactUpdate) -> Contact:
    told = update.contact
    changes: dict[str, Any] = {
        name: getattr(told, name)
        for name in (update.given & PROFILE_FIELDS) - COLLECTED_FIELDS
        if getattr(told, name) != getattr(before, name)
    }
    if before.profiling_objected_at is not None and changes and not update.rectifies:
        changes = {name: value for name, value in changes.items() if name not in FROZEN}
        added = restricting(told.tags, update.restricted_tags) - before.tags
        if "tags" in update.given and added:
            changes["tags"] = before.tags | added
    return replace(before, **changes) if changes else before


def _with_marks(contact: Contact, told: Contact) -> Contact:
    changes: dict[str, Any] = {
        name: at
        for name in MARKS
        if (at := getattr(told, name)) is not None
        and ((stored := getattr(contact, name)) is None or at < stored)
    }
    preferences = newest_preferences((*contact.preferences, *told.preferences))
    if preferences != contact.preferences:
        changes["preferences"] = preferences
    return replace(contact, **changes) if changes else contact


STRICTNESS = tuple(Frequency)
"""Frequencies, the least strict first."""


def wanted(contact: Contact | None, purpose: str, brand: str) -> Frequency | None:
    """Return how often a person wants a brand's mail of one purpose; None: they never said."""
    told = () if contact is None else wishes_about(contact.preferences, purpose, brand)
    return max((one.frequency for one in told), key=STRICTNESS.index, default=None)


def newest_preferences(told: Iterable[Preference]) -> tuple[Preference, ...]:
    """Return the newest for each brand and purpose; of several at one time, the strictest."""
    newest: dict[tuple[str, str], Preference] = {}
    for one in sorted(told, key=lambda one: (one.at, STRICTNESS.index(one.frequency))):
        newest[one.brand, one.purpose] = one
    return tuple(newest[key] for key in sorted(newest))


def _with_history(
    contact: Contact, purchases: tuple[Purchase, ...], acts: tuple[ConsentAct, ...]
) -> Contact:
    purchases, acts = ordered_purchases(purchases), ordered_acts(acts)
    if purchases == contact.purchases and acts == contact.acts:
        return contact
    return replace(contact, purchases=purchases, acts=acts)


def ordered_purchases(purchases: tuple[Purchase, ...]) -> tuple[Purchase, ...]:
    """Return each once, oldest first."""
    if len(purchases) < 2:
        return purchases
    return tuple(sorted(dict.fromkeys(purchases), key=_order))


def _order(one: Purchase) -> tuple[object, ...]:
    return (one.at, one.product, one.kind, one.brand or "", one.came_by or "")


def ordered_acts(acts: tuple[ConsentAct, ...]) -> tuple[ConsentAct, ...]:
    """Return each once, oldest first; at one time the withdrawal is last, as it counts."""
    if len(acts) < 2:
        return acts
    return tuple(sorted(dict.fromkeys(acts), key=lambda act: (act.at, act.withdrawal)))


def oldest_first(suppressions: Iterable[Suppression]) -> tuple[Suppression, ...]:
    """Return them in a fixed order, in whatever order a database returns those of one moment."""
    return tuple(sorted(suppressions, key=attrgetter("since", "scope", "origin")))


def with_readings(
    own: RecipientFacts | None, others: Iterable[tuple[str, RecipientFacts | None]]
) -> RecipientFacts | None:
    """Add the suppressions and withdrawals of the other addresses that an address may be read as.

    Nothing of theirs that would let mail through is added.
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


def facts_about(
    addresses: Iterable[str],
    known: Callable[[str], RecipientFacts | None],
    pauses: tuple[Pause, ...],
    other: Callable[[str], RecipientFacts | None] | None = None,
) -> dict[str, RecipientFacts]:
    """Return the facts about each address that has any.

    `known` returns those about the name alone, and `other`, if that is given, about another name
    that an address may be read as. The pauses of streams are added.
    """
    facts = {}
    for address in addresses:
        found = known(address)
        if others := readings(address):
            found = with_readings(found, [(one, (other or known)(one)) for one in others])
        if pauses:
            found = replace(found or NO_FACTS, pauses=pauses)
        if found is not None:
            facts[address] = found
    return facts


def removed(dates: list[datetime]) -> Removed:
    return Removed(len(dates), min(dates, default=None), max(dates, default=None))


def last_sign(contact: Contact, now: datetime) -> datetime | None:
    """Return the last sign of life that is not a dealing: a collection, an activity, a consent act.

    A withdrawal is one too: a person who withdraws is not silent.
    """
    ways = collections(contact)
    return _newest(
        [
            *(way.collected_at or way.informed_at for way in ways),
            *(way.last_activity_at for way in ways),
            *(act.at for act in contact.acts),
        ],
        now,
    )


def last_dealing(contact: Contact, now: datetime) -> datetime | None:
    return _newest([purchase.at for purchase in contact.purchases], now)


def _newest(moments: list[datetime | None], now: datetime) -> datetime | None:
    return max((at for at in moments if at is not None and at <= now), default=None)


def is_undated(contact: Contact, now: datetime) -> bool:
    return last_sign(contact, now) is None and last_dealing(contact, now) is None


def _was_only_asked(contact: Contact, now: datetime) -> bool:
    """Whether there is nothing but unconfirmed requests, perhaps by somebody else."""
    asked = bool(contact.acts) and all(act.pending for act in contact.acts)
    return asked and is_undated(replace(contact, acts=()), now)


def outlived(
    contact: Contact, undated_since: datetime | None, limits: Limits, now: datetime
) -> datetime | None:
    """Return the last sign or dealing of a contact that has outlived its period, or else None."""
    sign, dealing = last_sign(contact, now), last_dealing(contact, now)
    if limits.requests is not None and _was_only_asked(contact, now):
        return sign if sign is not None and sign < limits.requests else None
    if sign is None and dealing is None:
        sign = undated_since
        if sign is None:  # its period starts now
            return None
    if sign is not None and sign >= limits.prospects:
        return None
    if dealing is not None and dealing >= limits.customers:
        return None
    return _newest([sign, dealing], now)


def withdrawn_scope(purpose: str | None, brand: str | None) -> str:
    """Return the scope of the suppression that takes the place of a withdrawal."""
    if purpose != EVERY_PURPOSE:
        return f"purpose:{purpose}"
    return f"brand:{brand}" if brand else "marketing"


def orders(contact: Contact, limits: Limits, now: datetime) -> Iterator[SuppressionEntry]:
    """Yield the person's refusals as suppressions, which outlast the contact.

    A withdrawal becomes an `unsubscribe` from what it was about: that gives way to later consent
    too, but not to earlier.
    """
    withdrawn: dict[str, datetime] = {}
    for act in contact.acts:
        if act.withdrawal and act.purpose:
            scope = withdrawn_scope(act.purpose, act.brand)
            withdrawn[scope] = max(act.at, withdrawn.get(scope, act.at))
    for scope, at in withdrawn.items():
        yield SuppressionEntry(
            contact.address, scope, Origin.UNSUBSCRIBE, at, "consent was withdrawn"
        )
    if contact.profiling_objected_at is not None:
        yield SuppressionEntry(
            contact.address,
            "marketing",
            Origin.OBJECTION,
            contact.profiling_objected_at,
            "objected to profiling",
        )
    if restricting(contact.tags, limits.restricted):
        yield SuppressionEntry(
            contact.address, "marketing", Origin.MANUAL, now, "the contact was restricted"
        )
