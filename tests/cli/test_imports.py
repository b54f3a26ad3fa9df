"""`smtpproxy import`: the record of imports, undoing one, and resuming one."""

import json
import os
import re
import signal
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from smtpproxy.cli import main
from tests.cli.stored import BATCH, IN_SMALL_BATCHES, Stored
from tests.kit.ports import wait_for
from tests.kit.relay import REPOSITORY

HEADER = "address,scope,origin,since\n"
ANNA, BERT = "anna@people.example", "bert@people.example"
ANNA_CSV = f"{HEADER}{ANNA},all,complaint,2026-01-01\n"


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def rows(count: int, bad: int = 0) -> str:
    """Suppressions; of every 400, the first `bad` have no domain and the next an invalid day."""
    lines = [
        f"user{n}{'' if n % 400 < bad else '@people.example'},all,complaint,"
        f"2026-01-{'32' if bad and n % 400 == bad else '01'}\n"
        for n in range(count)
    ]
    return HEADER + "".join(lines)


def records(stored: Stored) -> Any:
    return stored.json("import", "list")


def started(stored: Stored, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*IN_SMALL_BATCHES, *arguments, "--config", str(stored.config_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=stored.folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        text=True,
    )


def broken_off(stored: Stored, path: str, how: signal.Signals, after: int) -> str:
    """Start an import, stop it once it has committed `after` rows; return its id."""
    process = started(stored, "suppress", "import", path)
    done: list[Any] = [{}]

    def far_enough() -> bool:
        arguments = ["import", "list", "--json", "--config", str(stored.config_path)]
        found = CliRunner().invoke(main, arguments)  # fails until there is a database
        if found.exit_code == 0:
            done[0] = (json.loads(found.stdout) or [{}])[0]
        return process.poll() is not None or done[0].get("added", 0) >= after

    wait_for(far_enough, "the first batches", timeout=60, every=0.1)
    assert process.poll() is None, "the import ended before it could be interrupted"
    assert done[0]["state"] == "running"
    assert (
        f"{done[0]['id']} is running" in stored.run("import", "undo", done[0]["id"], code=1).stderr
    )
    process.send_signal(how)
    _, error = process.communicate(timeout=60)
    if how is signal.SIGINT:
        assert f"run it again for the rest with --resume {done[0]['id']}" in error
    id: str = done[0]["id"]
    return id


class TestRecord:
    def test_an_import_prints_its_id_and_how_to_undo_it(self, stored: Stored) -> None:
        path = stored.file("list.csv", ANNA_CSV)
        result = stored.run("suppress", "import", path)
        (record,) = records(stored)
        assert f"\nto undo it: smtpproxy import undo {record['id']}\n" in result.stdout
        assert (record["state"], record["kind"], record["file"]) == (
            "complete", "suppressions", path,
        )  # fmt: skip
        assert (record["lines"], record["added"], record["size"]) == (1, 1, len(ANNA_CSV))
        assert record["read"] == len(ANNA_CSV)
        assert record["by"]
        shown = stored.run("import", "show", record["id"]).stdout
        assert record["sha256"] in shown
        assert record["id"] in stored.run("import", "list").stdout

    def test_json_has_the_id(self, stored: Stored) -> None:
        path = stored.file("list.ndjson", f'{{"address":"{ANNA}"}}\n')
        done = stored.json("contact", "import", path)
        assert stored.json("import", "show", done["id"])["kind"] == "contacts"
        assert stored.json("import", "show", done["id"][:-4].lower())["id"] == done["id"]

    def test_an_unknown_id_is_reported(self, stored: Stored) -> None:
        stored.run("suppress", "add", ANNA)
        assert "no imports are on record" in stored.run("import", "list").stdout
        for command in ("show", "undo"):
            error = stored.run("import", command, "01J", code=1).stderr
            assert error == "Error: 01J: no such import\n"

    def test_a_dry_run_is_not_on_record(self, stored: Stored) -> None:
        stored.run("suppress", "add", BERT)
        stored.run("suppress", "import", stored.file("list.csv", ANNA_CSV), "--dry-run")
        assert records(stored) == []


class TestUndo:
    def test_suppressions_are_lifted_with_the_reason(self, stored: Stored) -> None:
        stored.run("suppress", "import", stored.file("list.csv", ANNA_CSV))
        (record,) = records(stored)
        would = stored.run("import", "undo", record["id"], "--dry-run").stdout
        assert "1 suppression lifted, 0 put back, 0 kept" in would
        assert "it would be " in would
        assert "nothing was changed" in would
        assert stored.json("suppress", "show", ANNA)["suppressions"]
        done = stored.json("import", "undo", record["id"])
        assert (done["removed"], done["put_back"], done["kept"]) == (1, 0, 0)
        shown = stored.json("suppress", "show", ANNA, code=1)
        assert shown["suppressions"] == []
        assert shown["lifted"][0]["reason"].startswith(f"import {record['id']} undone by ")
        assert records(stored)[0]["state"] == "undone"

    def test_a_second_undo_says_when_the_first_happened(self, stored: Stored) -> None:
        stored.run("contact", "import", stored.file("people.csv", f"address\n{ANNA}\n"))
        (record,) = records(stored)
        stored.run("import", "undo", record["id"])
        error = stored.run("import", "undo", record["id"], code=1).stderr
        assert error.startswith(f"Error: {record['id']} was undone on 20")
        error = stored.run("import", "undo", record["id"], "--dry-run", code=1).stderr
        assert "was undone on" in error

    def test_later_acts_of_a_person_are_kept_and_counted(self, stored: Stored) -> None:
        consent = '"consents":[{"purpose":"offers","given_at":"2026-01-01T00:00:00Z"}]'
        lines = [f'{{"address":"{name}",{consent}}}\n' for name in (ANNA, BERT)]
        stored.run("contact", "import", stored.file("people.ndjson", "".join(lines)))
        stored.run("consent", "withdraw", ANNA, "--purpose", "offers")
        (record,) = records(stored)
        done = stored.run("import", "undo", record["id"]).stdout
        assert "1 contact removed, 0 put back, 1 kept that others changed" in done
        stored.run("contact", "show", BERT, code=1)
        (act,) = stored.json("contact", "show", ANNA)["consents"]
        assert act["given_at"] is None
        assert act["withdrawn_at"]

    def test_facts_repeated_by_a_later_import_stay(self, stored: Stored) -> None:
        path = stored.file("people.csv", f"address,source\n{ANNA},direct\n")
        stored.run("contact", "import", path)
        stored.run("contact", "import", path)
        first, second = records(stored)
        done = stored.run("import", "undo", first["id"])
        assert "0 contacts removed, 0 put back, 1 kept" in done.stdout
        assert done.stderr == ""
        assert stored.json("contact", "show", ANNA)["source"] == "direct"
        assert "1 contact removed" in stored.run("import", "undo", second["id"]).stdout
        stored.run("contact", "show", ANNA, code=1)

    def test_profiles_that_were_not_newer_are_reported(self, stored: Stored) -> None:
        path = stored.file("people.csv", f"address,audience\n{ANNA},consumer\n")
        stored.run("contact", "import", path, "--as-of", "2026-02-01")
        path = stored.file("other.csv", f"address,audience\n{ANNA},professional\n")
        stored.run("contact", "import", path, "--as-of", "2026-01-01")
        first, second = records(stored)
        error = stored.run("import", "undo", first["id"]).stderr
        assert "1 later import had profiles no newer" in error
        assert second["id"] in error
        shown = stored.run("import", "show", second["id"]).stdout
        assert re.search("--as-of +2026-01-01T00:00:00Z", shown)


class TestResume:
    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
    def test_it_resumes_after_the_last_batch(self, stored: Stored, how: signal.Signals) -> None:
        """kill -9 loses no committed batch, and the rejected file is complete in the end."""
        path = stored.file("list.csv", rows(2_000, bad=2))
        id = broken_off(stored, path, how, after=2 * BATCH)
        (record,) = records(stored)
        assert record["state"] == "interrupted"
        committed = len(stored.run("suppress", "export").stdout.splitlines()) - 1
        assert committed == record["added"] > 0
        assert committed % BATCH == 0
        assert f"--resume {id}" in stored.run("import", "show", id).stdout
        done = stored.json("suppress", "import", path, "--resume", id, code=1)
        assert (done["id"], done["lines"], done["added"]) == (id, 2_000, 1_990)
        assert done["outlook"]["people"] == 1_990, "lines rejected in both runs"
        assert (done["unchanged"], done["rejected"], done["refusals"]) == (0, 15, 5)
        rejected = Path(f"{path}.rejected").read_text().splitlines()
        named = [line for line in rejected if line.startswith("# line ")]
        wrong = [n for n in range(2_000) if n % 400 < 3]
        assert [int(line.split()[2][:-1]) for line in named] == [n + 2 for n in wrong]
        assert len(stored.run("suppress", "export").stdout.splitlines()) == 1_991
        assert (records(stored)[0]["state"], records(stored)[0]["refusals"]) == ("complete", 5)
        assert stored.json("import", "undo", id)["removed"] == 1_990

    def test_it_resumes_an_import_of_a_version_with_another_time_format(
        self, stored: Stored
    ) -> None:
        path, as_of = stored.file("people.csv", f"address\n{ANNA}\n"), "2026-01-01T00:00:00Z"
        stored.run("contact", "import", path, "--as-of", as_of)
        with sqlite3.connect(stored.folder / "state/smtpproxy.db") as database:
            changes = "'$.ended_at', NULL, '$.state', 'running', '$.options.as-of', ?"
            times = as_of.replace("Z", "+00:00")
            database.execute(f"UPDATE import SET record = json_set(record, {changes})", (times,))
        (id,) = [record["id"] for record in records(stored)]
        stored.run("contact", "import", path, "--resume", id, "--as-of", "2026-01-02", code=2)
        assert stored.json("contact", "import", path, "--resume", id, "--as-of", as_of)["id"] == id

    def test_it_resumes_one_that_was_killed_before_its_first_batch(self, stored: Stored) -> None:
        path = stored.file("list.csv", ANNA_CSV)
        id = stored.json("suppress", "import", path)["id"]
        with sqlite3.connect(stored.folder / "state/smtpproxy.db") as database:
            changes = "'$.ended_at', NULL, '$.state', 'running', '$.place', json('{}')"
            database.execute(f"UPDATE import SET record = json_set(record, {changes})")
        stored.file("list.csv", ANNA_CSV + ANNA_CSV)
        stored.run("suppress", "import", path, "--resume", id, code=1)
        stored.file("list.csv", ANNA_CSV)
        done = stored.json("suppress", "import", path, "--resume", id)
        assert (done["id"], done["lines"]) == (id, 1)

    def test_a_complete_import_has_nothing_to_resume(self, stored: Stored) -> None:
        path = stored.file("list.csv", ANNA_CSV)
        stored.run("suppress", "import", path)
        id = records(stored)[0]["id"]
        error = stored.run("suppress", "import", path, "--resume", id, code=1).stderr
        assert error == f"Error: {id} is complete: nothing is left to do\n"
        error = stored.run("contact", "import", path, "--resume", id, code=2).stderr
        assert error == f"Error: {id} is an import of suppressions\n"

    def test_another_file_or_other_options_are_refused(self, stored: Stored) -> None:
        path = stored.file("list.csv", rows(2_000))
        id = broken_off(stored, path, signal.SIGKILL, after=2 * BATCH)
        error = stored.run("suppress", "import", path, "--resume", id, "--scope", "all", code=2)
        assert f"{id} was started without --scope" in error.stderr
        other = stored.file("other.csv", rows(2_000).replace("user17@", "user71@"))
        error = stored.run("suppress", "import", other, "--resume", id, code=1)
        assert f"{other}: not the file that {id} was reading" in error.stderr
        longer = stored.file("longer.csv", rows(2_001))
        stored.run("suppress", "import", longer, "--resume", id, code=1)
        moved = stored.file("moved.csv", rows(2_000))
        done = stored.json("suppress", "import", moved, "--resume", id)
        assert done["added"] == 2_000


def test_a_dry_run_needs_no_store_and_creates_none(tmp_path: Path) -> None:
    stored = Stored(tmp_path)
    would = stored.run("suppress", "import", stored.file("list.csv", ANNA_CSV), "--dry-run")
    assert "1 new, 0 changed" in would.stdout
    assert "there is no database yet" in would.stderr
    assert not list(tmp_path.rglob("smtpproxy.db*"))


@pytest.mark.parametrize("command", ["contact", "suppress"])
def test_a_dry_run_of_a_file_without_rows_fails_like_the_import(
    stored: Stored, command: str
) -> None:
    stored.run("suppress", "add", ANNA)
    path = stored.file("list.csv", "address\n")
    for option in ([], ["--dry-run"]):
        error = stored.run(command, "import", path, *option, code=1).stderr
        assert f"Error: {path}: no rows below its header" in error


class TestFuture:
    def test_as_of_in_the_future_is_refused(self, stored: Stored) -> None:
        path = stored.file("people.csv", f"address\n{ANNA}\n")
        error = stored.run("contact", "import", path, "--as-of", "2100-01-01", code=2).stderr
        assert "2100-01-01 00:00 UTC is in the future" in error

    def test_a_file_dated_in_the_future_counts_from_now(self, stored: Stored) -> None:
        path = stored.file("people.csv", f"address,audience\n{ANNA},consumer\n")
        os.utime(path, (4_102_444_800, 4_102_444_800))
        result = stored.run("contact", "import", path)
        assert "the file was last written on 2100-01-01, which is in the future" in result.stderr
        path = stored.file("people.csv", f"address,audience\n{ANNA},professional\n")
        assert "1 changed" in stored.run("contact", "import", path).stdout


def test_a_file_with_the_date_that_archives_invent_counts_from_now(stored: Stored) -> None:
    """A refusal without a date of its own would give way to all that was agreed since 1980."""
    head = "address,source,consent_purpose,consent_method,consent_given_at,consent_wording"
    rows = f"{head}\n{ANNA},direct,offers,signed_form,2026-03-01,Yes\n"
    stored.run("contact", "import", stored.file("people.csv", rows))
    path = stored.file("left.csv", f"address,scope,origin\n{ANNA},marketing,unsubscribe\n")
    os.utime(path, (315_532_800, 315_532_800))
    result = stored.run("suppress", "import", path)
    assert "last written on 1980-01-01, which is no date but what archives give" in result.stderr
    found = stored.json("scrub", stored.file("list", ANNA), "--stream", "offers", code=1)
    assert found["by_reason"] == {"suppressed_unsubscribe": 1}
