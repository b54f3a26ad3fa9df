"""Run all checks concurrently, each with a timeout, and report the results."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.doctor.dmarc import (
    Dmarc,
    checked_by_dkimpy,
    find_dmarc,
    judge_alignment,
    judge_dkim,
    judge_dmarc,
    organisation_of,
    published,
)
from smtpproxy.doctor.finding import Check, Finding, Line, Lookup, Status, checklist
from smtpproxy.doctor.hosts import mx, ptr, sending_addresses
from smtpproxy.doctor.machine import (
    certificate,
    check_clock,
    disks,
    failover,
    keys,
    replica,
    restore,
)
from smtpproxy.doctor.spf import NAME_THEM, NO_ADDRESSES, spf
from smtpproxy.doctor.spf_record import IpAddress
from smtpproxy.doctor.unsubscribe import own_token, unsubscribe
from smtpproxy.doctor.upstream import (
    START_IT,
    InUse,
    each_address,
    judge_addresses,
    upstream,
    upstream_connections,
)
from smtpproxy.policy.model import StreamClass, TrackingPixels
from smtpproxy.relay.dkimpy import Dkimpy
from smtpproxy.resolver import DnsFailure
from smtpproxy.settings import Settings
from smtpproxy.store import opened_store
from smtpproxy.store.closed import without_password
from smtpproxy.store.configurations import (
    check_link_keys,
    check_suppression_keys,
    of_consents,
    of_relays,
    of_scopes,
)
from smtpproxy.store.move.traces import traces, uncopied
from smtpproxy.store.records import (
    NoStoreYet,
    StoreMisconfigured,
    StoreOutdated,
    StoreUnavailable,
    with_cause,
)
from smtpproxy.store.register import living

CONCURRENT = 8
DOMAIN_CHECKS = frozenset({Check.SPF, Check.DKIM, Check.DMARC, Check.ALIGNMENT, Check.MX})
_OF_ADDRESSES = DOMAIN_CHECKS | {Check.PTR}
"""Only these wait for the DNS, which may be what is down, to name the sending addresses."""

Job = Callable[[], Awaitable[Sequence[Finding]]]


class Report(Struct, frozen=True):
    findings: tuple[Finding, ...]
    checklist: tuple[Line, ...]

    @property
    def failed(self) -> bool:
        found = [each.status for each in self.findings]
        return Status.FAIL in found + [line.status for line in self.checklist]


@dataclass(eq=False)
class Doctor:
    """Examines one configuration. `timeout`: seconds that one check may take. `in_use` is known of
    a running relay."""

    settings: Settings
    lookup: Lookup
    now: datetime
    timeout: float
    in_use: InUse = field(default_factory=InUse)

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(CONCURRENT)
        self._dkimpy = Dkimpy()

    async def examine(self, domains: Sequence[str], checks: Collection[Check]) -> Report:
        """Run the checks. `providers` needs all others, and alone shows only its list."""
        wanted, settings = set(checks), self.settings
        run = set(Check) if Check.PROVIDERS in wanted else wanted
        addresses = await self._addresses() if run & _OF_ADDRESSES else ()
        jobs = self._others(run, addresses)
        try:
            under_way = [self._bounded((check,), subject, job) for check, subject, job in jobs]
            if run & DOMAIN_CHECKS:
                under_way += [
                    self._bounded(DOMAIN_CHECKS, name, self._of_domain(name, addresses))
                    for name in domains
                ]
            if Check.UPSTREAM in run:
                under_way.append(self._of_upstream())
            found = await asyncio.gather(*under_way)
            if Check.CONNECTIONS in wanted:  # last, so as not to count the upstream check's own
                count = _single(upstream_connections, settings, self.in_use)
                where = str(settings.upstream.address)
                found.append(await self._bounded((Check.CONNECTIONS,), where, count))
        finally:
            await self._dkimpy.close()
        findings = [each for one in found for each in one]
        if run & DOMAIN_CHECKS and not domains:
            findings.append(_NO_DOMAINS)
        lines: list[Line] = []
        if Check.PROVIDERS in wanted:
            lines = checklist(self.settings, domains, findings)
        order = list(Check)
        kept = [each for each in findings if each.check in wanted]
        kept.sort(key=lambda each: (order.index(each.check), each.subject))
        return Report(tuple(kept), tuple(lines))

    async def _addresses(self) -> tuple[IpAddress, ...]:
        try:
            async with asyncio.timeout(self.timeout):
                return await sending_addresses(self.settings, self.lookup)
        except TimeoutError:
            return ()

    def _others(
        self, run: Collection[Check], addresses: tuple[IpAddress, ...]
    ) -> list[tuple[Check, str, Job]]:
        settings, now, lookup = self.settings, self.now, self.lookup
        host = settings.server.hostname
        url = settings.web.public_url if settings.web else None
        token = own_token(settings.server.state_dir)
        jobs: list[tuple[Check, str, Job]] = [
            (Check.SPF, host, lambda: self._of_host(host, addresses)),
            *((Check.PTR, str(ip), _single(ptr, lookup, ip)) for ip in addresses),
            (Check.UNSUBSCRIBE, url or "public_url", _single(unsubscribe, lookup, url, token, now)),
        ]
        feedback = settings.feedback
        if feedback is not None and any(stream.verp for stream in settings.streams.values()):
            returns = feedback.domain
            jobs.append((Check.SPF, returns, _single(spf, lookup, returns, addresses)))
            jobs.append((Check.MX, returns, _single(mx, lookup, returns)))
        if not addresses:
            unknown = Finding(Check.PTR, host, Status.UNKNOWN, NO_ADDRESSES, NAME_THEM)
            jobs.append((Check.PTR, host, _ready([unknown])))
        place = without_password(settings.store.url)
        jobs.append((Check.RESTORE, place, lambda: restore(settings)))
        jobs.append((Check.REPLICA, "store.replica_url", lambda: replica(settings)))
        jobs.append((Check.FAILOVER, place, lambda: failover(settings)))
        jobs.append((Check.STORE, place, lambda: store_fits(settings, now)))
        jobs.append((Check.DISK, "disks", _ready(disks(settings))))
        jobs.append((Check.CLOCK, "clock", _ready([check_clock()])))
        jobs.append((Check.TRACKING, "streams", _ready(tracking(settings))))
        jobs.append((Check.UNSUBSCRIBE, "suppressions", lambda: suppressions(settings)))
        jobs.append((Check.KEYS, "keys", _ready(keys(settings, now))))
        certificates = [certificate(listener, now) for listener in settings.listeners]
        own = [each for each in certificates if each is not None]
        jobs.append((Check.CERTIFICATE, "listeners", _ready(own)))
        return [job for job in jobs if job[0] in run]

    def _of_domain(self, domain: str, addresses: tuple[IpAddress, ...]) -> Job:
        async def job() -> Sequence[Finding]:
            own = [each for each in self.settings.dkim if each.signs(domain)]
            sender, received = await asyncio.gather(
                spf(self.lookup, domain, addresses), mx(self.lookup, domain)
            )
            records = await asyncio.gather(*(published(self.lookup, each) for each in own))
            records = [await checked_by_dkimpy(self._dkimpy, each, self.now) for each in records]
            signed = judge_dkim(domain, records)
            try:
                policy = await find_dmarc(self.lookup, domain)
                organisations = {
                    each.domain: await organisation_of(self.lookup, each.domain) for each in own
                }
            except DnsFailure as error:
                dmarc = Finding(Check.DMARC, domain, Status.UNKNOWN, f"no answer: {error}", _AGAIN)
                policy, organisations = Dmarc(domain), {}
            else:
                dmarc = judge_dmarc(domain, policy)
            aligned = judge_alignment(domain, policy, sender, signed, records, organisations)
            return [sender, received, *signed, dmarc, aligned]

        return job

    async def _of_upstream(self) -> Sequence[Finding]:
        """Check each address of the upstream's name."""
        found = [self.settings.upstream]
        with suppress(TimeoutError):
            async with asyncio.timeout(self.timeout):
                found = await each_address(self.settings.upstream)
        jobs = [
            (str(each.address), _single(upstream, each, self.settings.server.hostname, self.now))
            for each in found
        ]
        looks = await asyncio.gather(*(self._bounded((Check.UPSTREAM,), *job) for job in jobs))
        return judge_addresses([each for one in looks for each in one])

    async def _of_host(self, host: str, addresses: tuple[IpAddress, ...]) -> Sequence[Finding]:
        """Check SPF of the relay's own name, which counts for bounces if the MTA greets with it."""
        found = await spf(self.lookup, host, addresses)
        if found.status is Status.FAIL:
            text = f"as the name of a host that sends bounces: {found.text}"
            found = replace(found, status=Status.WARN, text=text)
        return [found]

    async def _bounded(
        self, checks: Collection[Check], subject: str, job: Job
    ) -> Sequence[Finding]:
        async with self._slots:
            try:
                async with asyncio.timeout(self.timeout):
                    return await job()
            except TimeoutError:
                text = f"not finished within {self.timeout:g} s"
                status, fix = Status.UNKNOWN, _AGAIN
                if Check.UPSTREAM in checks:  # mail would wait for it too
                    status, fix = Status.FAIL, START_IT
                return [Finding(check, subject, status, text, fix) for check in checks]


