"""`smtpproxy contact map`: from an undescribed file to people who may be mailed."""

import json
import tomllib
from datetime import UTC, date, datetime
from pathlib import Path

import openpyxl
import pytest
from click.testing import CliRunner

from smtpproxy.cli import main
from tests.cli.stored import Stored
from tests.kit.toml import to_toml

FRENCH = (
    "Nom;Adresse e-mail;Opt-in newsletter;Date d'inscription;Remarque\n"
    'Éva;eva@people.example;Oui;31/12/2024;"elle a dit\n""bonjour"""\n'
    ";;;;\n"
    "Noé;noe@people.example;non;03/04/2024;\n"
    "Zoé;zoe@people.example;;03/04/2024;\n"
    "Léo;leo@people.example;x;;\n"
)
KNOWN = (
    "--set", "source=direct", "--set", "consent_method=unticked_box",
    "--set", "evidence.wording=Je veux la lettre",
)  # fmt: skip


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    """With one purpose that people can consent to."""
    stored = Stored(tmp_path)
    config = tomllib.loads(stored.config_path.read_text())
    kept = ("offers", "receipts")
    config["stream"] = [one for one in config["stream"] if one["name"] in kept]
    for listener in config["listener"]:
        listener["streams"] = [name for name in listener["streams"] if name in kept]
    stored.config_path.write_text(to_toml(config))
    return stored


def mapped(stored: Stored, path: str, *options: str) -> Path:
    found = stored.json("contact", "map", path, "--yes", *KNOWN, *options)
    return Path(found["mapping"])


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8-sig", "utf-16"])
def test_a_crm_export_leads_to_people_who_may_be_mailed(stored: Stored, encoding: str) -> None:
    path = stored.file("crm.csv", FRENCH.encode(encoding))
    mapping = mapped(stored, path)
    done = stored.json("contact", "import", path, "--mapping", str(mapping), code=1)
    assert (done["added"], done["rejected"]) == (3, 1)
    people = stored.file("list", "eva@people.example\nnoe@people.example\nzoe@people.example\n")
    found = stored.json("scrub", people, "--stream", "offers", code=1)
    assert found["by_basis"] == {"consent": 1}
    assert found["by_reason"] == {"consent_missing": 1, "consent_withdrawn": 1}
    assert "says yes, but" in Path(f"{path}.rejected").read_text(errors="replace")


def test_every_strange_cell_is_asked_about_at_once_except_in_rows_without_an_address(
    stored: Stored,
) -> None:
    header, people = (
        "Email;Offers;Opt-in partners;Opt-in date\n",
        "eva@people.example;{};oui;2024-12-31\n",
    )
    rows = "".join(map(people.format, ("oui", "peut-être", "?")))
    path = stored.file("crm.csv", f"{header}{rows}TOTAL;612;98;\n")
    error = stored.run("contact", "map", path, "--yes", *KNOWN, code=2).stderr
    assert error.count("does that mean yes (a consent), no, or nothing?") == 2
    assert "612" not in error


def test_a_column_named_like_the_purpose_comes_first(stored: Stored) -> None:
    header = "Email;Opt-in partners;Opt-in offers;Opt-in date\n"
    path = stored.file("crm.csv", f"{header}eva@people.example;non;oui;2024-12-31\n")
    (table,) = tomllib.loads(mapped(stored, path).read_text())["consent"]
    assert table["column"] == "Opt-in offers"
    other = str(stored.folder / "other.toml")
    said = ("--consent", "Opt-in partners=offers", "--consent", "Opt-in offers=none")
    (table,) = tomllib.loads(mapped(stored, path, "--output", other, *said).read_text())["consent"]
    assert table["column"] == "Opt-in partners"


