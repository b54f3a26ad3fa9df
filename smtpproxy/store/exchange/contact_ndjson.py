"""Contacts as NDJSON, and the refusals in lines that are rejected for another reason."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec.structs import asdict, replace

from smtpproxy.events import picked
from smtpproxy.policy.model import (
    EVERY_PURPOSE,
    Audience,
    Collection,
    ConsentAct,
    Contact,
    Evidence,
    Frequency,
    Provenance,
    Purchase,
    came_by,
)
from smtpproxy.store.exchange.consent_columns import may_be_a_date
from smtpproxy.store.exchange.contact_record import (
    LinesOwn,
    PurchaseRecord,
    Time,
    Word,
    Words,
    convert_contact,
    read_contact,
)
from smtpproxy.store.exchange.lines import (
    ILLEGIBLE,
    Contents,
    Line,
    Lines,
    converted,
    legible_json,
    names_in,
)
from smtpproxy.store.merge import MARKS
from smtpproxy.store.records import ContactUpdate

_MOST = 1_000  # consents, tags or wishes of a line that are searched for refusals


def read_ndjson(lines: Lines, as_of: datetime) -> Contents[ContactUpdate]:
    """Read one JSON object a line."""

    def convert(line: Line) -> ContactUpdate:
        return read_contact(line.content, as_of)

    items = converted(lines, convert, lambda line: refusal_in(line, as_of))
    return Contents(items, decoder=lines.decoder)


def refusal_in(line: Line, as_of: datetime) -> ContactUpdate | None:
    """Return the refusal in a line, whatever else is wrong; None if it has none, or no address."""
    content = legible_json(line.content)
    try:
        record = msgspec.json.decode(content)
    except (msgspec.MsgspecError, RecursionError):
        return None
    if not isinstance(record, dict) or any(n.count("address") > 1 for n in names_in(content)[-1:]):
        return None
    found: dict[str, Any] = {"address": record.get("address")} | _text(record, "brand")
    if not isinstance(found["address"], str) or ILLEGIBLE in found["address"]:
        return None
    if line.is_guessed and not found["address"].isascii():
        return None
    if (at := _refused_at(record.get("profiling_objected_at"), as_of)) is not None:
        found["profiling_objected_at"] = at
    tags = record.get("tags")
    refused = {
        "consents": list(_withdrawals(record.get("consents"), found["address"], as_of)),
        "tags": words_in(tags[:_MOST] if isinstance(tags, list) else None),
        "preferences": list(_wishes(record.get("preferences"), found["address"], as_of)),
    }
    found |= {name: values for name, values in refused.items() if values}
    if found.keys() <= {"address", "brand"}:
        return None
    try:
        return convert_contact(found, as_of)
    except ValueError:
        return None


def _withdrawals(consents: object, address: str, as_of: datetime) -> Iterator[dict[str, Any]]:
    for one in consents[:_MOST] if isinstance(consents, list) else ():
        if not isinstance(one, dict):
            continue
        at = _refused_at(one.get("withdrawn_at"), as_of)
        if at is None:
            continue
        withdrawal = {"withdrawn_at": at, **_text(one, "brand")}
        withdrawal["purpose"] = refused_purpose(one.get("purpose"))
        if _can_be_read({"address": address, "consents": [withdrawal]}, as_of):
            yield withdrawal


def _wishes(preferences: object, address: str, as_of: datetime) -> Iterator[dict[str, Any]]:
    """Yield the wishes for less mail; a wish for all mail refuses nothing."""
    for one in preferences[:_MOST] if isinstance(preferences, list) else ():
        if not isinstance(one, dict) or one.get("frequency") == Frequency.ALL:
            continue
        at = _refused_at(one.get("at"), as_of)
        wish = {name: one[name] for name in ("purpose", "frequency", "brand") if name in one}
        wish["at"] = at
        if at is not None and _can_be_read({"address": address, "preferences": [wish]}, as_of):
            yield wish


def _can_be_read(fields: dict[str, Any], as_of: datetime) -> bool:
    try:
        convert_contact(fields, as_of)
    except ValueError:
        return False
    return True


def _text(record: dict[str, Any], name: str) -> dict[str, str]:
    """Return a member if it is text. A refusal without a brand counts for every brand."""
    value = record.get(name)
    return {name: value} if isinstance(value, str) and value else {}


def _refused_at(value: object, as_of: datetime) -> datetime | None:
    """Return the time of a refusal; for one that was meant as a time but is not one, the file's."""
    try:
        return msgspec.convert(value, Time)
    except msgspec.ValidationError:
        if value is True or (not isinstance(value, bool | None) and may_be_a_date(str(value))):
            return as_of
        return None


def refused_purpose(value: object) -> str:
    """Return the purpose of a withdrawal: every purpose, unless it names one."""
    return next(iter(words_in([value])), EVERY_PURPOSE)


