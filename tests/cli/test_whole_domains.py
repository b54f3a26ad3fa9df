"""Suppressions of whole domains, in every command about suppressions."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from smtpproxy.cli import main
from smtpproxy.policy.model import Origin
from smtpproxy.store.exchange.layouts import Wanted
from smtpproxy.store.exchange.suppression_record import DOMAIN_ORIGINS
from tests.cli.stored import DAY_ONE, Stored
from tests.kit.messages import marketing
from tests.store.exchange.importing import Importing
from tests.store.exchange.test_providers import ANNA as IN_EXPORTS
from tests.store.exchange.test_providers import EXPORTS

ANNA = "anna@people.example"


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def test_a_domain_is_added_shown_and_lifted(stored: Stored) -> None:
    added = stored.run("suppress", "add", "*@People.example", "--since", DAY_ONE)
    assert added.stdout == "@people.example: all, manual: added\n"
    shown = stored.run("suppress", "show", ANNA).stdout
    assert "for the whole domain @people.example" in shown
    assert stored.run("suppress", "remove", ANNA, "--all", "--reason", "by letter", code=1).stdout
    stored.run(
        "suppress",
        "remove",
        "@people.example",
        "--all",
        "--reason",
        "request of the domain's owner",
    )
    assert stored.run("suppress", "show", ANNA, code=1).stdout == ""
    assert "owner" in stored.run("suppress", "show", "@people.example", code=1).stdout


@pytest.mark.parametrize("origin", Origin)
def test_only_some_origins_can_hold_for_a_domain(stored: Stored, origin: Origin) -> None:
    right = origin in DOMAIN_ORIGINS
    add = ("suppress", "add", "@wild.example", "--origin", str(origin))
    stored.run(*add, code=0 if right else 2)
    file = stored.file("list.csv", f"address,scope,origin\n*.wild.example,all,{origin}\n")
    stored.run("suppress", "import", file, code=0 if right else 1)
    found = stored.run("suppress", "show", "anna@wild.example", code=0 if right else 1).stdout
    assert found.count("whole domain") == (2 if right else 0)


def test_an_export_can_be_imported_and_the_import_undone(stored: Stored) -> None:
    rows = "address,scope,origin\n@wild.example,all,manual\n*.wild.example,marketing,external\n"
    file = stored.file("list.csv", rows)
    stored.run("suppress", "import", file)
    exported = stored.run("suppress", "export").stdout
    keys = [line.partition(",")[0] for line in exported.splitlines()[1:]]
    assert sorted(key.partition("hmac:")[0] for key in keys) == ["*.", "@"]
    printed = [stored.run("suppress", "key", f"{sign}wild.example").stdout for sign in ("@", "*.")]
    assert sorted(text.strip() for text in printed) == sorted(keys)
    (done,) = stored.json("import", "list")
    stored.run("import", "undo", done["id"])
    stored.run("suppress", "show", "anna@wild.example", code=1)
    stored.run("suppress", "import", stored.file("back.csv", exported))
    assert len(stored.json("suppress", "show", "anna@wild.example")["suppressions"]) == 2
    wrong = exported.replace(",manual,", ",unsubscribe,")
    stored.run("suppress", "import", stored.file("wrong.csv", wrong), code=1)
    assert "is about one mailbox" in (stored.folder / "wrong.csv.rejected").read_text()


@pytest.mark.parametrize("export", EXPORTS, ids=[export[0] for export in EXPORTS])
@pytest.mark.parametrize("name", ["@wild.example", "*.wild.example"])
def test_a_domain_in_an_export_of_a_provider(
    tmp_path: Path, export: tuple[str, str, str, object], name: str
) -> None:
    """The provider blocks the domain, whatever the list is about."""
    importing = Importing(tmp_path)
    layout, file_name, content, _ = export
    text = content.replace(IN_EXPORTS, name)
    done = importing.suppressions(
        text.encode(),
        "ndjson" if text.startswith("{") else "csv",
        Wanted(file_name, layout),
    )
    assert (done.added, done.rejected) == (1, 0), importing.rejected
    (found,) = importing.suppressed("anna@wild.example")
    assert (found.domain, found.origin in DOMAIN_ORIGINS) == (name, True)


def test_explain_names_the_suppressed_domain(stored: Stored) -> None:
    stored.run("suppress", "add", "@people.example", "--since", DAY_ONE)
    stored.run("suppress", "add", "bert@other.example", "--since", DAY_ONE)
    mail = stored.file("mail.eml", marketing())
    said = {}
    for recipient in (ANNA, "bert%other.example@localhost"):
        for lang in ("en", "fr"):
            asked = (
                "explain", mail, "--mail-from", "news@shop.example", "--rcpt", recipient,
                "--stream", "receipts", "--lang", lang, "--config", str(stored.config_path),
            )  # fmt: skip
            said[recipient, lang] = " ".join(CliRunner().invoke(main, asked).stdout.split())
    assert "entered for everyone at people.example" in said[ANNA, "en"]
    assert "pour tous les destinataires de people.example" in said[ANNA, "fr"]
    assert "smtpproxy suppress remove @people.example" in said[ANNA, "en"]
    other = said["bert%other.example@localhost", "en"]
    assert "entered for bert@other.example, which a mail server may read the address as" in other


def test_a_suppressed_domain_does_not_follow_a_new_address(stored: Stored) -> None:
    people = stored.file("people.ndjson", json.dumps({"address": ANNA}))
    stored.run("contact", "import", people)
    stored.run("suppress", "add", "@people.example")
    stored.run(
        "contact", "rectify", ANNA, "--new-address", "\u200banna@home.example", "--reason", "moved"
    )
    stored.run("suppress", "show", "anna@home.example", code=1)
    stored.run("suppress", "show", ANNA)
