"""A contact as one JSON object (design.md section 7), checked strictly."""

import re
from datetime import UTC, datetime
from functools import lru_cache
from operator import attrgetter
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from smtpproxy.locale import language_tag
from smtpproxy.mail.address import AddressError
from smtpproxy.mail.mailboxes import entered
from smtpproxy.policy.model import (
    BUILT_IN_BRAND,
    Audience,
    Collection,
    ConsentAct,
    Contact,
    Dealing,
    Evidence,
    Frequency,
    Link,
    Preference,
    Provenance,
    Purchase,
    Source,
    came_by,
)
from smtpproxy.store.exchange.lines import read_object
from smtpproxy.store.exchange.times import EXAMPLE, NO_EARLIER, in_utc
from smtpproxy.store.merge import MARKS
from smtpproxy.store.records import PROFILE_FIELDS, ContactUpdate

Time = Annotated[datetime, Meta(tz=True)]
Word = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*\Z")]
Words = list[Word]


Hash = Annotated[str, Meta(pattern=r"^[0-9A-Fa-f]{64}\Z")]


class LinesOwn(NamedTuple):
    """Defaults for the entries of a line."""

    brand: str | None
    came_by: str | None  # the name of its collection

    def said_to(self, one: "PurchaseRecord | ConsentRecord") -> tuple[str | None, str | None]:
        """Return the brand and the collection of an entry; null means not on record."""
        return (
            self.brand if one.brand is UNSET else one.brand,
            self.came_by if one.came_by is UNSET else one.came_by,
        )


class EvidenceRecord(Struct, forbid_unknown_fields=True):
    """What proves a consent."""

    wording: str | None = None
    ip: str | None = None
    version: str | None = None
    form: str | None = None
    document_hash: Hash | None = None

    def parsed(self) -> Evidence:
        document_hash = self.document_hash and self.document_hash.lower()
        texts = (self.wording, self.ip, self.version, self.form, document_hash)
        return Evidence(*[text if text and text.strip() else None for text in texts])


_NO_EVIDENCE = Evidence()


class LinkRecord(Struct, forbid_unknown_fields=True):
    """One holder that an address went through."""

    supplier: str | None = None
    sender_disclosed: bool | None = None
    at: Time | None = None


class ProvenanceRecord(Struct, forbid_unknown_fields=True):
    """Whom an address came from."""

    supplier: str | None = None
    sender_disclosed: bool | None = None
    chain: list[LinkRecord] = []

    def parsed(self) -> Provenance:
        chain = [Link(one.supplier, one.sender_disclosed, _moment(one.at)) for one in self.chain]
        return Provenance(self.supplier, self.sender_disclosed, tuple(chain))


