"""`smtpproxy report`: what passed, what would be refused and why, and what blocks enforcing."""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Annotated

from smtpproxy.cli.journals import COPIES, check_stream, journals
from smtpproxy.cli.options import (
    ExistingFolder,
    Language,
    Moment,
    Options,
    OutputFile,
    Value,
    choice,
    command,
    moment,
    option,
)
from smtpproxy.cli.outputs import written_to
from smtpproxy.cli.printer import Aside, Column, Fields, Part, Result, Styled, Table
from smtpproxy.clock import now
from smtpproxy.locale import REFERENCE, Phrase, say, texts
from smtpproxy.policy.model import Mode
from smtpproxy.report import BY, Report, Selection, count, fix, html, in_words, mostly, outcomes
from smtpproxy.report.counts import Counts
from smtpproxy.report.judgement import Figure, Judgement, Readiness, StreamReport
from smtpproxy.settings import Settings

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}
_STYLES = {Readiness.READY: "green", Readiness.BLOCKED: "red"}
_ROWS = 30  # of a breakdown, for people


def _since(value: str) -> datetime | timedelta:
    found = re.fullmatch(r"([0-9]{1,4})([hdw])", value.strip())
    if found is None:
        try:
            return moment(value)
        except ValueError:
            raise ValueError(
                f"{value!r} is neither a length of time such as 24h, 7d or 4w, nor a time such as"
                " 2026-03-01T10:00:00Z or 2026-03-01"
            ) from None
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


Since = Annotated[datetime | timedelta, Value("7d|TIME", _since)]
"""A length of time such as 7d, or a time."""


class ReportOptions(Options, frozen=True):
    """Which mail, and how it is broken down."""

    since: Since = option("How far back, or from which time.", metavar="7d|TIME", default="7d")
    until: Moment | None = option("Only mail before TIME.")
    stream: str | None = option("Only mail on this stream.", metavar="NAME")
    by: Annotated[str, choice(BY)] = option("How to break it down.", default="reason")
    html: OutputFile | None = option(
        "Write a report for people as one HTML file, readable only by its owner."
    )
    lang: Language = option("The language of the HTML file.", default=REFERENCE)


@command("report")
def report(
    settings: Settings, options: ReportOptions, shipped: ExistingFolder | None = COPIES
) -> Result:
    """Show what passed, what would be refused and why, and which streams are ready.

    Reads the audit log, even while the relay runs. Mail that passed in observe mode is counted
    under the verdict it would have had. Ends with a judgement of each stream: ready to be enforced
    (`smtpproxy stream enforce`), or what stands in the way. With --from, reports on all relays
    whose audit logs were shipped.
    """
    check_stream(settings, shipped, options.stream)
    made = read_report(settings, options, shipped)
    if options.html is not None:
        with written_to(options.html) as file:
            file.write(html(made, options.lang).encode())
    written = [] if options.html is None else [Aside(f"written: {options.html}")]
    return Result(made.as_object(options.by, REFERENCE), chain(_text(made, options.by), written))


def read_report(settings: Settings, options: ReportOptions, shipped: Path | None = None) -> Report:
    """Read this machine's audit log, or all shipped ones, for a report. Raises OSError."""
    at = now()
    start = options.since
    whole = options.html is not None
    selection = Selection(
        at - start if isinstance(start, timedelta) else start,
        options.until,
        options.stream,
        senders=whole or options.by == "sender",
        domains=whole or options.by == "recipient-domain",
    )
    wanted = [s for s in settings.streams.values() if options.stream in (None, s.name)]
    counts = Counts()
    for log in journals(settings, shipped):
        counts.merge(count(log.folder, selection))
    modes = {stream.name: stream.mode for stream in wanted}
    classes = {stream.name: stream.stream_class for stream in wanted}
    return Report.of(counts, selection, at, modes, classes)


