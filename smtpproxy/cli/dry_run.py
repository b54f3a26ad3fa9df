"""`--dry-run` of an import: what it would change, shown and not done."""

import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import click

from smtpproxy.cli.common import fail
from smtpproxy.cli.import_file import name_to_show, no_rows
from smtpproxy.cli.import_record import Job
from smtpproxy.cli.printer import print_json
from smtpproxy.cli.replace_import import Replacing, imported_otherwise, said_before
from smtpproxy.cli.stores import using_store, warn
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.compare import Compare, Comparison, Difference, Kind, compare
from smtpproxy.store.exchange.files import Source
from smtpproxy.store.exchange.lines import Contents, ImportFault
from smtpproxy.store.exchange.run import Format, format_of
from smtpproxy.store.protocols import Store
from smtpproxy.terminal import counted, printable

T = TypeVar("T")

_TITLES: dict[Kind, str] = {
    "new": "new",
    "changed": "changed",
    "ignored": "ignored: nothing that is not known",
    "resurrected": "would resurrect: kept from mail now, and mailed afterwards",
    "rejected": "would be rejected",
}


def dry_run_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--dry-run` and pass `dry_run: bool`."""
    return click.option(
        "--dry-run",
        is_flag=True,
        help="Show what would be new, changed or ignored, and who would be mailed again who is"
        " not now; write nothing.",
    )(function)


def show_difference(
    settings: Settings,
    path: Path,
    job: Job,
    replacing: Replacing,
    open_contents: Callable[[BinaryIO, Format], Contents[T]],
    differences: Callable[[Store], Compare[T]],
    *,
    file_format: Format | None,
    as_json: bool,
) -> int:
    """Compare `path` with the store, print what differs; return the exit code of the import.

    Addresses are shown to who looks at a terminal: elsewhere samples have line numbers.
    """
    start = time.monotonic()
    with closing(Source(path)) as file:
        try:
            contents = open_contents(file, file_format or format_of(path, file.peek(64)))
            if former := not replacing.both and imported_otherwise(
                settings, job.record(path, file.size), file
            ):
                warn(said_before(name_to_show(path), former))
            for notice in contents.notices:
                warn(f"{path}: {notice}")
            done = using_store(
                settings,
                lambda store: compare(contents, differences(store), _show_lines),
                read_only=True,
                or_empty=True,
            )
        except ImportFault as error:
            fail(f"{path}: {error}")
        octets = file.tell()
    if contents.decoder is not None and (note := contents.decoder.note()):
        warn(f"{path}: {note}")
    if as_json:
        _print_json(path, done, time.monotonic() - start)
    else:
        _print(path, done)
    if not done.lines:
        fail(f"{name_to_show(path)}: {no_rows(contents, octets=octets)}")
    return 1 if done.counts["rejected"] else 0


def _show_lines(lines: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{counted(lines, 'line')}", err=True, nl=False)


def _print(path: Path, done: Comparison) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{' ' * 20}\r", err=True, nl=False)
    counts = ", ".join(f"{done.counts[kind]:,} {kind}" for kind in _TITLES)
    click.echo(f"{path}: {counts}; nothing was written")
    if done.passed:
        click.echo(f"{counted(done.passed, 'row')} skipped: nothing to import")
    for kind, title in _TITLES.items():
        samples = [one for one in done.samples if one.kind == kind]
        if not samples:
            continue
        click.echo(f"{title}:")
        for one in samples:
            shown = f" {printable(one.address)}" if one.address and _on_a_terminal() else ""
            click.echo(f"  line {one.line}:{shown} {printable(one.what)}")
        if done.counts[kind] > len(samples):
            click.echo(f"  and {done.counts[kind] - len(samples):,} more")


def _print_json(path: Path, done: Comparison, seconds: float) -> None:
    print_json(
        {
            "file": path,
            "dry_run": True,
            "lines": done.lines,
            **{str(kind): count for kind, count in done.counts.items()},
            "passed": done.passed,
            "samples": [_sample(one) for one in done.samples],
            "seconds": round(seconds, 3),
        }
    )


def _sample(one: Difference) -> dict[str, object]:
    sample: dict[str, object] = {"kind": one.kind, "line": one.line, "what": one.what}
    if one.address and _on_a_terminal():
        sample["address"] = one.address
    return sample


def _on_a_terminal() -> bool:
    return sys.stdout.isatty()
