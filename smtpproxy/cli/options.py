"""Commands, their options, and the types of the options' values."""

import contextlib
import dataclasses
import functools
import inspect
import ipaddress
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from smtpproxy.cli import fail
from smtpproxy.cli.outputs import check_not_own, check_outputs, written_to
from smtpproxy.cli.printer import Result, show
from smtpproxy.locale import language_tag as read_language
from smtpproxy.setup import UNIT_CONFIG

if TYPE_CHECKING:
    from smtpproxy.settings import Settings
    from smtpproxy.sinks.audit.chain import Head

OUTPUT_FILE = click.Path(path_type=Path, dir_okay=False)
"""The type of a file to write."""
EXISTING_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
FILE_OR_STDIN = click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True)
"""The type of an existing file; - is standard input."""
TIME_HELP = "A time like 2025-03-01T10:00:00Z, or a date"


_MEANWHILE = (
    "Nothing was done. A running relay goes on with the settings it has read; commands that cannot"
    " wait for this file to be right take a copy of the former one: --config FILE"
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
        click.echo("\n".join(filter(None, [*error.faults, *advice])), err=True)
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


def audit_folder(settings: "Settings") -> Path:
    """Return the folder of the audit log. Raises OSError when it may not be read."""
    folder = settings.server.state_dir / "audit"
    with contextlib.suppress(FileNotFoundError):  # nothing has been decided yet
        os.scandir(folder).close()
    return folder


def option(help: str, type: Any = None, *, name: str = "", **settings: Any) -> Any:
    """Return an option, `--its-name` unless `name` is given: a field of a record of options, or the
    default of a command's parameter.

    A default is shown; `settings` go to `click.Option`.
    """
    return dataclasses.field(metadata={"option": (help, type, name, settings)})


def flag(help: str, *, name: str = "") -> Any:
    """Return an option that is True if `--its-name` is given."""
    return option(help, name=name, is_flag=True)


def several(help: str, type: Any = None, *, name: str = "", **settings: Any) -> Any:
    """Return an option with the values of every `--its-name` given, in a tuple."""
    return option(f"{help} Repeat for more.", type, name=name, multiple=True, **settings)


YES: Any = flag("Do not ask for confirmation.")


def ask_first(question: Callable[[], str | None], *, yes: bool) -> None:
    """Ask before what cannot be undone, unless there is no question or no terminal to ask at."""
    if yes or sys.stdin is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
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
        fail("nothing was changed; --yes goes on without asking")
    fail("nothing was changed")


def choice(values: Any) -> click.Choice[str]:
    """Return the type of an option with a closed set of values, such as an Enum."""
    return click.Choice([str(value) for value in values])


def moment(value: str) -> datetime:
    """Read a time: ISO 8601, in UTC if it has no offset. For `type=moment`."""
    try:
        read = datetime.fromisoformat(value)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        right = "2026-03-01T10:00:00Z or 2026-03-01"
        raise click.BadParameter(f"{value!r} is not a time such as {right}") from None


def last_moment(value: str) -> datetime:
    """Read a time as `moment` does, but a date alone as the end of that day."""
    from smtpproxy.store.exchange.times import read_time

    try:
        return read_time(value, last_moment=True)
    except ValueError:
        return moment(value)


def canonical_address(value: str) -> str:
    """Read an address, in canonical form. For `type=canonical_address`."""
    from smtpproxy.mail.mailboxes import entered

    return _read(entered, value)


def address_or_domain(value: str) -> str:
    """Read an address, or a whole domain as in `@example.com`. For `type=address_or_domain`."""
    from smtpproxy.mail.mailboxes import entered_name

    return _read(entered_name, value)


def recorded_address(value: str) -> str:
    """Read an address that may be on record, though mail to it is refused. For `type=`."""
    from smtpproxy.mail.mailboxes import entered, recorded

    return _read(functools.partial(recorded, read=entered), value)


def recorded_name(value: str) -> str:
    """Read an address that may be on record, or a whole domain. For `type=recorded_name`."""
    from smtpproxy.mail.mailboxes import entered_name, recorded

    return _read(functools.partial(recorded, read=entered_name), value)


def _read(read: Callable[[str], str], value: str) -> str:
    from smtpproxy.mail.address import AddressError

    try:
        return read(value)
    except AddressError as error:
        raise click.BadParameter(f"{value!r}: {error}") from None


def plain_text(value: str) -> str:
    """Read text that is not empty, in UTF-8. For `type=plain_text`."""
    text = value.strip()
    if not text or any("\ud800" <= character <= "\udfff" for character in text):
        raise click.BadParameter(f"{value!r} must be text in UTF-8")
    return text


def language_tag(value: str) -> str:
    """Read a language tag (RFC 5646). For `type=language_tag`."""
    try:
        return read_language(value.strip())
    except ValueError as error:
        raise click.BadParameter(f"{value!r} {error}") from None


def ip_address(value: str) -> str:
    """Read an IP address. For `type=ip_address`."""
    try:
        return str(ipaddress.ip_address(value.strip()))
    except ValueError:
        right = "192.0.2.7 or 2001:db8::7"
        raise click.BadParameter(f"{value!r} is not an IP address such as {right}") from None


def sha256_text(value: str) -> str:
    """Read a hash. For `type=sha256_text`."""
    if re.fullmatch(r"[0-9A-Fa-f]{64}", value.strip()) is None:
        raise click.BadParameter(f"{value!r} is not a SHA-256, which has 64 hexadecimal digits")
    return value.strip().lower()


METAVARS: dict[Any, str] = {
    moment: "TIME",
    last_moment: "TIME",
    canonical_address: "ADDRESS",
    address_or_domain: "ADDRESS",
    recorded_address: "ADDRESS",
    recorded_name: "ADDRESS",
    plain_text: "TEXT",
    ip_address: "IP",
    sha256_text: "SHA256",
    language_tag: "LANGUAGE",
}


ANCHORS: Any = option(
    "Anchors kept elsewhere: lines of the log, or of `audit anchor --json`.",
    EXISTING_FILE, name="--anchors", metavar="FILE",
)  # fmt: skip


def read_kept(path: Path | None) -> "list[Head]":
    """Read the anchors of a log or of `audit anchor --json`; other lines are skipped."""
    return [head for entry in _kept(path) if (head := _head(entry.get("n"), entry.get("hash")))]


def read_kept_changes(path: Path | None) -> "list[Head]":
    """Read the ends of the journal of changes recorded in such anchors."""
    found = []
    for entry in _kept(path):
        end = entry.get("changes")
        if isinstance(end, str):  # as in the log
            n, _, hash = end.partition(" ")
            end = {"n": int(n) if n.isdecimal() and len(n) < 20 else None, "hash": hash}
        if isinstance(end, dict) and (head := _head(end.get("n"), end.get("hash"))):
            found.append(head)
    return found


def _head(n: object, hash: object) -> "Head | None":
    from smtpproxy.sinks.audit.chain import Head

    if isinstance(n, int) and isinstance(hash, str) and re.fullmatch("[0-9a-f]{64}", hash):
        return Head(n, hash)
    return None


def _kept(path: Path | None) -> list[dict[str, Any]]:
    if path is None:
        return []
    found = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            start = line.find("{")
            try:
                entry = json.loads(line[start:]) if start >= 0 else None
            except (ValueError, RecursionError):
                continue
            if not isinstance(entry, dict) or "heads" not in entry:
                continue
            if _head(entry.get("n"), entry.get("hash")):
                found.append(entry)
    if not found:
        fail(f"{path}: no anchor in it; expected lines of the log or of audit anchor --json", 2)
    return found


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

        types = {name: each.metadata["option"][1] for name, each in fields.items()}
        outputs = {"output", *(name for name, type in types.items() if type is OUTPUT_FILE)}

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