def _text(report: Report, by: str) -> Iterator[Part]:
    counts = report.counts
    yield Styled(report.period(REFERENCE), "bold")
    yield _say("decisions", counts.decisions)
    if counts.unreadable:
        yield _say("unreadable", counts.unreadable)
    if not counts.decisions:
        yield _say("nothing")
    for stream in report.streams:
        if stream.recipients:
            yield ""
            yield from _stream(stream, with_reasons=by == "reason")
    if by == "reason" and any(stream.figures for stream in report.streams):
        yield ""
        yield Styled(_say("reasons"), "bold")
        yield from _what_to_do(report)
    elif by != "reason":
        yield ""
        yield Styled(_say(f"by_{by}"), "bold")
        yield _breakdown(report, by)
    yield ""
    yield Styled(_say("judgement"), "bold")
    for stream in report.streams:
        yield from judged(stream.name, stream.judgement)


def _stream(stream: StreamReport, *, with_reasons: bool) -> Iterator[Part]:
    mode = f", {_say(f'mode_{stream.mode}')}" if stream.mode else ""
    yield Styled(f"stream {stream.name} ({stream.stream_class}{mode})", "bold")
    found = {name: n for name, n in outcomes(stream.total).items() if n or name == "passed"}
    rows = [(_say(name), f"{n:,}", _percent(n, stream.recipients)) for name, n in found.items()]
    yield Table([Column(), Column(right=True), Column(right=True)], rows)
    if with_reasons and stream.figures:
        yield ""
        columns = [
            Column("reason"),
            *(Column(heading, right=True) for heading in ("recipients", "share", "messages")),
            Column("trend"),
        ]
        yield Table(columns, [_row(figure, stream) for figure in stream.figures])


def _row(figure: Figure, stream: StreamReport) -> tuple[str, ...]:
    return (
        figure.reason,
        f"{figure.recipients:,}",
        _percent(figure.recipients, stream.recipients),
        f"{figure.messages:,}" if figure.messages else "",
        figure.trend,
    )


def _what_to_do(report: Report) -> Iterator[Part]:
    """Yield each reason once, with the applications that send such mail on each stream."""
    figures = [(stream, figure) for stream in report.streams for figure in stream.figures]
    for reason in dict.fromkeys(figure.reason for _, figure in figures):
        lines = [(reason, fix(reason, REFERENCE))]
        for stream, figure in figures:
            if figure.reason == reason:
                lines += [("", _by_whom(stream.name, figure))]
                lines += [("", f"smtpproxy explain --id {id}") for id in figure.examples[:1]]
        yield ""
        yield Fields(lines)


def _by_whom(stream: str, figure: Figure) -> str:
    apps = [f"{app or _say('others')} ({n:,})" for app, n in figure.apps[:3]]
    more = len(figure.apps) - len(apps)
    return f"{stream}: {', '.join(apps)}" + (f" and {more} more" if more else "")


def _breakdown(report: Report, by: str) -> Table:
    rows = report.rows(by)
    names = list(rows)
    found = {name: outcomes(rows[name]) for name in names}
    used = [
        key for key in next(iter(found.values()), {}) if any(one[key] for one in found.values())
    ]
    shown = names if by == "day" else [*names[:_ROWS], *(n for n in names[_ROWS:] if not n)]
    table = [
        (name or _say("others"), *(f"{found[name][key]:,}" for key in used), mostly(rows[name]))
        for name in shown
    ]
    headings = [Column(_say(key), right=True) for key in used]
    return Table([Column(_say(by)), *headings, Column(_say("mostly"))], table)


def judged(name: str, judgement: Judgement, *, advise: bool = True) -> Iterator[Part]:
    """Yield the judgement of a stream for people; `advise`: with the command to run next."""
    verdict = _say(judgement.verdict)
    yield Styled(f"{name}: {verdict}", _STYLES.get(judgement.verdict, "bold"))
    findings = [*judgement.obstacles, *judgement.notes]
    yield Fields([("-", in_words(finding, REFERENCE)) for finding in findings])
    if advise and judgement.verdict is Readiness.READY:
        yield f"   smtpproxy stream {Mode.ENFORCE} {name}"


def _say(key: str, count: int | None = None) -> str:
    return say(Phrase(f"report.{key}", {} if count is None else {"count": count}), REFERENCE)


def _percent(part: int, whole: int) -> str:
    return texts(REFERENCE).percent(100 * part / whole) if whole else ""
