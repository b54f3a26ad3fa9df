"""How a function becomes a command: its parameters say which options it takes."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import click

from smtpproxy.cli.options import METAVARS, OUTPUT_FILE, settings_in, written_to
from smtpproxy.cli.printer import Result, show
from smtpproxy.setup import UNIT_CONFIG

Function = Callable[..., Any]


def command(
    name: str, group: click.Group | None = None, **more: Any
) -> Callable[[Function], click.Command]:
    """Make a function the command `name`, of `group` if it is given; `more` goes to click.

    Its arguments are decorators, as in click. Its parameters ask for options: a default made by
    `options.option`, `flag` or `several` for one; `options` for those in the fields of a record;
    `settings` for `--config`, read, or `config` for its path; `output` for `--output`, open;
    `as_json` for `--json`, which any command has that returns a Result. An int that it returns is
    the exit code.
    """

    def decorate(function: Function) -> click.Command:
        asked = inspect.signature(function).parameters
        returned = inspect.signature(function).return_annotation
        shows = Result in (returned, *get_args(returned))
        record = asked["options"].annotation if "options" in asked else None
        in_record = [] if record is None else [*dataclasses.fields(record)]
        fields: dict[str, Any] = {each.name: each for each in in_record}
        for each in asked.values():
            if isinstance(each.default, dataclasses.Field):
                fields[each.name] = each.default

        @functools.wraps(function)
        def run(**given: Any) -> int | None:
            as_json = given.pop("as_json") if shows else False
            _check_period(given.get("since"), given.get("until"))
            if "settings" in asked:
                given["settings"] = settings_in(given.pop("config"))
            if record is not None:
                given["options"] = record(**{each.name: given.pop(each.name) for each in in_record})
            with ExitStack() as stack:
                if "output" in asked:
                    given["output"] = stack.enter_context(written_to(given["output"]))
                result: Result | int | None = function(**given)
            return show(result, as_json=as_json) if isinstance(result, Result) else result

        arguments: list[click.Parameter] = vars(run).pop("__click_params__", [])
        params = [*reversed(arguments), *(_option(name, each) for name, each in fields.items())]
        if "output" in asked:
            params.append(_OUTPUT)
        if "settings" in asked or "config" in asked:
            params.append(_CONFIG)
        if shows or "as_json" in asked:
            params.append(_JSON)
        made = click.Command(name, callback=run, params=params, help=run.__doc__, **more)
        if group is not None:
            group.add_command(made)
        return made

    return decorate


_OUTPUT = click.Option(
    ["--output"],
    type=OUTPUT_FILE,
    metavar="FILE",
    help="Write to FILE, readable only by its owner, instead of standard output.",
)
_CONFIG = click.Option(
    ["--config"],
    type=click.Path(path_type=Path, readable=False),  # which is said with the other faults
    envvar="SMTPPROXY_CONFIG",
    default=UNIT_CONFIG,
    metavar="FILE",
    help=f"The configuration (default: $SMTPPROXY_CONFIG, otherwise {UNIT_CONFIG}).",
)
_JSON = click.Option(
    ["--json", "as_json"], is_flag=True, help="Print the result as JSON, for programs."
)


def _option(name: str, field: "dataclasses.Field[Any]") -> click.Option:
    help, type, written, settings = field.metadata["option"]
    given: Mapping[str, Any] = {"metavar": METAVARS.get(type), **settings}
    return click.Option(
        [written or "--" + name.replace("_", "-"), name],
        type=type,
        help=help,
        show_default="default" in settings,
        **given,
    )


def _check_period(since: datetime | timedelta | None, until: datetime | None) -> None:
    """Raise BadParameter where nothing can be in a period: a command that looks at nothing would
    find nothing wrong."""
    start = datetime.now(UTC) - since if isinstance(since, timedelta) else since
    if start is not None and until is not None and until <= start:
        raise click.BadParameter(
            f"{until:%Y-%m-%d %H:%M} UTC is not after --since, {start:%Y-%m-%d %H:%M} UTC",
            param_hint="--until",
        )
