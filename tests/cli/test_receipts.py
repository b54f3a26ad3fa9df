"""`smtpproxy consent export`: a receipt for one person, or for everybody, one per line."""

import json
import stat
from pathlib import Path

import pytest

from tests.cli.stored import DAY_ONE, Stored
from tests.kit.relay import CONTROLLER, relay_config
from tests.kit.toml import to_toml

ANNA, BEN = "anna@people.example", "ben@people.example"


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    found = Stored(tmp_path)
    config = relay_config(
        tmp_path, "127.0.0.1:25", {"controller": {**CONTROLLER, "storage": ["FR"]}}
    )
    found.config_path.write_text(to_toml(config))
    return found


def agree(stored: Stored, who: str, purpose: str = "offers") -> None:
    told = ("--method", "signed_form", "--given-at", DAY_ONE, "--wording", "v3")
    stored.run("consent", "record", who, "--purpose", purpose, *told, "--source", "direct")


def test_receipts_for_one_person_and_for_everybody(stored: Stored) -> None:
    agree(stored, ANNA)
    agree(stored, BEN, "tracking")
    stored.file("c.ndjson", '{"address":"carl@people.example"}\n')
    stored.run("contact", "import", str(stored.folder / "c.ndjson"))
    one = json.loads(stored.run("consent", "export", ANNA).stdout)
    assert one["@type"] == "dpv:ConsentReceipt"
    (record,) = one["dpv:hasRecordOfActivity"]
    assert record["dpv:hasDataSubject"]["dpv:hasIdentifier"] == ANNA
    path = stored.folder / "all.ndjson"
    stored.run("consent", "export", "--output", str(path))
    everybody = [json.loads(line) for line in path.read_text().splitlines()]
    names = {
        each["dpv:hasRecordOfActivity"][0]["dpv:hasDataSubject"]["dpv:hasIdentifier"]
        for each in everybody
    }
    assert names == {ANNA, BEN}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_receipt_includes_an_unsubscribe(stored: Stored) -> None:
    agree(stored, ANNA)
    stored.run("suppress", "add", ANNA, "--scope", "purpose:offers", "--origin", "unsubscribe")
    document = json.loads(stored.run("consent", "export", ANNA).stdout)
    events = document["dpv:hasRecordOfActivity"][0]["dpv:hasConsentStatus"]
    assert events[-1]["@type"] == ["dpv:ConsentWithdrawn"]


def test_missing_facts_are_reported(stored: Stored) -> None:
    agree(stored, ANNA)
    said = stored.run("consent", "export", BEN, code=1).stderr
    assert said == f"Error: {BEN}: no consent is on record\n"
    stored.config_path.write_text(to_toml(relay_config(stored.folder, "127.0.0.1:25")))
    said = stored.run("consent", "export", ANNA, code=2).stderr
    assert said.startswith("Error: controller.storage: not set, but a receipt has to say in which")
    config = relay_config(stored.folder, "127.0.0.1:25", {"controller": None})
    stored.config_path.write_text(to_toml(config))
    said = stored.run("consent", "export", code=2).stderr
    assert said.startswith("Error: controller: not set, but a receipt has to say with whom the")
