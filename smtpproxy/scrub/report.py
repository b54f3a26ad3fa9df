"""What is said of a scrubbed list: one HTML file that needs nothing else, and on the terminal."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.bar import Bar as Drawn
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from smtpproxy.locale.pages import environment
from smtpproxy.locale.texts import REFERENCE, Lang, Phrase, has_words, say, texts
from smtpproxy.policy.model import Mode
from smtpproxy.scrub.verdicts import Counts, ScrubRequest, commonest_first, share
from smtpproxy.terminal import printable


@dataclass(frozen=True, slots=True)
class Findings:
    """What is said of a list, in whatever form."""

    name: str  # of the list
    sha256: str
    request: ScrubRequest
    counts: Counts

    def as_object(self) -> dict[str, object]:
        counts, request = self.counts, self.request
        return {
            "list": self.name,
            "sha256": self.sha256,
            "stream": request.stream.name,
            "rulebook": request.rulebook.name,
            "at": request.now,
            "total": counts.total,
            "allowed": counts.allowed,
            "by_basis": commonest_first(counts.bases),
            "refused": counts.refused,
            "deferred": counts.deferred,
            "by_reason": {reason: lines for _, reason, lines in counts.reasons},
            "unreadable": counts.unreadable,
            "duplicates": counts.duplicates,
        }


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of the charts; `width` is in hundredths of the longest of all."""

    name: str
    kind: str  # allow, refuse or defer
    lines: int
    share: float
    width: float
    words: str


def reason_bars(counts: Counts, lang: Lang = REFERENCE) -> Sequence[Bar]:
    """What is in the way, the commonest first."""
    rows = [
        (reason, kind, lines, of_reason(reason, lang)) for kind, reason, lines in counts.reasons
    ]
    return _bars(rows, counts)


def basis_bars(counts: Counts, lang: Lang = REFERENCE) -> Sequence[Bar]:
    """Why the others may be mailed, on the scale of `reason_bars`."""
    found = commonest_first(counts.bases).items()
    rows = [(basis, "allow", lines, _said(f"scrub.basis.{basis}", lang)) for basis, lines in found]
    return _bars(rows, counts)


def _bars(rows: Sequence[tuple[str, str, int, str]], counts: Counts) -> Sequence[Bar]:
    longest = counts.longest
    return [
        Bar(name, kind, lines, share(lines, counts.total), round(100 * lines / longest, 2), words)
        for name, kind, lines, words in rows
    ]


def of_reason(reason: str, lang: Lang) -> str:
    """Return what a reason means, in plain words for people who plan a campaign."""
    return _said(f"scrub.reason.{reason}", lang) or _said("scrub.elsewhere", lang)


def _said(key: str, lang: Lang) -> str:
    return say(Phrase(key), lang) if has_words(key) else ""


def html(findings: Findings, lang: Lang = REFERENCE) -> str:
    """Return the report; what others wrote (the list's name) is escaped."""
    counts = findings.counts
    return (
        environment(lang)
        .get_template("scrub.html")
        .render(
            request=findings.request,
            sha256=findings.sha256,
            name=printable(findings.name),
            counts=counts,
            allowed_share=share(counts.allowed, counts.total),
            reasons=reason_bars(counts, lang),
            bases=basis_bars(counts, lang),
        )
    )


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
    counts, request = findings.counts, findings.request
    stream = request.stream
    at = request.now.strftime("%Y-%m-%d %H:%M:%S UTC")
    console.print(Text(printable(findings.name), style="bold"), soft_wrap=True)
    console.print(f"stream {stream.name}, rulebook {request.rulebook.name}, as of {at}")
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
