"""Whether a domain lets an address send for it: `check_host` of RFC 7208 section 4.

An evaluator of our own: pyspf asks the DNS blocking and through a resolver of its own choice.
`exp=` is read and never shown.
"""

import ipaddress
from enum import StrEnum

from msgspec import Struct

from smtpproxy.doctor.finding import Lookup
from smtpproxy.doctor.spf_macros import Asked, IpAddress, expand
from smtpproxy.doctor.spf_record import Mechanism, SpfError, read_spf, select
from smtpproxy.resolver import Answer, DnsFailure, Kind

LOOKUPS = 10  # 4.6.4: terms that ask the DNS
_NAMES = 10  # 4.6.4: of one mx or ptr
_VOID = 2  # 4.6.4: answers with nothing in them


class SpfResult(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    SOFTFAIL = "softfail"
    NEUTRAL = "neutral"
    NONE = "none"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


class Spf(Struct, frozen=True):
    """`term` is what decided, as `domain: mechanism`; `problem` what an error is about."""

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


async def check_host(lookup: Lookup, asked: Asked, domain: str) -> Spf:
    """Evaluate the record of `domain`. Never raises for what the DNS holds."""
    evaluation = _Evaluation(lookup, asked)
    try:
        result, term = await evaluation.of(domain)
    except SpfError as error:
        return Spf(SpfResult.PERMERROR, evaluation.lookups, problem=str(error))
    except DnsFailure as error:
        return Spf(SpfResult.TEMPERROR, evaluation.lookups, problem=str(error))
    return Spf(result, evaluation.lookups, term)


class _Evaluation:
    """One question, with the lookups that it has cost so far."""

    def __init__(self, lookup: Lookup, asked: Asked) -> None:
        self.lookups = 0
        self._void = 0
        self._lookup = lookup
        self._asked = asked

    async def of(self, domain: str) -> tuple[SpfResult, str]:
        """Return the result for one domain's record, and the term that decided."""
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
            return SpfResult.NEUTRAL, ""  # 6.1: never come to, as all matches
        return await self._elsewhere(expand(record.redirect, domain, self._asked), domain)

    async def _elsewhere(self, target: str, domain: str) -> tuple[SpfResult, str]:
        self._count()
        result, term = await self.of(target)
        if result is SpfResult.NONE:
            raise SpfError(f"{domain} points to {target or '?'}, which has no SPF record")
        return result, term

    async def _matches(self, mechanism: Mechanism, domain: str) -> bool:
        ip = self._asked.ip
        name = expand(mechanism.domain, domain, self._asked) if mechanism.domain else domain
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
        return "A" if self._asked.ip.version == 4 else "AAAA"

    def _is_among(self, found: Answer, mechanism: Mechanism) -> bool:
        ip = self._asked.ip
        length = mechanism.lengths[0 if ip.version == 4 else 1]
        return any(
            ip in ipaddress.ip_network(f"{value}/{length}", strict=False) for value in found.values
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
        """`ptr`, of which RFC 7208 5.5 says that it should not be used."""
        try:
            names = (await self._ask(self._asked.ip.reverse_pointer, "PTR")).values
        except DnsFailure:
            return False
        valid: list[str] = []
        for name in names[:_NAMES]:
            try:
                found = await self._ask(name, self._kind)
            except DnsFailure:
                continue
            if self._asked.ip in map(ipaddress.ip_address, found.values):
                valid.append(name)
        return any(name == domain or name.endswith(f".{domain}") for name in valid)

    async def _ask(self, name: str, kind: Kind) -> Answer:
        answer = await self._lookup(name, kind)
        if not (answer.values or answer.exchangers):
            self._void += 1
            if self._void > _VOID:
                raise SpfError(f"more than {_VOID} lookups find nothing, the last {kind} {name}")
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


__all__ = ["LOOKUPS", "Asked", "IpAddress", "Spf", "SpfResult", "check_host"]
