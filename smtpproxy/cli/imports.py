"""`smtpproxy import`: the imports on record, and the way back."""

from datetime import datetime

import click
from rich.table import Table

from smtpproxy.cli.common import config_option
from smtpproxy.cli.import_record import find, shown_state
from smtpproxy.cli.printer import json_option, print_json, rich_console
from smtpproxy.cli.replace_import import check_undoable, undo_import, undone_in_words
from smtpproxy.cli.stores import now, using_store, warn
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.operations import ImportRecord, Undone
from smtpproxy.terminal import printable


@click.group()
def command() -> None:
    """List, show and undo imports of contacts and suppressions."""


@command.command("list")
@config_option
@json_option
def list_imports(settings: Settings, as_json: bool) -> None:
    """List every import there was, the oldest first."""
    records = using_store(settings, lambda store: store.imports(), read_only=True, or_empty=True)
    if as_json:
        print_json([_as_object(settings, record) for record in records])
        return
    if not records:
        click.echo("no imports are on record")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("id", "state", "started", "by", "what", "rows", "added", "changed", "file"):
        table.add_column(name, justify="right" if name in ("rows", "added", "changed") else "left")
    for record in records:
        table.add_row(
            record.id,
            shown_state(settings, record),
            f"{record.started_at:%Y-%m-%d %H:%M}",
            printable(record.user),
            record.kind,
            f"{record.place.lines:,}",
            f"{record.added:,}",
            f"{record.changed:,}",
            printable(record.file),
        )
    rich_console().print(table)


@command.command("show")
@click.argument("id")
@config_option
@json_option
def show(settings: Settings, id: str, as_json: bool) -> None:
    """Show one import: its file, who ran it, what it did, and what became of it."""
    record = find(settings, id)
    if as_json:
        print_json(_as_object(settings, record))
        return
    state = shown_state(settings, record)
    table = Table.grid(padding=(0, 2))
    for name, value in (
        ("id", record.id),
        ("state", state),
        ("what", record.kind),
        ("file", record.file),
        ("octets", "through a pipe" if record.size is None else f"{record.size:,}"),
        ("read", f"{record.place.octets:,} octets"),
        ("SHA-256 of these", record.place.digest),
        ("as of", written_time(record.as_of)),
        ("by", record.user),
        ("started", written_time(record.started_at)),
        ("ended", _time(record.ended_at)),
        *((f"--{name}", value) for name, value in record.options.items() if value),
        ("rows", f"{record.place.lines:,}"),
        ("added", f"{record.added:,}"),
        ("changed", f"{record.changed:,}"),
        ("unchanged", f"{record.unchanged:,}"),
        ("rejected", f"{record.place.rejected:,}"),
        ("left out, erased", f"{record.erased:,}"),
        ("passed over", f"{record.place.passed:,}"),
    ):
        table.add_row(name, printable(value))
    if record.undone is not None:
        table.add_row(
            "undone", f"{written_time(record.undone.at)} by {printable(record.undone.by)}"
        )
        table.add_row("", undone_in_words(record, record.undone))
    rich_console().print(table)
    if state == "interrupted" and record.size is not None:
        rich_console().print(f"to go on: the same import with --resume {record.id}", soft_wrap=True)
    if state == "undoing":
        rich_console().print(f"to go on: smtpproxy import undo {record.id}", soft_wrap=True)


@command.command("undo")
@click.argument("id")
@click.option("--dry-run", is_flag=True, help="Show what would be undone; change nothing.")
@config_option
@json_option
def undo(settings: Settings, id: str, dry_run: bool, as_json: bool) -> int:
    """Take back what an import brought, as far as nobody has changed it since.

    New contacts go with their purchases and consent acts, changed profiles are put back,
    new suppressions are lifted, moved ones put back. What others have changed, confirmed or
    added since stays, and so does what later imports said too. It may be interrupted, and run
    again for the rest.
    """
    record = find(settings, id)
    check_undoable(settings, record)
    if dry_run:
        would = using_store(
            settings, lambda store: store.would_undo(record.id, at=now()), read_only=True
        )
        _print(record, would, dry_run=True, as_json=as_json)
        return 0
    done = undo_import(settings, record)
    _print(record, done, dry_run=False, as_json=as_json)
    later = using_store(settings, lambda store: store.imports(), read_only=True)
    others = [
        one.id
        for one in later
        if one.id > record.id and one.kind == record.kind and one.state != "undone" and one.older
    ]
    if others:
        count = f"{len(others)} later import" + ("s" if len(others) > 1 else "")
        warn(
            f"{count} had profiles that were not newer than those stored then; to have them "
            f"count now, run that again: {', '.join(others[-5:])}"
        )
    return 0


def _print(record: ImportRecord, undone: Undone, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "id": record.id,
                "kind": record.kind,
                "dry_run": dry_run,
                "removed": undone.removed,
                "put_back": undone.put_back,
                "kept": undone.kept,
            }
        )
        return
    words = "it would be " if dry_run else ""
    ending = "; nothing was changed" if dry_run else ""
    click.echo(f"{record.id}: {words}{undone_in_words(record, undone)}{ending}")


def _as_object(settings: Settings, record: ImportRecord) -> dict[str, object]:
    place = record.place
    return {
        "id": record.id,
        "state": shown_state(settings, record),
        "kind": record.kind,
        "file": record.file,
        "size": record.size,
        "read": place.octets,
        "sha256": place.digest,
        "as_of": record.as_of,
        "by": record.user,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "options": {name: value for name, value in record.options.items() if value},
        "lines": place.lines,
        "added": record.added,
        "changed": record.changed,
        "unchanged": record.unchanged,
        "erased": record.erased,
        "older": record.older,
        "rejected": place.rejected,
        "passed": place.passed,
        "undone": record.undone,
    }


def _time(moment: datetime | None) -> str:
    return written_time(moment) if moment else "not yet"
