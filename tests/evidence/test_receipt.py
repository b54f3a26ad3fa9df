"""Consent receipts: valid JSON-LD, checked with rdflib and pyshacl, and their content."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace
from pyshacl import validate
from rdflib import Graph

from smtpproxy.config import parse
from smtpproxy.evidence.receipt import NoReceipt, receipt
from smtpproxy.policy.model import (
    ConsentAct,
    Contact,
    Evidence,
    Origin,
    RecipientFacts,
    Suppression,
)
from smtpproxy.settings import Settings
from tests.kit.relay import CONTROLLER, relay_config
from tests.kit.toml import to_toml

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:rdflib")

SHAPES = Path(__file__).with_name("receipt.ttl")
ANNA = "anna@people.example"
AT = datetime(2026, 3, 1, 10, tzinfo=UTC)
DAY = timedelta(days=1)
ID = "5b9d6c1e-6a0b-4f2f-9f5b-6b1f0a4f1c11"
GIVEN = ConsentAct(
    "offers",
    AT,
    method="unticked_box",
    conditional=False,
    evidence=Evidence("Yes, mail me offers.", "192.0.2.7", "3", "/join", "ab" * 32),
)
PENDING = ConsentAct("tracking", AT, method="double_opt_in", pending=True, evidence=GIVEN.evidence)
CONFIRMED = ConsentAct("tracking", AT + DAY, method="double_opt_in")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return configured(tmp_path, storage=["FR", "ie"])


def configured(folder: Path, **controller: Any) -> Settings:
    config = relay_config(folder, "127.0.0.1:25", {"controller": {**CONTROLLER, **controller}})
    return parse(to_toml(config), "test.toml")


def made(settings: Settings, *acts: ConsentAct, **more: Any) -> Any:
    facts = RecipientFacts(contact=Contact(ANNA, acts=acts, language="fr"), **more)
    return receipt(settings, facts, identifier=ID, at=AT + 9 * DAY)


def record(document: Any, purpose: str) -> Any:
    (found,) = [
        each
        for each in document["dpv:hasRecordOfActivity"]
        if each["dpv:hasProcess"]["dpv:hasPurpose"]["dct:identifier"] == purpose
    ]
    return found


def events(document: Any, purpose: str) -> list[str]:
    told = record(document, purpose)["dpv:hasConsentStatus"]
    return [each["@type"][0].partition(":")[2] for each in told]


def faults(document: Any) -> str:
    graph = Graph().parse(data=json.dumps(document), format="json-ld")
    conforms, _, text = validate(graph, shacl_graph=str(SHAPES))
    return "" if conforms else str(text)


def test_a_receipt_has_all_mandatory_fields(settings: Settings) -> None:
    withdrawn = ConsentAct("offers", AT + 2 * DAY, withdrawal=True)
    ticked = ConsentAct("news", AT, method="preticked_box", evidence=Evidence("news"))
    document = made(settings, GIVEN, PENDING, CONFIRMED, withdrawn, ticked)
    assert faults(document) == ""
    assert len(document["dpv:hasRecordOfActivity"]) == 3


@pytest.mark.parametrize(
    "missing",
    [
        *("dpv:hasDataSubject", "dpv:hasDataController", "dpv:hasNotice", "dpv:hasProcess"),
        *("dpv:hasConsentStatus", "dpv:hasJurisdiction", "dct:language", "dpv:hasConsentControl"),
    ],
)
def test_a_receipt_without_a_mandatory_field_is_rejected(settings: Settings, missing: str) -> None:
    document = made(settings, GIVEN)
    del document["dpv:hasRecordOfActivity"][0][missing]
    assert faults(document)


def test_the_content_of_a_receipt(settings: Settings) -> None:
    document = made(settings, GIVEN, PENDING, CONFIRMED)
    assert UUID(document["dpv:hasIdentifier"])
    offers, tracking = record(document, "offers"), record(document, "tracking")
    assert offers["dpv:hasDataSubject"]["dpv:hasIdentifier"] == ANNA
    assert offers["dpv:hasDataController"]["dpv:hasName"] == CONTROLLER["name"]
    assert offers["dpv:hasDataController"]["dpv:hasAddress"] == CONTROLLER["address"]
    assert offers["dct:language"] == "fr"
    (notice,) = offers["dpv:hasNotice"]
    assert (notice["dct:description"], notice["dct:hasVersion"]) == ("Yes, mail me offers.", "3")
    (event,) = offers["dpv:hasConsentStatus"]
    assert event["@type"] == ["dpv:ConsentGiven", "dpv:ExpressedConsent"]
    assert event["dpv:isIndicatedAtTime"]["@value"] == "2026-03-01T10:00:00Z"
    assert event["dpv:hasIndicationMethod"] == "unticked_box /join"
    assert event["dpv:hasNecessity"] == {"@id": "dpv:Optional"}
    assert event["dpv:hasPersonalData"]["rdf:value"] == "192.0.2.7"
    assert event["dct:source"] == "sha256:" + "ab" * 32
    assert event["dpv:hasDuration"]["rdf:value"] == "P3Y"
    places, period = offers["dpv:hasProcess"]["dpv:hasStorageCondition"]
    assert places["dpv:hasLocation"] == [{"@id": "loc:FR"}, {"@id": "loc:IE"}]
    assert period["dpv:hasDuration"]["rdf:value"] == "P3Y"
    assert events(document, "tracking") == ["ConsentRequested", "ConsentGiven"]
    again = made(settings, GIVEN, PENDING, CONFIRMED)
    assert record(again, "tracking")["@id"] == tracking["@id"] != offers["@id"]


@pytest.mark.parametrize(
    ("scope", "origin", "expected"),
    [
        ("purpose:offers", Origin.UNSUBSCRIBE, True),
        ("marketing", Origin.COMPLAINT, True),
        ("all", Origin.ERASURE, True),
        ("purpose:news", Origin.UNSUBSCRIBE, False),
        ("all", Origin.BOUNCE, False),
    ],
)
def test_an_unsubscribe_ends_the_consent(
    settings: Settings, scope: str, origin: Origin, expected: bool
) -> None:
    entry = Suppression(scope, origin, AT + DAY)
    document = made(settings, GIVEN, suppressions=(entry,))
    assert events(document, "offers") == ["ConsentGiven", *(["ConsentWithdrawn"] * expected)]
    assert faults(document) == ""


def branded(folder: Path) -> Settings:
    config = relay_config(folder, "127.0.0.1:25", {"controller": {**CONTROLLER, "storage": ["FR"]}})
    config["brand"] = [
        {"name": "shoes", "legal_name": "Shoes SA", "address": "2 rue Y, Lyon"},
        {"name": "hats", "title": "Hats!"},
    ]
    config["stream"] = [
        {**{k: v for k, v in stream.items() if k != "from_domains"}, "brand": "shoes"}
        for stream in config["stream"]
    ]
    return parse(to_toml(config), "test.toml")


def test_each_brand_has_a_receipt_and_a_general_withdrawal_is_in_each(tmp_path: Path) -> None:
    settings = branded(tmp_path)
    of_shoes = ConsentAct(
        "offers", AT, method="unticked_box", brand="shoes", evidence=GIVEN.evidence
    )
    of_hats = ConsentAct("offers", AT, method="signed_form", brand="hats", evidence=GIVEN.evidence)
    no_more = ConsentAct("offers", AT + DAY, withdrawal=True)
    document = made(settings, of_shoes, of_hats, no_more)
    told = {
        each["dpv:hasDataController"]["dpv:hasName"]: len(each["dpv:hasConsentStatus"])
        for each in document["dpv:hasRecordOfActivity"]
    }
    assert told["Shoes SA"] == told[CONTROLLER["name"]] == 2
    assert faults(document) == ""


@pytest.mark.parametrize("brand", ["shoes", "hats"])
def test_an_objection_to_one_brand_leaves_the_consent_to_another(
    tmp_path: Path, brand: str
) -> None:
    """Only one of them has a stream with the purpose."""
    acts = [replace(GIVEN, brand="shoes"), replace(GIVEN, brand="hats")]
    order = Suppression(f"brand:{brand}", Origin.OBJECTION, AT + DAY)
    document = made(branded(tmp_path), *acts, suppressions=(order,))
    told = {
        each["dpv:hasDataController"]["dpv:hasName"]: len(each["dpv:hasConsentStatus"])
        for each in document["dpv:hasRecordOfActivity"]
    }
    ended, other = ("Shoes SA", CONTROLLER["name"])[:: 1 if brand == "shoes" else -1]
    assert told == {ended: 2, other: 1}


def test_the_whole_receipt(tmp_path: Path) -> None:
    """If this fails, check `written` and put it into receipt.json."""
    acts = [
        replace(GIVEN, brand="shoes", channels=frozenset({"sms", "email"})),
        replace(GIVEN, brand="shoes", at=AT - DAY, method="silence", conditional=True),
        replace(GIVEN, brand="hats", method="signed_form", evidence=Evidence()),
        ConsentAct("offers", AT + DAY, withdrawal=True),
        ConsentAct("offers", AT + 3 * DAY, withdrawal=True, brand="shoes"),
        replace(PENDING, brand="shoes"),
        replace(CONFIRMED, brand="shoes", evidence=Evidence("Yes", form="/confirm")),
    ]
    orders = (
        Suppression("brand:shoes", Origin.OBJECTION, AT + 2 * DAY),
        Suppression("all", Origin.UNSUBSCRIBE, AT + 2 * DAY, widened=True),
        Suppression("all", Origin.COMPLAINT, AT + 2 * DAY, domain="people.example"),
        Suppression("all", Origin.COMPLAINT, AT + 2 * DAY, read_as="x@y.example"),
    )
    document = made(branded(tmp_path), *acts, suppressions=orders)
    written = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    assert written == SHAPES.with_name("receipt.json").read_text()


def test_settings_that_receipts_need(tmp_path: Path, settings: Settings) -> None:
    assert made(settings) is None
    assert made(settings, ConsentAct("offers", AT, withdrawal=True)) is None
    with pytest.raises(NoReceipt, match=r"controller\.storage: not set"):
        made(configured(tmp_path), GIVEN)
