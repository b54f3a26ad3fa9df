"""`smtpproxy scrub`: before a campaign, who may be mailed, and why the others may not."""

import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, BinaryIO, NoReturn

import click

from smtpproxy.cli import fail, failing, unknown
from smtpproxy.cli.options import (
    FileOrStdin,
    Language,
    Moment,
    Options,
    OutputFile,
    argument,
    command,
    option,
)
from smtpproxy.cli.printer import (
    VERDICT_STYLES,
    Column,
    Part,
    Styled,
    Table,
    print_json,
    print_text,
    progress,
)
from smtpproxy.cli.stores import is_past, read_store, warn
from smtpproxy.clock import now
from smtpproxy.disk import exists, is_file
from smtpproxy.drafts import Drafts
from smtpproxy.locale import REFERENCE, texts
from smtpproxy.policy.model import Mode
from smtpproxy.scrub.formats import Format, open_list
from smtpproxy.scrub.run import Output, Scrub, Unreadable
from smtpproxy.scrub.verdicts import (
    Bar,
    Counts,
    Findings,
    ScrubRequest,
    basis_bars,
    html,
    reason_bars,
    share,
)
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.files import STDIN, Source
from smtpproxy.store.exchange.lines import ImportFault, no_rows
from smtpproxy.terminal import counted

_CHART = 30  # columns
_NUMBERS = [Column(), Column(right=True), Column(right=True)]


class ScrubOptions(Options, frozen=True):
    """How the list is read and judged, and the files to write; None is not written."""

    stream: str = option("The stream on which it will be mailed.", metavar="NAME", required=True)
    column: str | None = option(
        "The column with the address (default: address or email).", metavar="NAME"
    )
    form: Format | None = option(
        "The format (default: by the first line); plain has one address per line.", name="--format"
    )
    at: Moment | None = option("Judge as of TIME.")
    output: Annotated[Path, click.Path(path_type=Path, dir_okay=False, allow_dash=True)] | None = (
        option(
            "Write all lines with their verdicts here (default: standard output, if piped).",
            metavar="FILE",
        )
    )
    allowed: OutputFile | None = option("Write the lines of people who may be mailed here.")
    refused: OutputFile | None = option(
        "Write all other readable lines here: refused, or not to be mailed now."
    )
    rejected: OutputFile | None = option(
        "Write unreadable lines with their reasons here (default: LIST.rejected)."
    )
    report: OutputFile | None = option("Write a report for people here, as one HTML file.")
    lang: Language = option("The language of the report.", default=REFERENCE)


@command("scrub")
def scrub(
    settings: Settings,
    options: ScrubOptions,
    as_json: bool,
    list_path: FileOrStdin = argument(metavar="LIST"),
) -> int:
    """Show who on a list may be mailed, and why the others may not.

    Judges each address of LIST (- for standard input) as the running relay would at RCPT
    on that stream. LIST is CSV with a header, NDJSON, or one address per line. Sends nothing,
    records nothing and changes nothing. Exits with 0 when everybody may be mailed and with
    1 when somebody may not, when a line cannot be read, or when there is none.
    """
    if options.stream not in settings.streams:
        unknown("stream", options.stream, settings.streams, "--stream")
    output = options.output
    if output is None and not as_json and not sys.stdout.isatty():
        output = STDIN
    if as_json and output == STDIN:
        raise click.UsageError("--json and --output - both write to standard output")
    _check_different(list_path, output, options)
    try:
        findings, header = _scrub(settings, list_path, output, options)
    except OSError as error:
        if error.filename is not None or isinstance(error, BrokenPipeError):
            raise
        fail(f"the list cannot be read, or a file cannot be written: {error.strerror}")
    if as_json:
        print_json(findings.as_object())
    else:
        print_text(_text(findings), err=output == STDIN)
    if not findings.counts.total:
        fail(f"{findings.name}: {no_rows(header)}")
    return 0 if findings.counts.all_may_be_mailed else 1


def _check_different(list_path: Path, output: Path | None, options: ScrubOptions) -> None:
    rejected = options.rejected or _usual(list_path)
    named = [output, options.allowed, options.refused, rejected, options.report]
    files = [path.resolve() for path in named if path is not None and path != STDIN]
    regular = [path for path in files if is_file(path) or not exists(path)]
    if twice := [path for path in regular if regular.count(path) > 1]:
        raise click.UsageError(f"{twice[0]} is given for two different files")
    if list_path == STDIN:
        with suppress(OSError):  # it may have no descriptor
            source = os.fstat(sys.stdin.fileno())
            for path in regular:
                if exists(path) and os.path.samestat(path.stat(), source):
                    raise click.UsageError(f"{path} is an input; name another file")


