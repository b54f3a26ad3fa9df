"""What `contact import` and `suppress import` share: progress, summary, interruption."""

import asyncio
import dataclasses
import gc
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from smtpproxy.cli.common import fail, print_json
from smtpproxy.cli.import_format import format_type
from smtpproxy.cli.stores import using_store, warn
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.lines import Contents, ImportFault
from smtpproxy.store.exchange.rejected import RejectedFile
from smtpproxy.store.exchange.run import Format, Import, Progress, format_of
from smtpproxy.store.protocols import BatchResult, Store

T = TypeVar("T")

Function = Callable[..., object]


def import_options(function: Function) -> Function:
    """Add FILE and the options that every import has."""
    for option in (
        click.option(
            "--rejected",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Where lines that cannot be read go, with their reasons; else FILE.rejected.",
        ),
        click.option(
            "--format",
            "file_format",
            type=format_type,
            metavar="FORMAT",
            help="csv or ndjson, our own form; or the export of a provider, like mailgun or"
            " sendgrid-bounces. Else by the file's name and header.",
        ),
        click.argument(
            "file", type=click.Path(path_type=Path, exists=True, dir_okay=False, readable=True)
        ),
    ):
        function = option(function)
    return function


def time_of(file: Path) -> datetime:
    """Return when the file was last written."""
    return datetime.fromtimestamp(file.stat().st_mtime_ns // 1000 / 1e6, UTC)


def import_file(
    settings: Settings,
    path: Path,
    open_contents: Callable[[BinaryIO, Format], Contents[T]],
    put: Callable[[Store], Callable[[Sequence[T]], Awaitable[BatchResult]]],
    *,
    file_format: Format | None,
    rejected: Path | None,
    as_json: bool,
) -> int:
    """Import `path`, show progress on a terminal, print the summary; return the exit code."""
    # A batch is many live objects and no cycles: by default a quarter of the time goes
    # into looking through it for garbage.
    gc.set_threshold(500_000)
    aside = RejectedFile(rejected or path.with_name(f"{path.name}.rejected"))
    start = time.monotonic()
    with path.open("rb") as file, _progress_bar(path) as tick:
        found = file_format or format_of(path, file.peek(64))
        try:
            contents = open_contents(file, found)
            for notice in contents.notices:
                warn(f"{path}: {notice}")
            run = Import(file, contents, aside, tick)
            using_store(settings, lambda store: _run(run, put(store), aside))
        except ImportFault as error:
            fail(f"{path}: {error}")
    seconds = time.monotonic() - start
    _print_summary(path, run.progress, aside.path, seconds, as_json=as_json)
    return 1 if run.progress.rejected else 0


async def _run(
    run: Import[T], put: Callable[[Sequence[T]], Awaitable[BatchResult]], aside: RejectedFile
) -> None:
    try:
        await run.into(put)
    except asyncio.CancelledError:
        warn(f"interrupted: {_counted(run.progress)} so far; run it again for the rest")
        raise
    finally:
        aside.close()


@contextmanager
def _progress_bar(path: Path) -> Iterator[Callable[[Progress], None]]:
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
        task = bar.add_task(path.name, total=path.stat().st_size, lines=0, rate=0.0)
        start = time.monotonic()

        def show(progress: Progress) -> None:
            rate = progress.lines / max(time.monotonic() - start, 0.001)
            bar.update(task, completed=progress.octets, lines=progress.lines, rate=rate)

        yield show


def _print_summary(
    path: Path, progress: Progress, rejected: Path, seconds: float, *, as_json: bool
) -> None:
    if as_json:
        print_json(
            {
                "file": path,
                **dataclasses.asdict(progress),
                "rejected_file": rejected if progress.rejected else None,
                "seconds": round(seconds, 3),
            }
        )
        return
    click.echo(f"{path}: {_counted(progress)} in {seconds:.1f} s")
    if progress.passed:
        click.echo(f"{progress.passed:,} rows passed over: they are of nobody to be imported")
    if progress.older:
        click.echo(
            f"{progress.older:,} had another profile, but no newer one than is stored: it stays"
        )
    if progress.rejected:
        click.echo(f"the rejected lines and their reasons: {rejected}")


def _counted(progress: Progress) -> str:
    return (
        f"{progress.added:,} added, {progress.changed:,} changed, "
        f"{progress.unchanged:,} unchanged, {progress.rejected:,} rejected"
    )
