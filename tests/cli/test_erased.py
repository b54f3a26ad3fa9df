"""Erased people stay erased until they come back by themselves."""

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from smtpproxy.policy.model import Contact, Origin
from smtpproxy.policy.rulebooks import builtin
from tests.cli.stored import Stored
from tests.policy.cases import (
    AGREED,
    COLLECTED,
    CUSTOMER,
    DAY,
    PERSON,
    RECEIPTS,
    SUBSCRIBER,
    said,
    suppression,
    verdict,
)

ANNA, BERT = "anna@people.example", "bert@people.example"
RECORD = ("consent", "record", ANNA, "--purpose", "offers", "--source", "direct")


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    stored = Stored(tmp_path)
    people(stored)
    stored.run("contact", "erase", ANNA)
    return stored


def people(stored: Stored, *options: str) -> str:
    agreed = {
        "purpose": "offers",
        "method": "unticked_box",
        "given_at": "2026-01-01T00:00:00Z",
        "evidence": {"wording": "form v3"},
    }
    lines = [
        json.dumps({"address": who, "source": "direct", "consents": [agreed]})
        for who in (ANNA, BERT)
    ]
    path = stored.file("people.ndjson", "\n".join(lines))
    return stored.run("contact", "import", path, *options).stdout


def test_receipts_still_reach_erased_people(stored: Stored) -> None:
    (kept,) = stored.json("suppress", "show", ANNA)["suppressions"]
    assert (kept["scope"], kept["origin"]) == ("marketing", "erasure")
    erased = suppression("marketing", Origin.ERASURE)
    assert said(verdict(None, erased, stream=RECEIPTS)) == "allow transactional"
    assert said(verdict(CUSTOMER, erased)) == "refuse suppressed_erasure"


def test_an_erasure_recorded_by_hand_or_file_spares_receipts_too(stored: Stored) -> None:
    carl, dora = "carl@people.example", "dora@people.example"
    stored.run("suppress", "add", carl, "--origin", "erasure")
    mapping = stored.file(
        "erased.toml", '[columns]\n"who" = "address"\n[constants]\norigin = "erasure"\n'
    )
    erased = stored.file("erased.csv", f"who\n{dora}\n")
    stored.run("suppress", "import", erased, "--mapping", mapping)
    for who in (carl, dora):
        (kept,) = stored.json("suppress", "show", who)["suppressions"]
        assert (kept["scope"], kept["origin"]) == ("marketing", "erasure")
    stored.run("suppress", "add", carl, "--origin", "erasure", "--scope", "all")
    scopes = {each["scope"] for each in stored.json("suppress", "show", carl)["suppressions"]}
    assert scopes == {"marketing", "all"}


def test_all_mail_is_stopped_on_request(stored: Stored) -> None:
    assert "suppressed for all" in stored.run("contact", "erase", BERT, "--scope", "all").stdout
    (kept,) = stored.json("suppress", "show", BERT)["suppressions"]
    assert kept["scope"] == "all"


def test_an_import_skips_them_and_says_how_many(stored: Stored) -> None:
    assert "0 added, 0 changed, 1 unchanged" in (out := people(stored))
    assert "1 left out: erased, and only the people themselves can come back" in out
    stored.run("contact", "show", ANNA, code=1)
    (record, again) = stored.json("import", "list")[:2]
    assert sorted([record["erased"], again["erased"]]) == [0, 1]


def test_a_dry_run_says_so_too(stored: Stored) -> None:
    assert "erased: left out" in people(stored, "--dry-run")


def test_only_their_own_proven_consent_brings_them_back(stored: Stored) -> None:
    bare = stored.run(*RECORD, "--method", "unticked_box").stderr
    assert f"{ANNA} will still not be mailed on the stream offers: suppressed_erasure" in bare
    proven = stored.run(*RECORD, "--method", "signed_form", "--wording", "form v4").stderr
    assert "will still not be mailed" not in proven
    people(stored)
    assert len(stored.json("contact", "show", ANNA)["consents"]) == 2  # without that of the import


YIELDING = [
    (replace(SUBSCRIBER, acts=(replace(AGREED, at=COLLECTED + 2 * DAY),)), "allow consent"),
    (SUBSCRIBER, "refuse suppressed_erasure"),  # given before the erasure
    (
        replace(PERSON, acts=(replace(AGREED, at=COLLECTED + 2 * DAY, method="silence"),)),
        "refuse suppressed_erasure",
    ),
]


@pytest.mark.parametrize(("contact", "expected"), YIELDING)
@pytest.mark.parametrize("scope", ["marketing", "all"])
def test_an_erasure_yields_to_later_valid_consent(
    contact: Contact, expected: str, scope: str
) -> None:
    assert said(verdict(contact, suppression(scope, Origin.ERASURE))) == expected


@pytest.mark.parametrize(
    ("rulebook", "yields"),
    [("fr", True), ("uk", True), ("de", True), ("us", True), ("ca", True), ("eu-strict", False)],
)
def test_rulebooks_under_which_an_erasure_yields_to_consent(rulebook: str, *, yields: bool) -> None:
    assert (Origin.ERASURE in builtin(rulebook).lifted_by_consent) == yields
