"""`smtpproxy contact`, at a terminal and in a script."""

import json
import os
import pty
import resource
import signal
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from smtpproxy.cli import main
from tests.cli.stored import IN_SMALL_BATCHES, Stored, first_line
from tests.kit import store as people
from tests.kit.ports import wait_for
from tests.kit.relay import REPOSITORY

ANNA = "anna@people.example"
CONTACT = {
    "address": ANNA,
    "audience": "professional",
    "source": "purchased",
    "collected_at": "2026-03-01T10:00:00Z",
    "informed_at": None,
    "optout_offered": True,
    "last_activity_at": "2026-03-02T10:00:00.5Z",
    "occupations": ["art", "finance"],
    "tags": ["restricted"],
    "provenance": {"supplier": "Lists Ltd", "sender_disclosed": False},
    "purchases": [{"product": "shoes", "at": "2026-01-05T09:00:00Z"}],
    "consents": [
        {
            "purpose": "offers",
            "method": "signed_form",
            "given_at": "2026-03-01T10:00:00Z",
            "withdrawn_at": "2026-03-03T10:00:00Z",
            "conditional": False,
            "channels": ["email"],
            "evidence": {"wording": "form v3", "ip": "192.0.2.7"},
        }
    ],
}


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def many(stored: Stored, count: int) -> str:
    lines = (f'{{"address":"user{n}@people.example","tags":["a"]}}' for n in range(count))
    return stored.file("many.ndjson", "\n".join(lines) + "\n")


def command(stored: Stored, *arguments: str) -> list[str]:
    return [*IN_SMALL_BATCHES, *arguments, "--config", str(stored.config_path)]


def imported(stored: Stored) -> int:
    return len(stored.run("contact", "export").stdout.splitlines())


def wait_for_a_commit(stored: Stored) -> None:
    """Wait until a running import has committed something."""

    def committed() -> bool:
        result = CliRunner().invoke(
            main, ["contact", "export", "--config", str(stored.config_path)]
        )
        assert result.exit_code == 0 or "no database yet" in result.stderr, result.stderr
        return bool(result.stdout)

    wait_for(committed, "a first commit", timeout=60, every=0.1)


def test_import_show_and_export(stored: Stored) -> None:
    path = stored.file("people.ndjson", json.dumps(CONTACT))
    result = stored.run("contact", "import", path)
    assert result.stdout.startswith(f"{path}: 1 added, 0 changed, 0 unchanged, 0 rejected in ")
    shown = stored.run("contact", "show", "Anna@people.example").stdout
    for part in (
        "professional",
        "purchased",
        "2026-03-02T10:00:00.500000Z",
        "art, finance",
        "restricted",
        "Lists Ltd",
        "2026-01-05T09:00:00Z shoes",
        "offers given by signed_form; for email; wording “form v3”; from 192.0.2.7",
        "2026-03-03T10:00:00Z offers withdrawn",
    ):
        assert part in shown
    whole = {**CONTACT, "last_activity_at": "2026-03-02T10:00:00.500000Z"}
    assert stored.json("contact", "show", ANNA) == whole
    assert json.loads(stored.run("contact", "export").stdout) == whole


def test_an_export_can_be_imported(stored: Stored, tmp_path: Path) -> None:
    lines = [*people.ndjson(), json.dumps(CONTACT)]
    stored.run("contact", "import", stored.file("people.ndjson", "\n".join(lines)))
    output = tmp_path / "export.ndjson"
    stored.run("contact", "export", "--output", str(output))
    assert output.stat().st_mode & 0o777 == 0o600
    again = stored.json("contact", "import", str(output))
    assert (again["added"], again["changed"], again["unchanged"]) == (0, 0, len(lines))
    (tmp_path / "other").mkdir()
    other = Stored(tmp_path / "other")
    assert other.json("contact", "import", str(output))["added"] == len(lines)
    assert other.run("contact", "export").stdout.encode() == output.read_bytes()


def test_bad_lines_are_rejected_and_the_rest_imported(stored: Stored) -> None:
    lines = [json.dumps(CONTACT), '{"address":"bert"}', '{"address":"c@people.example","x":1}']
    path = stored.file("people.ndjson", "\n".join(lines))
    done = stored.json("contact", "import", path, code=1)
    assert (done["lines"], done["added"], done["rejected"]) == (3, 1, 2)
    assert done["rejected_file"] == f"{path}.rejected"
    rejected = Path(done["rejected_file"]).read_text().splitlines()
    assert rejected[0].startswith("# line 2: address: there is no @")
    assert rejected[1] == lines[1]
    assert rejected[2].startswith("# line 3: contains unknown field `x`; known: address")
    assert rejected[3] == lines[2]


def test_an_older_file_changes_no_profile(stored: Stored) -> None:
    new = stored.file("new.ndjson", f'{{"address":"{ANNA}","audience":"professional"}}')
    old = stored.file("old.ndjson", f'{{"address":"{ANNA}","audience":"consumer"}}')
    os.utime(new, (1_750_000_000, 1_750_000_000))
    os.utime(old, (1_700_000_000, 1_700_000_000))
    stored.run("contact", "import", new)
    result = stored.run("contact", "import", old)
    assert "0 changed, 1 unchanged" in result.stdout
    assert "1 had a different profile, no newer than the stored one" in result.stdout
    assert stored.json("contact", "show", ANNA)["audience"] == "professional"
    stored.run("contact", "import", old, "--as-of", "2026-01-01")
    assert stored.json("contact", "show", ANNA)["audience"] == "consumer"


