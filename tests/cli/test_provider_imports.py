"""Imports of providers' exports: what a person sees who runs them."""

from pathlib import Path

import pytest

from tests.cli.stored import Stored

ANNA = "anna@people.example"


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    stored = Stored(tmp_path)
    stored.run("suppress", "add", "maker@people.example")
    return stored


def test_it_says_what_it_took_the_file_for(stored: Stored) -> None:
    path = stored.file("x.csv", f'address,created_at\n{ANNA},"Fri, 01 Mar 2024 12:00:00 UTC"\n')
    result = stored.run("suppress", "import", path)
    assert f"{path}: taken as an export of Mailgun (mailgun-complaints)" in result.stderr
    (found,) = stored.json("suppress", "show", ANNA)["suppressions"]
    assert (found["scope"], found["origin"]) == ("all", "complaint")
    assert found["since"] == "2024-03-01T12:00:00Z"


def test_a_file_that_fits_several_needs_a_format(stored: Stored) -> None:
    path = stored.file("x.csv", f"email,created\n{ANNA},1709294400\n")
    result = stored.run("suppress", "import", path, code=1)
    assert "fits several exports: sendgrid-spam-reports, " in result.stderr
    stored.run("suppress", "show", ANNA, code=1)
    stored.run("suppress", "import", path, "--format", "sendgrid-spam-reports")
    assert stored.json("suppress", "show", ANNA)["suppressions"][0]["origin"] == "complaint"


def test_the_name_of_the_file_hints_at_it(stored: Stored) -> None:
    path = stored.file("group.csv", f"email,created\n{ANNA},1709294400\n")
    result = stored.run("suppress", "import", path, "--purpose", "offers")
    assert "sendgrid-group-unsubscribes" in result.stderr
    assert stored.json("suppress", "show", ANNA)["suppressions"][0]["scope"] == "purpose:offers"


def test_without_a_purpose_it_says_what_a_list_counts_for(stored: Stored) -> None:
    path = stored.file("group.csv", f"email,created\n{ANNA},1709294400\n")
    result = stored.run("suppress", "import", path)
    assert "count for all marketing; say with --purpose" in result.stderr
    assert stored.json("suppress", "show", ANNA)["suppressions"][0]["scope"] == "marketing"


def test_an_unknown_format_names_those_there_are(stored: Stored) -> None:
    path = stored.file("x.csv", "email\n")
    result = stored.run("suppress", "import", path, "--format", "mailgum", code=2)
    assert "'mailgum' is none of csv, ndjson, sendgrid, ses, mailgun" in result.stderr


def test_a_mapping_of_suppressions(stored: Stored) -> None:
    mapping = stored.file(
        "crm.toml",
        '[columns]\nMail = "address"\nWhy = "origin"\n[values.origin]\nSPAM="complaint"\n',
    )
    path = stored.file("crm.csv", f"Mail,Why\n{ANNA},spam\n")
    assert stored.json("suppress", "import", path, "--mapping", mapping)["added"] == 1
    (found,) = stored.json("suppress", "show", ANNA)["suppressions"]
    assert (found["scope"], found["origin"]) == ("all", "complaint")
    faulty = stored.file("faulty.toml", '[columns]\nMail = "adress"\n')
    result = stored.run("suppress", "import", path, "--mapping", faulty, code=2)
    assert "columns: no field 'adress'; they are address, scope" in result.stderr


def test_rows_that_are_passed_over_are_counted(stored: Stored) -> None:
    head = "uuid,email,name,attributes,status,created_at,updated_at\n"
    time = "2024-03-01 12:00:00 +0000 UTC"
    path = stored.file(
        "subscribers.csv",
        f"{head}u,{ANNA},A,{{}},blocklisted,{time},{time}\nu,b@people.example,B,{{}},enabled,{time},{time}\n",
    )
    result = stored.run("suppress", "import", path)
    assert "1 added" in result.stdout
    assert "1 rows passed over" in result.stdout
    done = stored.json("contact", "import", path)
    assert (done["added"], done["passed"]) == (1, 1)
    stored.run("contact", "show", ANNA, code=1)