class PurchaseRecord(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What a person bought."""

    product: Word
    at: Time
    kind: Dealing = Dealing.SALE
    brand: Word | UnsetType | None = UNSET
    came_by: str | UnsetType | None = UNSET

    def parsed(self, line: LinesOwn) -> Purchase:
        return Purchase(self.product, in_utc(self.at), self.kind, *line.said_to(self))


class ConsentRecord(Struct, forbid_unknown_fields=True):
    """What a person agreed to, and whether it was withdrawn."""

    purpose: Word
    method: Word | None = None
    given_at: Time | None = None
    withdrawn_at: Time | None = None
    conditional: bool | None = None
    channels: Words = msgspec.field(default_factory=lambda: ["email"])
    evidence: EvidenceRecord | None = None
    pending: bool = False  # of given_at: asked for, and not confirmed
    brand: Word | UnsetType | None = UNSET
    came_by: str | UnsetType | None = UNSET

    def acts(self, line: LinesOwn) -> list[ConsentAct]:
        """Return the agreement and the withdrawal, as far as each took place."""
        told = self.evidence.parsed() if self.evidence else _NO_EVIDENCE
        brand, came_by = line.said_to(self)
        if self.given_at is None:
            if self.withdrawn_at is None:
                raise ValueError(f"consents: {self.purpose} has no given_at and no withdrawn_at")
            at = in_utc(self.withdrawn_at)
            return [ConsentAct(self.purpose, at, True, self.method, evidence=told, brand=brand)]
        agreement = ConsentAct(
            self.purpose,
            in_utc(self.given_at),
            method=self.method,
            conditional=self.conditional,
            channels=frozenset(self.channels),
            evidence=told,
            pending=self.pending,
            brand=brand,
            came_by=came_by,
        )
        if self.withdrawn_at is None:
            return [agreement]
        if NO_EARLIER <= self.withdrawn_at < self.given_at:
            raise ValueError(f"consents: {self.purpose} has a withdrawn_at before its given_at")
        at = in_utc(self.withdrawn_at)
        return [agreement, ConsentAct(self.purpose, at, withdrawal=True, brand=brand)]


class CollectionRecord(Struct, forbid_unknown_fields=True):
    """A further way in which the address was obtained."""

    brand: Word | None = None
    source: Source | None = None
    collected_at: Time | None = None
    informed_at: Time | bool | None = None  # false: was not told
    optout_offered: bool | None = None
    last_activity_at: Time | None = None
    provenance: ProvenanceRecord | None = None
    as_of: Time | None = None
    audience: Audience | None = None
    occupations: Words = []

    def parsed(self) -> Collection:
        return Collection(
            self.brand,
            self.source,
            _moment(self.collected_at),
            _moment(self.informed_at),
            self.informed_at is False,
            self.optout_offered,
            _moment(self.last_activity_at),
            self.provenance.parsed() if self.provenance else None,
            _moment(self.as_of),
            self.audience or Audience.UNKNOWN,
            frozenset(self.occupations),
        )


class PreferenceRecord(Struct, forbid_unknown_fields=True):
    """How often a person wants mail of a purpose."""

    purpose: Word
    frequency: Frequency
    at: Time
    brand: Word = BUILT_IN_BRAND

    def parsed(self) -> Preference:
        return Preference(self.purpose, self.frequency, in_utc(self.at), self.brand)


class ContactRecord(Struct, forbid_unknown_fields=True):
    """A person (docs/data.md): an absent field says nothing."""

    address: str
    audience: Audience | UnsetType | None = UNSET
    source: Source | UnsetType | None = UNSET
    collected_at: Time | UnsetType | None = UNSET
    informed_at: Time | bool | UnsetType | None = UNSET  # false: was not told
    optout_offered: bool | UnsetType | None = UNSET
    last_activity_at: Time | UnsetType | None = UNSET
    occupations: Words | UnsetType = UNSET
    tags: Words | UnsetType = UNSET
    provenance: ProvenanceRecord | UnsetType | None = UNSET
    purchases: list[PurchaseRecord] = []
    consents: list[ConsentRecord] = []
    first_contacted_at: Time | UnsetType | None = UNSET
    profiling_objected_at: Time | UnsetType | None = UNSET
    language: str | UnsetType | None = UNSET
    preferences: list[PreferenceRecord] = []
    brand: Word | None = None
    collections: Annotated[list[CollectionRecord], Meta(max_length=100)] = []

    def update(self, as_of: datetime) -> ContactUpdate:
        """Raises ValueError if the address is invalid, or a time is out of range."""
        if self.informed_at is True:
            raise ValueError(f"informed_at: true is not a time; expected {_RIGHT['informed_at']}")
        provenance = self.provenance.parsed() if self.provenance else None
        line = LinesOwn(self.brand, came_by(self.source or None, provenance))
        try:
            return ContactUpdate(
                Contact(
                    _address(self.address),
                    self.audience or Audience.UNKNOWN,
                    self.source or None,
                    _moment(self.collected_at),
                    _moment(self.informed_at),
                    None if self.optout_offered is UNSET else self.optout_offered,
                    _moment(self.last_activity_at),
                    frozenset(self.occupations or ()),
                    frozenset(self.tags or ()),
                    provenance,
                    tuple([one.parsed(line) for one in self.purchases]),
                    tuple([act for consent in self.consents for act in consent.acts(line)]),
                    _moment(self.first_contacted_at),
                    _moment(self.profiling_objected_at),
                    self.informed_at is False,
                    _language(self.language),
                    tuple([one.parsed() for one in self.preferences]) if self.preferences else (),
                    self.brand,
                    tuple([one.parsed() for one in self.collections]) if self.collections else (),
                ),
                _named(tuple([value is not UNSET for value in _read_profile(self)])),
                as_of,
            )
        except OverflowError:
            raise ValueError("a time is beyond the years 1 to 9999") from None


def _address(text: str) -> str:
    try:
        return entered(text)
    except AddressError as error:
        raise ValueError(f"address: {error}") from None


def _moment(value: datetime | bool | UnsetType | None) -> datetime | None:
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo is UTC else in_utc(value)


def _language(tag: str | UnsetType | None) -> str | None:
    try:
        return language_tag(tag) if tag else None
    except ValueError as error:
        raise ValueError(f"language: {str(tag)[:40]!r} {error}") from None


_NAMES = sorted(PROFILE_FIELDS)
_read_profile = attrgetter(*_NAMES)


@lru_cache(maxsize=1_000)  # the lines of a file have the same fields
def _named(given: tuple[bool, ...]) -> frozenset[str]:
    return frozenset(name for name, is_given in zip(_NAMES, given, strict=True) if is_given)


_decode = msgspec.json.Decoder(ContactRecord).decode


def read_contact(content: bytes, as_of: datetime) -> ContactUpdate:
    """Read one line of NDJSON. Raises ValueError: the field, what is wrong, what is expected."""
    try:
        return read_object(_decode, content).update(as_of)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(explain(error)) from None


def convert_contact(fields: dict[str, Any], as_of: datetime) -> ContactUpdate:
    """Check fields from another format in the same way."""
    try:
        return msgspec.convert(fields, ContactRecord).update(as_of)
    except msgspec.MsgspecError as error:
        raise ValueError(explain(error)) from None


_RIGHT = {
    "audience": "one of " + ", ".join(Audience),
    "source": "one of " + ", ".join(Source),
    "optout_offered": "true or false",
    "sender_disclosed": "true or false",
    "conditional": "true or false",
    "pending": "true or false",
    "kind": "one of " + ", ".join(Dealing),
    "document_hash": "a SHA-256, 64 hexadecimal digits",
    "chain": 'a list of objects, like [{"supplier": "X", "sender_disclosed": true}]',
    **dict.fromkeys(
        ["collected_at", "last_activity_at", "at", "given_at", "withdrawn_at", *MARKS],
        f"a time with its zone, like {EXAMPLE}",
    ),
    **dict.fromkeys(["occupations", "tags", "channels"], 'a list of words, like ["retail"]'),
    **dict.fromkeys(["purpose", "method", "product"], "text of 1 to 200 characters on one line"),
    "informed_at": f"a time with its zone, like {EXAMPLE}, or false: was not told",
    "purchases": 'a list of objects, like [{"product": "shoes", "at": "…"}]',
    "consents": 'a list of objects, like [{"purpose": "offers", "given_at": "…"}]',
    "frequency": "one of " + ", ".join(Frequency),
    "preferences": 'a list of objects, like [{"purpose": "offers", "frequency": "weekly", …}]',
    "brand": "the name of a brand",
    "collections": 'a list of objects, like [{"brand": "shop", "source": "direct"}]',
}
_KNOWN = {
    "": ContactRecord,
    "provenance": ProvenanceRecord,
    "chain": LinkRecord,
    "purchases": PurchaseRecord,
    "consents": ConsentRecord,
    "evidence": EvidenceRecord,
    "preferences": PreferenceRecord,
    "collections": CollectionRecord,
}


def explain(error: Exception) -> str:
    """Return an error message with the field, the fault, and what is expected."""
    text, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    if not isinstance(error, msgspec.ValidationError):
        return f"not a JSON object on one line: {text}"
    if not path and text.startswith("Expected `object`"):
        return 'not a JSON object; a line looks like {"address": "a@b.example"}'
    name = re.sub(r"\[.*?\]", "", path).rpartition(".")[2]
    wrong = _in_words(text)
    where = f"{path}: " if path else ""
    if "unknown field" in wrong and name in _KNOWN:
        return f"{where}{wrong}; known: {', '.join(_KNOWN[name].__struct_fields__)}"
    right = _RIGHT.get(name)
    return f"{where}{wrong}" + (f"; expected {right}" if right else "")


_WORDED = (
    (r".* matching regex .*0-9A-Fa-f.*", "is not a SHA-256"),
    (r".* matching regex .*", "contains a line end or another control character"),
    (r".* of length >= 1.*", "is empty"),
    (r"Expected `array` of length <= (\d+).*", r"has more than \1 entries"),
    (r".* of length <= (\d+).*", r"has more than \1 characters"),
    (r"Expected `datetime` with a timezone component", "has no time zone"),
    (r"Invalid RFC3339 encoded datetime", "is not a time"),
    (r"Expected `object.*", "is not an object"),
    (r"Expected `array.*", "is not a list"),
    (r"Expected `bool.*", "is neither true nor false"),
    (r"Expected `str.*", "is not text"),
    (r"Expected `datetime.*", "is not a time"),
    (r"Invalid enum value '?(.*?)'?", r"'\1' is unknown"),
    (r"Object missing required field `(\w+)`", r"the field `\1` is missing"),
)


def _in_words(text: str) -> str:
    """Return an error of msgspec without its types and patterns."""
    for pattern, words in _WORDED:
        if match := re.fullmatch(pattern, text):
            return match.expand(words)
    return (text[:1].lower() + text[1:]).removeprefix("object ")
