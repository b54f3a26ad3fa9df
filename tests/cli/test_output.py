"""Exports to a full disk, a closed pipe or an existing file."""

import os
import resource
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from smtpproxy.cli import main
from tests.cli.stored import Stored
from tests.cli.test_help import COMMANDS_OF_HELP
from tests.kit.relay import COMMAND, REPOSITORY, relay_config
from tests.kit.toml import to_toml

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
    """Run a line in bash with $SMTPPROXY as the command; `limit` is on the size of files."""

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
def test_a_reader_that_closes_early_sees_no_error(stored: Stored, kind: str) -> None:
    done = shell(stored, f"$SMTPPROXY {kind} export | head -1")
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


@EXPORTS
@pytest.mark.parametrize("to", ["> /dev/full", "--output /dev/full"])
def test_a_full_disk_is_reported_in_one_line(stored: Stored, kind: str, to: str) -> None:
    done = shell(stored, f"$SMTPPROXY {kind} export {to}")
    name = "standard output" if ">" in to else "/dev/full"
    assert (done.returncode, done.stderr) == (
        1,
        f"Error: {name}: No space left on device: the output is incomplete\n",
    )


@EXPORTS
def test_on_a_full_disk_the_previous_file_stays(stored: Stored, kind: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.write_text("yesterday's")
    done = shell(stored, f"$SMTPPROXY {kind} export --output {output}", limit=100_000)
    assert (done.returncode, done.stderr) == (1, f"Error: {output}: File too large: not written\n")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [
        ("out", "yesterday's")
    ]


@pytest.mark.parametrize(
    ("command", "limit"),
    [
        ("dkim keygen {new} --domain shop.example --selector s1", 100),
        ("contact map {wide} --yes --leave-open --set source=direct --output {new}", 100_000),
    ],
)
def test_a_full_disk_leaves_no_part_of_a_new_file(
    stored: Stored, command: str, limit: int, tmp_path: Path
) -> None:
    """A part would block the name, since such files are never overwritten."""
    new, headings = tmp_path / "new", ",".join(f"{n}{'x' * 400}" for n in range(300))
    wide = stored.file("wide.csv", f"address,{headings}\nanna@people.example\n")
    line = "$SMTPPROXY " + command.format(new=new, wide=wide)
    done = shell(stored, line, limit)
    assert (done.returncode, done.stderr.splitlines()[-1][:30]) == (1, f"Error: {new}"[:30])
    assert "File too large" in done.stderr
    assert not new.exists()
    assert shell(stored, line).returncode == 0


@pytest.mark.parametrize(
    "command",
    [
        ("contact", "export", "nobody@people.example"),
        ("consent", "export", "nobody@people.example"),
        ("suppress", "export", "--partner", "nobody"),
        ("suppress", "key", "nobody"),
        ("audit", "export", "--stream", "none"),
    ],
    ids=" ".join,
)
def test_a_failing_command_keeps_the_previous_file(
    stored: Stored, command: tuple[str, ...], tmp_path: Path
) -> None:
    """An empty list of suppressions would mean that nobody is suppressed."""
    output = tmp_path / "out"
    output.write_text("yesterday's")
    assert stored.run(*command, "--output", str(output), code=None).exit_code
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [
        ("out", "yesterday's")
    ]


def test_a_terminal_may_lack_characters(stored: Stored) -> None:
    stored.run("suppress", "add", "日@people.example")
    done = shell(stored, "PYTHONIOENCODING=latin-1 $SMTPPROXY suppress show 日@people.example")
    assert (done.returncode, done.stdout.partition(":")[0]) == (0, "\\u65e5@people.example")


@pytest.mark.parametrize("heading", ["e-mail", "address"])
@pytest.mark.parametrize(
    "command", ["contact import FILE", "suppress import FILE", "scrub FILE --stream offers"]
)
def test_a_column_heading_cannot_control_the_terminal(
    stored: Stored, command: str, heading: str
) -> None:
    steers = "\x1b]0;x\x07\x9b2J"
    path = stored.file("steers.csv", f"{heading}{steers * (heading != 'address')},{steers}\n,x\n")
    told = stored.run(*command.replace("FILE", path).split(), code=None).stderr
    assert not set("\x1b\x07\x9b") & set(told), told


def test_nor_can_the_name_of_a_configuration(tmp_path: Path) -> None:
    named = str(tmp_path / "\x1b[2J\x9b2J")
    for command in ("suppress export", "status", "check"):
        result = CliRunner().invoke(main, [*command.split(), "--config", named])
        told = result.stdout + result.stderr
        assert (result.exit_code, r"\x1b[2J\x9b2J: cannot be read" in told) == (2, True), told
        assert not set("\x1b\x9b") & set(told)


def test_dash_is_standard_output(stored: Stored) -> None:
    assert stored.run("suppress", "export", "--output", "-").stdout.startswith("address,scope,")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_the_owner_of_the_previous_file_can_read_the_new_one(
    stored: Stored, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    output.touch()
    os.chown(output, 65534, -1)
    stored.run("suppress", "export", "--output", str(output))
    found = output.stat()
    assert (found.st_uid, found.st_mode & 0o777, found.st_size > 0) == (65534, 0o600, True)


@EXPORTS
def test_a_file_that_others_could_read_becomes_private(
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
    assert f"--output: {named} is an input; name another file" in told
    assert stored.config_path.read_text() == before


def test_nor_are_kept_anchors(stored: Stored) -> None:
    kept = stored.file("kept.ndjson", '{"n":1,"hash":"x"}\n')
    command = ("contact", "export", "user1@people.example", "--evidence", "--anchors", kept)
    assert "is an input" in stored.run(*command, "--output", kept, code=2).stderr
    assert Path(kept).read_text() == '{"n":1,"hash":"x"}\n'


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """A store, keys and a maildir outside `state_dir`."""
    stored = Stored(tmp_path_factory.mktemp("own"))
    for name in ("s1.pem", "people.csv", "list.txt"):
        stored.file(name, "address\nanna@people.example\n")
    returns = {"domain": "returns.shop.example", "maildir": str(stored.folder / "returns")}
    more = {
        "store": {"url": f"sqlite://{stored.folder / 'mail.db'}"},
        "dkim": [{"domain": "a.example", "selector": "s1", "key": str(stored.folder / "s1.pem")}],
        "feedback": {**returns, "address": "127.0.0.1:2600"},
    }
    more["policy"] = {"rulebook": stored.file("rulebook.toml", 'name = "own"\n')}
    stored.config_path.write_text(to_toml(relay_config(stored.folder, "127.0.0.1:25", more)))
    stored.run("suppress", "add", "anna@people.example")
    return stored


OWN = {
    "state/audit/0.ndjson": "is in server.state_dir, which is for the relay's own files",
    "state/new": "is in server.state_dir",
    "state/suppression.key": "is in server.state_dir",
    "returns/new/1": "is in feedback.maildir",
    "mail.db": "belongs to the store",
    "mail.db-wal": "belongs to the store",
    "mail-bulk.db": "belongs to the store",
    "s1.pem": "is a file that the configuration names",
    "linked.pem": "is a file that the configuration names",
    "rulebook.toml": "is a file that the configuration names",
}


@pytest.mark.parametrize("name", OWN)
def test_nor_is_a_file_of_the_relay(own: Stored, name: str) -> None:
    link = own.folder / "linked.pem"
    if not link.exists():
        link.hardlink_to(own.folder / "s1.pem")
    path = own.folder / name
    before = path.read_bytes() if path.exists() else None
    told = own.run("suppress", "export", "--output", str(path), code=2).stderr
    assert f"--output: {path} {OWN[name]}" in told
    assert (path.read_bytes() if path.exists() else None) == before


@pytest.mark.parametrize("name", ["sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile"])
@pytest.mark.parametrize("key", ["url", "replica_url"])
def test_nor_are_credentials_for_the_database(tmp_path: Path, key: str, name: str) -> None:
    stored = Stored(tmp_path)
    path = stored.file("own", "secret")
    urls = dict.fromkeys(("url", "replica_url"), "postgresql://relay@db.example/mail")
    urls[key] += f"?sslmode=verify-full&{name}={path}"
    stored.config_path.write_text(to_toml(relay_config(tmp_path, "127.0.0.1:25", {"store": urls})))
    told = stored.run("suppress", "export", "--output", path, code=2).stderr
    assert f"--output: {path} is a file that the configuration names" in told
    assert Path(path).read_text() == "secret"


GIVEN = {
    "scrub": "{list} --stream offers",
    "suppress import": "{people}",
    "suppress key": "{list}",
    "contact import": "{people}",
    "contact map": "{people} --yes",
    "consent export": "anna@people.example",
}
"""Other arguments needed by commands that write a file."""

WRITING = [
    (f"{name} {GIVEN.get(name, '')}", parameter.opts[0])
    for name, command in COMMANDS_OF_HELP.items()
    for parameter in command.params
    if isinstance(parameter, click.Option) and parameter.opts[0] != "--config"
    if isinstance(parameter.type, click.Path) and not parameter.type.exists
]


def test_the_options_that_name_output_files_are_known() -> None:
    assert {option for _, option in WRITING} == {
        "--allowed", "--html", "--output", "--refused", "--rejected", "--report"
    }  # fmt: skip


@pytest.mark.parametrize(("command", "option"), WRITING)
def test_no_command_writes_to_a_file_of_the_relay(own: Stored, command: str, option: str) -> None:
    files = {"list": own.folder / "list.txt", "people": own.folder / "people.csv"}
    words = [word.format_map(files) for word in command.split()]
    path = own.folder / "mail.db"
    told = own.run(*words, option, str(path), code=2).stderr
    assert f"{option}: {path} belongs to the store; name another file" in told


def test_the_audit_log_is_not_shipped_into_itself(own: Stored) -> None:
    folder = own.folder / "state" / "audit"
    told = own.run("audit", "ship", str(folder), code=2).stderr
    assert f"{folder}: it is in server.state_dir" in told


def test_a_list_is_not_overwritten_with_its_keys(stored: Stored) -> None:
    path = stored.file("keys.txt", "anna@people.example\n")
    assert "is an input" in stored.run("suppress", "key", path, "--output", path, code=2).stderr
    assert Path(path).read_text() == "anna@people.example\n"
