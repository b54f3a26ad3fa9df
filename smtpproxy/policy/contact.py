"""What is on record about one address: how it was obtained, and what the person did and said.

Frozen data, times in UTC. The audit journal and the store keep these records for years, omitting
values that equal their defaults.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.policy.rulebook import Audience, Dealing, Frequency, Source

BUILT_IN_BRAND = "default"
"""The brand of a stream if the configuration names no brand, or several but not the stream's."""
_TICK = timedelta(microseconds=1)


class Evidence(Struct, frozen=True, omit_defaults=True):
    """The proof of one act of agreement (rule A2, RGPD 7(1)). Its time is the act's `at`."""

    wording: str | None = None
    ip: str | None = None
    version: str | None = None  # of the wording
    form: str | None = None  # where it was given: a page, a till, a stand
    document_hash: str | None = None  # SHA-256 of the proof document, in hex
    recorded_by: str | None = None  # a program, over the API; None: anybody else, or unknown


EVERY_PURPOSE = "*"
"""The purpose of a refusal of all marketing, which holds for purposes to come as well."""


class ConsentAct(Struct, frozen=True, omit_defaults=True):
    """One act of agreement to one purpose, or its withdrawal, perhaps from every purpose.

    A double opt-in is two acts: a `pending` one, and the confirmation.
    """

    purpose: str
    at: datetime
    withdrawal: bool = False
    method: str | None = None
    conditional: bool | None = None  # required for the service; None: not on record
    channels: frozenset[str] = frozenset({"email"})
    evidence: Evidence = Evidence()
    pending: bool = False  # requested, but not confirmed by this act
    brand: str | None = None  # whom it was given to; None: not on record
    came_by: str | None = None  # the name of the collection that it is known by

    def is_about(self, purpose: str | None) -> bool:
        """Whether it says something about mail of that purpose."""
        refuses_all = self.withdrawal and self.purpose == EVERY_PURPOSE and purpose is not None
        return refuses_all or self.purpose == purpose


class Purchase(Struct, frozen=True, omit_defaults=True):
    product: str
    at: datetime
    kind: Dealing = Dealing.SALE
    brand: str | None = None  # who sold it; None: not on record
    came_by: str | None = None  # the name of the collection that it is known by


class Link(Struct, frozen=True, omit_defaults=True):
    """One company that an address passed through, and what it told the person."""

    supplier: str | None = None
    sender_disclosed: bool | None = None  # None: not on record
    at: datetime | None = None


class Provenance(Struct, frozen=True, omit_defaults=True):
    """Where an address came from: one supplier, or a chain of them, the collector first.

    A supplier given beside a chain is its last link.
    """

    supplier: str | None = None
    sender_disclosed: bool | None = None  # None: not on record
    chain: tuple[Link, ...] = ()


class Collection(Struct, frozen=True, omit_defaults=True):
    """One way in which a brand obtained an address, what the person was told then, and what this
    source says they are."""

    brand: str | None = None  # None: not on record
    source: Source | None = None
    collected_at: datetime | None = None
    informed_at: datetime | None = None
    never_informed: bool = False
    optout_offered: bool | None = None
    last_activity_at: datetime | None = None
    provenance: Provenance | None = None
    as_of: datetime | None = None  # when the source was current
    audience: Audience = Audience.UNKNOWN
    occupations: frozenset[str] = frozenset()

    @property
    def name(self) -> str | None:
        """The name that distinguishes it from others of its brand; `came_by` of what it brought.

        None if the person gave us the data: then no collection has to vouch for it.
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
    """How often a person wants a brand's mail of one purpose, and when they said so."""

    purpose: str
    frequency: Frequency
    at: datetime
    brand: str = BUILT_IN_BRAND


def wishes_about(told: Iterable[Preference], purpose: str | None, brand: str) -> list[Preference]:
    """Return the wishes that hold for a brand's mail of one purpose; the strictest of them counts.

    A wish about another brand that matches, such as the built-in one before there were brands,
    gives way to a later one about this brand.
    """
    matching = [one for one in told if one.purpose == purpose and same_brand(one.brand, brand)]
    own = next((one for one in matching if one.brand == brand), None)
    if own is None:
        return matching
    return [one for one in matching if one is own or one.at >= own.at]


def said_last(told: Iterable[Preference], purpose: str, brand: str, now: datetime) -> datetime:
    """Return the time to record for a wish expressed now: later than all before it, even those
    dated by a clock that was ahead."""
    return max([now, *(one.at + _TICK for one in wishes_about(told, purpose, brand))])


def same_brand(one: str, other: str) -> bool:
    """Whether a wish about one brand applies to another; the built-in brand matches every brand."""
    return one == other or BUILT_IN_BRAND in (one, other)


class Contact(Struct, frozen=True, omit_defaults=True):
    """What the store knows about one address. `acts` is a history, oldest first."""

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
    never_informed: bool = False  # on record: the person was told nothing at collection
    language: str | None = None  # that the person reads: "fr", "de-at"
    preferences: tuple[Preference, ...] = ()  # one for each brand and purpose
    brand: str | None = None  # that obtained the address as above; None: not on record
    others: tuple[Collection, ...] = ()  # other ways in which it was obtained


def collections(contact: Contact) -> tuple[Collection, ...]:
    """Return each way in which an address was obtained, the newest first."""
    # Field by field, here and below: an import asks several times for each line.
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
    """Return the contact as obtained only in these ways; the first is the newest."""
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
