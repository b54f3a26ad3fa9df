"""The same cause ends every command with the same code."""

import errno
import fcntl
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from smtpproxy.cli import main
from smtpproxy.store.sqlite.connection import unavailable
from tests.cli.stored import Stored
from tests.cli.test_help import COMMANDS_OF_HELP
from tests.kit.disk import fill, tiny_disk
from tests.kit.parts import needs

ANNA = "anna@people.example"
READING = [
    ("suppress", "show", ANNA),
    ("suppress", "export"),
    ("contact", "show", ANNA),
    ("contact", "export"),
    ("explain", "MESSAGE", "--mail-from", "a@b.example", "--rcpt", ANNA),
    ("scrub", "LIST", "--stream", "offers"),
]
WRITING = [
    ("suppress", "add", ANNA),
    ("suppress", "remove", ANNA, "--all", "--reason", "by letter"),
    ("suppress", "import", "LIST", "--scope", "all", "--origin", "manual"),
    ("contact", "erase", ANNA),
    ("contact", "import", "LIST"),
    ("consent", "withdraw", ANNA, "--purpose", "offers"),
]
NAMES = [" ".join(arguments[:2]) for arguments in READING + WRITING]


@pytest.fixture
def stored() -> Iterator[Stored]:
    """In a folder that every user may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Stored(Path(folder))


def filled_in(stored: Stored, arguments: tuple[str, ...]) -> list[str]:
    files = {
        "LIST": stored.file("list.csv", f"address\n{ANNA}\n"),
        "MESSAGE": stored.file("message.eml", "From: a@b.example\nSubject: x\n\nx\n"),
    }
    return [files.get(argument, argument) for argument in arguments]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("suppress", "show", ANNA), 1, "not suppressed"),
        (("contact", "show", ANNA), 1, "no contact"),
        (("explain", "MESSAGE", "--mail-from", "a@b.example", "--rcpt", ANNA), 1, "no_record"),
        (("scrub", "LIST", "--stream", "offers"), 1, ANNA),
        (("import", "list"), 0, "no imports are on record"),
        (("import", "show", "01"), 1, "no such import"),
        (("suppress", "move", "brand:x", "marketing", "--dry-run"), 0, "0 suppressions would be"),
        (("purge", "--dry-run"), 0, "would go"),
        (("webhook", "list"), 0, ""),
        (("partner", "show"), 0, ""),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_a_database_not_yet_created_counts_as_empty(
    stored: Stored, arguments: tuple[str, ...], code: int, says: str
) -> None:
    """Read-only commands answer as the relay would, which starts empty, and say so."""
    result = stored.run(*filled_in(stored, arguments), code=code)
    assert "there is no database yet" in result.stderr
    assert "nobody is known yet" in result.stderr
    assert says in result.stdout + result.stderr
    assert not [*stored.folder.rglob("*.db")]


@pytest.mark.parametrize("kind", ["suppress", "contact"])
def test_a_database_not_yet_created_gives_no_empty_export(stored: Stored, kind: str) -> None:
    """It could be taken to mean that nobody is suppressed."""
    result = stored.run(kind, "export", code=1)
    assert "there is no database yet" in result.stderr


ROWS_OF = [
    ("suppress", "import", "FILE", "--scope", "all", "--origin", "manual"),
    ("suppress", "import", "FILE", "--scope", "all", "--origin", "manual", "--dry-run"),
    ("contact", "import", "FILE"),
    ("contact", "map", "FILE", "--yes"),
    ("scrub", "FILE", "--stream", "offers"),
    ("scrub", "FILE", "--stream", "offers", "--json"),
    ("suppress", "key", "FILE"),
    ("suppress", "rekey", "--from", "FILE"),
    ("partner", "cover", "--from", "FILE"),
]
NOTHING = [b"", b"\xef\xbb\xbf", b"\n \r\n"]


@pytest.mark.parametrize("arguments", ROWS_OF, ids=lambda each: " ".join(each).lower())
def test_a_file_without_rows_is_1(stored: Stored, arguments: tuple[str, ...]) -> None:
    """An empty file is nearly always a mistake."""
    stored.run("suppress", "add", ANNA)
    takes_header = arguments[:2] != ("suppress", "key")  # this one takes one address per line
    for content in (*NOTHING, *([b"address\n\n"] if takes_header else [])):
        path = stored.file("list.csv", content)
        command = [path if argument == "FILE" else argument for argument in arguments]
        error = stored.run(*command, code=1).stderr.splitlines()[-1]
        wrong = "no rows below its header" if b"a" in content else "no rows: it is empty, or "
        assert error.startswith("Error: "), (content, error)
        assert f"list.csv: {wrong}" in error, (content, error)


@pytest.mark.parametrize("command", [("suppress", "rekey"), ("partner", "cover")], ids=" ".join)
def test_an_unreadable_line_is_1(stored: Stored, command: tuple[str, ...]) -> None:
    stored.run("suppress", "add", ANNA)
    path = stored.file("list.txt", f"{ANNA}\nnobody\n")
    assert "line 2: " in stored.run(*command, "--from", path, code=1).stderr


NAMING = [
    ("report", "--stream", "nope"),
    ("scrub", "LIST", "--stream", "nope"),
    ("explain", "MESSAGE", "--mail-from", "", "--rcpt", ANNA, "--stream", "nope"),
    ("explain", "MESSAGE", "--mail-from", "", "--rcpt", ANNA, "--listener", "nope"),
    ("stream", "show", "nope"),
    ("stream", "pause", "brand:nope"),
    ("stream", "resume", "nope"),
    ("stream", "enforce", "nope", "--yes"),
    ("stream", "observe", "nope", "--yes"),
    ("webhook", "show", "nope"),
    ("webhook", "retry", "nope"),
    ("webhook", "drop", "nope", "--all"),
    ("webhook", "drop", "nope", "--letter", "3"),
    ("partner", "key", "nope"),
    ("partner", "screen", "nope", "LIST", "--snapshot", "LIST"),
    ("suppress", "export", "--partner", "nope"),
    ("suppress", "import", "LIST", "--partner", "nope"),
    ("suppress", "import", "LIST", "--origin", "manual", "--brand", "nope"),
    ("suppress", "move", "brand:former", "brand:nope"),
    ("contact", "import", "LIST", "--brand", "nope"),
    ("consent", "record", ANNA, "--purpose", "offers", "--method", "silence", "--brand", "nope"),
    ("consent", "start", ANNA, "--purpose", "offers", "--wording", "x", "--brand", "nope"),
    ("consent", "withdraw", ANNA, "--purpose", "offers", "--brand", "nope"),
    ("token", "--brand", "nope"),
]


@pytest.mark.parametrize("arguments", NAMING, ids=" ".join)
def test_a_name_missing_from_the_configuration_is_2(
    stored: Stored, arguments: tuple[str, ...]
) -> None:
    stored.run("suppress", "add", ANNA)
    (error,) = stored.run(*filled_in(stored, arguments), code=2).stderr.splitlines()
    assert re.fullmatch(
        r"Error: (--\w+: )?there is no \w+ '(brand:)?nope';"
        r" (known: \S.*|the configuration has no \[\[\w+\]\])",
        error,
    ), error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("suppress", "key", ANNA), "there is no key yet"),
        (("unsubscribe", "keys"), "there is no key: no stream"),
    ],
)
def test_keys_not_yet_made_are_not_reported_as_lost(
    stored: Stored, arguments: tuple[str, ...], says: str
) -> None:
    result = stored.run(*arguments, code=1)
    assert says in result.stderr
    assert "backup" not in result.stderr


@pytest.mark.parametrize("arguments", [*READING, *WRITING, ("serve",)], ids=[*NAMES, "serve"])
def test_another_key_is_2(stored: Stored, arguments: tuple[str, ...]) -> None:
    stored.run("suppress", "add", ANNA)
    (key,) = stored.folder.rglob("suppression.key")
    key.write_text(f"1 {'ab' * 32}\n")
    result = stored.run(*filled_in(stored, arguments), code=2)
    assert "not in suppression.key" in result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run as somebody else")
@pytest.mark.parametrize(
    "arguments", [*READING, *WRITING, ("audit", "show"), ("status",), ("reload",), ("serve",)],
    ids=[*NAMES, "audit show", "status", "reload", "serve"],
)  # fmt: skip
def test_a_missing_permission_is_1(stored: Stored, arguments: tuple[str, ...]) -> None:
    stored.run("suppress", "add", ANNA)
    command = [*filled_in(stored, arguments), "--config", str(stored.config_path)]
    for file in stored.folder.iterdir():
        file.chmod(0o700 if file.is_dir() else 0o644)
    code, error = as_nobody(command)
    right = "must belong" in error or "run this as root, or as the user that" in error
    assert (code, right) == (1, True), error
    assert (error.count("\n"), "unexpected" in error) == (1, False), error


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run as somebody else")
def test_a_configuration_without_read_permission_is_2(stored: Stored) -> None:
    command = ["suppress", "show", ANNA, "--config", str(stored.config_path)]
    folder = stored.config_path.parent
    for closed, mode in ((stored.config_path, 0o600), (folder, 0o700)):
        before = closed.stat().st_mode
        closed.chmod(mode)
        code, error = as_nobody(command)
        closed.chmod(before)
        assert code == 2
        assert error == (
            f"{stored.config_path}: cannot be read: Permission denied\n"
            "Run this as root, or let the user that smtpproxy runs as read the file.\n"
        )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run as somebody else")
@pytest.mark.parametrize(
    "arguments",
    [
        ("suppress", "import", "FILE"),
        ("suppress", "rekey", "--from", "FILE"),
        ("contact", "import", "FILE"),
        ("contact", "map", "FILE"),
        ("contact", "export", ANNA, "--evidence", "--anchors", "FILE"),
        ("consent", "link", "FILE", "--stream", "offers"),
        ("scrub", "FILE", "--stream", "offers"),
        ("explain", "FILE", "--mail-from", "", "--rcpt", ANNA),
        ("dkim", "verify", "FILE"),
        ("feedback", "FILE"),
        ("audit", "verify", "--from", "FOLDER"),
    ],
    ids=" ".join,
)
def test_a_file_without_read_permission_is_1(stored: Stored, arguments: tuple[str, ...]) -> None:
    shut = stored.folder / "shut"
    shut.mkdir()
    file = shut / "list.csv"
    file.write_text(f"address\n{ANNA}\n")
    places = {"FILE": str(file), "FOLDER": str(shut)}
    command = [places.get(each, each) for each in arguments]
    command += ["--config", str(stored.config_path)]
    stored.config_path.chmod(0o644)
    for closed, mode in ((file, 0o600), (shut, 0o700)):
        if closed == shut or "FILE" in arguments:
            before = closed.stat().st_mode
            closed.chmod(mode)
            code, error = as_nobody(command)
            closed.chmod(before)
            assert (code, error.count("\n")) == (1, 1), error
            assert ": permission denied: this user cannot " in error


def as_nobody(command: list[str]) -> tuple[int, str]:
    """Run a command in an unprivileged child; return its exit code and stderr."""
    CliRunner().invoke(main, [*command, "--help"])  # loads modules that `nobody` cannot read
    read_end, write_end = os.pipe()
    if (child := os.fork()) == 0:
        code = 99
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            result = CliRunner().invoke(main, command)
            os.write(write_end, result.stderr.encode())
            code = result.exit_code
        finally:
            os._exit(code)
    os.close(write_end)
    with os.fdopen(read_end) as told:
        error = told.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), error


@pytest.mark.parametrize(
    "command",
    [
        ("audit", "verify", "--since", "2026-12-01"),
        ("audit", "show", "--since", "2026-12-01"),
        ("audit", "export", "--since", "2026-12-01"),
        ("audit", "replay", "--rulebook", "fr", "--since", "2026-12-01"),
        ("report",),
    ],
    ids=" ".join,
)
def test_a_period_that_ends_before_it_begins_is_2(stored: Stored, command: tuple[str, ...]) -> None:
    """With nothing to look at, `verify` would find nothing wrong."""
    result = stored.run(*command, "--until", "2026-01-12", code=2)
    assert "--until: 2026-01-12 00:00 UTC is not after --since" in result.stderr
    result = stored.run(*command, "--since", "2126-12-01", code=2)
    assert "--since: 2126-12-01 00:00 UTC is in the future" in result.stderr


NUMBERS = [
    ("audit", "ship", "/", "--follow", "--every", "N"),
    ("audit", "show", "--limit", "N"),
    ("doctor", "--only", "clock", "--timeout", "N"),
    ("unsubscribe", "retire", "--", "N"),
    ("webhook", "show", "mill", "--letter", "N"),
]
ODD = ["nan", "inf", "-inf", "-0", "0", "1e400", "9" * 30, "", "٣", "1_000", "+5", "5s", "0x10"]


@pytest.mark.parametrize("arguments", NUMBERS, ids=lambda each: " ".join(each[:2]))
@pytest.mark.parametrize("odd", ODD)
def test_an_invalid_or_unbounded_number_is_2(arguments: tuple[str, ...], odd: str) -> None:
    """`--every nan` once waited for ever."""
    result = CliRunner().invoke(main, [odd if each == "N" else each for each in arguments])
    assert result.exit_code == 2, result.output
    *_, error = result.stderr.splitlines()
    assert re.search(
        f": '{re.escape(odd)}' is not a (whole )?number from [0-9.]+ to [0-9]+$", error
    )


def test_every_number_of_a_command_is_read_the_same_way() -> None:
    """Those of click accept `nan`, `1_000` and digits of any script."""
    of_click = (click.types.IntParamType, click.types.FloatParamType)
    assert not [
        f"{name} {parameter.opts[0]}"
        for name, command in COMMANDS_OF_HELP.items()
        for parameter in command.params
        if isinstance(parameter.type, of_click)
    ]


@needs("tmpfs")
def test_a_full_disk_under_the_database_is_1(tmp_path: Path) -> None:
    """SQLite then cannot create its shared memory: SQLITE_IOERR_SHMSIZE."""
    with tiny_disk(tmp_path / "full", "4m") as full:
        stored = Stored(full)
        stored.run("suppress", "add", ANNA)
        (full / "state" / "smtpproxy.db-shm").unlink(missing_ok=True)
        fill(full)
        for command in (("suppress", "add", "b@c.example"), ("import", "list"), ("migrate",)):
            told = stored.run(*command, code=1).stderr
            assert "the disk of the database is full; free some space" in told


def test_a_failing_disk_is_reported() -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode, error.sqlite_errorname = 778, "SQLITE_IOERR_WRITE"
    text = str(unavailable(error))
    assert "(SQLITE_IOERR_WRITE): its disk may be full, over a quota or failing" in text


@pytest.mark.parametrize(
    "command",
    [
        ("suppress", "add", ANNA),
        ("suppress", "rekey"),
        ("purge", "--yes"),
        ("audit", "anchor"),
        ("backup", "BACKUP"),
        ("audit", "ship", "FOLDER"),
    ],
    ids=" ".join,
)
def test_a_disk_without_locks_is_reported(
    stored: Stored, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.run("suppress", "add", "b@c.example")
    (folder := stored.folder / "copies").mkdir()
    places = {"BACKUP": str(stored.folder / "backup"), "FOLDER": str(folder)}

    def none(file: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    told = stored.run(*[places.get(each, each) for each in command], code=1).stderr
    assert re.search(r"/.*: it cannot be locked \(No locks available\)", told), told
    assert "has to be on a local disk, not NFS" in told
