"""`smtpproxy audit replay`: which past decisions another rulebook would have made otherwise."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from smtpproxy.cli.common import audit_folder, config_option, fail, moment
from smtpproxy.cli.printer import json_option, print_json, rich_console
from smtpproxy.core.replay import Change, replay, words
from smtpproxy.policy.model import Rulebook
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit.reader import Record, read
from smtpproxy.terminal import counted, printable


@click.command("replay")
@click.option(
    "--rulebook",
    "reference",
    required=True,
    metavar="NAME|FILE",
    help="Built in, named in the configuration, or a file of one's own.",
)
@click.option("--since", type=moment, metavar="TIME", help="Only from that moment on.")
@click.option("--until", type=moment, metavar="TIME", help="Only before that moment.")
@click.option("--stream", metavar="NAME", help="Only decisions on this stream.")
@click.option("--list", "listed", is_flag=True, help="Print every verdict that would differ.")
@json_option
@config_option
def replay_command(
    settings: Settings,
    reference: str,
    since: datetime | None,
    until: datetime | None,
    stream: str | None,
    listed: bool,
    as_json: bool,
) -> None:
    """Judge recorded decisions again under another rulebook, and count what would differ.

    Each is judged as of its own time, from the facts on record: the store as it is today
    has no say. Nothing is sent or recorded.
    """
    rulebook = _rulebook(settings, reference)
    totals = _Totals()
    for record in read(audit_folder(settings), since=since, until=until, stream=stream):
        for change in totals.add(record, rulebook):
            if listed and as_json:
                print_json(_as_object(record, change), one_line=True)
            elif listed:
                click.echo(_line(record, change))
    if as_json:
        print_json(totals.as_object(rulebook), one_line=listed)
    else:
        totals.print(rulebook)


class _Totals:
    """What is counted on the way; the records themselves are not kept."""

    def __init__(self) -> None:
        self._decisions = self._recipients = self._erased = self._differing = 0
        self._counts: Counter[tuple[str, str, str]] = Counter()

    def add(self, record: Record, rulebook: Rulebook) -> Iterator[Change]:
        result = replay(record.decided, rulebook)
        self._decisions += 1
        self._recipients += result.judged
        self._erased += result.erased
        self._differing += bool(result.changes)
        for change in result.changes:
            what = "message" if change.recipient is None else "recipient"
            self._counts[what, words(change.before), words(change.after)] += 1
            yield change

    def as_object(self, rulebook: Rulebook) -> dict[str, Any]:
        return {
            "rulebook": rulebook.name,
            "decisions": self._decisions,
            "recipients": self._recipients,
            "erased": self._erased,
            "differing": self._differing,
            "changes": [
                {"of": what, "before": before, "after": after, "count": count}
                for (what, before, after), count in self._counts.most_common()
            ],
        }

    def print(self, rulebook: Rulebook) -> None:
        people = counted(self._recipients, "recipient")
        click.echo(
            f"{counted(self._decisions, 'decision')} about {people}, "
            f"judged again under {rulebook.name}: {self._differing:,} "
            + ("differs" if self._differing == 1 else "differ")
        )
        if self._erased:
            are = counted(self._erased, "more recipient is", "more recipients are")
            click.echo(f"{are} erased and cannot be judged")
        if not self._counts:
            return
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for heading in ("of", "before", "after"):
            table.add_column(heading, no_wrap=True)
        table.add_column("count", justify="right")
        for (what, before, after), count in self._counts.most_common():
            table.add_row(what, before, after, f"{count:,}")
        rich_console().print(table)


def _rulebook(settings: Settings, reference: str) -> Rulebook:
    from smtpproxy.config.load import read_rulebook
    from smtpproxy.policy.rulebooks import RulebookError

    if reference in settings.rulebooks:
        return settings.rulebooks[reference]
    path = Path(reference)
    try:
        return read_rulebook(str(path.resolve()) if path.is_file() else reference)
    except RulebookError as error:
        fail("; ".join(error.faults), 2)


def _as_object(record: Record, change: Change) -> dict[str, Any]:
    decided, recipient = record.decided, change.recipient
    return {
        "id": decided.id,
        "at": decided.at,
        "stream": decided.decision.stream.name,
        "recipient": recipient and recipient.address,
        "before": words(change.before),
        "after": words(change.after),
        "detail": change.after.detail,
    }


def _line(record: Record, change: Change) -> str:
    decided, recipient = record.decided, change.recipient
    whom = printable(recipient.address) if recipient else "(the message)"
    return (
        f"{decided.id} {decided.at:%Y-%m-%d %H:%M:%S} {decided.decision.stream.name} {whom}: "
        f"{words(change.before)} -> {words(change.after)}"
    )
