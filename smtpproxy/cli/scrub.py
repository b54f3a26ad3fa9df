"""`smtpproxy scrub`: before a campaign, who may be mailed and why not the others."""

import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, NoReturn

import click
from rich.console import Console

from smtpproxy.cli.common import config_option, fail, moment
from smtpproxy.cli.printer import json_option, print_json, rich_console
from smtpproxy.cli.stores import now, using_store, warn
from smtpproxy.locale.texts import LANGS, Lang
from smtpproxy.scrub.files import Drafts, HashedSource, Unreadable
from smtpproxy.scrub.formats import Format, open_list
from smtpproxy.scrub.report import Findings, html, print_findings, progress_bar
from smtpproxy.scrub.run import Outputs, Scrub
from smtpproxy.scrub.verdicts import ScrubRequest
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.lines import ImportFault

_STANDARD = Path("-")


def _file_option(name: str, help: str) -> Callable[..., Any]:
    path = click.Path(path_type=Path, dir_okay=False, allow_dash=name == "--output")
    return click.option(name, type=path, metavar="FILE", help=help)


@dataclass(frozen=True, slots=True)
class _Places:
    """Where things go; None is nowhere."""

    output: Path | None
    allowed: Path | None
    refused: Path | None
    rejected: Path | None
    report: Path | None


@click.command()
@click.argument("list_path", type=click.Path(path_type=Path, exists=True, dir_okay=False,
                allow_dash=True), metavar="LIST")  # fmt: skip
@click.option("--stream", required=True, metavar="NAME", help="The stream that is to mail it.")
@click.option("--column", metavar="NAME", help="Where the address is; else address or email.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "ndjson", "plain"]),
    help="Else told by the first line; plain is one address a line.",
)
@click.option("--at", type=moment, metavar="TIME", help="Judge as of that moment.")
@_file_option("--output", "All lines with their verdicts; else to a standard output that is piped.")
@_file_option("--allowed", "The lines of those who may be mailed.")
@_file_option("--refused", "All other lines that could be read.")
@_file_option("--rejected", "Lines that cannot be read, with their reasons; else LIST.rejected.")
@_file_option("--report", "A report for people, as one HTML file.")
@click.option(
    "--lang",
    type=click.Choice(LANGS),
    default="en",
    show_default=True,
    help="The language of the report.",
)
@json_option
@config_option
def command(
    settings: Settings,
    list_path: Path,
    stream: str,
    column: str | None,
    form: Format | None,
    at: datetime | None,
    output: Path | None,
    allowed: Path | None,
    refused: Path | None,
    rejected: Path | None,
    report: Path | None,
    lang: Lang,
    as_json: bool,
) -> int:
    """Say who on a list may be mailed, and why not the others.

    Judges each address of LIST (- for standard input) as the running relay would at RCPT
    on that stream. LIST is CSV with a header, NDJSON, or one address a line. Sends nothing,
    records nothing and changes nothing. Exits with 0 when everybody may be mailed and with
    1 when somebody may not, or when a line cannot be read.
    """
    if stream not in settings.streams:
        fail(f"no stream {stream!r}; there are {', '.join(settings.streams)}", 2)
    if output is None and not as_json and not sys.stdout.isatty():
        output = _STANDARD
    if as_json and output == _STANDARD:
        raise click.UsageError("--json and --output - both want the standard output")
    places = _Places(output, allowed, refused, rejected, report)
    _check_different(places)
    chosen = settings.streams[stream]
    rulebook = settings.rulebooks[chosen.rulebook]
    request = ScrubRequest(chosen, rulebook, at or now(), as_of=at is not None)
    try:
        findings = _scrub(settings, list_path, form, column, request, places, lang)
    except OSError as error:
        if error.filename is not None or isinstance(error, BrokenPipeError):
            raise
        fail(f"the list cannot be read or a file not be written: {error.strerror}")
    if as_json:
        print_json(findings.as_object())
    else:
        print_findings(findings, _free_console(output))
    return 0 if findings.counts.all_may_be_mailed else 1


def _check_different(places: _Places) -> None:
    named = [places.output, places.allowed, places.refused, places.rejected, places.report]
    files = [path.resolve() for path in named if path is not None and path != _STANDARD]
    regular = [path for path in files if path.is_file() or not path.exists()]
    if twice := [path for path in regular if regular.count(path) > 1]:
        raise click.UsageError(f"{twice[0]} is to be two files at once")


def _scrub(
    settings: Settings,
    list_path: Path,
    form: Format | None,
    column: str | None,
    request: ScrubRequest,
    places: _Places,
    lang: Lang,
) -> Findings:
    """Judge the list and put the files in their places."""
    gc.set_threshold(500_000)  # a batch is many live objects and no cycles
    name = "standard input" if list_path == _STANDARD else list_path.name
    with Drafts() as drafts, _opened(list_path) as (raw, size), _interruptible():
        source = HashedSource(raw)
        outputs = Outputs(
            every=_written(drafts, places.output),
            allowed=_written(drafts, places.allowed),
            refused=_written(drafts, places.refused),
        )
        if places.rejected is None and list_path.is_file():
            usual = list_path.with_name(f"{list_path.name}.rejected")
            unreadable = Unreadable(drafts, usual, warn, keep=True)
        else:
            unreadable = Unreadable(drafts, places.rejected, warn)
        with source.lines() as lines, progress_bar(name, size) as show:
            try:
                addresses = open_list(lines, form, column)
                unreadable.header = addresses.original_header
                scrub = Scrub(
                    addresses,
                    request,
                    outputs,
                    unreadable.put,
                    lambda counts: show(counts, source.octets),
                )
                using_store(settings, scrub.through, read_only=True, or_empty=True)
            except ImportFault as error:
                fail(f"{name}: {error}", 2)
        if addresses.decoder is not None and (note := addresses.decoder.note()):
            warn(f"{name}: {note}; what is written is UTF-8")
        findings = Findings(name, source.sha256, request, scrub.counts)
        if places.report is not None:
            drafts.open(places.report).write(html(findings, lang).encode())
        unreadable.close()
        drafts.commit()
    if unreadable.path is not None and scrub.counts.unreadable:
        lines_are = "line is" if scrub.counts.unreadable == 1 else "lines are"
        warn(f"{scrub.counts.unreadable:,} {lines_are} put aside, with why: {unreadable.path}")
    return findings


def _written(drafts: Drafts, path: Path | None) -> Sequence[BinaryIO]:
    if path is None:
        return ()
    return (sys.stdout.buffer if path == _STANDARD else drafts.open(path),)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int | None]]:
    """Yield the list, and its octets where they are known."""
    if path == _STANDARD:
        yield sys.stdin.buffer, None
        return
    with path.open("rb") as file:
        yield file, path.stat().st_size if path.is_file() else None


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C, or whoever ends this process, end it at once and in order.

    asyncio would first wait for a read that waits for input; and drafts would be left
    behind, with people's addresses in them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, _end)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN  # nohup
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _free_console(output: Path | None) -> Console:
    """Standard output, or standard error where the list goes to the first."""
    if output != _STANDARD:
        return rich_console()
    width = None if sys.stderr.isatty() else 300
    return Console(stderr=True, width=width, markup=False, emoji=False, highlight=False)
