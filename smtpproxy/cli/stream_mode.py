"""`smtpproxy stream enforce` and `observe`: set a stream's mode in the configuration."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
from msgspec import structs

from smtpproxy.cli import fail
from smtpproxy.cli.command import command
from smtpproxy.cli.options import flag, option, settings_in
from smtpproxy.cli.printer import Column, Part, Result, Table, print_text
from smtpproxy.cli.report import ReportOptions, judged, read_report, since
from smtpproxy.config.mode import CannotChange, Edit, edited
from smtpproxy.locale import REFERENCE
from smtpproxy.policy.model import Mode
from smtpproxy.process.control import NotRunning, Reload, ask
from smtpproxy.report import judgement_object, outcomes
from smtpproxy.report.judgement import StreamReport
from smtpproxy.settings import Settings
from smtpproxy.terminal import counted


@dataclass(frozen=True, slots=True)
class ModeOptions:
    """How much mail to look at first, and whether to ask."""

    since: datetime | timedelta = option(
        "How far back to look at mail, or from which time.",
        since, metavar="7d|TIME", default="7d",
    )  # fmt: skip
    yes: bool = flag("Do not ask for confirmation.")


@command("enforce")
@click.argument("name")
def enforce(config: Path, name: str, options: ModeOptions) -> Result:
    """Refuse from now on what a stream only observes: sets its mode in the configuration, which a
    running relay then reloads.

    First shows what `smtpproxy report` says about the stream. NAME may be `default`, for mail
    without a stream; streams without a mode of their own keep the one they have now.
    """
    return _change(config, name, Mode.ENFORCE, options)


@command("observe")
@click.argument("name")
def observe(config: Path, name: str, options: ModeOptions) -> Result:
    """Let all mail of a stream pass again: sets its mode in the configuration, which a running
    relay then reloads.

    Mail that would be refused is still judged, recorded and counted.
    """
    return _change(config, name, Mode.OBSERVE, options)


def _change(config: Path, name: str, mode: Mode, options: ModeOptions) -> Result:
    settings = settings_in(config)
    try:
        edit = edited(config, name, mode)
    except CannotChange as error:
        fail(str(error), 2)
    found = _stream_report(settings, name, options.since)
    data: dict[str, Any] = {
        "stream": name,
        "mode": mode,
        "file": config,
        "written": False,
        "reloaded": False,
        "changes": [structs.asdict(change) for change in edit.changes],
        "judgement": judgement_object(found.judgement, REFERENCE),
    }
    if not edit.changes:
        return Result(data, [f'{name} already has mode = "{mode}": nothing was changed'])
    plan = list(_plan(edit, found, mode))
    if not options.yes:
        print_text(plan, err=True)
        plan = []
        try:
            agreed = click.confirm("Write this?", err=True)
        except click.Abort:  # Ctrl-C, or there is no terminal
            fail("nothing was changed; --yes writes without asking")
        if not agreed:
            fail("nothing was changed")
    try:
        edit.write()
    except CannotChange as error:
        fail(str(error))
    written = f"Written to {config}."
    faults, effect = _reload(settings, settings_in(config).hash)
    data |= {"written": True, "reloaded": not faults and effect != NOT_RUNNING, "faults": faults}
    if faults:
        left = "it is written, but the running relay goes on as before: fix this, then reload"
        return Result(data, [*plan, written, *faults], error=left)
    return Result(data, [*plan, written, effect])


NOT_RUNNING = "No relay is running: it takes effect at the next start."


def _reload(settings: Settings, hash: str) -> tuple[Sequence[str], str]:
    """Have the running relay reload its configuration; return faults, and the effect."""
    try:
        response, _ = ask(settings.server.state_dir, Reload())
    except NotRunning:
        return (), NOT_RUNNING
    except OSError as error:
        return [f"the running relay cannot be asked: {error.strerror or 'it does not answer'}"], ""
    if not response.faults and response.told["hash"] != hash:
        return ["the running relay uses a different file"], ""
    return response.faults, "The running relay has read it: it takes effect with the next message."


def _stream_report(settings: Settings, name: str, start: datetime | timedelta) -> StreamReport:
    report = read_report(settings, ReportOptions(start, None, name, "reason", None, REFERENCE))
    return next(stream for stream in report.streams if stream.name == name)


def _plan(edit: Edit, found: StreamReport, mode: Mode) -> Iterator[Part]:
    """Yield what was seen, what the change would mean, and what will be written."""
    if mode is Mode.ENFORCE:
        yield from judged(found.name, found.judgement, advise=False)
        seen = outcomes(found.total)
        stopped = seen["would_be_refused"] + seen["would_be_deferred"]
        yield (
            f"Of {counted(found.recipients, 'recipient')} seen, {stopped:,} would not have been"
            f" mailed{':' if stopped else '.'}"
        )
        rows = [(f.reason, f"{f.recipients:,}") for f in found.figures if f.recipients]
        yield Table([Column(), Column(right=True)], rows)
    else:
        yield f"All mail of {found.name} will pass again, even to people who refused it."
    for change in edit.changes:
        before = "" if change.before is change.after else f', was "{change.before}"'
        yield f'{edit.path}: {change.table}: mode = "{change.after}"{before}'