def test_csv_with_a_mapping(stored: Stored) -> None:
    mapping = stored.file("mapping.toml", "[columns]\nMail = 'address'\nKind = 'audience'\n")
    path = stored.file("people", f"Mail;Kind;Name\n{ANNA};consumer;Anna\n")
    result = stored.run("contact", "import", path, "--mapping", mapping)
    assert "1 added" in result.stdout
    assert result.stderr == f"warning: {path}: columns that are not read: Name\n"
    assert stored.json("contact", "show", ANNA)["audience"] == "consumer"


def test_a_wrong_mapping_ends_with_2(stored: Stored) -> None:
    mapping = stored.file("mapping.toml", "[columns]\nMail = 'adress'\n")
    path = stored.file("people.csv", f"Mail\n{ANNA}\n")
    result = stored.run("contact", "import", path, "--mapping", mapping, code=2)
    assert result.stderr.startswith(f"Error: {mapping}: columns: no field 'adress'; they are ")


def test_an_unknown_address_ends_with_1(stored: Stored) -> None:
    stored.run("suppress", "add", ANNA)
    result = stored.run("contact", "show", ANNA, code=1)
    assert result.stdout == ""
    assert result.stderr == (
        f"Error: there is no contact {ANNA}; suppressed: see smtpproxy suppress show {ANNA}\n"
    )


def test_erase(stored: Stored) -> None:
    path = stored.file("people.ndjson", json.dumps(CONTACT))
    stored.run("contact", "import", path)
    done = stored.run("contact", "erase", ANNA)
    assert first_line(done) == f"{ANNA}: erased; suppressed for marketing"
    stored.run("contact", "show", ANNA, code=1)
    stored.run("contact", "import", path)  # it lifts nothing
    (found,) = stored.json("suppress", "show", ANNA)["suppressions"]
    assert (found["scope"], found["origin"]) == ("marketing", "erasure")
    stored.run("contact", "show", ANNA, code=1)  # nor does this bring her back
    assert stored.json("contact", "erase", "bert@people.example")["erased"] is False
    stored.json("suppress", "show", "bert@people.example")


def test_text_from_files_cannot_write_to_the_terminal(stored: Stored) -> None:
    evil = {**CONTACT, "provenance": {"supplier": "\x1b]0;x\x07", "sender_disclosed": True}}
    stored.run("contact", "import", stored.file("people.ndjson", json.dumps(evil)))
    shown = stored.run("contact", "show", ANNA).stdout
    assert "\x1b" not in shown
    assert "\\x1b]0;x\\x07" in shown


def test_a_terminal_sees_progress(stored: Stored) -> None:
    path = many(stored, 1_600)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command(stored, "contact", "import", path),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        cwd=REPOSITORY,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    ) as process:
        os.close(theirs)
        seen = b""
        try:
            while chunk := os.read(ours, 65536):
                seen += chunk
        except OSError:  # the other end is closed
            pass
        os.close(ours)
        assert process.wait(timeout=60) == 0
    for part in (b"many.ndjson", b"%", b"1,600 lines", b"/s", b"0:00:00"):
        assert part in seen


def test_an_interrupted_import_says_how_far_it_got_and_can_be_repeated(stored: Stored) -> None:
    path = many(stored, 1_600)
    process = subprocess.Popen(
        command(stored, "contact", "import", path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=REPOSITORY,
        text=True,
    )
    wait_for_a_commit(stored)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    before = imported(stored)
    assert 0 < before < 1_600
    assert f"interrupted: {before:,} added" in error
    assert "run it again for the rest" in error
    done = stored.json("contact", "import", path)
    assert (done["added"], done["unchanged"]) == (1_600 - before, before)


def test_a_killed_import_can_be_repeated(stored: Stored) -> None:
    path = many(stored, 1_600)
    process = subprocess.Popen(command(stored, "contact", "import", path), cwd=REPOSITORY)
    wait_for_a_commit(stored)
    process.kill()
    process.wait()
    before = imported(stored)
    assert 0 < before < 1_600
    done = stored.json("contact", "import", path)
    assert (done["added"], done["unchanged"]) == (1_600 - before, before)


def test_a_full_disk_ends_an_import_with_one_line(stored: Stored) -> None:
    """A file size limit stands in for the disk: a write past it fails."""
    stored.run("contact", "import", stored.file("people.ndjson", json.dumps(CONTACT)))
    path = many(stored, 1_600)
    limit = 400 * 1024
    done = subprocess.run(
        command(stored, "contact", "import", path),
        capture_output=True,
        cwd=REPOSITORY,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: the store cannot answer: ")
    assert done.stderr.count("\n") == 1
    assert stored.json("contact", "show", ANNA) is not None
    assert stored.json("contact", "import", path)["rejected"] == 0
    assert imported(stored) == 1_601
