"""`smtpproxy suppress`, as users see it."""

import os
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.cli.stored import DAY_ONE, Stored, first_line

ANNA = "anna@people.example"


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    stored = Stored(tmp_path)
    stored.run("suppress", "add", "maker@people.example")
    return stored


def test_add_show_and_remove(stored: Stored) -> None:
    added = stored.run(
        "suppress", "add", "Anna@People.Example", "--scope", "marketing",
        "--origin", "objection", "--since", DAY_ONE, "--note", "by phone",
    )  # fmt: skip
    assert first_line(added) == f"{ANNA}: marketing, objection: added"
    line = f"marketing, objection, since {DAY_ONE} (by phone)"
    assert stored.run("suppress", "show", ANNA).stdout == f"{ANNA}: {line}\n"
    removed = stored.run(
        "suppress", "remove", ANNA, "--origin", "objection", "--reason", "the person asked"
    )
    assert first_line(removed) == f"{ANNA}: lifted: {line}"
    shown = stored.run("suppress", "show", ANNA, code=1)
    assert shown.stderr == f"{ANNA}: not suppressed\n"
    assert shown.stdout.startswith(f"{ANNA}: lifted on 20")
    assert shown.stdout.endswith(f": {line}; reason: the person asked\n")


def test_lifted_suppressions_are_shown_beside_those_in_force(stored: Stored) -> None:
    stored.run("suppress", "add", ANNA, "--origin", "objection", "--since", DAY_ONE)
    stored.run("suppress", "add", ANNA, "--origin", "bounce", "--since", DAY_ONE)
    stored.run("suppress", "remove", ANNA, "--origin", "objection", "--reason", "by letter")
    shown = stored.json("suppress", "show", ANNA)
    assert [one["origin"] for one in shown["suppressions"]] == ["bounce"]
    (lifted,) = shown["lifted"]
    assert lifted.pop("lifted_at") > "2026"
    assert lifted == {
        "scope": "all",
        "origin": "objection",
        "since": DAY_ONE,
        "note": None,
        "reason": "by letter",
        "given_by": None,
        "lifted_by": None,
    }


def test_a_suppression_dated_ahead_holds_now_and_says_so(stored: Stored) -> None:
    done = stored.run("suppress", "add", ANNA, "--since", "2999-01-01")
    assert "--since: 2999-01-01 is in the future; it suppresses from now on" in done.stderr
    stored.run("suppress", "show", ANNA)
    today = datetime.now(UTC).date().isoformat()
    assert stored.run("suppress", "add", "b@people.example", "--since", today).stderr == ""


def test_adding_again_says_so(stored: Stored) -> None:
    add = ("suppress", "add", ANNA, "--origin", "unsubscribe", "--since")
    stored.run(*add, DAY_ONE)
    assert first_line(stored.run(*add, DAY_ONE)).endswith(": there already")
    assert first_line(stored.run(*add, "2026-03-02")).endswith(": moved to the later time")
    (found,) = stored.json("suppress", "show", ANNA)["suppressions"]
    assert found["since"] == "2026-03-02T23:59:59.999999Z"


def test_a_match_by_a_variant_of_the_address_is_shown(stored: Stored) -> None:
    stored.run("suppress", "add", "anna+shop@people.example", "--origin", "unsubscribe")
    assert "through a variant of this mailbox" in stored.run("suppress", "show", ANNA).stdout
    done = stored.run("suppress", "remove", ANNA, "--all", "--reason", "by letter", code=1)
    assert done.stderr == f"{ANNA}: nothing to lift\n"
    assert "still suppressed: all, unsubscribe" in done.stdout


def test_json(stored: Stored) -> None:
    added = stored.json("suppress", "add", ANNA, "--since", DAY_ONE)
    assert all(one["why"] == "suppressed_manual" for one in added.pop("streams").values())
    assert added == {"address": ANNA, "scope": "all", "origin": "manual", "result": "added"}
    suppression = {
        "scope": "all",
        "origin": "manual",
        "since": DAY_ONE,
        "widened": False,
        "note": None,
        "domain": None,
        "read_as": None,
    }
    shown = stored.json("suppress", "show", ANNA)
    assert shown == {
        "address": ANNA, "suppressions": [suppression], "suppressed_by": [], "lifted": [],
    }  # fmt: skip
    removed = stored.json("suppress", "remove", ANNA, "--all", "--reason", "by letter")
    assert removed.pop("streams")["receipts"] == {"allowed": True, "why": "transactional"}
    assert removed == {"address": ANNA, "lifted": [suppression], "left": []}
    removed = stored.json("suppress", "remove", ANNA, "--all", "--reason", "by letter", code=1)
    assert removed == {"address": ANNA, "lifted": [], "left": []}


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["add", "anna"], "'anna': there is no @"),
        (
            ["add", ANNA, "--scope", "everything"],
            "not one of all, marketing, brand:NAME and purpose:NAME",
        ),
        (["add", ANNA, "--origin", "whim"], "'whim' is not one of"),
        (["add", ANNA, "--note", "caf\udce9"], "must be text in UTF-8"),
        (["add", ANNA, "--since", "yesterday"], "'yesterday' is not a time"),
        (["remove", ANNA, "--reason", "by letter"], "name one with --origin"),
        (["remove", ANNA, "--all", "--origin", "manual", "--reason", "by letter"], "--origin"),
        (["remove", ANNA, "--all"], "--reason"),
        (["remove", ANNA, "--all", "--reason", " "], "must be text in UTF-8"),
        (["import", "no-such-file.csv"], "no-such-file.csv"),
    ],
)
def test_wrong_usage_ends_with_2(stored: Stored, arguments: list[str], part: str) -> None:
    result = stored.run("suppress", *arguments, code=2)
    assert part in result.stderr
    assert result.stdout == ""