def words_in(value: object) -> Words:
    """Return the words in a list."""
    found = value if isinstance(value, list) else []
    return [word for word in found if isinstance(word, str) and _is_word(word)]


def _is_word(text: str) -> bool:
    try:
        msgspec.convert(text, Word)
    except msgspec.ValidationError:
        return False
    return True


def common_refusal(readings: Sequence[ContactUpdate | None]) -> ContactUpdate | None:
    """Return the refusal in all readings of a row, or None if there is none, or they differ."""
    found = {_refused(one): one for one in readings}
    update = next(iter(found.values())) if len(found) == 1 else None
    if update is None:
        return None
    tags = frozenset.intersection(*(one.contact.tags for one in readings if one is not None))
    return replace(update, contact=replace(update.contact, tags=tags))


def _refused(update: ContactUpdate | None) -> frozenset[object]:
    """Return what readings must have in common; tags are left out, as few of them restrict."""
    if update is None:
        return frozenset()
    contact = update.contact
    acts = ((act.purpose, act.brand) for act in contact.acts)
    return frozenset({contact.address, contact.profiling_objected_at is not None, *acts})


_encode = msgspec.json.Encoder().encode


def written_contact(contact: Contact) -> bytes:
    """Return the contact as one line of NDJSON, without LF; importing it changes nothing."""
    own = LinesOwn(contact.brand, came_by(contact.source, contact.provenance))
    further = (*MARKS, "language", "preferences", "brand")
    return _encode(
        {
            **picked(contact, "address", "audience", "source", "collected_at"),
            "informed_at": False if contact.never_informed else contact.informed_at,
            **picked(contact, "optout_offered", "last_activity_at"),
            "occupations": sorted(contact.occupations),
            "tags": sorted(contact.tags),
            "provenance": contact.provenance and _provenance(contact.provenance),
            "purchases": [_purchase(purchase, own) for purchase in contact.purchases],
            "consents": _consents(contact.acts, own),
            **{name: value for name in further if (value := getattr(contact, name))},
            **({"collections": [*map(_collection, contact.others)]} if contact.others else {}),
        }
    )


def _provenance(provenance: Provenance) -> dict[str, Any]:
    told = picked(provenance, "supplier", "sender_disclosed")
    return told | ({"chain": [*map(asdict, provenance.chain)]} if provenance.chain else {})


def _collection(way: Collection) -> dict[str, Any]:
    told = {
        **picked(way, "brand", "source", "collected_at"),
        "informed_at": False if way.never_informed else way.informed_at,
        **picked(way, "optout_offered", "last_activity_at"),
        "provenance": way.provenance and _provenance(way.provenance),
        "as_of": way.as_of,
        "audience": None if way.audience is Audience.UNKNOWN else way.audience,
        "occupations": sorted(way.occupations) or None,
    }
    return {name: value for name, value in told.items() if value is not None}


def _purchase(purchase: Purchase, own: LinesOwn) -> PurchaseRecord:
    return PurchaseRecord(purchase.product, purchase.at, purchase.kind, **_said_to(purchase, own))


def _said_to(item: ConsentAct | Purchase, own: LinesOwn) -> dict[str, Any]:
    """Return the brand and the collection where they differ from the line's."""
    told: dict[str, Any] = {}
    if item.brand != own.brand:
        told["brand"] = item.brand
    if item.came_by != own.came_by and not (isinstance(item, ConsentAct) and item.withdrawal):
        told["came_by"] = item.came_by
    return told


def _evidence(evidence: Evidence) -> dict[str, Any]:
    more = picked(evidence, "version", "form", "document_hash")
    told = picked(evidence, "wording", "ip")
    return told | {name: text for name, text in more.items() if text is not None}


def _consents(acts: Iterable[ConsentAct], own: LinesOwn) -> list[dict[str, Any]]:
    """Pair each withdrawal with the agreement it ends; an act without a pair stands alone."""
    consents: list[dict[str, Any]] = []
    standing: dict[tuple[str, str | None], dict[str, Any]] = {}  # the newest agreement of each
    for act in acts:
        purpose = act.purpose, act.brand
        agreement = standing.pop(purpose, None) if act.withdrawal else None
        bare = ConsentAct(act.purpose, act.at, withdrawal=True, brand=act.brand)
        if agreement and act == bare:
            agreement["withdrawn_at"] = act.at
            continue
        consent = {
            "purpose": act.purpose,
            "method": act.method,
            "given_at": None if act.withdrawal else act.at,
            "withdrawn_at": act.at if act.withdrawal else None,
            "conditional": act.conditional,
            "channels": sorted(act.channels),
            "evidence": _evidence(act.evidence),
            **({"pending": True} if act.pending else {}),
            **_said_to(act, own),
        }
        consents.append(consent)
        if not act.withdrawal:
            standing[purpose] = consent
    return consents
