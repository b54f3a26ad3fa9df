"""Exports whose output is full, closed or was there before."""

import resource
import subprocess
from pathlib import Path

import pytest

from tests.cli.stored import Stored
from tests.kit.relay import COMMAND, REPOSITORY

EXPORTS = pytest.mark.parametrize("kind", ["contact", "suppress"])


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    stored = Stored(tmp_path_factory.mktemp("stored"))
    people = "".join(f"user{n}@people.example,all,complaint\n" for n in range(3_000))
    path = stored.file("people.csv", "address,scope,origin\n" + people)
    stored.run("suppress", "import", path)
    stored.run("contact", "import", path)
    return stored


def shell(
    stored: Stored, line: str, limit: int | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a line in bash, in which $SMTPPROXY is the command; `limit` is on the size of files."""

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        ["bash", "-c", "set -o pipefail; " + line.replace("$SMTPPROXY", " ".join(COMMAND))],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={"SMTPPROXY_CONFIG": str(stored.config_path), "PATH": "/usr/bin:/bin"},
        preexec_fn=limited,
        timeout=60,
        check=False,
    )


@EXPORTS
def test_a_reader_who_has_seen_enough_hears_no_complaint(stored: Stored, kind: str) -> None:
    done = shell(stored, f"$SMTPPROXY {kind} export | head -1")
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


@EXPORTS
@pytest.mark.parametrize("to", ["> /dev/full", "--output /dev/full"])
def test_a_full_disk_is_one_line(stored: Stored, kind: str, to: str) -> None:
    done = shell(stored, f"$SMTPPROXY {kind} export {to}")
    name = "standard output" if ">" in to else "/dev/full"
    assert (done.returncode, done.stderr) == (
        1,
        f"Error: {name}: No space left on device: the output is incomplete\n",
    )


def test_a_full_disk_under_a_file_tells_how_much_was_written(stored: Stored) -> None:
    output = stored.folder / "out"
    done = shell(stored, f"$SMTPPROXY contact export --output {output}", limit=100_000)
    assert (done.returncode, output.stat().st_size) == (1, 100_000)
    assert done.stderr == (
        f"Error: {output}: File too large: incomplete, only 100,000 octets were written\n"
    )


@EXPORTS
def test_a_file_that_others_could_read_is_closed_to_them(
    stored: Stored, kind: str, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    output.write_text("x" * 5_000_000)
    output.chmod(0o666)
    stored.run(kind, "export", "--output", str(output))
    assert output.stat().st_mode & 0o777 == 0o600
    assert output.read_text() == stored.run(kind, "export").stdout


@EXPORTS
@pytest.mark.parametrize("link", [False, True])
def test_the_configuration_is_not_overwritten(stored: Stored, kind: str, link: bool) -> None:
    before, named = stored.config_path.read_text(), stored.config_path
    if link:
        named = stored.folder / f"{kind}.link"
        named.hardlink_to(stored.config_path)
    told = stored.run(kind, "export", "--output", str(named), code=2).stderr
    assert f"--output: {named} is to be read; name another file" in told
    assert stored.config_path.read_text() == before


def test_nor_are_anchors_that_were_kept(stored: Stored) -> None:
    kept = stored.file("kept.ndjson", '{"n":1,"hash":"x"}\n')
    command = ("contact", "export", "user1@people.example", "--evidence", "--anchors", kept)
    assert "is to be read" in stored.run(*command, "--output", kept, code=2).stderr
    assert Path(kept).read_text() == '{"n":1,"hash":"x"}\n'
