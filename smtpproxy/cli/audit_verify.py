"""`smtpproxy audit verify` and `audit anchor`: is the record as it was written?"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from smtpproxy.cli.common import audit_folder, config_option, fail, moment
from smtpproxy.cli.kept_anchors import anchors_option, read_kept
from smtpproxy.cli.printer import json_option, print_json
from smtpproxy.cli.stores import now
from smtpproxy.evidence.gather import report_object
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit import anchors
from smtpproxy.sinks.audit import verify as journal_verify
from smtpproxy.sinks.audit.chain import Finding, Report
from smtpproxy.sinks.audit.lines import After
from smtpproxy.terminal import counted, printable

_SHOWN = 100


@click.command()
@click.option("--since", type=moment, metavar="TIME", help="Only files with lines since then.")
@click.option("--until", type=moment, metavar="TIME", help="Only files with lines before then.")
@anchors_option
@json_option
@config_option
def verify(
    settings: Settings,
    since: datetime | None,
    until: datetime | None,
    kept: Path | None,
    as_json: bool,
) -> int:
    """Find what was changed, removed, added, moved or cut off, and say where.

    Follows the hashes from line to line, the times, and the erasures, and holds them against
    the anchors. Exits with 1 when anything is wrong, not for rows that no anchor seals yet:
    those are named. Works while the relay runs.
    """
    folder = audit_folder(settings)
    elsewhere = read_kept(kept)
    with progress_bar(journal_verify.size(folder, since, until)) as looked:
        report = journal_verify.verify(
            folder, since=since, until=until, kept=elsewhere, looked=looked, now=now()
        )
    if as_json:
        print_json(report_object(report))
    else:
        _print(report)
    return 1 if report.wrong else 0


@click.command()
@json_option
@config_option
def anchor(settings: Settings, as_json: bool) -> None:
    """Write down where the record stands now, and print it, to be kept elsewhere.

    Put what is printed where nobody who may write this machine's files can change it: a
    ticket, a mail, a notary. `audit verify --anchors FILE` compares it later.
    """
    folder = audit_folder(settings)
    if not folder.is_dir():
        fail("nothing is on record yet")
    taken = anchors.take(folder, "asked", now)
    if taken is None or not taken.row.heads:
        fail("nothing is on record yet")
    if as_json:
        heads = {slot: _head(head) for slot, head in taken.row.heads.items()}
        found = {"at": taken.row.at, "n": taken.n, "hash": taken.hash, "heads": heads}
        print_json(found, one_line=True)
        return
    click.echo(f"anchor {taken.n} of {taken.row.at:%Y-%m-%d %H:%M:%S} UTC: {taken.hash}")
    for slot, head in taken.row.heads.items():
        click.echo(f"worker {slot}: row {head.n} in {head.file}: {head.hash}")


def _head(head: After) -> dict[str, Any]:
    return {"file": head.file, "n": head.n, "hash": head.hash}


def _print(report: Report) -> None:
    click.echo(
        f"{counted(report.files, 'file')}, {counted(report.lines, 'row')}, "
        f"{counted(report.decisions, 'decision')}; {counted(report.anchors, 'anchor')}, "
        f"{report.compared:,} of them compared"
    )
    for slot, head in report.heads.items():
        click.echo(f"worker {slot}: verified up to row {head.n}, {head.hash}")
    for finding in report.notes():
        click.echo(f"note: {printable(finding.file)}: {finding.what}. {finding.meaning}")
    faults = list(report.faults())
    for finding in faults[:_SHOWN]:
        click.echo(f"{_where(finding)}: {finding.kind}: {printable(finding.what)}")
        click.echo(f"  {finding.meaning}")
    if len(faults) > _SHOWN:
        click.echo(f"… and {report.wrong - _SHOWN:,} more: see --json")
    for line in _proven(report):
        click.echo(line)
    click.echo(f"wrong: {report.wrong:,}" if report.wrong else "nothing is wrong")


def _proven(report: Report) -> Iterator[str]:
    witness = report.witness
    if witness is None:
        if report.lines:
            yield "nothing is proven: there is no anchor"
        return
    if not witness.n:
        yield "nothing is proven: no anchor that was kept elsewhere is in the record"
        return
    where = "which was kept elsewhere" if witness.kept else "which is on this machine alone"
    yield f"proven up to anchor {witness.n} of {witness.at:%Y-%m-%d %H:%M:%S} UTC, {where}"
    if not witness.kept:
        yield "  Whoever may write these files can make all of it anew, but for --anchors."
    if report.unproven:
        rows = "row behind it is" if report.unproven == 1 else "rows behind it are"
        yield f"{report.unproven:,} {rows} unproven"


def _where(finding: Finding) -> str:
    words = [printable(finding.file)]
    if finding.line is not None:
        words.append(f"line {finding.line}")
    if finding.n is not None:
        words.append(f"row {finding.n}")
    if finding.id is not None:
        words.append(f"decision {finding.id}")
    return ", ".join(words)


@contextmanager
def progress_bar(octets: int) -> Iterator[Callable[[int], None]]:
    """Yield what is told of octets; it shows nothing when nobody is looking."""
    if not sys.stderr.isatty():
        yield lambda looked: None
        return
    columns = (TextColumn("verify"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=octets)
        yield lambda looked: bar.advance(task, looked)
