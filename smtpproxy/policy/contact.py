"""What is on record of one address: how it was obtained, and what the person did and said.

Frozen data, times in UTC. The audit journal and the store keep these records for years, without
what has its default.
"""

from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.policy.rulebook import Audience, Dealing, Frequency, Source

BUILT_IN_BRAND = "default"
"""Whose streams are where the configuration names no brand, or several and not which."""


class Evidence(Struct, frozen=True, omit_defaults=True):
    """The proof of one act of agreement (rule A2, RGPD 7(1)). Its time is the act's `at`."""

    wording: str | None = None
    ip: str | None = None
    version: str | None = None  # of the wording
    form: str | None = None  # where it was given: a page, a till, a stand
    document_hash: str | None = None  # SHA-256 of the proof document, in hex
    recorded_by: str | None = None  # a program, over the API; None: anybody else, or unknown


class ConsentAct(Struct, frozen=True, omit_defaults=True):
    """One act of agreement to one purpose, or its withdrawal.

    A double opt-in is two acts: one that is `pending`, and the confirmation.
    """

    purpose: str
    at: datetime
    withdrawal: bool = False
    method: str | None = None
    conditional: bool | None = None  # a condition of the service; None: not on record
    channels: frozenset[str] = frozenset({"email"})
    evidence: Evidence = Evidence()
    pending: bool = False  # asked for, and not confirmed by this act
    brand: str | None = None  # whom it was said to; None: not on record
    came_by: str | None = None  # the name of the collection that it is known by


class Purchase(Struct, frozen=True, omit_defaults=True):
    product: str
    at: datetime
    kind: Dealing = Dealing.SALE
    brand: str | None = None  # who sold it; None: not on record
    came_by: str | None = None  # the name of the collection that it is known by


class Link(Struct, frozen=True, omit_defaults=True):
    """One hand that an address went through, and what the person was told there."""

    supplier: str | None = None
    sender_disclosed: bool | None = None  # None: not on record
    at: datetime | None = None


class Provenance(Struct, frozen=True, omit_defaults=True):
    """Whom an address came from: one supplier, or a chain of them, the collector first.

    A supplier next to a chain is its last hand.
    """

    supplier: str | None = None
    sender_disclosed: bool | None = None  # None: not on record
    chain: tuple[Link, ...] = ()


class Collection(Struct, frozen=True, omit_defaults=True):
    """One way in which an address was obtained by a brand, what the person was told then, and what
    they are by this source."""

    brand: str | None = None  # None: not on record
    source: Source | None = None
    collected_at: datetime | None = None
    informed_at: datetime | None = None
    never_informed: bool = False
    optout_offered: bool | None = None
    last_activity_at: datetime | None = None
    provenance: Provenance | None = None
    as_of: datetime | None = None  # the age of the source that says so
    audience: Audience = Audience.UNKNOWN
    occupations: frozenset[str] = frozenset()

    @property
    def name(self) -> str | None:
        """What distinguishes it from others of its brand, and what came by it says.

        None of what the person told us: that needs no collection to vouch for it.
        """
        return came_by(self.source, self.provenance)


def came_by(source: Source | None, provenance: Provenance | None) -> str | None:
    """Return the name of a collection: `purchased: List Ltd`."""
    if source is None or source is Source.DIRECT:
        return None
    hands = () if provenance is None else (*provenance.chain, Link(provenance.supplier))
    suppliers = " > ".join([hand.supplier for hand in hands if hand.supplier])
    return f"{source}: {suppliers}" if suppliers else str(source)


class Preference(Struct, frozen=True, omit_defaults=True):
    """How often a person wants mail of a purpose of a brand, said at a moment."""

    purpose: str
    frequency: Frequency
    at: datetime
    brand: str = BUILT_IN_BRAND


class Contact(Struct, frozen=True, omit_defaults=True):
    """What the store knows of one address. `acts` is a history, oldest first."""

    address: str  # canonical (mail.address)
    audience: Audience = Audience.UNKNOWN
    source: Source | None = None
    collected_at: datetime | None = None
    informed_at: datetime | None = None
    optout_offered: bool | None = None  # at collection; None: not on record
    last_activity_at: datetime | None = None  # newest positive act: click, reply, login
    occupations: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    provenance: Provenance | None = None
    purchases: tuple[Purchase, ...] = ()
    acts: tuple[ConsentAct, ...] = ()
    first_contacted_at: datetime | None = None  # first mail on any marketing stream
    profiling_objected_at: datetime | None = None  # what was gathered is frozen (RGPD 21(2))
    never_informed: bool = False  # it is on record that nothing was told at collection
    language: str | None = None  # what the person reads: "fr", "de-at"
    preferences: tuple[Preference, ...] = ()  # one for each brand and purpose
    brand: str | None = None  # who obtained the address as said above; None: not on record
    others: tuple[Collection, ...] = ()  # in which other ways it was obtained


def collections(contact: Contact) -> tuple[Collection, ...]:
    """Return each way in which an address was obtained, the newest first."""
    newest = Collection(
        contact.brand,
        contact.source,
        contact.collected_at,
        contact.informed_at,
        contact.never_informed,
        contact.optout_offered,
        contact.last_activity_at,
        contact.provenance,
        audience=contact.audience,
        occupations=contact.occupations,
    )
    return (newest, *contact.others)


def collected(contact: Contact, ways: tuple[Collection, ...]) -> Contact:
    """Return the contact as obtained in these ways and no others; the first is the newest."""
    newest, *others = ways or (Collection(),)
    return replace(
        contact,
        brand=newest.brand,
        source=newest.source,
        collected_at=newest.collected_at,
        informed_at=newest.informed_at,
        never_informed=newest.never_informed,
        optout_offered=newest.optout_offered,
        last_activity_at=newest.last_activity_at,
        provenance=newest.provenance,
        audience=newest.audience,
        occupations=newest.occupations,
        others=tuple(others),
    )
