"""Imports of providers' exports, as users see them."""

from pathlib import Path

import pytest

from tests.cli.stored import Stored

ANNA = "anna@people.example"


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    stored = Stored(tmp_path)
    stored.run("suppress", "add", "maker@people.example")
    return stored


def test_it_names_the_format_it_recognised(stored: Stored) -> None:
    path = stored.file("x.csv", f'address,created_at\n{ANNA},"Fri, 01 Mar 2024 12:00:00 UTC"\n')
    result = stored.run("suppress", "import", path)
    assert f"{path}: taken as an export of Mailgun (mailgun-complaints)" in result.stderr
    (found,) = stored.json("suppress", "show", ANNA)["suppressions"]
    assert (found["scope"], found["origin"]) == ("all", "complaint")
    assert found["since"] == "2024-03-01T12:00:00Z"


def test_a_file_that_fits_several_formats_needs_one_named(stored: Stored) -> None:
    path = stored.file("x.csv", f"email,created\n{ANNA},1709294400\n")
    result = stored.run("suppress", "import", path, code=1)
    assert "fits several exports: sendgrid-spam-reports, " in result.stderr
    stored.run("suppress", "show", ANNA, code=1)
    stored.run("suppress", "import", path, "--format", "sendgrid-spam-reports")
    assert stored.json("suppress", "show", ANNA)["suppressions"][0]["origin"] == "complaint"


def test_the_file_name_can_settle_the_format(stored: Stored) -> None:
    path = stored.file("group.csv", f"email,created\n{ANNA},1709294400\n")
    result = stored.run("suppress", "import", path, "--purpose", "offers")
    assert "sendgrid-group-unsubscribes" in result.stderr
    assert stored.json("suppress", "show", ANNA)["suppressions"][0]["scope"] == "purpose:offers"


def test_without_a_purpose_it_says_what_a_list_holds_for(stored: Stored) -> None:
    path = stored.file("group.csv", f"email,created\n{ANNA},1709294400\n")
    result = stored.run("suppress", "import", path)
    assert "count for all marketing; give the list's purpose with --purpose" in result.stderr
    assert stored.json("suppress", "show", ANNA)["suppressions"][0]["scope"] == "marketing"


def test_an_unknown_format_is_refused_with_those_that_exist(stored: Stored) -> None:
    path = stored.file("x.csv", "email\n")
    result = stored.run("suppress", "import", path, "--format", "mailgum", code=2)
    assert "'mailgum' is not one of csv, ndjson, sendgrid, ses, mailgun" in result.stderr


def test_suppressions_can_be_mapped(stored: Stored) -> None:
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


def test_skipped_rows_are_counted(stored: Stored) -> None:
    head = "uuid,email,name,attributes,status,created_at,updated_at\n"
    time = "2024-03-01 12:00:00 +0000 UTC"
    path = stored.file(
        "subscribers.csv",
        f"{head}u,{ANNA},A,{{}},blocklisted,{time},{time}\nu,b@people.example,B,{{}},enabled,{time},{time}\n",
    )
    result = stored.run("suppress", "import", path)
    assert "1 added" in result.stdout
    assert "1 row skipped" in result.stdout
    done = stored.json("contact", "import", path)
    assert (done["added"], done["passed"]) == (1, 1)
    stored.run("contact", "show", ANNA, code=1)


def test_a_dry_run_writes_nothing(stored: Stored) -> None:
    path = stored.file(
        "x.csv",
        "address,scope,origin,since,note\n"
        f"{ANNA},all,complaint,2026-01-01,\nmaker@people.example,all,manual,2020-01-01,\n"
        "x,all,manual,,\n",
    )
    result = stored.run("suppress", "import", path, "--dry-run", code=1)
    assert "1 new, 0 changed, 1 ignored, 0 resurrected, 1 rejected; nothing was written" in (
        result.stdout
    )
    assert "  line 2: all, complaint, since 2026-01-01T23:59:59.999999Z\n" in result.stdout
    assert "people.example" not in result.stdout  # the output is not a terminal
    stored.run("suppress", "show", ANNA, code=1)
    assert not Path(f"{path}.rejected").exists()


def test_a_dry_run_shows_addresses_at_a_terminal(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtpproxy.cli.import_file.on_a_terminal", lambda: True)
    path = stored.file("x.csv", f"address,scope,origin\n{ANNA},all,complaint\n")
    result = stored.run("suppress", "import", path, "--dry-run")
    assert f"  line 2: {ANNA} all, complaint" in result.stdout


def test_a_dry_run_says_who_would_be_mailed_again(stored: Stored) -> None:
    stored.run("suppress", "add", ANNA, "--origin", "unsubscribe", "--since", "2026-03-01")
    path = stored.file(
        "people.ndjson",
        f'{{"address":"{ANNA}","source":"direct","consents":[{{"purpose":"offers",'
        '"method":"unticked_box","given_at":"2026-04-01T00:00:00Z",'
        '"evidence":{"wording":"form 3"}}]}\n',
    )
    done = stored.json("contact", "import", path, "--dry-run")
    counts = {name: done[name] for name in ("new", "changed", "ignored", "resurrected", "rejected")}
    assert counts == {"new": 1, "changed": 0, "ignored": 0, "resurrected": 1, "rejected": 0}
    (found,) = [one for one in done["samples"] if one["kind"] == "resurrected"]
    assert found["line"] == 1
    assert found["what"].startswith("offers: refused as suppressed_unsubscribe, would be allowed")
    assert "address" not in found
    stored.run("contact", "show", ANNA, code=1)


def test_a_consent_in_the_future_is_rejected(stored: Stored) -> None:
    """It would outweigh every withdrawal until then."""
    line = (
        '{"address":"%s","consents":[{"purpose":"offers","method":"unticked_box",'
        '"given_at":"%s","evidence":{"wording":"form 3"}}]}\n'
    )
    path = stored.file(
        "people.ndjson",
        line % (ANNA, "2199-01-01T00:00:00Z")
        + line % ("bert@people.example", "2026-01-01T00:00:00Z"),
    )
    assert stored.json("contact", "import", path, "--dry-run", code=1)["rejected"] == 1
    done = stored.json("contact", "import", path, code=1)
    assert (done["added"], done["rejected"]) == (1, 1)
    assert "given_at 2199-01-01T00:00:00Z is in the future" in Path(f"{path}.rejected").read_text()


@pytest.mark.parametrize(
    ("command", "content", "options", "part", "code"),
    [
        (
            "suppress",
            "address,scope,origin\n",
            ["--purpose", "offers"],
            "--scope purpose:offers",
            1,
        ),
        ("suppress", "a,b\n", ["--mapping", "MAPPING", "--purpose", "offers"], "for `list`", 1),
        ("suppress", "a,b\n", ["--mapping", "MAPPING", "--format", "ses"], "--format ses", 2),
        ("contact", "a,b\n", ["--mapping", "MAPPING", "--format", "brevo"], "--format brevo", 2),
        (
            "contact",
            "address\n",
            ["--purpose", "offers"],
            "here consent_purpose has the purpose",
            1,
        ),
        ("contact", '{"address":"a@b.example"}', ["--purpose", "offers"], "our own NDJSON", 2),
    ],
)
def test_options_without_effect_are_refused(
    stored: Stored, command: str, content: str, options: list[str], part: str, code: int
) -> None:
    mapping = stored.file("m.toml", '[columns]\na = "address"\n')
    given = [mapping if option == "MAPPING" else option for option in options]
    path = stored.file("people", content)
    assert part in stored.run(command, "import", path, *given, code=code).stderr