def test_a_purpose_without_a_stream_is_reported(stored: Stored) -> None:
    add = ("suppress", "add", ANNA, "--scope")
    assert stored.run(*add, "purpose:offers").stderr == ""
    assert "no stream has the purpose 'ofers'" in stored.run(*add, "purpose:ofers").stderr


def test_nothing_is_shown_if_nothing_is_stored(tmp_path: Path) -> None:
    for arguments in (["suppress", "show", ANNA], ["suppress", "export"], ["contact", "export"]):
        result = Stored(tmp_path).run(*arguments, code=1)
        assert "there is no database yet" in result.stderr


def test_import_prints_a_summary(stored: Stored) -> None:
    content = f"address,scope,origin,since,note\n{ANNA},all,complaint,,\nbert,all,complaint,,\n"
    path = stored.file("list.csv", content)
    result = stored.run("suppress", "import", path, code=1)
    assert result.stdout.startswith(f"{path}: 1 added, 0 changed, 0 unchanged, 1 rejected in ")
    assert f"reasons: {path}.rejected\n" in result.stdout
    assert result.stderr == ""  # no progress bar without a terminal
    assert "# line 3: address: there is no @" in Path(f"{path}.rejected").read_text()
    assert stored.json("suppress", "show", ANNA)["suppressions"][0]["origin"] == "complaint"


def test_import_twice_changes_nothing(stored: Stored) -> None:
    path = stored.file("list.csv", f"address,scope,origin\n{ANNA},all,complaint\n")
    first, second = stored.json("suppress", "import", path), stored.json("suppress", "import", path)
    assert (first["added"], first["rejected_file"]) == (1, None)
    counts = {name: second[name] for name in ("lines", "added", "changed", "unchanged", "rejected")}
    assert counts == {"lines": 1, "added": 0, "changed": 0, "unchanged": 1, "rejected": 0}


def test_an_import_without_since_takes_the_time_of_the_file(stored: Stored) -> None:
    path = stored.file("list.txt", f"address\n{ANNA}\n")
    os.utime(path, (1_767_225_600, 1_767_225_600))
    stored.run("suppress", "import", path, "--scope", "all", "--origin", "external")
    (found,) = stored.json("suppress", "show", ANNA)["suppressions"]
    assert found["since"] == "2026-01-01T00:00:00Z"


def test_the_file_for_rejected_lines_can_be_chosen(stored: Stored) -> None:
    path = stored.file("list.ndjson", '{"address":"x"}\n')
    aside = stored.folder / "aside"
    stored.run("suppress", "import", path, "--rejected", str(aside), code=1)
    assert "# line 1: address: " in aside.read_text()
    assert not Path(f"{path}.rejected").exists()


def test_a_file_that_is_not_a_list_is_refused(stored: Stored) -> None:
    path = stored.file("list.csv", b"PK\x03\x04....")
    result = stored.run("suppress", "import", path, code=1)
    assert result.stderr.startswith(
        f"Error: {path}: it is a spreadsheet or an archive that cannot be read (File is not a zip"
    )


@pytest.mark.parametrize("file_format", ["csv", "ndjson"])
@pytest.mark.parametrize(
    "note", ['with "quotes", comma\nand line', "=1+1", "'=1+1", "''-", "+33 1", "@x", "'tis"]
)
def test_an_export_moves_to_another_database(
    stored: Stored, tmp_path: Path, file_format: str, note: str
) -> None:
    kept = ("--note", note, "--keep-notes")
    stored.run("suppress", "add", "anna+x@people.example", "--origin", "external", *kept)
    output = tmp_path / f"export.{file_format}"
    stored.run("suppress", "export", "--format", file_format, "--output", str(output))
    assert "anna" not in output.read_text()
    assert file_format == "ndjson" or not re.search('[,"][=+@-]', output.read_text()), (
        "must not be a formula"
    )
    assert output.stat().st_mode & 0o777 == 0o600
    (tmp_path / "other").mkdir()
    other = Stored(tmp_path / "other")
    key = Path("state", "suppression.key")
    (other.folder / "state").mkdir()
    (other.folder / key).write_bytes((stored.folder / key).read_bytes())
    (other.folder / key).chmod(0o600)
    assert other.json("suppress", "import", str(output), "--keep-notes")["added"] == 2
    assert other.json("suppress", "show", ANNA) == stored.json("suppress", "show", ANNA)
    printed = other.run("suppress", "export", "--format", file_format).stdout
    assert printed.encode() == output.read_bytes()


def test_an_export_under_another_key_is_rejected(stored: Stored, tmp_path: Path) -> None:
    output = tmp_path / "export.csv"
    stored.run("suppress", "export", "--output", str(output))
    (tmp_path / "other").mkdir()
    other = Stored(tmp_path / "other")
    assert other.json("suppress", "import", str(output), code=1)["rejected"] == 1
    assert "exported under another key" in Path(f"{output}.rejected").read_text()
