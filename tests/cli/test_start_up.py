"""What the start of a command costs, and what all commands have in common."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest

from smtpproxy.cli import COMMANDS
from tests.cli.stored import Stored
from tests.cli.test_help import COMMANDS_OF_HELP
from tests.kit.processes import run
from tests.kit.relay import COMMAND, REPOSITORY

SHOW_NOTHING = {"consent export", "serve", "demo", "user add", "user remove", "user check"}
HAVE_A_FORMAT = {"suppress export", "audit export"}


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def modules_of(*arguments: str) -> set[str]:
    """The modules loaded by the end of a command."""
    code = (
        "import sys; from smtpproxy.cli import main\n"
        f"try: main({list(arguments)!r})\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    return set(done.stderr.split())


def test_structlog_does_not_load_rich_into_commands(stored: Stored) -> None:
    """That would be a third of the start. Tables load it themselves."""
    stored.run("suppress", "add", "anna@people.example")
    command = ("suppress", "show", "anna@people.example", "--config", str(stored.config_path))
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *COMMAND[1:], *command],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "structlog" in loaded
    assert not loaded & {"rich.console", "rich.traceback", "pygments"}
    table = run(*COMMAND, "purge", "--dry-run", *command[-2:], cwd=REPOSITORY)
    assert (table.returncode, "contacts" in table.stdout) == (0, True), table.stderr


def test_help_loads_no_command() -> None:
    loaded = modules_of("--help")
    ours = {name for name in loaded if name.startswith("smtpproxy.")}
    assert ours == {"smtpproxy.cli", "smtpproxy.ctrl_c", "smtpproxy.terminal"}
    assert not loaded & {"asyncio", "msgspec", "rich", "sqlite3"}


@pytest.mark.parametrize("name", ["check", "token", "user"])
def test_help_of_commands_without_a_store_loads_neither_rich_nor_the_store(
    name: str,
) -> None:
    loaded = modules_of(name, "--help")
    assert not loaded & {"rich.console", "smtpproxy.store.sqlite"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_where_the_list_says(name: str) -> None:
    module, attribute, help = COMMANDS[name]
    command = getattr(import_module(f"smtpproxy.cli.{module}"), attribute)
    assert isinstance(command, click.Command)
    assert command.name == name
    assert help.endswith(".")


@pytest.mark.parametrize("name", sorted(set(COMMANDS_OF_HELP) - SHOW_NOTHING - HAVE_A_FORMAT))
def test_every_result_is_available_as_json(name: str) -> None:
    (option,) = [p for p in COMMANDS_OF_HELP[name].params if "--json" in p.opts]
    assert option.help == "Print the result as JSON, for programs."


@pytest.mark.parametrize("name", sorted(HAVE_A_FORMAT))
def test_an_export_has_a_format(name: str) -> None:
    assert [p for p in COMMANDS_OF_HELP[name].params if "--format" in p.opts]


@pytest.mark.parametrize(
    "words", [("import", "list"), ("webhook", "list"), ("purge", "--dry-run"), ("check",)]
)
def test_tables_fit_eighty_columns(stored: Stored, words: tuple[str, ...]) -> None:
    path = stored.file("a-name-of-a-file-that-is-rather-long.csv", "address\nanna@people.example\n")
    stored.run("contact", "import", path)
    done = run(*COMMAND, *words, "--config", str(stored.config_path), env={"COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        if line.startswith(("warning: ", "/")) or max(map(len, line.split()), default=0) > 40:
            continue  # not part of a table; or a path, which is never wrapped
        assert len(line) <= 80