@pytest.mark.parametrize("name", ["Opt-in tiers", "Opt-in offers of partners"])
def test_consent_to_partners_mail_is_not_consent_to_ones_own(stored: Stored, name: str) -> None:
    header = f"Email;{name};Date d'opt-in\n"
    path = stored.file("crm.csv", f"{header}eva@people.example;oui;2024-12-31\n")
    error = stored.run("contact", "map", path, "--yes", *KNOWN, code=2).stderr
    assert f"What did people agree to if {name!r} says yes?" in error


def test_dates_of_a_spreadsheet_are_mapped(stored: Stored) -> None:
    book = openpyxl.Workbook()
    for row in (
        ["Email", "Newsletter", "Opt-in date"],
        ["eva@people.example", "yes", date(2024, 12, 31)],
        ["noe@people.example", "yes", "30/12/2024"],
    ):
        book.active.append(row)
    path = str(stored.folder / "people.xlsx")
    book.save(path)
    mapping = mapped(stored, path)
    assert tomllib.loads(mapping.read_text())["time_format"] == "iso|%d/%m/%Y"
    assert stored.json("contact", "import", path, "--mapping", str(mapping))["added"] == 2
    shown = stored.json("contact", "show", "eva@people.example")
    assert shown["consents"][0]["given_at"] == "2024-12-31T00:00:00Z"


def test_json_of_another_program_is_mapped(stored: Stored) -> None:
    line = {
        "id": 1,
        "contact": {"email": "eva@people.example", "optIn": True},
        "optInDate": "2024-12-31",
    }
    path = stored.file("people.ndjson", json.dumps(line) + "\n")
    mapping = mapped(stored, path)
    assert tomllib.loads(mapping.read_text())["columns"] == {"contact.email": "address"}
    assert stored.json("contact", "import", path, "--mapping", str(mapping))["added"] == 1
    people = stored.file("list", "eva@people.example\n")
    assert stored.json("scrub", people, "--stream", "offers")["allowed"] == 1


@pytest.mark.parametrize(
    ("header", "row", "options", "allowed"),
    [
        (
            "Email Address,MEMBER_RATING,OPTIN_TIME,OPTIN_IP,CONFIRM_TIME,CONFIRM_IP",
            "eva@people.example,2,2024-01-01 10:00:00,192.0.2.1,2024-01-01 10:05:00,192.0.2.1",
            ["--given-at", "CONFIRM_TIME", "--time-zone", "UTC"],
            1,
        ),
        (
            "Record ID,Email,Create Date,Unsubscribed from all email,Opted out of email: News",
            "7,eva@people.example,2024-01-01 10:11,,Yes",
            ["--time-zone", "UTC"],
            0,
        ),
        (
            "CONTACT ID;EMAIL;ADDED_TIME;OPT_IN;DOUBLE_OPT-IN;BLACKLISTED",
            "7;eva@people.example;03-02-2024 10:00:00;true;Yes;false",
            [
                *("--consent", "OPT_IN=none", "--given-at", "ADDED_TIME", "--time-zone", "UTC"),
                *("--time-format", "%d-%m-%Y %H:%M:%S"),
            ],
            1,
        ),
    ],
)
def test_exports_of_providers_are_mapped(
    stored: Stored, header: str, row: str, options: list[str], allowed: int
) -> None:
    path = stored.file("export.csv", f"{header}\n{row}\n")
    mapping = mapped(stored, path, *options)
    stored.run("contact", "import", path, "--mapping", str(mapping))
    people = stored.file("list", "eva@people.example\n")
    found = stored.json("scrub", people, "--stream", "offers", code=0 if allowed else 1)
    assert found["allowed"] == allowed


