"""Commands, their parameters, and the types of these."""

import functools
import inspect
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import click
from msgspec import Struct, structs

from smtpproxy.cli import fail
from smtpproxy.cli.outputs import check_not_own, check_outputs, written_to
from smtpproxy.cli.printer import Result, print_text, show
from smtpproxy.locale import LANGS, PAGE_LANGS, Lang
from smtpproxy.mail.address import AddressError
from smtpproxy.mail.mailboxes import entered, entered_name, recorded
from smtpproxy.setup import UNIT_CONFIG
from smtpproxy.terminal import plain_text
from smtpproxy.toml_tables import unwrapped

if TYPE_CHECKING:
    from smtpproxy.settings import Settings

TIME_HELP = "A time like 2025-03-01T10:00:00Z, or a date"
_MEANWHILE = (
    "Nothing was done. A running relay goes on with the settings it has read; commands that cannot"
    " wait until this file is right can use a copy of the former one: --config FILE"
)


def settings_in(config: Path, *, meanwhile: str = _MEANWHILE) -> "Settings":
    """Read a configuration; a faulty file ends the command with exit 2.

    `meanwhile`: what to do until it is right.
    """
    from smtpproxy.config import ConfigError, load

    try:
        settings = load(config)
    except ConfigError as error:
        advice = [*_unread(error)] or [meanwhile]
        print_text(filter(None, [*error.faults, *advice]), err=True)
        raise click.exceptions.Exit(2) from error
    _check_folder(settings.server.state_dir)
    return settings


def _unread(error: BaseException) -> Iterator[str]:
    """Yield what to do if a configuration could not be read at all."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    if isinstance(cause, FileNotFoundError):
        yield "Name it with --config FILE or SMTPPROXY_CONFIG, or have smtpproxy init write one."
    elif isinstance(cause, PermissionError):
        yield "Run this as root, or let the user that smtpproxy runs as read the file."


def _check_folder(state_dir: Path) -> None:
    """Name the setting at fault, where later errors would only name a file that cannot be read."""
    try:
        is_folder = stat.S_ISDIR(state_dir.stat().st_mode)
    except (FileNotFoundError, PermissionError):
        return
    except NotADirectoryError:
        is_folder = False
    if not is_folder:
        fail(f"server.state_dir: {state_dir} is not a folder, or lies inside a file; name a folder")


class _Asked(Struct, frozen=True):
    option: str | None  # its name, "" if that of the parameter; None: an argument
    settings: Mapping[str, Any]  # for click


class Options(Struct, frozen=True):
    """A record of options, which `command` fills; the defaults of its fields are for click."""

    def __post_init__(self) -> None:
        if any(isinstance(getattr(self, name), _Asked) for name in self.__struct_fields__):
            raise TypeError(f"{type(self).__name__}: a field is missing")


def option(help: str, *, name: str = "", **settings: Any) -> Any:
    """Return an option, `--its-name` unless `name` is given: a field of a record of options, or the
    default of a command's parameter.

    A default is shown; `settings` go to `click.Option`.
    """
    return _Asked(name, settings | {"help": help})


def flag(help: str, *, name: str = "") -> Any:
    """Return an option that is True if `--its-name` is given."""
    return option(help, name=name, is_flag=True)


def several(help: str, *, name: str = "", **settings: Any) -> Any:
    """Return an option with the values of every `--its-name` given, in a tuple."""
    return option(f"{help} Repeat for more.", name=name, multiple=True, **settings)


def argument(**settings: Any) -> Any:
    """Return an argument that needs more than its type: `settings` for click."""
    return _Asked(None, settings)


YES: Any = flag("Do not ask for confirmation.")


def ask_first(question: Callable[[], str | None], *, yes: bool) -> None:
    """Ask before what cannot be undone, unless there is no question or no terminal to ask at."""
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    if (text := question()) is not None:
        confirm(text)


def confirm(question: str) -> None:
    """Ask, and end the command unless the answer is yes."""
    try:
        if click.confirm(question, err=True):
            return
    except click.Abort:  # Ctrl-C, or there is nobody to answer
        click.echo(err=True)  # the line of the question is open
        fail("nothing was changed; --yes does it without asking")
    fail("nothing was changed")


class Value(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases alone
    """A type of parameter: `read` returns the value of a text, or raises ValueError."""

    def __init__(self, metavar: str, read: Callable[[Any], Any]) -> None:
        self.name = metavar
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def number(least: float, most: float) -> Value:
    """A type of parameter: a number within bounds, a whole one if `least` is."""
    whole = isinstance(least, int)

    def read(value: object) -> float:
        text = str(value).strip()  # a default is no text
        if re.fullmatch("[0-9]{1,15}" if whole else r"[0-9]{0,15}\.?[0-9]{1,15}", text):
            found = int(text) if whole else float(text)
            if least <= found <= most:
                return found
        raise ValueError(f"{text!r} is not a {'whole ' * whole}number from {least} to {most}")

    return Value("NUMBER", read)


WholeNumber = Annotated[int, number(1, 10**15 - 1)]


class Choice(click.Choice[Any]):
    """A type of parameter with few values, by their texts."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(list(values))
        self._values = values

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self._values[super().convert(value, param, ctx)]


