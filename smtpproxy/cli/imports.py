"""`smtpproxy import`: the imports on record, and the way back."""

from collections.abc import Iterator

import click

from smtpproxy.cli.import_record import (
    check_undoable,
    find,
    shown_state,
    undo_import,
    undone_in_words,
)
from smtpproxy.cli.options import config_option
from smtpproxy.cli.printer import Column, Fields, Part, Result, Table, picked, shows_result
from smtpproxy.cli.stores import now, using_store, warn
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.operations import ImportRecord
from smtpproxy.terminal import counted

_COLUMNS = [
    Column("id", is_id=True),
    Column("state"),
    Column("started"),
    Column("by"),
    Column("what"),
    Column("rows", right=True, label="rows"),
    Column("added", right=True, label="added"),
    Column("changed", right=True, label="changed"),
    Column("file"),
]


@click.group("import")
def imports() -> None:
    """List, show and undo imports of contacts and suppressions."""


@imports.command("list")
@config_option
@shows_result
def list_imports(settings: Settings) -> Result:
    """List every import there was, the oldest first."""
    records = using_store(settings, lambda store: store.imports(), read_only=True, or_empty=True)
    data = [_as_object(record, shown_state(settings, record)) for record in records]
    if not records:
        return Result(data, ["no imports are on record"])
    rows = [
        (
            record.id,
            str(one["state"]),
            f"{record.started_at:%Y-%m-%d %H:%M}",
            record.user,
            record.kind,
            f"{record.place.lines:,}",
            f"{record.added:,}",
            f"{record.changed:,}",
            record.file,
        )
        for record, one in zip(records, data, strict=True)
    ]
    return Result(data, [Table(_COLUMNS, rows)])


@imports.command("show")
@click.argument("id")
@config_option
@shows_result
def show(settings: Settings, id: str) -> Result:
    """Show one import: its file, who ran it, what it did, and what became of it."""
    record = find(settings, id)
    state = shown_state(settings, record)
    return Result(_as_object(record, state), _text(record, state))


def _text(record: ImportRecord, state: str) -> Iterator[Part]:
    place, undone = record.place, record.undone
    rows: list[tuple[str, str | None]] = [
        ("id", record.id),
        ("state", state),
        ("what", record.kind),
        ("file", record.file),
        ("octets", "through a pipe" if record.size is None else f"{record.size:,}"),
        ("read", f"{place.octets:,} octets"),
        ("SHA-256 of these", place.digest),
        ("as of", written_time(record.as_of)),
        ("by", record.user),
        ("started", written_time(record.started_at)),
        ("ended", written_time(record.ended_at) if record.ended_at else "not yet"),
        *((f"--{name}", value) for name, value in record.options.items() if value),
        ("rows", f"{place.lines:,}"),
        ("added", f"{record.added:,}"),
        ("changed", f"{record.changed:,}"),
        ("unchanged", f"{record.unchanged:,}"),
        ("rejected", f"{place.rejected:,}"),
        ("left out, erased", f"{record.erased:,}"),
        ("skipped", f"{place.passed:,}"),
    ]
    if undone is not None:
        rows.append(("undone", f"{written_time(undone.at)} by {undone.by}"))
        rows.append(("", undone_in_words(record, undone)))
    yield Fields(rows)
    if state == "interrupted" and record.size is not None:
        yield f"to continue: the same import with --resume {record.id}"
    if state == "undoing":
        yield f"to continue: smtpproxy import undo {record.id}"


@imports.command("undo")
@click.argument("id")
@click.option("--dry-run", is_flag=True, help="Show what would be undone; change nothing.")
@config_option
@shows_result
def undo(settings: Settings, id: str, dry_run: bool) -> Result:
    """Take back what an import brought, as far as nobody has changed it since.

    New contacts go with their purchases and consent acts, changed profiles are put back,
    new suppressions are lifted, moved ones put back. What others have changed, confirmed or
    added since stays, and so does what later imports said too. It may be interrupted, and run
    again for the rest.
    """
    record = find(settings, id)
    check_undoable(settings, record)
    if dry_run:
        undone = using_store(
            settings, lambda store: store.would_undo(record.id, at=now()), read_only=True
        )
    else:
        undone = undo_import(settings, record)
        _warn_of_later(settings, record)
    data = {
        "id": record.id,
        "kind": record.kind,
        "dry_run": dry_run,
        **picked(undone, "removed", "put_back", "kept"),
    }
    words = undone_in_words(record, undone)
    said = f"it would be {words}; nothing was changed" if dry_run else words
    return Result(data, [f"{record.id}: {said}"])


def _warn_of_later(settings: Settings, record: ImportRecord) -> None:
    """A later import may have lost to the profiles that are gone now."""
    later = using_store(settings, lambda store: store.imports(), read_only=True)
    others = [
        one.id
        for one in later
        if one.id > record.id and one.kind == record.kind and one.state != "undone" and one.older
    ]
    if others:
        warn(
            f"{counted(len(others), 'later import')} had profiles that were not newer than those "
            "stored then; to have them count now, run "
            f"{'it' if len(others) == 1 else 'them'} again: {', '.join(others[-5:])}"
        )


def _as_object(record: ImportRecord, state: str) -> dict[str, object]:
    place = record.place
    return {
        "id": record.id,
        "state": state,
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
