"""A contact written as one JSON object, as contact_record reads it."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from smtpproxy.policy.model import ConsentAct, Contact, Dealing, Evidence, Provenance, Purchase
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.merge import MARKS

_encode = msgspec.json.Encoder().encode


def written_contact(contact: Contact) -> bytes:
    """Return the contact as one line of NDJSON, without its end; reading it changes nothing."""
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
            "purchases": [_purchase(purchase) for purchase in contact.purchases],
            "consents": _consents(contact.acts),
            **{name: written_time(at) for name in MARKS if (at := getattr(contact, name))},
        }
    )


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


def _purchase(purchase: Purchase) -> dict[str, Any]:
    told = {"product": purchase.product, "at": written_time(purchase.at)}
    return told if purchase.kind is Dealing.SALE else {**told, "kind": purchase.kind}


def _evidence(evidence: Evidence) -> dict[str, Any]:
    more = {name: getattr(evidence, name) for name in ("version", "form", "document_hash")}
    return {
        "wording": evidence.wording,
        "ip": evidence.ip,
        **{name: text for name, text in more.items() if text is not None},
    }


def _consents(acts: Iterable[ConsentAct]) -> list[dict[str, Any]]:
    """Pair a withdrawal with the agreement it ends; an act that does not pair stands alone."""
    consents: list[dict[str, Any]] = []
    standing: dict[str, dict[str, Any]] = {}  # the newest agreement of each purpose
    for act in acts:
        agreement = standing.pop(act.purpose, None) if act.withdrawal else None
        if agreement and act == ConsentAct(act.purpose, act.at, withdrawal=True):
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
        consents.append(consent)
        if not act.withdrawal:
            standing[act.purpose] = consent
    return consents


def _written(moment: datetime | None) -> str | None:
    return None if moment is None else written_time(moment)