def choice(values: Iterable[Any]) -> Choice:
    return Choice({str(value): value for value in values})


def check_permitted(path: Path) -> None:
    """End the command if this user may not read a path; it may also not be there."""
    try:
        path.stat()
    except PermissionError:
        fail(f"{path}: permission denied: this user cannot enter the folder")
    except OSError:
        return
    if not os.access(path, os.R_OK):
        fail(f"{path}: permission denied: this user cannot read it")


class _Permitted(click.Path):
    """A path that this user may read."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not self.allow_dash or str(value) != "-":
            check_permitted(Path(value))
        return super().convert(value, param, ctx)


class MessageFile(click.File):
    """A file with a message; - is standard input."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> IO[Any]:
        if isinstance(value, str) and value != "-":
            check_permitted(Path(value))
        return super().convert(value, param, ctx)


_existing = functools.partial(_Permitted, path_type=Path, exists=True, readable=False)
OUTPUT_FILE = click.Path(path_type=Path, dir_okay=False)
ExistingFile = Annotated[Path, _existing(dir_okay=False)]
FileOrStdin = Annotated[Path, _existing(dir_okay=False, allow_dash=True)]
"""An existing file; - is standard input."""
FileFolderOrStdin = Annotated[Path, _existing(allow_dash=True)]
ExistingFolder = Annotated[Path, _existing(file_okay=False)]
OutputFile = Annotated[Path, OUTPUT_FILE]


def moment(value: str) -> datetime:
    """Read a time: ISO 8601, in UTC if it has no offset."""
    try:
        read = datetime.fromisoformat(value)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        right = "2026-03-01T10:00:00Z or 2026-03-01"
        raise ValueError(f"{value!r} is not a time such as {right}") from None


def _last_moment(value: str) -> datetime:
    from smtpproxy.store.exchange.times import read_time

    try:
        return read_time(value, last_moment=True)
    except ValueError:
        return moment(value)


Moment = Annotated[datetime, Value("TIME", moment)]
LastMoment = Annotated[datetime, Value("TIME", _last_moment)]
"""A date alone is the end of that day."""


def _address(read: Callable[[str], str]) -> Value:
    def named(value: str) -> str:
        try:
            return read(value)
        except AddressError as error:
            raise ValueError(f"{value!r}: {error}") from None

    return Value("ADDRESS", named)


CanonicalAddress = Annotated[str, _address(entered)]
AddressOrDomain = Annotated[str, _address(entered_name)]
"""An address, or a whole domain as in `@example.com`."""
RecordedAddress = Annotated[str, _address(functools.partial(recorded, read=entered))]
"""An address that may be on record, though mail to it is refused."""
RecordedName = Annotated[str, _address(functools.partial(recorded, read=entered_name))]

Text = Annotated[str, Value("TEXT", plain_text)]
Language = Annotated[Lang, choice(LANGS)]
PageLanguage = Annotated[Lang, choice(PAGE_LANGS)]


Function = Callable[..., Any]


