"""`smtpproxy import`, the imports on record; and the options that every import takes."""

import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, BinaryIO, Generic, TypeVar

import click
from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.access import Access
from smtpproxy.cli.import_record import (
    BOTH,
    Behalf,
    BehalfOf,
    access_of,
    age_of,
    check_undoable,
    digest_of,
    find,
    input_time,
    is_on_record,
    shown_state,
    to_replace,
    to_resume,
    undo_import,
    undone_in_words,
    user,
)
from smtpproxy.cli.options import (
    YES,
    ExistingFile,
    Options,
    OutputFile,
    Value,
    ask_first,
    command,
    flag,
    option,
    several,
)
from smtpproxy.cli.printer import Column, Fields, Part, Result, Table
from smtpproxy.cli.stores import Constant, read_store, warn
from smtpproxy.clock import new_ids, now
from smtpproxy.events import picked
from smtpproxy.import_options import OWN_FORMATS, read_format
from smtpproxy.policy.model import Contact
from smtpproxy.scrub.outlook import Outlook
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.compare import Compare, Observer
from smtpproxy.store.exchange.files import STDIN
from smtpproxy.store.exchange.lines import Contents
from smtpproxy.store.exchange.run import Format
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.operations import BRANDS, Batch, ImportRecord, Kind, Undone
from smtpproxy.store.records import BatchResult
from smtpproxy.store.sql.store import Store
from smtpproxy.terminal import counted

T = TypeVar("T")
Put = Callable[[Sequence[T], Batch], Awaitable[BatchResult]]


class ImportOptions(Options, frozen=True):
    """The options that every import has."""

    rejected: OutputFile | None = option(
        "Where rejected lines go, with their reasons (default: FILE.rejected; for standard"
        " input, stdin.rejected). Only a file that an import wrote is overwritten."
    )
    file_format: Annotated[str, Value("FORMAT", read_format)] | None = option(
        "csv or ndjson, our own formats; or a provider's export, such as mailgun or"
        " sendgrid-bounces (default: recognised by the file's name and header).",
        name="--format",
    )
    resume: str | None = option(
        "Continue an interrupted import where it stopped. FILE and the other"
        " options must be the same.",
        metavar="ID",
    )
    replace: str | None = option(
        "The import that this one corrects: it is undone when this one is complete. none: keep"
        " an earlier import of the same file under another mapping.",
        metavar="ID",
    )
    mapping: ExistingFile | None = option(
        "A mapping from columns of CSV, XLSX or JSON to fields. Without it, columns must be named"
        " after the fields, or as in a provider's export.",
        metavar="FILE.toml",
    )
    constants: tuple[Constant, ...] = several(
        "The value of a field in rows that do not set it: source=direct,"
        " consent_method=unticked_box, evidence.wording=TEXT … Works with a mapping and with a"
        " provider's layout.",
        name="--set",
    )
    dry_run: bool = flag(
        "Show what would be new, changed or ignored, who is refused now but would be mailed again,"
        " and who could be mailed; write nothing."
    )
    job: BehalfOf | None = option("Used by the relay to run uploaded imports.", hidden=True)

    @property
    def own_format(self) -> Format | None:
        """The format, if it is one of our own."""
        return OWN_FORMATS.get(self.file_format or "")

    @property
    def layout(self) -> str | None:
        """The provider or its layout, if --format names one."""
        return None if self.own_format else self.file_format


class Task(Struct, frozen=True):
    """An import that is to be run or compared."""

    access: Access
    path: Path
    kind: Kind
    options: ImportOptions
    as_of: datetime
    deciding: Mapping[str, str]  # options that decide how the file is read
    earlier: ImportRecord | None  # the import to resume
    replaces: ImportRecord | None  # the import that this one corrects

    @property
    def settings(self) -> Settings:
        """The settings of the brands that the import may concern."""
        return self.access.settings

    @property
    def hint(self) -> str:
        """The file name, which hints at the format."""
        path = Path(self.earlier.file) if self.earlier else self.path
        return path.name.removesuffix(".rejected")

    @property
    def shown(self) -> str:
        return "standard input" if self.path == STDIN else str(self.path)

    @property
    def keeps_both(self) -> bool:
        """Whether an earlier import of the same file is to stay."""
        return self.options.replace == BOTH

    def record(self, size: int | None) -> ImportRecord:
        """Return the record as it is when the import starts."""
        if self.earlier is not None:
            return replace(self.earlier, state="running", ended_at=None)
        name = os.fsencode(self.path).decode(errors="replace")
        given = self.options.job or Behalf(new_ids()(), user())
        return ImportRecord(
            given.id, self.kind, name, given.by, now(), self.as_of, size, self.deciding
        )


class Handling(Struct, Generic[T], frozen=True):
    """How the lines of a kind of import are read, compared with the store, and put into it."""

    contents: Callable[[BinaryIO, Format], Contents[T]]
    compare: Callable[[Store, Observer[T]], Compare[T]]
    put: Callable[[Store], Put[T]]
    notices: Callable[[], Iterable[str]]
    look: Callable[[Outlook, Store, Sequence[T], Mapping[str, Contact]], Awaitable[None]]


