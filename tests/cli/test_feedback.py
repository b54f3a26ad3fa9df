"""`smtpproxy feedback --dry-run`: what would be done about messages in files."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from smtpproxy.cli import main
from tests.cli.conftest import Bench
from tests.feedback.samples import bounce, complaint, failed, plain


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    mails = tmp_path / "mails"
    (mails / "new").mkdir(parents=True)
    (mails / "a.eml").write_bytes(bounce(fields=failed("5.1.1")))
    (mails / "b.eml").write_bytes(complaint("Feedback-Type: abuse"))
    (mails / "new" / "c").write_bytes(plain("Hello", subject="A question", more=""))
    return mails


def run(*arguments: str, stdin: bytes | None = None) -> str:
    result = CliRunner().invoke(main, ["feedback", *arguments], input=stdin)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_is_one_object_per_file(folder: Path) -> None:
    read = [json.loads(line) for line in run("--dry-run", "--json", str(folder)).splitlines()]
    assert [(one["file"], one["kind"]) for one in read] == [
        ("a.eml", "dsn"),
        ("b.eml", "complaint"),
        ("new/c", "other"),
    ]
    (event,) = read[0]["events"]
    assert list(event) == ["address", "class", "action", "scope", "why"]
    assert (event["class"], event["action"], event["scope"]) == ("dead", "suppress", "all")
    assert read[2]["events"] == []


def test_the_default_output_is_a_table(folder: Path) -> None:
    text = run("--dry-run", str(folder / "a.eml"), str(folder / "new" / "c"))
    assert "jeanne@people.example" in text
    assert "no report of a known kind" in text


def test_a_message_on_standard_input_is_read_too(folder: Path) -> None:
    (line,) = run("--dry-run", "--json", "-", stdin=(folder / "a.eml").read_bytes()).splitlines()
    assert json.loads(line)["file"] == "-"


def test_empty_files_and_folders_are_reported(folder: Path) -> None:
    (folder / "new" / "d").write_bytes(b"\r\n")
    (folder / "bare").mkdir()
    command = ["feedback", "--dry-run", "--json", str(folder / "new"), str(folder / "bare")]
    result = CliRunner().invoke(main, command)
    assert (result.exit_code, result.stdout.count("\n")) == (1, 1)
    assert result.stderr == f"d: empty, so no mail\n{folder / 'bare'}: no files in it\n"


def test_the_configurations_token_is_required(bench: Bench, folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        bench.relay.config_path.read_text() + '\n[feedback]\ndomain = "bounces.example.com"\n'
    )
    text = run("--dry-run", "--json", str(folder / "a.eml"), "--config", str(config))
    (event,) = json.loads(text)["events"]
    assert event["action"] == "count"
    assert "require_token" in event["why"]