def command(
    name: str, group: click.Group | None = None, **more: Any
) -> Callable[[Function], click.Command]:
    """Make a function the command `name`, of `group` if it is given; `more` goes to click.

    Its parameters are those of the command, each of the type that it is annotated with. One is an
    argument unless its default is made by `option`, `flag` or `several`; `options` are those in the
    fields of a record. Others are given to it: `settings` for `--config`, read, or `config` for its
    path; `output` for `--output`, open; `as_json` for `--json`, which any command has that returns
    a Result. An int that it returns is the exit code.
    """

    def decorate(function: Function) -> click.Command:
        asked = inspect.signature(function).parameters
        returned = inspect.signature(function).return_annotation
        shows = Result in (returned, *get_args(returned))
        record = asked["options"].annotation if "options" in asked else None
        in_record = () if record is None else structs.fields(record)
        declared = [(each.name, each.type, each.default) for each in in_record]
        declared += [
            (name, each.annotation, each.default)
            for name, each in asked.items()
            if name not in _GIVEN
        ]
        params = sorted(map(_parameter, declared), key=lambda made: isinstance(made, click.Option))
        outputs = {"output", *(made.name for made in params if made.type is OUTPUT_FILE)}

        @functools.wraps(function)
        def run(**given: Any) -> int | None:
            as_json = given.pop("as_json") if shows else False
            if "until" in given:
                _check_period(given.get("since"), given["until"])
            check_outputs(given, outputs)
            if "settings" in asked:
                given["settings"] = settings_in(given.pop("config"))
                check_not_own(given["settings"], given, outputs)
            if record is not None:
                given["options"] = record(**{each.name: given.pop(each.name) for each in in_record})
            with ExitStack() as stack:
                if "output" in asked:
                    output = None if given["output"] == Path("-") else given["output"]
                    given["output"] = stack.enter_context(written_to(output))
                result: Result | int | None = function(**given)
            return show(result, as_json=as_json) if isinstance(result, Result) else result

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
    type=click.Path(path_type=Path, readable=False),  # reported with the other faults
    envvar="SMTPPROXY_CONFIG",
    default=UNIT_CONFIG,
    metavar="FILE",
    help=f"The configuration (default: $SMTPPROXY_CONFIG, otherwise {UNIT_CONFIG}).",
)
_JSON = click.Option(
    ["--json", "as_json"], is_flag=True, help="Print the result as JSON, for programs."
)


_GIVEN = ("settings", "config", "options", "output", "as_json")


def _parameter(declared: tuple[str, Any, Any]) -> click.Parameter:
    name, annotation, default = declared
    asked = default if isinstance(default, _Asked) else _Asked(None, {})
    settings = asked.settings
    if asked.option is not None:
        return click.Option(
            [asked.option or "--" + name.replace("_", "-"), name],
            type=None if "is_flag" in settings else _type(annotation),
            show_default="default" in settings,
            **settings,
        )
    required = NoneType not in get_args(annotation) and "default" not in settings
    return click.Argument([name], type=_type(annotation), required=required, **settings)


def _type(annotation: Any) -> Any:
    """Return the type for click that an annotation is marked with, or that follows from it."""
    kind, marks = unwrapped(annotation)
    if get_origin(kind) is tuple and not marks:  # of one that may be repeated
        kind, marks = unwrapped(get_args(kind)[0])
    if marks:
        return marks[0]
    if kind is bool:
        return Choice({"yes": True, "no": False})
    if get_origin(kind) is Literal:
        return choice(get_args(kind))
    return choice(kind) if issubclass(kind, Enum) else kind


def _check_period(since: datetime | timedelta | None, until: datetime | None) -> None:
    """Raise BadParameter where nothing can be in a period: a command that looks at nothing would
    find nothing wrong."""
    now = datetime.now(UTC)
    start = now - since if isinstance(since, timedelta) else since
    if start and not until and start > now + timedelta(days=1):  # a local date may be tomorrow's
        text = f"{start:%Y-%m-%d %H:%M} UTC is in the future"
        raise click.BadParameter(text, param_hint="--since")
    if start and until and until <= start:
        raise click.BadParameter(
            f"{until:%Y-%m-%d %H:%M} UTC is not after --since, {start:%Y-%m-%d %H:%M} UTC",
            param_hint="--until",
        )
