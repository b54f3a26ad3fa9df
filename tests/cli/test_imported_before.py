"""A file imported before under another mapping is reported, and --replace corrects it."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from click.testing import Result

from tests.cli.stored import Stored
from tests.kit.relay import COMMAND, REPOSITORY

ANNA, BERT = "anna@people.example", "bert@people.example"
PEOPLE = f"Mail;Le;Texte;Sorti\n{ANNA};05/01/2026;form v3;\n{BERT};06/01/2026;form v3;07/01/2026\n"
WRONG = """
time_format = "%m/%d/%Y"
[columns]
Mail = "address"
Le = "consent_given_at"
Sorti = "consent_withdrawn_at"
[constants]
consent_purpose = "offers"
consent_method = "unticked_box"
audience = "generic"
"""
RIGHT = (
    WRONG.replace("%m/%d", "%d/%m")
    .replace("Sorti =", 'Texte = "consent_wording"\nSorti =')
    .replace("generic", "consumer")
)


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def imported(
    stored: Stored, mapping: str, *options: str, code: int = 0, people: str = PEOPLE
) -> Result:
    path = stored.file("people.csv", people)
    mapped = stored.file("mapping.toml", mapping)
    return stored.run("contact", "import", path, "--mapping", mapped, *options, code=code)


def piped(stored: Stored, mapping: str, *options: str) -> str:
    """Import people from a pipe; return standard error."""
    mapped = stored.file("mapping.toml", mapping)
    arguments = ["contact", "import", "-", "--mapping", mapped, *options]
    return subprocess.run(
        [*COMMAND, *arguments, "--config", str(stored.config_path)],
        input=PEOPLE,
        capture_output=True,
        cwd=stored.folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        text=True,
        check=True,
    ).stderr


def ids(stored: Stored) -> list[tuple[str, str]]:
    return [(one["id"], one["state"]) for one in stored.json("import", "list")]


def acts(stored: Stored, address: str) -> list[tuple[str, str]]:
    consents = stored.json("contact", "show", address)["consents"]
    return [(act["given_at"], act["evidence"]["wording"]) for act in consents]


class TestContacts:
    def test_it_is_reported_and_nothing_is_imported(self, stored: Stored) -> None:
        imported(stored, WRONG)
        ((first, _),) = ids(stored)
        error = imported(stored, RIGHT, code=2).stderr
        assert f"was imported before, as {first} on " in error
        assert "under another mapping" in error
        assert f"--replace {first}" in error
        assert f"smtpproxy import undo {first}" in error
        assert "--replace none" in error
        assert len(ids(stored)) == 1

    def test_the_same_mapping_is_accepted(self, stored: Stored) -> None:
        imported(stored, RIGHT)
        assert "2 unchanged" in imported(stored, RIGHT).stdout
        imported(stored, WRONG, people=PEOPLE + "carl@people.example;;;\n")

    def test_replacing_leaves_one_act_for_each_fact(self, stored: Stored) -> None:
        imported(stored, WRONG)
        ((first, _),) = ids(stored)
        done = imported(stored, RIGHT, "--replace", first)
        assert f"{first} was undone: 0 contacts removed, 0 put back, 2 kept" in done.stdout
        assert [state for _, state in ids(stored)] == ["undone", "complete"]
        assert acts(stored, ANNA) == [("2026-01-05T00:00:00Z", "form v3")]
        (bert,) = stored.json("contact", "show", BERT)["consents"]
        assert bert["withdrawn_at"].startswith("2026-01-07")
        assert stored.json("contact", "show", ANNA)["audience"] == "consumer"
        second = ids(stored)[1][0]
        assert "2 contacts removed" in stored.run("import", "undo", second).stdout

    def test_both_imports_can_be_kept(self, stored: Stored) -> None:
        imported(stored, RIGHT)
        news = RIGHT.replace("offers", "appeals")
        imported(stored, news, "--replace", "none")
        assert len(acts(stored, ANNA)) == 2
        assert "2 unchanged" in imported(stored, news).stdout

    def test_implausible_columns_are_reported_too(self, stored: Stored) -> None:
        imported(stored, RIGHT.replace("offers", "news"), code=1)
        future = PEOPLE.replace("05/01/2026", "05/01/2126")
        rejected = stored.folder / "people.csv.rejected"
        fault = "consent_purpose (under [constants] of the mapping): no stream has the purpose"
        assert fault in rejected.read_text()
        imported(stored, RIGHT, code=1, people=future)
        assert '"Le" (consent_given_at): 2126-01-05T00:00:00Z is in' in rejected.read_text()

    def test_an_undone_import_does_not_count(self, stored: Stored) -> None:
        imported(stored, WRONG)
        stored.run("import", "undo", ids(stored)[0][0])
        imported(stored, RIGHT)
        assert len(acts(stored, ANNA)) == 1

    def test_an_import_without_effect_does_not_count(self, stored: Stored) -> None:
        agreed = PEOPLE.replace(";07/01/2026", ";")  # a refusal in a rejected line counts
        done = imported(stored, RIGHT.replace("%d/%m/%Y", "%Y"), code=1, people=agreed)
        assert "0 added, 0 changed, 0 unchanged, 2 rejected" in done.stdout
        assert "2 added" in imported(stored, RIGHT, people=agreed).stdout

    def test_with_rejected_lines_nothing_is_undone(self, stored: Stored) -> None:
        """Otherwise these people would lose facts of the former import, even withdrawals."""
        imported(stored, RIGHT, people=PEOPLE)
        ((first, _),) = ids(stored)
        bad = RIGHT.replace("%d/%m/%Y", "%d.%m.%Y")
        done = imported(stored, bad, "--replace", first, code=1)
        assert f"{first} was not undone, because lines were rejected" in done.stdout
        assert [state for _, state in ids(stored)] == ["complete", "complete"]

    def test_a_piped_file_is_reported_after_the_import(self, stored: Stored) -> None:
        piped(stored, WRONG)
        ((first, _),) = ids(stored)
        assert f"imported before, as {first}" in piped(stored, RIGHT, "--dry-run")
        told = piped(stored, RIGHT)
        assert f"imported before, as {first}" in told
        assert f"smtpproxy import undo {first}" in told
        assert "imported before" not in piped(stored, RIGHT, "--dry-run")

    def test_a_dry_run_reports_it_too(self, stored: Stored) -> None:
        imported(stored, WRONG)
        assert "was imported before" in imported(stored, RIGHT, "--dry-run").stderr

    def test_json(self, stored: Stored) -> None:
        imported(stored, WRONG)
        ((first, _),) = ids(stored)
        done = json.loads(imported(stored, RIGHT, "--replace", first, "--json").stdout)
        assert done["replaced"] == {"id": first, "removed": 0, "put_back": 0, "kept": 2}

    def test_some_imports_cannot_be_replaced(self, stored: Stored) -> None:
        imported(stored, WRONG)
        ((first, _),) = ids(stored)
        assert "no such import" in imported(stored, RIGHT, "--replace", "X", code=1).stderr
        path = stored.file("list.csv", f"address,scope,origin\n{ANNA},all,complaint\n")
        error = stored.run("suppress", "import", path, "--replace", first, code=2).stderr
        assert f"{first} is an import of contacts" in error
        stored.run("import", "undo", first)
        error = imported(stored, RIGHT, "--replace", first, code=1).stderr
        assert "was undone on" in error


class TestSuppressions:
    def test_it_is_imported_and_reported(self, stored: Stored) -> None:
        """At worst, more people are kept from mail for a while."""
        path = stored.file("list.csv", f"address,origin\n{ANNA},complaint\n")
        stored.run("suppress", "import", path, "--scope", "all")
        ((first, _),) = ids(stored)
        result = stored.run("suppress", "import", path, "--scope", "marketing")
        assert "1 added" in result.stdout
        assert f"imported before, as {first}" in result.stderr
        assert f"smtpproxy import undo {first}" in result.stderr
        assert len(stored.json("suppress", "show", ANNA)["suppressions"]) == 2

    def test_replacing_never_leaves_anybody_unsuppressed(self, stored: Stored) -> None:
        path = stored.file("list.csv", f"address,origin\n{ANNA},complaint\n")
        stored.run("suppress", "import", path, "--scope", "all")
        ((first, _),) = ids(stored)
        done = stored.run("suppress", "import", path, "--scope", "marketing", "--replace", first)
        assert f"{first} was undone: 1 suppression lifted" in done.stdout
        (left,) = stored.json("suppress", "show", ANNA)["suppressions"]
        assert left["scope"] == "marketing"