def test_everything_unknown_is_reported_at_once(stored: Stored) -> None:
    path = stored.file("people.csv", "email,newsletter,created\na@b.example,maybe,03/04/2024\n")
    error = stored.run("contact", "map", path, "--yes", code=2).stderr
    for option in (
        *("--true 'maybe', --false 'maybe' or --nothing 'maybe'", "--given-at COLUMN"),
        *("--time-format '%d/%m/%Y' or '%m/%d/%Y'", "--set source=…", "--set consent_method=…"),
        "--set evidence.wording=…",
    ):
        assert option in error
    assert not list(stored.folder.glob("*.mapping.toml"))
    said = ("--true", "maybe", "--given-at", "created", "--time-format", "%d/%m/%Y")
    error = stored.run("contact", "map", path, "--yes", *said, code=2).stderr
    assert "or --leave-open" in error
    found = stored.json("contact", "map", path, "--yes", *said, "--leave-open")
    assert found["open"] == ["source", "consent_method", "consent_wording", "consent_form"]
    assert '# consent_wording = "…"' in Path(found["mapping"]).read_text()
    assert found["streams"]["offers"]["allowed"] == 0


def test_questions_are_asked_until_they_are_answered(stored: Stored) -> None:
    path = stored.file("crm.csv", FRENCH)
    typed = "\n".join(
        [
            "n",
            "Nom",
            "Nom=none",
            "y",
            "withdrawal",
            "nowhere",
            "direct",
            "unticked_box",
            "Je veux",
            "",
        ]
    )
    done = CliRunner().invoke(
        main, ["contact", "map", path, "--config", str(stored.config_path)], input=f"{typed}\n"
    )
    assert done.exit_code == 0, done.stderr
    assert "Is this right?" in done.stderr
    assert "one of direct, web, harvested" in done.stderr
    assert "Opt-in newsletter   consent to offers" in done.stderr
    written = tomllib.loads((stored.folder / "crm.mapping.toml").read_text())
    assert written["constants"] == {
        "source": "direct", "consent_method": "unticked_box", "consent_wording": "Je veux",
    }  # fmt: skip
    assert written["consent"] == [
        {
            "purpose": "offers",
            "column": "Opt-in newsletter",
            "true": ["oui", "x"],
            "false": ["non"],
            "no": "withdrawal",
            "given_at": "Date d'inscription",
        }
    ]


def test_enter_is_not_an_answer_without_a_proposal(stored: Stored) -> None:
    path = stored.file("crm.csv", "Email;Date inscription\nanna@people.example;03/04/2024\n")
    command = ["contact", "map", path, "--config", str(stored.config_path)]
    done = CliRunner().invoke(main, command, input="y\n\n")
    assert done.exit_code == 2
    assert "an answer is needed: there is no proposal to accept\n" in done.stderr


def test_if_input_ends_the_options_are_named(stored: Stored) -> None:
    path = stored.file("crm.csv", FRENCH)
    command = ["contact", "map", path, "--config", str(stored.config_path)]
    done = CliRunner().invoke(main, command, input="y\n")
    assert done.exit_code == 2
    assert "to run without questions, give --yes and" in done.stderr
    assert "--set evidence.wording=…" in done.stderr


def test_people_who_did_not_subscribe_are_mapped_to_no_consent(stored: Stored) -> None:
    head = "Email Address,MEMBER_RATING,OPTIN_TIME,CONFIRM_TIME\n"
    content = f"{head}anna@people.example,2,2024-03-01 11:00:00,2024-03-01 12:00:00\n"
    path = stored.file("nonsubscribed_email_audience_export_1a.csv", content)
    result = stored.run("contact", "map", path, "--yes", code=1)
    assert "an export of Mailchimp (mailchimp-nonsubscribed): these people agreed" in result.stderr
    path = stored.file("subscribed_email_audience_export_1a.csv", content)
    assert "agreed to nothing" not in stored.run("contact", "map", path, "--yes", code=2).stderr


def test_an_existing_mapping_is_never_overwritten(stored: Stored) -> None:
    path = stored.file("crm.csv", FRENCH)
    stored.file("crm.mapping.toml", "precious")
    error = stored.run("contact", "map", path, "--yes", *KNOWN, code=2).stderr
    assert "already exists and is not overwritten; name another" in error
    assert (stored.folder / "crm.mapping.toml").read_text() == "precious"
    other = stored.folder / "other.toml"
    assert mapped(stored, path, "--output", str(other)) == other


