"""What `contact import` and `suppress import` share: progress, summary, interruption."""

import asyncio
import contextlib
import dataclasses
import gc
import os
import stat
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from smtpproxy.cli.common import fail
from smtpproxy.cli.import_format import format_type
from smtpproxy.cli.import_record import Job, check_same, held
from smtpproxy.cli.printer import print_json
from smtpproxy.cli.replace_import import (
    Replacing,
    imported_otherwise,
    said_before,
    undo_import,
    undone_in_words,
)
from smtpproxy.cli.stores import now, using_store, warn
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.files import STDIN, RejectedFault, RejectedFile, Source
from smtpproxy.store.exchange.lines import Contents, Decoder, ImportFault
from smtpproxy.store.exchange.run import Format, Import, Progress, format_of
from smtpproxy.store.operations import Batch, ImportRecord, Place, Undone
from smtpproxy.store.protocols import BatchResult, Store, StoreUnavailable
from smtpproxy.terminal import counted

T = TypeVar("T")

Function = Callable[..., object]
Replaced = tuple[ImportRecord, Undone | None]  # None: it was not taken back


def import_options(function: Function) -> Function:
    """Add FILE and the options that every import has."""
    for option in (
        click.option(
            "--rejected",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Where lines that cannot be read go, with their reasons; else FILE.rejected,"
            " of standard input stdin.rejected. A file that no import wrote is not overwritten.",
        ),
        click.option(
            "--format",
            "file_format",
            type=format_type,
            metavar="FORMAT",
            help="csv or ndjson, our own form; or the export of a provider, like mailgun or"
            " sendgrid-bounces. Else by the file's name and header.",
        ),
        click.option(
            "--resume",
            metavar="ID",
            help="Go on with an import that was interrupted, behind what is done. FILE and the"
            " other options have to be the same.",
        ),
        click.option(
            "--replace",
            metavar="ID",
            help="The import that this one corrects: it is taken back when this one is done."
            " none: what an import of the same file brought under another mapping stays too.",
        ),
        click.argument("file", type=input_file),
    ):
        function = option(function)
    return function


def input_file(value: str) -> Path:
    """Read the argument FILE; `-` is standard input. For `type=input_file`."""
    path = Path(value)
    if path == STDIN:
        return path
    try:
        found = path.stat()
    except PermissionError:
        fail(f"{value}: permission denied: the folder may not be entered")
    except OSError as error:
        raise click.BadParameter(f"{value!r}: {error.strerror}") from None
    if stat.S_ISDIR(found.st_mode):
        raise click.BadParameter(f"{value!r} is a folder")
    if not os.access(path, os.R_OK):
        fail(f"{value}: permission denied: this user may not read it")
    return path


