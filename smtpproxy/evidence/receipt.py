"""Consent receipts: what one person agreed to and withdrew, as JSON-LD in the terms of W3C's Data
Privacy Vocabulary, following its guide to ISO/IEC TS 27560:2023
(w3id.org/dpv/guides/consent-27560).

Pure: store, clock and random identifiers come from the caller. Only what is on record is included.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from msgspec.structs import replace

from smtpproxy.policy.model import (
    BUILT_IN_BRAND,
    ConsentAct,
    Contact,
    Origin,
    RecipientFacts,
    Rulebook,
    Stream,
    StreamClass,
    Suppression,
)
from smtpproxy.policy.periods import Period, Unit
from smtpproxy.policy.rulebook import DOUBLE_OPT_IN
from smtpproxy.policy.rules.recipient import covers
from smtpproxy.settings import BUILT_IN_PURPOSES, BrandSettings, ControllerSettings, Settings
from smtpproxy.store.exchange.times import written_time

Node = dict[str, Any]

SCHEMA = "https://w3id.org/dpv/schema/dpv-27560#"
CONTEXT = {
    "dct": "http://purl.org/dc/terms/",
    "dpv": "https://w3id.org/dpv#",
    "eu-gdpr": "https://w3id.org/dpv/legal/eu/gdpr#",
    "loc": "https://w3id.org/dpv/loc#",
    "pd": "https://w3id.org/dpv/pd#",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "skos": "http://www.w3.org/2004/02/skos/core#",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
}

_COUNTRIES = {"fr": "FR", "de": "DE", "uk": "GB", "us": "US", "ca": "CA", "eu-strict": "EU"}
_GDPR = frozenset({"fr", "de", "eu-strict"})
_LETTERS = {Unit.DAYS: "P{}D", Unit.MONTHS: "P{}M", Unit.YEARS: "P{}Y", Unit.HOURS: "PT{}H"}
_REFUSALS = frozenset({Origin.UNSUBSCRIBE, Origin.COMPLAINT, Origin.OBJECTION, Origin.ERASURE})
_EXPLICIT = frozenset({DOUBLE_OPT_IN, "signed_form"})


class NoReceipt(ValueError):
    """The configuration lacks something that a receipt needs; the text says what."""


def receipt(
    settings: Settings, facts: RecipientFacts, *, identifier: str, at: datetime
) -> Node | None:
    """Return the receipt of a contact; None if it never agreed to anything.

    `identifier` is the receipt's own UUID. Raises NoReceipt.
    """
    contact = facts.contact
    if contact is None or all(act.withdrawal for act in contact.acts):
        return None
    if settings.controller is None:
        raise NoReceipt(
            "controller: not set, but a receipt has to say with whom the person agreed; add"
            " [controller] to the configuration (docs/settings.md)"
        )
    if not settings.controller.storage:
        raise NoReceipt(
            "controller.storage: not set, but a receipt has to say in which countries the data is"
            ' stored; add it to the configuration, for example storage = ["FR"]'
        )
    records = [
        _record(settings, settings.controller, contact, facts.suppressions, brand, purpose, acts)
        for (brand, purpose), acts in sorted(_by_purpose(settings, contact.acts).items())
    ]
    return {
        "@context": CONTEXT,
        "@id": f"urn:uuid:{identifier}",
        "@type": "dpv:ConsentReceipt",
        "dct:conformsTo": {"@id": f"{SCHEMA}receipt"},
        "dpv:hasIdentifier": identifier,
        "dct:created": _moment(at),
        "dct:publisher": {"dpv:hasName": settings.controller.name},
        "dpv:hasRecordOfActivity": records,
    }


def _by_purpose(
    settings: Settings, acts: Sequence[ConsentAct]
) -> Mapping[tuple[str, str], list[ConsentAct]]:
    """Return the acts for each brand and purpose that the person ever agreed to.

    A withdrawal without a brand applies to all.
    """
    only = next(iter(settings.brands)) if len(settings.brands) == 1 else ""
    found: dict[tuple[str, str], list[ConsentAct]] = {}
    for act in acts:
        if not act.withdrawal:
            found.setdefault((act.brand or only, act.purpose), [])
    for act in acts:
        for (brand, purpose), own_acts in found.items():
            own = brand == (act.brand or only) or (act.withdrawal and act.brand is None)
            if act.is_about(purpose) and own:
                own_acts.append(act)
    return found


def _record(
    settings: Settings,
    controller: ControllerSettings,
    contact: Contact,
    suppressions: Iterable[Suppression],
    brand: str,
    purpose: str,
    acts: Sequence[ConsentAct],
) -> Node:
    stream = _stream(settings, brand, purpose)
    rulebook = settings.rulebooks[stream.rulebook]
    whose = settings.brands.get(brand)
    identifier = str(uuid5(NAMESPACE_URL, f"{contact.address}\n{brand}\n{purpose}"))
    person = {
        "@id": f"urn:uuid:{uuid5(NAMESPACE_URL, contact.address)}",
        "@type": "dpv:DataSubject",
        "dpv:hasIdentifier": contact.address,
    }
    lang = contact.language or settings.server.language
    events = [
        *(_event(act, person["@id"], rulebook) for act in acts),
        *(_refusal(entry, person["@id"]) for entry in _orders(suppressions, stream)),
    ]
    return {
        "@id": f"urn:uuid:{identifier}",
        "@type": "dpv:ConsentRecord",
        "dct:conformsTo": {"@id": f"{SCHEMA}record"},
        "dpv:hasIdentifier": identifier,
        "dct:created": _moment(min(act.at for act in acts)),
        "dct:language": lang.partition("-")[0],
        "dpv:hasDataSubject": person,
        "dpv:hasDataController": _controller(controller, whose),
        "dpv:hasAuthority": {"@type": "dpv:Authority", "dpv:hasName": controller.authority},
        "dpv:hasJurisdiction": _jurisdiction(rulebook),
        "dpv:hasLegalBasis": [{"@id": each} for each in _legal_basis(rulebook)],
        "dpv:hasNotice": _notices(acts),
        "dpv:hasConsentControl": {
            "@type": "dpv:WithdrawConsent",
            "dpv:isExercisedAt": (whose and whose.help) or controller.contact,
        },
        "dpv:hasProcess": {
            **_process(controller, settings.retention.prospects),
            "dpv:hasPurpose": _purpose(settings, stream, purpose, lang),
        },
        "dpv:hasConsentStatus": sorted(
            events, key=lambda event: event["dpv:isIndicatedAtTime"]["@value"]
        ),
    }


def _process(controller: ControllerSettings, kept: Period) -> Node:
    """Return the processing of an address, without its purpose."""
    return {
        "@type": "dpv:Process",
        "dpv:hasPersonalData": [{"@id": "pd:EmailAddress"}],
        "dpv:hasProcessing": [{"@id": "dpv:Store"}, {"@id": "dpv:Use"}],
        "dpv:hasRecipient": [
            {"@type": "dpv:Recipient", "dpv:hasName": each} for each in controller.recipients
        ],
        "dpv:hasStorageCondition": _storage(controller, kept),
    }


def _orders(suppressions: Iterable[Suppression], stream: Stream) -> Iterable[Suppression]:
    """Return the person's own orders not to mail exactly this address on this stream."""
    return (
        entry
        for entry in suppressions
        if entry.origin in _REFUSALS
        and entry.domain is None
        and entry.read_as is None
        and not entry.widened
        and covers(entry.scope, stream)
    )


