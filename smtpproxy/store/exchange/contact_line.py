"""Writing a contact as one line of NDJSON, which contact_record.py reads."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from smtpproxy.policy.model import (
    BUILT_IN_BRAND,
    Audience,
    Collection,
    ConsentAct,
    Contact,
    Dealing,
    Evidence,
    Provenance,
    Purchase,
    came_by,
)
from smtpproxy.store.exchange.contact_record import Line
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.merge import MARKS

_encode = msgspec.json.Encoder().encode


def written_contact(contact: Contact) -> bytes:
    """Return the contact as one line of NDJSON, without LF; importing it changes nothing."""
    line = Line(contact.brand, came_by(contact.source, contact.provenance))
    return _encode(
        {
            "address": contact.address,
            "audience": contact.audience,
            "source": contact.source,
            "collected_at": _written(contact.collected_at),
            "informed_at": False if contact.never_informed else _written(contact.informed_at),
            "optout_offered": contact.optout_offered,
            "last_activity_at": _written(contact.last_activity_at),
            "occupations": sorted(contact.occupations),
            "tags": sorted(contact.tags),
            "provenance": contact.provenance and _provenance(contact.provenance),
            "purchases": [_purchase(purchase, line) for purchase in contact.purchases],
            "consents": _consents(contact.acts, line),
            **{name: written_time(at) for name in MARKS if (at := getattr(contact, name))},
            **({"language": contact.language} if contact.language else {}),
            **({"preferences": _preferences(contact)} if contact.preferences else {}),
            **({"brand": contact.brand} if contact.brand else {}),
            **({"collections": [*map(_collection, contact.others)]} if contact.others else {}),
        }
    )


def _preferences(contact: Contact) -> list[dict[str, Any]]:
    return [
        {
            "purpose": one.purpose,
            "frequency": one.frequency,
            "at": written_time(one.at),
            **({} if one.brand == BUILT_IN_BRAND else {"brand": one.brand}),
        }
        for one in contact.preferences
    ]


def _provenance(provenance: Provenance) -> dict[str, Any]:
    told: dict[str, Any] = {
        "supplier": provenance.supplier,
        "sender_disclosed": provenance.sender_disclosed,
    }
    if provenance.chain:
        told["chain"] = [
            {
                "supplier": link.supplier,
                "sender_disclosed": link.sender_disclosed,
                "at": _written(link.at),
            }
            for link in provenance.chain
        ]
    return told


def _collection(way: Collection) -> dict[str, Any]:
    told: dict[str, Any] = {
        "brand": way.brand,
        "source": way.source,
        "collected_at": _written(way.collected_at),
        "informed_at": False if way.never_informed else _written(way.informed_at),
        "optout_offered": way.optout_offered,
        "last_activity_at": _written(way.last_activity_at),
        "provenance": way.provenance and _provenance(way.provenance),
        "as_of": _written(way.as_of),
        "audience": None if way.audience is Audience.UNKNOWN else way.audience,
        "occupations": sorted(way.occupations) or None,
    }
    return {name: value for name, value in told.items() if value is not None}


def _purchase(purchase: Purchase, line: Line) -> dict[str, Any]:
    told = {"product": purchase.product, "at": written_time(purchase.at)}
    if purchase.kind is not Dealing.SALE:
        told["kind"] = purchase.kind
    return told | _said_to(purchase, line)


def _said_to(item: ConsentAct | Purchase, line: Line) -> dict[str, Any]:
    """Return the brand and the collection where they differ from the line's."""
    told: dict[str, Any] = {}
    if item.brand != line.brand:
        told["brand"] = item.brand
    if item.came_by != line.came_by and not (isinstance(item, ConsentAct) and item.withdrawal):
        told["came_by"] = item.came_by
    return told


def _evidence(evidence: Evidence) -> dict[str, Any]:
    more = {name: getattr(evidence, name) for name in ("version", "form", "document_hash")}
    return {
        "wording": evidence.wording,
        "ip": evidence.ip,
        **{name: text for name, text in more.items() if text is not None},
    }


def _consents(acts: Iterable[ConsentAct], line: Line) -> list[dict[str, Any]]:
    """Pair each withdrawal with the agreement it ends; an act without a pair stands alone."""
    consents: list[dict[str, Any]] = []
    standing: dict[tuple[str, str | None], dict[str, Any]] = {}  # the newest agreement of each
    for act in acts:
        purpose = act.purpose, act.brand
        agreement = standing.pop(purpose, None) if act.withdrawal else None
        bare = ConsentAct(act.purpose, act.at, withdrawal=True, brand=act.brand)
        if agreement and act == bare:
            agreement["withdrawn_at"] = written_time(act.at)
            continue
        consent = {
            "purpose": act.purpose,
            "method": act.method,
            "given_at": None if act.withdrawal else written_time(act.at),
            "withdrawn_at": written_time(act.at) if act.withdrawal else None,
            "conditional": act.conditional,
            "channels": sorted(act.channels),
            "evidence": _evidence(act.evidence),
        }
        if act.pending:
            consent["pending"] = True
        consents.append(consent | _said_to(act, line))
        if not act.withdrawal:
            standing[purpose] = consents[-1]
    return consents


def _written(moment: datetime | None) -> str | None:
    return None if moment is None else written_time(moment)
