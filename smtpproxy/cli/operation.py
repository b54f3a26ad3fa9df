"""`smtpproxy serve`, `demo`, `check`, `doctor` and `purge`: run the relay and look after it."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from smtpproxy.cli import fail
from smtpproxy.cli.options import (
    choice,
    config_option,
    config_path_option,
    flag,
    moment,
    option,
    options,
    settings_in,
)
from smtpproxy.cli.printer import (
    Column,
    Part,
    Result,
    Styled,
    Table,
    picked,
    shows_result,
)
from smtpproxy.doctor.finding import Check, Status
from smtpproxy.policy.model import Stream
from smtpproxy.policy.periods import Period
from smtpproxy.settings import FeedbackSettings, ListenerSettings, RetentionSettings, Settings
from smtpproxy.terminal import counted

if TYPE_CHECKING:
    from smtpproxy.doctor.run import Report
    from smtpproxy.retention import Purged

_KINDS = {
    "contacts": "contacts",
    "suppressions": "suppressions",
    "lifted_suppressions": "lifted suppressions",
    "mailings": "counted messages",
    "reports": "reports that came by mail",
    "audit": "rows of the audit log",
}
_STYLES = {
    Status.PASS: "green",
    Status.WARN: "yellow",
    Status.FAIL: "red",
    Status.UNKNOWN: "cyan",
}


@click.command("serve")
@click.option(
    "--take-over",
    is_flag=True,
    help="Take the sockets of the relay that runs with this state_dir, which then ends.",
)
@config_path_option
def serve(config: Path, take_over: bool) -> None:
    """Run the relay until SIGTERM or SIGINT.

    Either signal drains: no new connections, running transactions finish, then exit 0. SIGHUP
    reads the configuration anew, as `smtpproxy reload` does.
    """
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # structlog would load it
    from smtpproxy.app import serve
    from smtpproxy.config import load

    settings = settings_in(config)
    sys.exit(serve(settings, lambda: load(config), take_over=take_over))


@click.command("demo")
@click.option("--keep", is_flag=True, help="Leave the relay running until Ctrl-C.")
def demo(keep: bool) -> None:
    """Run the relay on invented people and show what it lets through, and why.

    Starts a real relay in a temporary directory, with an MTA behind it that keeps what it
    is given; sends mail through it; then stops and removes everything.
    """
    from smtpproxy.demo import run
    from smtpproxy.demo.relay import DemoError

    try:
        run(keep=keep)
    except DemoError as error:
        fail(f"the demo stopped: {error}")


@click.command("check")
@config_path_option
@shows_result
def check(config: Path) -> Result:
    """Check the configuration, and whether the relay can start.

    Prints every fault as FILE: key.path: what is wrong and what would be right, and
    exits with 2. When there is none, prints a summary and what deserves a second look.
    Run it as the user that the relay runs as: it looks at files, folders and addresses too.
    """
    from smtpproxy.config import ConfigError, load
    from smtpproxy.config.start_checks import check_start
    from smtpproxy.config.warnings import example_values, warnings, without_controller

    try:
        settings = load(config)
        warned = [*warnings(settings), *check_start(settings, str(config))]
        warned += [*example_values(config), *without_controller(settings)]
    except ConfigError as error:
        found = {"file": str(config), "valid": False, "faults": error.faults}
        return Result(found, error.faults, error.exit_code)
    return Result(_summary(config, settings, warned), _summary_text(config, settings, warned))


def _summary(config: Path, settings: Settings, warned: list[str]) -> dict[str, Any]:
    return {
        "file": str(config),
        "valid": True,
        "faults": [],
        "warnings": warned,
        "hash": settings.hash,
        "mode": settings.policy.mode,
        "on_mixed": settings.policy.on_mixed,
        "listeners": [
            picked(listener, "name", "protocol", "streams", "default_stream")
            | {"address": str(listener.address)}
            for listener in settings.listeners
        ],
        "streams": [
            picked(stream, "name", "purpose", "rulebook", "mode") | {"class": stream.class_name}
            for stream in settings.streams.values()
        ],
        "upstream": str(settings.upstream.address),
        "store": settings.store.url,
        "web": str(settings.web.address) if settings.web else None,
        "feedback": None if settings.feedback is None else settings.feedback.domain,
        "tokens": [picked(token, "name", "may") for token in settings.tokens],
        "webhooks": [
            picked(hook, "name", "events") | {"deadline_seconds": hook.deadline}
            for hook in settings.webhooks
        ],
        "partners": [partner.name for partner in settings.store.partners],
    }


def _summary_text(config: Path, settings: Settings, warned: list[str]) -> Iterator[Part]:
    yield Styled(f"{config}: good (hash {settings.hash})", "green")
    yield Table([Column(), Column(), Column(prose=True)], list(_rows(settings)))
    for warning in warned:
        yield Styled(f"warning: {warning}", "yellow")


def _rows(settings: Settings) -> Iterator[tuple[str, str, str]]:
    for listener in settings.listeners:
        yield "listener", listener.name, f"{listener.protocol} {listener.address}"
        yield "", "", _streams_of(listener)
    for stream in settings.streams.values():
        yield "stream", stream.name, _describe(stream)
    yield "upstream", "", str(settings.upstream.address)
    yield "store", "", settings.store.url
    yield "web", "", str(settings.web.address) if settings.web else "off"
    if settings.feedback is not None:
        yield "feedback", "", _feedback(settings.feedback)
    for token in settings.tokens:
        yield "token", token.name, "may " + ", ".join(sorted(token.may))
    for hook in settings.webhooks:
        hours = f"within {hook.deadline / 3600:g} hours"
        yield "webhook", hook.name, f"told of {', '.join(sorted(hook.events))} {hours}"
    for partner in settings.store.partners:
        yield "partner", partner.name, f"key {partner.key_file}"
    yield "mode", "", f"{settings.policy.mode}, on_mixed {settings.policy.on_mixed}"


def _feedback(feedback: FeedbackSettings) -> str:
    where = "by maildir" if feedback.address is None else f"{feedback.protocol} {feedback.address}"
    believed = "with a token" if feedback.require_token else "without a token too"
    return f"{feedback.domain}, {where}; reports suppress {believed}"


def _streams_of(listener: ListenerSettings) -> str:
    if not listener.streams:
        return "all mail on the stream default"
    default = listener.default_stream
    text = "streams " + ", ".join(
        f"{name} (by default)" if name == default else name for name in listener.streams
    )
    return text if default else text + "; the header must choose, else the stream default"


def _describe(stream: Stream) -> str:
    words = [stream.class_name]
    if stream.purpose:
        words.append(f"purpose {stream.purpose}")
    words += [f"rulebook {stream.rulebook}", str(stream.mode)]
    if stream.paused:
        words.append("paused")
    return ", ".join(words)


def _domain(value: str) -> str:
    from smtpproxy.settings.places import domain

    try:
        return domain(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@dataclass(frozen=True, slots=True)
class DoctorOptions:
    """What to look at."""

    only: tuple[str, ...] = option(
        "Run only this check; repeat for more.", choice(Check), multiple=True
    )
    domain: tuple[str, ...] = option(
        "A domain of From to look at, instead of those in the configuration; repeat for more.",
        _domain, metavar="DOMAIN", multiple=True,
    )  # fmt: skip
    timeout: float = option(
        "How long one check may take.",
        click.FloatRange(min=0.1, max=600), metavar="SECONDS", default=20.0,
    )  # fmt: skip


@click.command("doctor")
@options(DoctorOptions)
@shows_result
@config_option
def doctor(settings: Settings, options: DoctorOptions) -> Result:
    """Look at everything that mailbox providers look at.

    Asks the DNS for SPF, DKIM, DMARC and MX of each domain of From and for the names of the
    sending addresses, connects to the upstream and to the unsubscribe link, looks at keys,
    certificates and the clock, and holds it all against what Gmail, Yahoo, Microsoft, Orange
    and La Poste demand. Sends no mail and changes nothing. Exits with 1 when anything fails.
    """
    from smtpproxy.doctor.run import Doctor, from_domains
    from smtpproxy.resolver import Resolver

    checks = [Check(each) for each in options.only] or list(Check)
    domains = list(dict.fromkeys(options.domain)) or from_domains(settings)

    async def examine() -> "Report":
        resolver = Resolver(settings.dns, time.monotonic)
        doctor = Doctor(settings, resolver.lookup, now=datetime.now(UTC), timeout=options.timeout)
        return await doctor.examine(domains, checks)

    report = asyncio.run(examine())
    data = {
        "status": Status.FAIL if report.failed else Status.PASS,
        "domains": domains,
        "findings": report.findings,
        "checklist": report.checklist,
    }
    return Result(data, _report_text(report), 1 if report.failed else 0)


def _report_text(report: "Report") -> Iterator[Part]:
    if report.findings:
        yield Table([*[Column()] * 3, Column(prose=True)], list(_findings(report)))
    if report.checklist:
        yield ""
        yield Styled("What mailbox providers demand of bulk senders", "bold")
        rows = [
            (_shown(line.status), line.provider, line.domain, line.demand, line.why)
            for line in report.checklist
        ]
        yield Table([*[Column()] * 3, Column(prose=True), Column(prose=True)], rows)
    counts = Counter(finding.status for finding in report.findings)
    counts.update(line.status for line in report.checklist)
    found = ", ".join(f"{counts[status]} {status}" for status in Status if counts[status])
    yield ""
    yield found or "nothing was looked at"


def _findings(report: "Report") -> Iterator[tuple[str, str, str, str]]:
    for finding in report.findings:
        yield _shown(finding.status), finding.check, finding.subject, finding.text
        if finding.fix and finding.status is not Status.PASS:
            yield "", "", "", f"→ {finding.fix}"


def _shown(status: Status) -> Styled:
    return Styled(status, _STYLES[status])


@dataclass(frozen=True, slots=True)
class PurgeOptions:
    """What to remove."""

    dry_run: bool = flag("Say what would be removed, and remove nothing.")
    at: datetime | None = option(
        "Remove what has outlived its period at TIME (default: now). A future time needs"
        " --dry-run.",
        moment,
    )


@click.command("purge")
@options(PurgeOptions)
@shows_result
@config_option
def purge(settings: Settings, options: PurgeOptions) -> Result:
    """Remove what has outlived its period ([retention] of the configuration).

    `serve` does it daily. Mail and imports go on meanwhile. What withdrew or objected is
    suppressed before its contact goes.
    """
    from smtpproxy.cli.stores import now, using_store
    from smtpproxy.retention import AlreadyRunning, purge

    at, dry_run = options.at, options.dry_run
    if at is not None and at > datetime.now(UTC) and not dry_run:
        fail("--at: what has not outlived its period yet must not be removed; add --dry-run", 2)
    try:
        purged = using_store(
            settings,
            lambda store: purge(settings, store, at=at or now(), clock=now, dry_run=dry_run),
            read_only=dry_run,
            or_empty=True,
        )
    except AlreadyRunning as error:
        fail(str(error))
    data = {
        "at": purged.at,
        "dry_run": purged.dry_run,
        "removed": purged.removed,
        "orders_kept": purged.orders,
        "contacts_objected": purged.objected,
        "notes_forgotten": purged.notes,
        "addresses_matched": purged.matched,
        "suppressions_held": purged.held,
    }
    return Result(data, _text(purged, settings.retention))


def _text(purged: "Purged", keep: RetentionSettings) -> Iterator[Part]:
    gone = "would go" if purged.dry_run else "removed"
    columns = [
        Column("kind"),
        Column("kept for", prose=True),
        Column(gone, right=True, label=gone),
        Column("oldest", label="oldest"),
        Column("newest", label="newest"),
    ]
    rows = [
        (
            name,
            _kept_for(kind, keep),
            f"{purged.removed[kind].rows:,}",
            _day(purged.removed[kind].oldest),
            _day(purged.removed[kind].newest),
        )
        for kind, name in _KINDS.items()
    ]
    yield Table(columns, rows)
    if purged.orders:
        verb = "would become" if purged.dry_run else "became"
        kept = "a suppression" if purged.orders == 1 else "suppressions"
        orders = counted(purged.orders, "withdrawal or objection", "withdrawals and objections")
        yield f"{orders} of contacts {verb} {kept}"
    if purged.objected:
        people = counted(purged.objected, "contact")
        yield f"{people} {gone} because the person objected: the suppression is kept"
    if purged.notes:
        verb = "would be forgotten" if purged.dry_run else "forgotten"
        yield f"{counted(purged.notes, 'note')} in free text {verb}; the suppressions stay"
    if purged.held:
        stay = counted(purged.held, "suppression stays", "suppressions stay")
        yield f"{stay} because a contact has the address"


def _kept_for(kind: str, keep: RetentionSettings) -> str:
    if kind == "contacts":
        customers, prospects = keep.customers, keep.prospects
        return str(prospects) if customers == prospects else f"{prospects}, {customers} (customers)"
    if kind == "mailings":
        return "the longest frequency cap"
    period: Period | None = getattr(keep, kind)
    return "ever" if period is None else str(period)


def _day(moment: datetime | None) -> str:
    return "" if moment is None else moment.strftime("%Y-%m-%d")