def time_of(file: Path) -> datetime:
    """Return when the file was last written; what comes through a pipe is of now."""
    found = os.fstat(0) if file == STDIN else file.stat()
    if not stat.S_ISREG(found.st_mode):
        return now()
    return datetime.fromtimestamp(found.st_mtime_ns // 1000 / 1e6, UTC)


def import_file(
    settings: Settings,
    path: Path,
    job: Job,
    open_contents: Callable[[BinaryIO, Format], Contents[T]],
    put: Callable[[Store], Callable[[Sequence[T], Batch], Awaitable[BatchResult]]],
    *,
    replacing: Replacing,
    file_format: Format | None,
    rejected: Path | None,
    as_json: bool,
) -> int:
    """Import `path`, show progress on a terminal, print the summary; return the exit code."""
    # A batch is many live objects and no cycles: by default a quarter of the time goes
    # into looking through it for garbage.
    gc.set_threshold(500_000)
    aside = RejectedFile(rejected or _rejected_of(path), named=rejected is not None)
    start = time.monotonic()
    with closing(Source(path)) as file, _progress_bar(path, file.size) as tick:
        if file.has_cr_alone:
            warn(f"{name_to_show(path)}: its lines end with CR alone; they are read as lines")
        if job.earlier is not None:
            check_same(job.earlier, file, name_to_show(path))
        found = file_format or format_of(path, file.peek(64))
        try:
            contents = open_contents(file, found)
            for notice in contents.notices:
                warn(f"{name_to_show(path)}: {notice}")
            record = job.record(path, file.size)
            if file.size is not None and job.earlier is None:
                check_not_before(settings, path, record, file, replacing)
            aside.prepare(file.identity)
            run = _import(file, contents, aside, tick, job.earlier)
            resumed = job.earlier is not None
            using_store(
                settings,
                lambda store: _run(
                    settings, store, record, run, put(store), aside, resumed=resumed
                ),
            )
        except RejectedFault as error:
            fail(str(error), 2)
        except ImportFault as error:
            fail(f"{name_to_show(path)}: {error}")
        finally:
            with contextlib.suppress(OSError):  # then it was said already
                aside.close(complete=False)
        if file.size is None:
            check_not_before(settings, path, record, file, replacing, run.place)
    replaced = _replaced(settings, replacing, run.progress)
    seconds = time.monotonic() - start
    decoder = contents.decoder
    _print_summary(
        path, record, run.progress, aside.path, seconds, decoder, replaced, as_json=as_json
    )
    if not run.progress.lines:
        fail(f"{name_to_show(path)}: {no_rows(contents, octets=run.progress.octets)}")
    return 1 if run.progress.rejected else 0


def check_not_before(
    settings: Settings,
    path: Path,
    record: ImportRecord,
    file: Source,
    replacing: Replacing,
    place: Place | None = None,
) -> None:
    """Tell when the file was imported under another mapping.

    A second consent act for the same fact would stay: contacts are not imported then. Of
    suppressions there are too many at worst.
    """
    if replacing.both or replacing.record is not None:
        return
    if former := imported_otherwise(settings, record, file, place):
        said = said_before(name_to_show(path), former)
        if record.kind == "contacts" and place is None:
            fail(f"{said}. If both are wanted, say --replace none", 2)
        warn(said)


def _replaced(settings: Settings, replacing: Replacing, progress: Progress) -> Replaced | None:
    """Take the import back that this one corrects, when nothing of this one is wanting."""
    if replacing.record is None or not progress.lines:
        return None
    if progress.rejected:
        return replacing.record, None
    return replacing.record, undo_import(settings, replacing.record)


def _as_object(replaced: Replaced | None) -> dict[str, object] | None:
    former, undone = replaced or (None, None)
    if former is None or undone is None:
        return None
    return {
        "id": former.id,
        "removed": undone.removed,
        "put_back": undone.put_back,
        "kept": undone.kept,
    }


def _import(
    file: Source,
    contents: Contents[T],
    aside: RejectedFile,
    tick: Callable[[Progress], None],
    earlier: ImportRecord | None,
) -> Import[T]:
    """Return the import, which goes on behind what an earlier run did."""
    if earlier is None:
        return Import(file, contents, aside, tick)
    place = earlier.place
    aside.go_on(place.rejected, place.aside)
    done = Progress(
        place.lines,
        earlier.added,
        earlier.changed,
        earlier.unchanged,
        earlier.older,
        earlier.erased,
        place.rejected,
        place.passed,
    )
    return Import(file, contents, aside, tick, done=done, place=place)


def _rejected_of(path: Path) -> Path:
    """Return FILE.rejected; what has no name of its own gets one in the working folder."""
    if path == STDIN or path.is_relative_to("/dev") or path.is_relative_to("/proc"):
        return Path("stdin.rejected")
    return path.with_name(f"{path.name}.rejected")


def name_to_show(path: Path) -> str:
    return "standard input" if path == STDIN else str(path)


def no_rows(contents: Contents[T], *, octets: int) -> str:
    """Return what is wrong with a file that has none."""
    if contents.header is not None:
        header = contents.header[:200].decode(errors="replace")
        return f"no rows: there is nothing below its header {header!r}"
    return "no rows: only blank lines" if octets else "no rows: it is empty"


async def _run(
    settings: Settings,
    store: Store,
    record: ImportRecord,
    run: Import[T],
    put: Callable[[Sequence[T], Batch], Awaitable[BatchResult]],
    aside: RejectedFile,
    *,
    resumed: bool,
) -> None:
    with held(settings, record.id):
        if resumed:
            await store.mark_import(record.id, "running", at=None)
        else:
            await store.begin_import(record)
        try:
            await run.into(lambda items, place: put(items, Batch(record.id, place)))
            aside.close(complete=run.progress.lines > 0)
            await store.mark_import(record.id, "complete", at=now(), place=run.place)
        except BaseException as error:
            rest = _rest(record)
            if isinstance(error, asyncio.CancelledError):
                warn(f"interrupted: {_counted(run.progress)} so far; {rest}")
            else:
                error.add_note(f"before that {_counted(run.progress)}; {rest}")
            with contextlib.suppress(StoreUnavailable):
                await store.mark_import(record.id, "interrupted", at=now())
            raise


def _rest(record: ImportRecord) -> str:
    """Return how to go on with an import that breaks off."""
    again = "run it again for the rest"
    return f"{again} with --resume {record.id}" if record.size is not None else again


@contextmanager
def _progress_bar(path: Path, size: int | None) -> Iterator[Callable[[Progress], None]]:
    """Yield what takes the progress; it shows nothing when nobody is looking."""
    if not sys.stderr.isatty():
        yield lambda progress: None
        return
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[lines]:,} lines, {task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task(path.name, total=size, lines=0, rate=0.0)
        start = time.monotonic()

        def show(progress: Progress) -> None:
            rate = progress.lines / max(time.monotonic() - start, 0.001)
            bar.update(task, completed=progress.octets, lines=progress.lines, rate=rate)

        yield show


def _print_summary(
    path: Path,
    record: ImportRecord,
    progress: Progress,
    rejected: Path,
    seconds: float,
    decoder: Decoder | None,
    replaced: Replaced | None,
    *,
    as_json: bool,
) -> None:
    if as_json:
        print_json(
            {
                "id": record.id,
                "file": path,
                **dataclasses.asdict(progress),
                "encoding": decoder.found() if decoder else "utf-8",
                "rejected_file": rejected if progress.rejected else None,
                "replaced": _as_object(replaced),
                "seconds": round(seconds, 3),
            }
        )
        return
    click.echo(f"{name_to_show(path)}: {_counted(progress)} in {seconds:.1f} s")
    if decoder is not None and (note := decoder.note()):
        click.echo(note)
    if progress.passed:
        click.echo(f"{counted(progress.passed, 'row')} skipped: nothing to import")
    if progress.older:
        click.echo(
            f"{progress.older:,} had another profile, but no newer one than is stored: it stays"
        )
    if progress.erased:
        click.echo(f"{progress.erased:,} left out: they were erased, and only they can come back")
    if replaced is not None:
        former, undone = replaced
        click.echo(
            f"{former.id} was taken back: {undone_in_words(former, undone)}"
            if undone
            else f"{former.id} was not taken back, since lines were rejected: what it says of "
            f"these people is still needed. Later: smtpproxy import undo {former.id}"
        )
    if progress.added or progress.changed or progress.unchanged:
        click.echo(f"to take it back: smtpproxy import undo {record.id}")
    if progress.rejected:
        click.echo(f"the rejected lines and their reasons: {rejected}")


def _counted(progress: Progress) -> str:
    return (
        f"{progress.added:,} added, {progress.changed:,} changed, "
        f"{progress.unchanged:,} unchanged, {progress.rejected:,} rejected"
    )