def _stream(settings: Settings, brand: str, purpose: str) -> Stream:
    """Return the stream for such mail, or a stand-in if the brand has none with the purpose."""
    own = [s for s in settings.streams.values() if s.purpose == purpose]
    for stream in own:
        if stream.brand == brand:
            return stream
    kind = StreamClass.TRANSACTIONAL if purpose in BUILT_IN_PURPOSES else StreamClass.MARKETING
    alone = Stream(purpose, kind, purpose, rulebook=settings.policy.rulebook)
    like = own[0] if own else alone
    return replace(like, brand=brand or BUILT_IN_BRAND, all_brands=settings.brand_names)


def _controller(controller: ControllerSettings, brand: BrandSettings | None) -> Node:
    name = (brand and brand.legal_name) or controller.name
    found = {
        "@type": ["dpv:DataController", "dpv:Organisation"],
        "dpv:hasIdentifier": name,
        "dpv:hasName": name,
        "dpv:hasAddress": (brand and brand.address) or controller.address,
        "dpv:hasContact": controller.contact,
    }
    if brand is not None and brand.title and brand.title != name:
        found["skos:altLabel"] = brand.title
    return found


def _jurisdiction(rulebook: Rulebook) -> Node | str:
    country = _COUNTRIES.get(rulebook.name)
    return {"@id": f"loc:{country}"} if country else rulebook.name