@pytest.mark.parametrize(
    ("content", "code", "part"),
    [
        ("", 1, "it is empty"),
        ("email\n", 1, "no rows"),
        ("name,phone\nAnna,1\n", 2, "No column holds addresses, only name, phone."),
        ("anna@x.example,1\nbert@x.example,2\n", 1, "add a header row that names the columns"),
        ("Export of 30/11\nemail;no\na@b.example;\n", 1, "only 'Export of 30/11', and most rows"),
        ("Export;;\n\nemail;no;on\na@b.example;yes;15/09/2026\n", 1, "only 'Export', and most"),
        ("sep=;\nExport;\nemail;no;on\na@b.example;yes;15/09/2026\n", 1, "only 'Export', and"),
        ("Export;30/11\nE-mail;no;on\na@b.example;yes;15/09/2026\n", 1, "a row below it does"),
        ("Export;30/11;\nCRM;;\n\nMail;no;on\na@b.example;yes;\n", 1, "a row below it does"),
        ("Export, 30/11\nE-mail;no\na@b.example;yes\n", 1, "a row below it does: delete what is"),
        ("email,Opt-out,opt-out\na@b.example,,yes\n", 1, "columns are called 'Opt-out', and say"),
        ("email,Email\na@b.example,b@b.example\n", 2, "several columns have this name"),
        (b"PK\x03\x04 no", 1, "cannot be read"),
        ("{}\n", 1, "no line is a JSON object"),
    ],
)
def test_a_file_that_cannot_be_mapped_is_refused_with_the_reason(
    stored: Stored, content: str | bytes, code: int, part: str
) -> None:
    path = stored.file("people", content)
    assert part in stored.run("contact", "map", path, "--yes", *KNOWN[:2], code=code).stderr


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--column", "Nom=surname"], "no such field"),
        (
            ["--column", "Name=language"],
            "'Name': no such column; the columns are Nom, Adresse e-mail",
        ),
        (["--consent", "Nom=news"], "no stream has this purpose"),
        (["--given-at", "Jour"], "'Jour': no such column"),
        (["--true", "x", "--false", "x"], "'x' cannot be two of"),
        (["--column", "x"], "is not COLUMN=WORD"),
        (["--time-zone", "Mars"], 'there is no "Mars"'),
        (["--set", "brand=x"], "there is no brand"),
    ],
)
def test_invalid_options_are_refused(stored: Stored, options: list[str], part: str) -> None:
    path = stored.file("crm.csv", FRENCH)
    error = stored.run("contact", "map", path, "--yes", *KNOWN, *options, code=2).stderr
    assert part in error


def test_without_a_terminal_nobody_is_named(stored: Stored) -> None:
    path = stored.file("crm.csv", FRENCH)
    done = stored.run("contact", "map", path, "--yes", *KNOWN)
    assert "@" not in done.stdout
    assert "bonjour" not in done.stdout
    assert "Zoé" not in done.stdout
    assert "line 2: unknown, direct, agreed to offers on 2024-12-31 → offers: may be" in done.stdout
    assert "offers  1 may be mailed" in done.stdout


def test_hostile_names_stay_text(stored: Stored) -> None:
    """A header or file name can come from anybody: neither becomes a line of the mapping."""
    book = openpyxl.Workbook()
    flag = 'opt-in\n# "]'
    book.active.append(["email", 'x"\n[constants]\nsource = "direct', flag, "opt-in date"])
    book.active.append(["eva@people.example", "1", "yes!", "2024-01-01"])
    path = str(stored.folder / "a\nb = 1.xlsx")
    book.save(path)
    options = ("--leave-open", "--true", "yes!")
    found = stored.json("contact", "map", path, "--yes", *options)
    written = tomllib.loads(Path(found["mapping"]).read_text())
    assert set(written) == {"columns", "constants", "consent"}
    assert written["constants"] == {}
    assert written["consent"][0]["column"] == flag
    assert stored.json("contact", "import", path, "--mapping", found["mapping"])["added"] == 1


