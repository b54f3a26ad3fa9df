"""`--set FIELD=VALUE` at imports, and imported spreadsheets."""

from pathlib import Path

import openpyxl
import pytest

from tests.cli.stored import Stored

MAILCHIMP = (
    "Email Address,MEMBER_RATING,OPTIN_TIME,CONFIRM_TIME,CONFIRM_IP\n"
    "anna@people.example,2,2025-01-01 10:00:00,2025-01-01 10:05:00,192.0.2.7\n"
)
ANNA = "anna@people.example"


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def test_constants_complete_a_providers_export(stored: Stored) -> None:
    path = stored.file("subscribed.csv", MAILCHIMP)
    stored.run(
        "contact", "import", path, "--purpose", "offers", "--set", "source=direct",
        "--set", "consent_method=double_opt_in", "--set", "evidence.wording=I want news",
    )  # fmt: skip
    found = stored.json("contact", "show", ANNA)
    assert found["source"] == "direct"
    assert found["consents"][0]["method"] == "double_opt_in"
    assert found["consents"][0]["evidence"]["wording"] == "I want news"
    (record,) = stored.json("import", "list")
    assert "evidence.wording" not in record["options"]["set"]
    assert "consent_wording=I want news" in record["options"]["set"]
    scrubbed = stored.json("scrub", stored.file("list", ANNA), "--stream", "offers")
    assert scrubbed["allowed"] == 1


def test_a_value_in_the_row_overrides_the_constant(stored: Stored) -> None:
    path = stored.file("people.csv", f"address,source\n{ANNA},partner\nbert@people.example,\n")
    stored.run("contact", "import", path, "--set", "source=direct")
    assert stored.json("contact", "show", ANNA)["source"] == "partner"
    assert stored.json("contact", "show", "bert@people.example")["source"] == "direct"


def test_suppressions_take_constants_too(stored: Stored) -> None:
    path = stored.file("left.csv", f"address\n{ANNA}\n")
    stored.run("suppress", "import", path, "--set", "scope=marketing", "--set", "origin=objection")
    (found,) = stored.json("suppress", "show", ANNA)["suppressions"]
    assert (found["scope"], found["origin"]) == ("marketing", "objection")


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ("source", "'source' is not FIELD=VALUE"),
        ("sourc=direct", "--set sourc: no such field; they are audience"),
        ("address=a@b.example", "--set address: no such field"),
        ("source=mars", "--set source: 'mars' is unknown; expected one of direct"),
        ("collected_at=once", "--set collected_at: 'once' is not a time"),
        ("consent_purpose=x", "no stream has the purpose 'x'"),
        ("consent_method=x", "--set consent_method: 'x' is not one of"),
        ("optout_offered=maybe", "--set optout_offered: 'maybe' is neither true nor false"),
    ],
)
def test_an_invalid_constant_is_refused_at_once(stored: Stored, said: str, fault: str) -> None:
    path = stored.file("people.csv", f"address\n{ANNA}\n")
    assert fault in stored.run("contact", "import", path, "--set", said, code=2).stderr


def test_our_own_ndjson_takes_no_constants(stored: Stored) -> None:
    path = stored.file("people.ndjson", f'{{"address":"{ANNA}"}}\n')
    error = stored.run("contact", "import", path, "--set", "source=direct", code=2).stderr
    assert "--set works with tables only" in error


def test_consents_without_a_date_are_counted(stored: Stored) -> None:
    path = stored.file("people.csv", f"address,consent_purpose\n{ANNA},offers\nb@b.example,\n")
    done = stored.run("contact", "import", path, code=1)
    assert "1 added, 0 changed, 0 unchanged, 1 rejected" in done.stdout
    assert "1 line rejected for a consent without its date" in done.stderr


def test_a_spreadsheet_and_its_rejected_rows_can_be_imported(stored: Stored) -> None:
    book = openpyxl.Workbook()
    for row in (["address", "collected_at"], [ANNA, "2025-01-01"], ["bert", "2025-01-02"]):
        book.active.append(row)
    path = stored.folder / "people.xlsx"
    book.save(path)
    assert stored.json("contact", "import", str(path), code=1)["added"] == 1
    rejected = Path(f"{path}.rejected")
    rejected.write_text(rejected.read_text().replace("\nbert,", "\nbert@people.example,"))
    assert stored.json("contact", "import", str(rejected))["added"] == 1
