"""`smtpproxy doctor`: what mailbox providers would object to."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

from smtpproxy.cli.options import Value, command, number, option, several
from smtpproxy.cli.printer import Column, Part, Result, Styled, Table
from smtpproxy.doctor.finding import Check, Status
from smtpproxy.doctor.run import Doctor, Report, from_domains
from smtpproxy.doctor.upstream import InUse
from smtpproxy.process import control
from smtpproxy.resolver import Resolver
from smtpproxy.settings import Settings
from smtpproxy.settings.places import domain as read_domain

_RELAY_WITHIN = 5.0  # seconds
_STYLES = {
    Status.PASS: "green",
    Status.WARN: "yellow",
    Status.FAIL: "red",
    Status.UNKNOWN: "cyan",
}


@command("doctor")
def doctor(
    settings: Settings,
    only: tuple[Check, ...] = several("Run only this check."),
    domain: tuple[Annotated[str, Value("DOMAIN", read_domain)], ...] = several(
        "Check this From domain instead of those in the configuration."
    ),
    timeout: Annotated[float, number(0.1, 600)] = option(
        "The longest that one check may take.", metavar="SECONDS", default=20.0
    ),
) -> Result:
    """Check everything that mailbox providers check.

    Asks the DNS for SPF, DKIM, DMARC and MX of each From domain and for the names of the
    sending addresses, connects to the upstream and to the unsubscribe link, counts the
    connections that the upstream takes at once, checks keys, certificates and the clock, and
    compares it all with what Gmail, Yahoo, Microsoft, Orange and La Poste require. Sends no
    mail and changes nothing. Exits with 1 when anything fails.
    """
    checks = only or tuple(Check)
    domains = list(dict.fromkeys(domain)) or from_domains(settings)
    in_use = _in_use(settings) if Check.CONNECTIONS in checks else InUse()

    async def examine() -> Report:
        resolver = Resolver(settings.dns, time.monotonic)
        doctor = Doctor(settings, resolver.lookup, datetime.now(UTC), timeout, in_use)
        return await doctor.examine(domains, checks)

    report = asyncio.run(examine())
    data = {
        "status": Status.FAIL if report.failed else Status.PASS,
        "domains": domains,
        "findings": report.findings,
        "checklist": report.checklist,
    }
    return Result(data, _report_text(report), 1 if report.failed else 0)


def _in_use(settings: Settings) -> InUse:
    """Ask the relay, if it runs, what it uses of the upstream."""
    try:
        response, _ = control.ask(
            settings.server.state_dir, control.Status(), timeout=_RELAY_WITHIN
        )
    except (control.NotRunning, OSError):
        return InUse()
    gauges = response.snapshot.gauges
    connections, waiting = (
        int(sum(gauges.get(f"upstream_{name}", {}).values())) for name in ("connections", "waiting")
    )
    return InUse(connections, waiting)


def _report_text(report: Report) -> Iterator[Part]:
    if report.findings:
        yield Table([*[Column()] * 3, Column(prose=True)], list(_findings(report)))
    if report.checklist:
        yield ""
        yield Styled("What mailbox providers require of bulk senders", "bold")
        rows = [
            (_shown(line.status), line.provider, line.domain, line.demand, line.why)
            for line in report.checklist
        ]
        yield Table([*[Column()] * 3, Column(prose=True), Column(prose=True)], rows)
    counts = Counter(finding.status for finding in report.findings)
    counts.update(line.status for line in report.checklist)
    found = ", ".join(f"{counts[status]} {status}" for status in Status if counts[status])
    yield ""
    yield found or "nothing was checked"


def _findings(report: Report) -> Iterator[tuple[str, str, str, str]]:
    for finding in report.findings:
        yield _shown(finding.status), finding.check, finding.subject, finding.text
        if finding.fix and finding.status is not Status.PASS:
            yield "", "", "", f"→ {finding.fix}"


def _shown(status: Status) -> Styled:
    return Styled(status, _STYLES[status])