def prepare(
    access: Access,
    file: Path,
    kind: Kind,
    options: ImportOptions,
    others: Mapping[str, str | None],
    as_of: datetime | None = None,
) -> Task:
    """Return the import to run; end the command if its options do not allow one.

    `others` are further options that decide how the file is read.
    """
    if options.mapping is not None and options.file_format not in (None, *OWN_FORMATS):
        raise click.UsageError(
            f"--mapping and --format {options.file_format} both set the columns: give one"
        )
    settings = access.settings
    deciding = {name: value or "" for name, value in others.items()}
    deciding |= {"format": options.file_format or "", "mapping": digest_of(options.mapping)}
    if options.constants:
        deciding["set"] = "; ".join(f"{name}={text}" for name, text in sorted(options.constants))
    if not access.everything:
        deciding[BRANDS] = ",".join(sorted(access.brands))
    resume = options.resume
    if options.job is not None and not options.dry_run and is_on_record(settings, options.job.id):
        resume = options.job.id
    earlier = to_resume(settings, resume, kind, deciding)
    replaces = to_replace(access, options.replace, kind)
    age = earlier.as_of if earlier else age_of(input_time(file), as_of)
    if kind == "contacts" and not earlier and replaces:
        age = max(age, replaces.as_of + timedelta(microseconds=1))  # so as to count
    return Task(access, file, kind, options, age, deciding, earlier, replaces)


_COLUMNS = [
    Column("id", is_id=True),
    Column("state"),
    Column("started"),
    Column("by"),
    Column("what"),
    Column("rows", right=True),
    Column("added", right=True, clings=True),
    Column("changed", right=True, clings=True),
    Column("file"),
]


@click.group("import")
def imports() -> None:
    """List, show and undo imports of contacts and suppressions."""


@command("list", imports)
def list_imports(settings: Settings) -> Result:
    """List all imports, oldest first."""
    records = read_store(settings, Store.imports)
    data = [_as_object(record, shown_state(settings, record)) for record in records]
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
    return Result(data, [Table(_COLUMNS, rows) if rows else "no imports are on record"])


@command("show", imports)
def show(settings: Settings, id: str) -> Result:
    """Show one import: its file, who ran it, what it did, and its state."""
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
        ("refusals in these", f"{place.refusals:,}"),
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


@command("undo", imports)
def undo(
    settings: Settings,
    id: str,
    dry_run: bool = flag("Show what would be undone; change nothing."),
    yes: bool = YES,
    job: BehalfOf | None = option("Used by the relay to undo uploaded imports.", hidden=True),
) -> Result:
    """Undo an import, except for what has been changed since.

    New contacts are removed with their purchases and consent acts, changed profiles restored,
    new suppressions lifted and moved ones restored. Whatever others have changed, confirmed or
    added since stays, and so does anything that a later import said as well. If interrupted, run
    it again for the rest. At the end it shows which of these people may be mailed now.
    """
    from smtpproxy.cli.outlook import outlook_object, outlook_text, outlook_without

    access = access_of(settings, job)
    record = find(settings, id, access)
    check_undoable(settings, record)

    def would_undo() -> Undone:
        return read_store(settings, lambda store: store.would_undo(record.id, at=now()))

    def question() -> str | None:
        undone = would_undo()
        if not (undone.removed or undone.put_back):
            return None
        return f"{record.id}: it would be {undone_in_words(record, undone)}. Undo it?"

    ask_first(question, yes=yes or dry_run)
    found = outlook_without(settings, record.id)
    if dry_run:
        undone = would_undo()
    else:
        undone = undo_import(settings, record, access, job.by if job else "")
        _warn_of_later(settings, record)
    data = {
        "id": record.id,
        "kind": record.kind,
        "dry_run": dry_run,
        **picked(undone, "removed", "put_back", "kept"),
        "outlook": outlook_object(found, "ndjson"),
    }
    text = undone_in_words(record, undone)
    if dry_run:
        text = f"it would be {text}; nothing was changed"
    return Result(data, (f"{record.id}: {text}", *outlook_text(found, "ndjson")))


def _warn_of_later(settings: Settings, record: ImportRecord) -> None:
    """Warn of later imports that lost to the profiles now removed."""
    others = [
        one.id
        for one in read_store(settings, Store.imports)
        if one.id > record.id and one.kind == record.kind and one.state != "undone" and one.older
    ]
    if others:
        warn(
            f"{counted(len(others), 'later import')} had profiles no newer than those stored then; "
            f"to make them count now, run {'it' if len(others) == 1 else 'them'} again: "
            f"{', '.join(others[-5:])}"
        )


def _as_object(record: ImportRecord, state: str) -> dict[str, object]:
    place = record.place
    return {
        "id": record.id,
        "state": state,
        **picked(record, "kind", "file", "size"),
        "read": place.octets,
        "sha256": place.digest,
        "as_of": record.as_of,
        "by": record.user,
        **picked(record, "started_at", "ended_at"),
        "options": {name: value for name, value in record.options.items() if value},
        "lines": place.lines,
        **picked(record, "added", "changed", "unchanged", "erased", "older"),
        **picked(place, "rejected", "refusals", "passed"),
        "undone": record.undone,
    }
