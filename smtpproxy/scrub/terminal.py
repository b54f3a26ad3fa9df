"""A scrubbed list on the terminal: progress while it runs, then the numbers and a chart."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.bar import Bar as Drawn
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from smtpproxy.locale.texts import REFERENCE, texts
from smtpproxy.policy.model import Mode
from smtpproxy.scrub.counts import Counts, share
from smtpproxy.scrub.report import Bar, Findings, basis_bars, reason_bars
from smtpproxy.terminal import printable

_STYLES = {"allow": "green", "refuse": "red", "defer": "yellow"}
_CHART = 30  # columns


@contextmanager
def progress_bar(name: str, size: int | None) -> Iterator[Callable[[Counts, int], None]]:
    """Yield what takes the counts and the octets read; it shows nothing when nobody looks.

    `size` is the octets of the list, None where that is not known.
    """
    if not sys.stderr.isatty():
        yield lambda counts, octets: None
        return
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[lines]:,} lines, {task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task(printable(name), total=size, lines=0, rate=0.0)
        start = time.monotonic()

        def show(counts: Counts, octets: int) -> None:
            rate = counts.total / max(time.monotonic() - start, 0.001)
            bar.update(task, completed=octets, lines=counts.total, rate=rate)

        yield show


def print_findings(findings: Findings, console: Console) -> None:
    """Print the summary; a chart of blocks on a terminal, of `#` elsewhere."""
    counts, occasion = findings.counts, findings.occasion
    stream = occasion.stream
    at = occasion.now.strftime("%Y-%m-%d %H:%M:%S UTC")
    console.print(Text(printable(findings.name), style="bold"), soft_wrap=True)
    console.print(f"stream {stream.name}, rulebook {occasion.rulebook.name}, as of {at}")
    console.print()
    console.print(_totals(counts))
    for title, bars in (
        ("why they may be mailed", basis_bars(counts)),
        ("why the others may not", reason_bars(counts)),
    ):
        if bars:
            console.print()
            console.print(Text(title, style="bold"))
            console.print(_chart(bars, console.is_terminal))
    if stream.mode is Mode.OBSERVE and not counts.all_may_be_mailed:
        console.print("\nThe stream is in observe mode, so the mail passes all the same.")


def _totals(counts: Counts) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    for name, lines, style in (
        ("lines", counts.total, "bold"),
        ("may be mailed", counts.allowed, "green"),
        ("refused", counts.refused, "red"),
        ("deferred", counts.deferred, "yellow"),
        ("unreadable", counts.unreadable, "red"),
    ):
        shown = style if lines else "dim"
        table.add_row(name, f"{lines:,}", _percent(share(lines, counts.total)), style=shown)
    table.add_row("duplicates", f"{counts.duplicates:,}", "", style="dim")
    return table


def _chart(bars: Sequence[Bar], drawn: bool) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column()
    for bar in bars:
        table.add_row(bar.name, f"{bar.lines:,}", _percent(bar.share), _stroke(bar, drawn))
    return table


def _stroke(bar: Bar, drawn: bool) -> RenderableType:
    if drawn:
        return Drawn(100, 0, bar.width, width=_CHART, color=_STYLES[bar.kind])
    return "#" * max(1, round(bar.width * _CHART / 100))


def _percent(share: float) -> str:
    return texts(REFERENCE).percent(share)
