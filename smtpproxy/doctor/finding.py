"""What checks found, compared with what Gmail, Yahoo, Microsoft, Orange and La Poste require."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from enum import StrEnum
from functools import cache
from importlib.resources import files

from msgspec import Struct, convert

from smtpproxy import toml
from smtpproxy.policy.model import Mode, Stream, StreamClass
from smtpproxy.resolver import Answer, Kind
from smtpproxy.settings import Settings

Lookup = Callable[[str, Kind], Awaitable[Answer]]
"""Asks the DNS. Raises DnsFailure when there is no answer."""


class Status(StrEnum):
    PASS = "pass"
    WARN = "warn"  # works now, and deserves a second look
    FAIL = "fail"
    UNKNOWN = "unknown"  # cannot be found out from here


class Check(StrEnum):
    """What `--only` takes. docs/doctor.md has a section for each."""

    SPF = "spf"
    DKIM = "dkim"
    DMARC = "dmarc"
    ALIGNMENT = "alignment"
    MX = "mx"
    PTR = "ptr"
    UPSTREAM = "upstream"
    CONNECTIONS = "connections"
    DISK = "disk"
    CLOCK = "clock"
    KEYS = "keys"
    RESTORE = "restore"
    REPLICA = "replica"
    FAILOVER = "failover"
    STORE = "store"
    CERTIFICATE = "certificate"
    UNSUBSCRIBE = "unsubscribe"
    TRACKING = "tracking"
    PROVIDERS = "providers"


class Finding(Struct, frozen=True):
    """The result of one check.

    `subject` is the domain, address, listener or file that it is about. `fix` says what would
    put it right, empty if nothing has to be done.
    """

    check: Check
    subject: str
    status: Status
    text: str
    fix: str = ""


_WORST = (Status.FAIL, Status.UNKNOWN, Status.WARN, Status.PASS)


def worst(statuses: list[Status]) -> Status:
    """Return the worst of them; without any, UNKNOWN."""
    return next((each for each in _WORST if each in statuses), Status.UNKNOWN)


HONOURED_WITHIN = 48 * 3600.0
"""Seconds, by the strictest provider; laws allow more."""


class Demand(Struct, frozen=True):
    """A provider's requirement: `needs` names checks and `FACTS`, `see` where else to look."""

    provider: str
    text: str
    source: str
    needs: tuple[str, ...] = ()
    see: str = ""


class Line(Struct, frozen=True):
    """A requirement for one domain: pass, fail or unknown, and why."""

    provider: str
    domain: str
    demand: str
    status: Status
    why: str
    source: str


Judged = tuple[Status, str]


@cache
def demands() -> tuple[Demand, ...]:
    text = files("smtpproxy.doctor").joinpath("providers.toml").read_text("utf-8")
    return convert(toml.loads(text)["demand"], tuple[Demand, ...])


def checklist(
    settings: Settings, domains: Sequence[str], findings: Sequence[Finding]
) -> list[Line]:
    """Compare each requirement with the findings about each domain."""
    return [_line(demand, domain, settings, findings) for domain in domains for demand in demands()]


def _line(demand: Demand, domain: str, settings: Settings, findings: Sequence[Finding]) -> Line:
    status, why = Status.UNKNOWN, f"cannot be seen from here: {demand.see}"
    if demand.needs:
        judged = [_need(name, domain, settings, findings) for name in demand.needs]
        status = worst([each for each, _ in judged])
        why = next(text for each, text in judged if each is status)
    return Line(demand.provider, domain, demand.text, status, why, demand.source)


def _need(name: str, domain: str, settings: Settings, findings: Sequence[Finding]) -> Judged:
    if name in FACTS:
        return FACTS[name](domain, settings, findings)
    own = Check(name)
    return _of_check(own, None if own is Check.PTR else domain, findings)


def _of_check(check: Check, subject: str | None, findings: Sequence[Finding]) -> Judged:
    """Return what a check found about a subject; None for all subjects."""
    found = [each for each in findings if each.check is check and subject in (None, each.subject)]
    if not found:
        return Status.UNKNOWN, f"{check}: not checked"
    status = worst([each.status for each in found])
    text = next(each.text for each in found if each.status is status)
    # A warning counts as a pass: it works, though it could be better.
    return Status.PASS if status is Status.WARN else status, f"{check}: {text}"


def marketing_streams(settings: Settings, domain: str) -> Iterator[Stream]:
    """Yield the streams that may send marketing mail under a From domain."""
    for stream in settings.used_streams:
        if stream.stream_class is StreamClass.MARKETING and (
            domain in stream.from_domains or not stream.from_domains
        ):
            yield stream


def _one_click(domain: str, settings: Settings, findings: Sequence[Finding]) -> Judged:
    streams = list(marketing_streams(settings, domain))
    for stream in streams:
        if stream.mode is Mode.OBSERVE:
            return Status.UNKNOWN, f"stream {stream.name} is only observed"
        if not stream.one_click_required:
            return Status.UNKNOWN, f"stream {stream.name} does not require it"
    if any(stream.unsubscribe_scope is not None for stream in streams):
        return _of_check(Check.UNSUBSCRIBE, None, findings)
    names = ", ".join(stream.name for stream in streams)
    return Status.PASS, f"stream {names}: mail without it is refused"


def _body_link(domain: str, settings: Settings, findings: Sequence[Finding]) -> Judged:
    for stream in marketing_streams(settings, domain):
        if stream.mode is Mode.OBSERVE:
            return Status.UNKNOWN, f"stream {stream.name} is only observed"
        if not stream.body_optout:
            return Status.UNKNOWN, f"stream {stream.name} does not require it (body_optout)"
    return Status.PASS, "mail whose text shows none is refused"


def _honoured(domain: str, settings: Settings, findings: Sequence[Finding]) -> Judged:
    for stream in marketing_streams(settings, domain):
        if stream.mode is Mode.OBSERVE:
            return Status.UNKNOWN, f"stream {stream.name} is only observed"
    for webhook in settings.webhooks:
        if webhook.deadline > HONOURED_WITHIN:
            hours = f"{webhook.deadline / 3600:.0f} hours"
            return Status.FAIL, f"webhook {webhook.name} may be notified up to {hours} later"
    return Status.PASS, "a suppression applies to the very next recipient"


FACTS: dict[str, Callable[[str, Settings, Sequence[Finding]], Judged]] = {
    "one_click": _one_click,
    "body_link": _body_link,
    "honoured": _honoured,
}
