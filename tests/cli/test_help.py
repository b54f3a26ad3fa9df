"""--help of every command, and docs/commands.md, which must agree with it."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from smtpproxy.cli import COMMANDS, main
from smtpproxy.cli.options import TIME_HELP

DOCS = Path(__file__).parents[2] / "docs"
DOCUMENT = (DOCS / "commands.md").read_text("utf-8")
CONTRACT = re.search(r"^Commands: `([^`]+)`", (DOCS / "design.md").read_text("utf-8"), re.M)


def walk(
    group: click.Group = main, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, click.Command]]:
    """Every command that is not a group, as "suppress add"."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from walk(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS_OF_HELP = dict(walk())

WITHOUT_CONFIG = {"demo"}


def section(name: str) -> str:
    match = re.search(rf"^##+ `smtpproxy {name}`\n(.*?)(?=^## |^### |\Z)", DOCUMENT, re.M | re.S)
    assert match, f"docs/commands.md has no section for {name}"
    return match[1]


def options(command: click.Command) -> set[str]:
    names = {
        option
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.hidden
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("--")
    }
    return names - {"--config"}  # documented once for all of them


def test_every_command_is_listed() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    listed = re.findall(r"^  (\w+)  ", result.stdout.partition("Commands:")[2], re.M)
    assert listed == list(COMMANDS)


def test_the_contract_names_exactly_the_commands() -> None:
    assert CONTRACT
    named = set()
    for name, _, under in re.findall(
        r"(\w+)( \[[^]]*\])?(?: \(([\w|]+)\))?(?: \| |$)", CONTRACT[1][10:]
    ):
        named |= {f"{name} {one}" for one in under.split("|")} if under else {name}
    assert named == set(COMMANDS_OF_HELP)


def test_no_command_description_is_truncated() -> None:
    result = CliRunner().invoke(main, ["--help"], terminal_width=80)
    assert "..." not in result.stdout.partition("Commands:")[2]


@pytest.mark.parametrize("name", COMMANDS_OF_HELP)
def test_help_describes_a_command_and_its_options(name: str) -> None:
    result = CliRunner().invoke(main, [*name.split(), "-h"])
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: smtpproxy {name} ")
    command = COMMANDS_OF_HELP[name]
    assert (command.help or "").strip().endswith(".")
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help, parameter.name
            assert parameter.help in " ".join(result.stdout.split()), parameter.name


@pytest.mark.parametrize("name", COMMANDS_OF_HELP)
def test_every_command_takes_the_configuration_the_same_way(name: str) -> None:
    (config,) = [p for p in COMMANDS_OF_HELP[name].params if p.name == "config"] or [None]
    if name in WITHOUT_CONFIG:
        assert config is None
    else:
        assert config is not None
        assert config.envvar == "SMTPPROXY_CONFIG"
        assert str(config.default) == "/etc/smtpproxy/smtpproxy.toml"


@pytest.mark.parametrize("name", COMMANDS_OF_HELP)
def test_the_documented_options_are_those_that_exist(name: str) -> None:
    documented = set(re.findall(r"^\| `(--[a-z-]+)` \|", section(name), re.M))
    assert documented == options(COMMANDS_OF_HELP[name])


def test_every_documented_command_exists() -> None:
    headings = re.findall(r"^##+ `smtpproxy ([a-z ]+)`$", DOCUMENT, re.M)
    groups = {name.split()[0] for name in COMMANDS_OF_HELP if " " in name}
    assert set(headings) == set(COMMANDS_OF_HELP) | groups
    linked = re.findall(r"^\| \[`(\w+)`\]\(#smtpproxy-\1\) \|", DOCUMENT, re.M)
    assert linked == list(COMMANDS)


def rows() -> Iterator[tuple[str, click.Option, str]]:
    """Every option with its command, and what the document says of it."""
    for name, command in COMMANDS_OF_HELP.items():
        documented = dict(re.findall(r"^\| `(--[a-z-]+)` \| (.*) \|$", section(name), re.M))
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.opts[0] in options(command):
                yield f"{name} {parameter.opts[0]}", parameter, documented[parameter.opts[0]]


def test_the_default_of_an_option_is_the_documented_one() -> None:
    shown = {}
    for name, option, row in rows():
        if option.show_default:
            default = option.default
            text = f"{default:g}" if isinstance(default, float) else str(default).strip("[']")
            right = rf"`?{text}`? \(the default[;)]|\(default `?{text}`?\)"
            shown[name] = re.search(right, row) is not None
    assert len(shown) > 10
    assert [name for name, is_right in shown.items() if not is_right] == []


SMALL = frozenset(
    re.findall(
        r"\w+",
        "the and for are not its was has had who one all any can may this that with from only will"
        " what when where which they them these those than into each does here there then such",
    )
)


def keywords(text: str) -> set[str]:
    """The words of a text without short ones, metavariables and most endings."""
    words = re.findall(r"[A-Z]?[a-z][a-z_-]{2,}", text)
    return {re.sub(r"(ing|ied|ies|ed|es|s|e|y)$", "", w.lower()) for w in words if w not in SMALL}


def test_the_document_describes_an_option_like_its_help() -> None:
    """In more words, which include at least half of those in the help."""
    others = {}
    for name, option, row in rows():
        help = (option.help or "").replace(TIME_HELP, "").replace("Repeat for more", "")
        missing = keywords(help) - keywords(row)
        if not name.endswith(" --json") and 2 * len(missing) > len(keywords(help)):
            others[name] = missing
    assert others == {}


def test_required_options_are_documented_as_required() -> None:
    required = {name: row for name, option, row in rows() if option.required}
    assert required
    assert [name for name, row in required.items() if "Required" not in row] == []


def test_choices_are_documented_completely_or_not_at_all() -> None:
    partly, complete = [], 0
    for name, option, row in rows():
        if isinstance(option.type, click.Choice):
            choices = set(map(str, option.type.choices))
            listed = choices & set(re.findall(r"`([\w-]+)`", row))
            complete += listed == choices
            if 3 <= len(listed) < len(choices):
                partly.append(name)
    assert complete > 5
    assert partly == []