def test_a_no_is_obeyed_even_in_a_rejected_row(stored: Stored) -> None:
    """Somebody who once agreed and says no in a row with an impossible date is not mailed."""
    twice = FRENCH + "Éva;eva@people.example;non;31/02/2025;\n"
    path = stored.file("crm.csv", FRENCH.encode())
    mapping = str(mapped(stored, path))
    path = stored.file("again.csv", twice.encode())
    tried = stored.run("contact", "import", path, "--mapping", mapping, "--dry-run", code=1)
    assert "1 refusal in rejected rows: they count anyway" in tried.stdout
    done = stored.json("contact", "import", path, "--mapping", mapping, code=1)
    assert (done["rejected"], done["refusals"]) == (2, 1)
    people = stored.file("list", "eva@people.example\n")
    found = stored.json("scrub", people, "--stream", "offers", code=1)
    assert found["by_reason"] == {"consent_withdrawn": 1}


def test_the_sample_counts_people_like_the_import(stored: Stored) -> None:
    """Including erased people, people who want less mail, and a paused stream."""
    rows = [f"{name};{name}@people.example;Oui;31/12/2024;" for name in ("eva", "noe", "zoe")]
    path = stored.file("crm.csv", "\n".join([FRENCH.partition("\n")[0], *rows]))
    erased = ("eva@people.example", "--origin", "erasure", "--since", "2024-01-01")
    stored.run("suppress", "add", *erased)
    wish = {"purpose": "offers", "frequency": "monthly", "at": f"{datetime.now(UTC):%FT%TZ}"}
    noe = json.dumps({"address": "noe@people.example", "preferences": [wish]})
    stored.run("contact", "import", stored.file("noe.ndjson", f"{noe}\n"))
    mapping = stored.folder / "crm.toml"

    def sampled() -> tuple[int, dict[str, int]]:
        asked = ("contact", "map", path, "--yes", *KNOWN, "--output", str(mapping))
        offers = stored.json(*asked)["streams"]["offers"]
        return offers["allowed"], offers["by_reason"]

    assert sampled() == (1, {"suppressed_erasure": 1, "preference_frequency": 1})
    mapping.unlink()
    stored.run("stream", "pause", "offers", "--reason", "a test")
    assert sampled() == (
        0, {"suppressed_erasure": 1, "preference_frequency": 1, "stream_paused": 1},
    )  # fmt: skip
    tried = stored.json("contact", "import", path, "--mapping", str(mapping), "--dry-run")
    (offers,) = [one for one in tried["outlook"]["streams"] if one["stream"] == "offers"]
    assert offers["by_reason"] == {
        "suppressed_erasure": 1, "preference_frequency": 1, "stream_paused": 1,
    }  # fmt: skip


def test_days_that_a_spreadsheet_swapped_with_months_are_asked_about(stored: Stored) -> None:
    book = openpyxl.Workbook()
    assert book.active is not None
    book.active.append(["email", "newsletter", "opt-in date"])
    book.active.append(["eva@people.example", "yes", date(2024, 4, 3)])  # 4 March 2024
    book.active.append(["noe@people.example", "yes", "13/05/2024"])
    path = str(stored.folder / "people.xlsx")
    book.save(path)
    command = ("contact", "map", path, "--yes", *KNOWN)
    error = stored.run(*command, code=2).stderr
    assert "'2024-04-03' have no day after the 12th" in error
    assert "--time-format 'iso|%d/%m/%Y' or '%Y-%d-%m|%d/%m/%Y'" in error
    mapping = stored.json(*command, "--time-format", "%Y-%d-%m|%d/%m/%Y")["mapping"]
    stored.run("contact", "import", path, "--mapping", mapping)
    (kept,) = stored.json("contact", "show", "eva@people.example")["consents"]
    assert kept["given_at"].startswith("2024-03-04")