_AGAIN = "check the name servers, or ask again with a longer --timeout"
_NO_DOMAINS = Finding(
    Check.SPF,
    "-",
    Status.UNKNOWN,
    "no stream names the domains that it writes from",
    "set from_domains in [[stream]], or ask with --domain",
)


_PIXELS = {
    TrackingPixels.ALLOW: (
        "tracking pixels, which need a separate consent, are not looked for",
        'set tracking_pixels = "observe", unless they are used for something that needs none',
    ),
    TrackingPixels.OBSERVE: (
        "tracking pixels reach people who did not agree to them",
        'check smtpproxy_tracking_pixels_total, then set tracking_pixels = "refuse" or "strip"',
    ),
}


def tracking(settings: Settings) -> list[Finding]:
    """Judge the handling of tracking pixels on marketing streams whose law regulates them."""
    found = []
    for stream in settings.used_streams:
        law = settings.rulebooks[stream.rulebook].law.get("tracking", "no law")
        if stream.stream_class is not StreamClass.MARKETING or law.startswith("no law"):
            continue
        text, fix = _PIXELS.get(stream.tracking_pixels, (_AGREED, ""))
        status = Status.WARN if fix else Status.PASS
        found.append(Finding(Check.TRACKING, stream.name, status, f"{text} ({law})", fix))
    return found


