"""`smtpproxy feedback`: read bounces, complaints and other replies, and act on them."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from smtpproxy.cli.feedback_mailbox import act_on, assign, list_reports, show, would_be_done
from smtpproxy.cli.options import FileFolderOrStdin, argument, command, flag, settings_in
from smtpproxy.cli.printer import Aside, Column, Table, print_json, print_text
from smtpproxy.disk import exists, is_dir, is_file
from smtpproxy.events import picked
from smtpproxy.feedback.parts import MAX_OCTETS
from smtpproxy.feedback.records import FeedbackReport
from smtpproxy.settings import Settings
from smtpproxy.setup import UNIT_CONFIG
from smtpproxy.store.exchange.files import STDIN

_COLUMNS = (
    Column("file"),
    Column("kind"),
    Column("address"),
    Column("class"),
    Column("action"),
    Column("scope"),
    Column("why", prose=True),
)
_TABLE_ROWS = 1000  # files in one table, whose rows are all in memory


class _Feedback(click.Group):
    """A group that passes to `read` any argument that is not a command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["read", *args]
        return super().parse_args(ctx, args)


@click.group("feedback", cls=_Feedback)
def feedback() -> None:
    """Read the replies of people and servers: bounces, complaints, requests to unsubscribe.

    `smtpproxy feedback FILE|DIR|-` is short for `smtpproxy feedback read FILE|DIR|-`.
    """


for subcommand in (list_reports, show, assign):
    feedback.add_command(subcommand)


@command("read", feedback)
def read(
    config: Path,
    as_json: bool,
    places: tuple[FileFolderOrStdin, ...] = argument(nargs=-1, metavar="FILE|DIR|-"),
    dry_run: bool = flag("Only show what would be done."),
) -> int:
    """Read reports and act on them, or with --dry-run show what would be done.

    Each file is one mail as it arrived; of a folder, every file in it and its subfolders is read.
    With --json, prints one object per file, each on its own line. A report that was already read
    has no further effect. Exits with 1 when a file or folder is empty.

    A dry run needs no configuration: without one, or without [feedback] in it, reports are read
    as with require_token = false.
    """
    empty: list[str] = []
    contents = _contents(places, empty)
    if dry_run:
        done = would_be_done(_settings(config), contents)
    else:
        done = act_on(settings_in(config), contents)
    if as_json:
        for name, each, more in done:
            print_json({**_as_object(name, each), **more}, one_line=True)
        return 1 if empty else 0
    rows: list[tuple[str, ...]] = []
    for name, each, _ in done:
        rows += _rows(name, each)
        if len(rows) >= _TABLE_ROWS:
            print_text([Table(_COLUMNS, rows)])
            rows = []
    print_text([Table(_COLUMNS, rows)] if rows else ())
    return 1 if empty else 0


def _settings(config: Path) -> Settings | None:
    """Load the configuration; None if it is not in the usual place."""
    return None if config == UNIT_CONFIG and not exists(config) else settings_in(config)


def _contents(places: tuple[Path, ...], empty: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each file; names are relative to the folder given.

    Places without mail are reported and added to `empty`.
    """
    for place in places:
        found = False
        for name, content in _files(place):
            found = True
            if content.strip():
                yield name, content
            else:
                empty.append(name)
                print_text([Aside(f"{name}: empty, so no mail")])
        if not found:
            empty.append(str(place))
            print_text([Aside(f"{place}: no files in it")])


def _files(place: Path) -> Iterator[tuple[str, bytes]]:
    if place == STDIN:
        yield "-", sys.stdin.buffer.read(MAX_OCTETS)
    elif is_dir(place):
        for file in sorted(path for path in place.rglob("*") if is_file(path)):
            yield str(file.relative_to(place)), _content(file)
    else:
        yield place.name, _content(place)


def _content(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(MAX_OCTETS)


def _as_object(name: str, report: FeedbackReport) -> dict[str, Any]:
    events = [
        {
            "address": event.address,
            "class": event.event_class,
            **picked(event, "action", "scope", "why"),
        }
        for event in report.events
    ]
    return {"file": name, "kind": report.kind, "events": events}


def _rows(name: str, report: FeedbackReport) -> list[tuple[str, ...]]:
    if not report.events:
        return [(name, report.kind, "", "", "none", "", report.why)]
    return [
        (
            *(name, report.kind, event.address or "", event.event_class, event.action),
            *(event.scope or "", event.why),
        )
        for event in report.events
    ]
