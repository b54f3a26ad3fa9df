"""SPF of a domain: whether its record allows the sending addresses (RFC 7208 section 4).

An own evaluator: pyspf blocks while it asks the DNS, and chooses its own resolver. `exp=` is read
but never shown.
"""

import asyncio
import ipaddress
from collections.abc import Sequence
from enum import StrEnum
from functools import partial

from msgspec import Struct

from smtpproxy.doctor.finding import Check, Finding, Lookup, Status
from smtpproxy.doctor.spf_record import (
    IpAddress,
    Mechanism,
    SpfError,
    SpfQuery,
    expand,
    read_spf,
    select,
)
from smtpproxy.resolver import Answer, DnsFailure, Kind
from smtpproxy.terminal import counted

LOOKUPS = 10  # 4.6.4: terms that need the DNS
_NAMES = 10  # 4.6.4: names in one mx or ptr
_VOID = 2  # 4.6.4: void lookups


class SpfResult(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    SOFTFAIL = "softfail"
    NEUTRAL = "neutral"
    NONE = "none"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


class Spf(Struct, frozen=True):
    """`term` decided, as `domain: mechanism`; `problem` explains an error."""

    result: SpfResult
    lookups: int
    term: str = ""
    problem: str = ""


_BY_QUALIFIER = {
    "+": SpfResult.PASS,
    "-": SpfResult.FAIL,
    "~": SpfResult.SOFTFAIL,
    "?": SpfResult.NEUTRAL,
}


async def check_host(lookup: Lookup, query: SpfQuery, domain: str) -> Spf:
    """Evaluate the record of `domain`. Never raises for what is in the DNS."""
    evaluation = _Evaluation(lookup, query)
    try:
        result, term = await evaluation.of(domain)
    except SpfError as error:
        return Spf(SpfResult.PERMERROR, evaluation.lookups, problem=str(error))
    except DnsFailure as error:
        return Spf(SpfResult.TEMPERROR, evaluation.lookups, problem=str(error))
    return Spf(result, evaluation.lookups, term)


class _Evaluation:
    """One evaluation, with the lookups made so far."""

    def __init__(self, lookup: Lookup, query: SpfQuery) -> None:
        self.lookups = 0
        self._void = 0
        self._lookup = lookup
        self._query = query

    async def of(self, domain: str) -> tuple[SpfResult, str]:
        """Return the result of one domain's record, and the term that decided."""
        text = select((await self._lookup(domain, "TXT")).texts)
        if text is None:
            return SpfResult.NONE, ""
        try:
            record = read_spf(text)
        except SpfError as error:
            raise SpfError(f"{domain}: {error}") from None
        for mechanism in record.mechanisms:
            if await self._matches(mechanism, domain):
                return _BY_QUALIFIER[mechanism.qualifier], f"{domain}: {_shown(mechanism)}"
        if not record.redirect:
            return SpfResult.NEUTRAL, f"{domain}: nothing in its record matches"
        if any(mechanism.name == "all" for mechanism in record.mechanisms):
            return SpfResult.NEUTRAL, ""  # 6.1: redirect is ignored beside all
        return await self._elsewhere(expand(record.redirect, domain, self._query), domain)

    async def _elsewhere(self, target: str, domain: str) -> tuple[SpfResult, str]:
        self._count()
        result, term = await self.of(target)
        if result is SpfResult.NONE:
            raise SpfError(f"{domain} points to {target or '?'}, which has no SPF record")
        return result, term

    async def _matches(self, mechanism: Mechanism, domain: str) -> bool:
        ip = self._query.ip
        name = expand(mechanism.domain, domain, self._query) if mechanism.domain else domain
        match mechanism.name:
            case "all":
                return True
            case "ip4" | "ip6":
                network = mechanism.network
                return network is not None and network.version == ip.version and ip in network
            case "include":
                return (await self._elsewhere(name, domain))[0] is SpfResult.PASS
        self._count()
        match mechanism.name:
            case "exists":
                return bool((await self._ask(name, "A")).values)
            case "a":
                found = await self._ask(name, self._kind)
                return self._is_among(found, mechanism)
            case "mx":
                return await self._is_mx_of(name, mechanism)
        return await self._is_named(name.lower())

    @property
    def _kind(self) -> Kind:
        return "A" if self._query.ip.version == 4 else "AAAA"

    def _is_among(self, found: Answer, mechanism: Mechanism) -> bool:
        ip = self._query.ip
        length = mechanism.lengths[0 if ip.version == 4 else 1]
        return any(
            ip in ipaddress.ip_network(f"{value}/{length}", strict=False)
            for value in found.values
            if ipaddress.ip_address(value).version == ip.version
        )

    async def _is_mx_of(self, name: str, mechanism: Mechanism) -> bool:
        hosts = [each.host for each in (await self._ask(name, "MX")).exchangers if each.host]
        if len(hosts) > _NAMES:
            raise SpfError(f"mx:{name} names {len(hosts)} hosts, more than {_NAMES}")
        for host in hosts:
            if self._is_among(await self._ask(host, self._kind), mechanism):
                return True
        return False

    async def _is_named(self, domain: str) -> bool:
        """Evaluate `ptr`, which RFC 7208 5.5 says not to use."""
        try:
            names = (await self._ask(self._query.ip.reverse_pointer, "PTR")).values
        except DnsFailure:
            return False
        valid: list[str] = []
        for name in names[:_NAMES]:
            try:
                found = await self._ask(name, self._kind)
            except DnsFailure:
                continue
            if self._query.ip in map(ipaddress.ip_address, found.values):
                valid.append(name)
        return any(name == domain or name.endswith(f".{domain}") for name in valid)

    async def _ask(self, name: str, kind: Kind) -> Answer:
        answer = await self._lookup(name, kind)
        if not (answer.values or answer.exchangers):
            self._void += 1
            if self._void > _VOID:
                raise SpfError(
                    f"more than {_VOID} lookups find nothing, the last one {kind} {name}"
                )
        return answer

    def _count(self) -> None:
        self.lookups += 1
        if self.lookups > LOOKUPS:
            raise SpfError(f"it takes more than {LOOKUPS} lookups")


def _shown(mechanism: Mechanism) -> str:
    text = f"{mechanism.qualifier}{mechanism.name}"
    if mechanism.network is not None:
        return f"{text}:{mechanism.network}"
    if mechanism.domain:
        text += f":{mechanism.domain}"
    if mechanism.lengths[0] != 32:
        text += f"/{mechanism.lengths[0]}"
    return text


STRANGER = ipaddress.ip_address("240.0.0.1")
"""Nobody can send from here (RFC 1112 section 4): a record that passes it passes everybody."""

_NEARLY = LOOKUPS - 1


async def spf(lookup: Lookup, domain: str, addresses: Sequence[IpAddress]) -> Finding:
    """Evaluate SPF as receivers do, for mail whose reverse path is in `domain`."""
    queries = [SpfQuery(ip, f"postmaster@{domain}", domain) for ip in (*addresses, STRANGER)]
    found = await asyncio.gather(*(check_host(lookup, each, domain) for each in queries))
    return judge_spf(domain, dict(zip(addresses, found, strict=False)), found[-1])


def judge_spf(domain: str, results: dict[IpAddress, Spf], stranger: Spf) -> Finding:
    """Judge the results of the sending addresses; `stranger` is that of `STRANGER`."""
    first = next(iter(results.values()), stranger)
    lookups = max(each.lookups for each in (*results.values(), stranger))
    wrong = {ip: each for ip, each in results.items() if each.result is not SpfResult.PASS}
    if first.result is SpfResult.NONE:
        terms = " ".join(map(_mechanism, results)) or "ip4:ADDRESS"
        return _found(domain, Status.FAIL, "no SPF record", f'publish TXT "v=spf1 {terms} -all"')
    for each in (*results.values(), stranger):
        if each.result is SpfResult.PERMERROR:
            text = f"the record cannot be used (permerror): {each.problem}"
            return _found(domain, Status.FAIL, text, _FIX_RECORD)
    for each in (*results.values(), stranger):
        if each.result is SpfResult.TEMPERROR:
            return _found(domain, Status.UNKNOWN, f"no answer: {each.problem}", _ASK_AGAIN)
    if wrong:
        failing = ", ".join(f"{ip} {each.result}" for ip, each in wrong.items())
        fix = f"add {' '.join(map(_mechanism, wrong))} to the record"
        return _found(domain, Status.FAIL, f"not every sending address passes: {failing}", fix)
    if stranger.result is SpfResult.PASS:
        text = f"every address on the Internet passes ({stranger.term})"
        return _found(domain, Status.WARN, text, "name the addresses, and end with -all or ~all")
    if not results:
        return _found(domain, Status.UNKNOWN, "there is a record; " + NO_ADDRESSES, NAME_THEM)
    text = (
        f"{', '.join(map(str, results))} passes ({first.term}), with {counted(lookups, 'lookup')}"
    )
    if lookups > _NEARLY:
        return _found(domain, Status.WARN, f"{text}, and {LOOKUPS} is the limit", _FIX_RECORD)
    return _found(domain, Status.PASS, text)


NO_ADDRESSES = "the addresses that mail leaves from are not known"
NAME_THEM = "set sending_addresses in [doctor]"
_FIX_RECORD = (
    f"publish one record with at most {LOOKUPS} terms that need the DNS: fewer include: and mx,"
    " more ip4: and ip6:"
)
_ASK_AGAIN = "check the name servers of the domain, or ask again"


def _mechanism(ip: IpAddress) -> str:
    return f"ip{ip.version}:{ip}"


_found = partial(Finding, Check.SPF)