def _legal_basis(rulebook: Rulebook) -> list[str]:
    return ["dpv:Consent", *(["eu-gdpr:A6-1-a"] if rulebook.name in _GDPR else [])]


def _purpose(settings: Settings, stream: Stream, purpose: str, lang: str) -> Node:
    labels: Mapping[str, str] = next(
        (each.label or {} for each in settings.declared_streams if each.name == stream.name), {}
    )
    tracking = purpose in BUILT_IN_PURPOSES
    return {
        "@type": "dpv:Purpose",
        "dct:identifier": purpose,
        "skos:broader": {"@id": "dpv:ServiceUsageAnalytics" if tracking else "dpv:DirectMarketing"},
        "skos:prefLabel": labels.get(lang.partition("-")[0], purpose),
    }


def _notices(acts: Sequence[ConsentAct]) -> list[Node]:
    """Return the texts agreed to, each once."""
    found: dict[tuple[str | None, ...], Node] = {}
    for act in acts:
        proof = act.evidence
        text = (proof.wording, proof.version, proof.form)
        if not any(text):
            continue
        notice = {
            "@type": "dpv:ConsentNotice",
            "dpv:hasIdentifier": " ".join(filter(None, (proof.wording, proof.version))),
            "dct:description": proof.wording,
            "dct:hasVersion": proof.version,
            "dpv:hasLocation": proof.form,
        }
        found.setdefault(text, {key: value for key, value in notice.items() if value})
    return list(found.values())


def _event(act: ConsentAct, person: str, rulebook: Rulebook) -> Node:
    if act.withdrawal:
        return _status(["dpv:ConsentWithdrawn"], act.at, person)
    implied = act.method in rulebook.preticked_methods
    kinds = ["dpv:ConsentRequested" if act.pending else "dpv:ConsentGiven"]
    if implied:
        kinds.append("dpv:ImpliedConsent")
    elif act.method in rulebook.valid_methods and not act.pending:
        explicit = act.method in _EXPLICIT
        kinds.append("dpv:ExplicitlyExpressedConsent" if explicit else "dpv:ExpressedConsent")
    event = _status(kinds, act.at, person)
    event["dpv:hasIndicationMethod"] = " ".join(filter(None, (act.method, act.evidence.form)))
    event["dpv:hasDuration"] = _duration(rulebook.consent_period)
    event["dct:medium"] = sorted(act.channels)
    if act.conditional is not None:
        event["dpv:hasNecessity"] = {"@id": "dpv:Required" if act.conditional else "dpv:Optional"}
    if act.evidence.ip:
        event["dpv:hasPersonalData"] = {"@type": "pd:IPAddress", "rdf:value": act.evidence.ip}
    if act.evidence.document_hash:
        event["dct:source"] = f"sha256:{act.evidence.document_hash}"
    return event


def _refusal(entry: Suppression, person: str) -> Node:
    """Return a person's order not to be mailed as an event: it withdraws their consent."""
    event = _status(["dpv:ConsentWithdrawn"], entry.since, person)
    event["dpv:hasIndicationMethod"] = str(entry.origin)
    return event


def _status(kinds: list[str], at: datetime, person: str) -> Node:
    return {
        "@type": kinds,
        "dpv:isIndicatedAtTime": _moment(at),
        "dpv:isIndicatedBy": {"@id": person},
    }


def _moment(at: datetime) -> Node:
    return {"@type": "xsd:dateTime", "@value": written_time(at)}


def _storage(controller: ControllerSettings, period: Period | None) -> list[Node]:
    countries = [{"@id": f"loc:{each}"} for each in controller.storage]
    return [
        {"@type": "dpv:StorageLocation", "dpv:hasLocation": countries},
        {"@type": "dpv:StorageDuration", "dpv:hasDuration": _duration(period)},
    ]


def _duration(period: Period | None) -> Node:
    if period is None:
        return {"@type": "dpv:EndlessDuration"}
    written = _LETTERS.get(period.unit)
    value = written.format(period.count) if written else str(period)
    return {"@type": "dpv:TemporalDuration", "rdf:value": value}
