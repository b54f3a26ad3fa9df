"""`smtpproxy doctor`: will the mail that leaves here be believed?"""

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
from rich.table import Table
from rich.text import Text

from smtpproxy.cli.common import config_option, console, json_option, print_json
from smtpproxy.doctor.finding import Check, Status
from smtpproxy.settings import Settings

if TYPE_CHECKING:
    from smtpproxy.doctor.run import Report

_STYLES = {
    Status.PASS: "green",
    Status.WARN: "yellow",
    Status.FAIL: "bold red",
    Status.UNKNOWN: "cyan",
}


def _domain(value: str) -> str:
    from smtpproxy.config.values import domain

    try:
        return domain(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.option(
    "--only",
    type=click.Choice([check.value for check in Check]),
    multiple=True,
    help="Run this check alone; give any number.",
)
@click.option(
    "--domain",
    type=_domain,
    multiple=True,
    metavar="DOMAIN",
    help="A domain of From to look at, instead of those in the configuration; any number.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1, max=600),
    default=20.0,
    show_default=True,
    metavar="SECONDS",
    help="How long one check may take.",
)
@json_option
@config_option
def command(
    settings: Settings,
    only: tuple[str, ...],
    domain: tuple[str, ...],
    timeout: float,
    as_json: bool,
) -> int:
    """Look at everything that mailbox providers look at.

    Asks the DNS for SPF, DKIM, DMARC and MX of each domain of From and for the names of the
    sending addresses, connects to the upstream and to the unsubscribe link, looks at keys,
    certificates and the clock, and holds it all against what Gmail, Yahoo, Microsoft, Orange
    and La Poste demand. Sends no mail and changes nothing. Exits with 1 when anything fails.
    """
    from smtpproxy.doctor.run import Doctor, from_domains
    from smtpproxy.resolver import Resolver

    checks = [Check(each) for each in only] or list(Check)
    domains = list(dict.fromkeys(domain)) or from_domains(settings)

    async def examine() -> "Report":
        resolver = Resolver(settings.dns, time.monotonic)
        doctor = Doctor(settings, resolver.lookup, now=datetime.now(UTC), timeout=timeout)
        return await doctor.examine(domains, checks)

    report = asyncio.run(examine())
    if as_json:
        print_json(_as_object(report, domains))
    else:
        _print(report)
    return 1 if report.failed else 0


def _as_object(report: "Report", domains: list[str]) -> dict[str, object]:
    return {
        "status": Status.FAIL if report.failed else Status.PASS,
        "domains": domains,
        "findings": report.findings,
        "checklist": report.checklist,
    }


def _print(report: "Report") -> None:
    if report.findings:
        table = _table(4)
        for finding in report.findings:
            table.add_row(_told(finding.status), finding.check, finding.subject, finding.text)
            if finding.fix and finding.status is not Status.PASS:
                table.add_row("", "", "", f"→ {finding.fix}")
        console.print(table)
    if report.checklist:
        console.print()
        console.print("What mailbox providers demand of bulk senders", style="bold")
        table = _table(5)
        for line in report.checklist:
            table.add_row(_told(line.status), line.provider, line.domain, line.demand, line.why)
        console.print(table)
    counts = Counter(finding.status for finding in report.findings)
    counts.update(line.status for line in report.checklist)
    told = ", ".join(f"{counts[status]} {status}" for status in Status if counts[status])
    console.print()
    console.print(told or "nothing was looked at")


def _table(columns: int) -> Table:
    """A table that cuts nothing off: names and records are there to be copied."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for _ in range(columns):
        table.add_column(overflow="fold")
    return table


def _told(status: Status) -> Text:
    return Text(status, _STYLES[status])