def _scrub(
    settings: Settings, list_path: Path, output: Path | None, options: ScrubOptions
) -> tuple[Findings, bytes | None]:
    """Judge the list, and write the files; return also the header of the list."""
    gc.set_threshold(500_000)  # a batch is many live objects and no cycles
    name = "standard input" if list_path == STDIN else list_path.name
    stream = settings.streams[options.stream]
    rulebook = settings.rulebooks[stream.rulebook]
    request = ScrubRequest(stream, rulebook, options.at or now(), as_of=is_past(options.at))
    with Drafts() as drafts, closing(Source(list_path)) as source, _interruptible(drafts):
        paths = ((output, None), (options.allowed, True), (options.refused, False))
        outputs = [
            Output(_written(drafts, path), allowed) for path, allowed in paths if path is not None
        ]
        aside = options.rejected or _usual(list_path)
        unreadable = Unreadable(drafts, aside, warn, usual=options.rejected is None)
        with failing(ImportFault, f"{name}: ", code=2), progress(name, source.size) as show:
            addresses = open_list(source, options.form, options.column)
            unreadable.header = addresses.original_header
            run = Scrub(
                addresses,
                request,
                outputs,
                unreadable.put,
                lambda counts: show(source.tell(), counts.total),
            )
            read_store(settings, run.through)
        if addresses.decoder is not None and (note := addresses.decoder.note()):
            warn(f"{name}: {note}; the output is UTF-8")
        findings = Findings(name, source.digest(), request, run.counts)
        if options.report is not None:
            drafts.open(options.report).write(html(findings, options.lang).encode())
        unreadable.close()
        drafts.commit()
    if unreadable.path is not None and run.counts.unreadable:
        unread = counted(
            run.counts.unreadable,
            "line is set aside with its reason",
            "lines are set aside with their reasons",
        )
        warn(f"{unread}: {unreadable.path}")
    if run.counts.unannounced:
        people = counted(run.counts.unannounced, "address", "addresses")
        warn(
            f"{people} came from somebody else: the first message must say from whom (RGPD art."
            f" 14(3)(b)), and stream {stream.name} does not check it; see first_contact_notice"
        )
    return findings, unreadable.header


def _usual(list_path: Path) -> Path | None:
    """Return where unreadable lines go unless told otherwise."""
    return list_path.with_name(f"{list_path.name}.rejected") if is_file(list_path) else None


def _text(findings: Findings) -> Iterator[Part]:
    """Yield the numbers, then a chart: of blocks on a terminal, of `#` elsewhere."""
    counts, request = findings.counts, findings.request
    at = request.now.strftime("%Y-%m-%d %H:%M:%S UTC")
    yield Styled(findings.name, "bold")
    yield f"stream {request.stream.name}, rulebook {request.rulebook.name}, as of {at}"
    yield ""
    yield Table(_NUMBERS, list(_totals(counts)))
    for title, bars in (
        ("why they may be mailed", basis_bars(counts)),
        ("why the others may not", reason_bars(counts)),
    ):
        if bars:
            yield ""
            yield Styled(title, "bold")
            yield Table([*_NUMBERS, Column()], [_bar(bar) for bar in bars])
    if request.stream.mode is Mode.OBSERVE and not counts.all_may_be_mailed:
        yield ""
        yield "The stream is in observe mode, so the mail passes anyway."


def _totals(counts: Counts) -> Iterator[Sequence[str]]:
    for name, lines, style in (
        ("lines", counts.total, "bold"),
        ("may be mailed", counts.allowed, "green"),
        ("refused", counts.refused, "red"),
        ("deferred", counts.deferred, "yellow"),
        ("unreadable", counts.unreadable, "red"),
    ):
        cells = (name, f"{lines:,}", _percent(share(lines, counts.total)))
        yield [Styled(cell, style if lines else "dim") for cell in cells]
    yield [Styled(cell, "dim") for cell in ("duplicates", f"{counts.duplicates:,}", "")]


def _bar(bar: Bar) -> Sequence[str]:
    block = "█" if sys.stdout.isatty() else "#"
    drawn = Styled(block * max(1, round(bar.width * _CHART / 100)), VERDICT_STYLES[bar.kind])
    return bar.name, f"{bar.lines:,}", _percent(bar.share), drawn


def _percent(share: float) -> str:
    return texts(REFERENCE).percent(share)


def _written(drafts: Drafts, path: Path) -> BinaryIO:
    return sys.stdout.buffer if path == STDIN else drafts.open(path)


@contextmanager
def _interruptible(drafts: Drafts) -> Iterator[None]:
    """Make Ctrl-C and signals to end take effect at once, and leave no draft behind.

    asyncio would first wait for a pending read of the input. An exception is not enough: Python
    drops one that a signal handler raises during a finalizer or a weak reference's callback.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> NoReturn:
        drafts.discard()
        os._exit(128 + number)  # as shells report it

    before = {
        number: signal.signal(number, end)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN  # nohup
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