async def suppressions(settings: Settings) -> list[Finding]:
    """Find suppressions that name a brand or purpose no longer configured."""
    try:
        async with opened_store(settings, read_only=True) as store:
            lost = await of_scopes(settings, store)
    except (StoreUnavailable, OSError):
        return []
    return [Finding(Check.UNSUBSCRIBE, one.subject, Status.WARN, one.text, one.fix) for one in lost]


async def store_fits(settings: Settings, now: datetime) -> list[Finding]:
    """Judge whether keys and configuration fit the store and its other relays."""
    where, state_dir = without_password(settings.store.url), settings.server.state_dir
    try:
        async with opened_store(settings, read_only=True) as store:
            await check_suppression_keys(store, state_dir)
            if settings.makes_tokens:
                await check_link_keys(store, state_dir, await store.link_keys())
            found = await of_consents(settings, store) + await of_relays(settings, store, now=now)
            found += await traces(settings.store) + uncopied(settings)
            others = len(living(await store.relays(), now))
    except (NoStoreYet, StoreOutdated):
        return []
    except StoreMisconfigured as fault:
        return [Finding(Check.STORE, where, Status.FAIL, str(fault), "see docs/store.md")]
    except (StoreUnavailable, OSError) as fault:
        text = f"the store cannot answer: {with_cause(fault)}"
        return [Finding(Check.STORE, where, Status.FAIL, text, _STORE_FAILS)]
    if not found:
        what = f"{others} relays have the same streams and brands" if others > 1 else "they fit"
        return [Finding(Check.STORE, where, Status.PASS, f"keys and configuration: {what}")]
    states = {False: Status.WARN, True: Status.FAIL}
    return [
        Finding(Check.STORE, one.subject, states[one.fails], one.text, one.fix) for one in found
    ]


_STORE_FAILS = "its mail waits: see SmtpproxyStoreFailing in docs/operations.md"
_AGREED = "tracking pixels reach only people who agreed to them"


def from_domains(settings: Settings) -> list[str]:
    """Return the From domains that the settings name."""
    found = {domain for stream in settings.streams.values() for domain in stream.from_domains}
    found.update(domain for each in settings.credentials for domain in each.from_domains)
    found.update(each.domain for each in settings.dkim)
    return sorted(found)


def _ready(findings: Sequence[Finding]) -> Job:
    async def job() -> Sequence[Finding]:
        return findings

    return job


def _single(check: Callable[..., Awaitable[Finding]], *arguments: object) -> Job:
    async def job() -> Sequence[Finding]:
        return [await check(*arguments)]

    return job
