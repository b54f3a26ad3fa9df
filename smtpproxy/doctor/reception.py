"""Whether a domain that sends can be answered: MX, null MX, or its own address (RFC 5321 5.1)."""

from collections.abc import Sequence

from smtpproxy.doctor.finding import Check, Finding, Lookup, Status
from smtpproxy.resolver import DnsFailure, MxRecord

_MEND = "publish MX records of hosts that take mail for it: bounces and answers come back there"


async def mx(lookup: Lookup, domain: str) -> Finding:
    try:
        exchangers = (await lookup(domain, "MX")).exchangers
        hosts = [each.host for each in exchangers if each.host] or [domain]
        known = {host: await _has_address(lookup, host) for host in hosts[:20]}
    except DnsFailure as error:
        return _finding(domain, Status.UNKNOWN, f"no answer: {error}", "ask again")
    return judge_mx(domain, exchangers, known)


def judge_mx(domain: str, exchangers: Sequence[MxRecord], known: dict[str, bool]) -> Finding:
    """`known` says of each host, or of the domain without any MX, whether it has an address."""
    null = [each for each in exchangers if not each.host]
    if null and len(exchangers) == 1:
        text = "a null MX: it says that it takes no mail (RFC 7505), so servers refuse mail from it"
        return _finding(domain, Status.FAIL, text, _MEND)
    if null:
        text = "a null MX beside others, which RFC 7505 forbids"
        return _finding(domain, Status.FAIL, text, "take the null MX away")
    if not exchangers:
        if not known.get(domain):
            return _finding(domain, Status.FAIL, "no MX, and no address either", _MEND)
        return _finding(domain, Status.WARN, "no MX: mail goes to the address of its name", _MEND)
    lost = [host for host, found in known.items() if not found]
    told = ", ".join(known)
    if len(lost) == len(known):
        return _finding(domain, Status.FAIL, f"no MX has an address: {told}", _MEND)
    if lost:
        text = f"MX without an address: {', '.join(lost)}"
        return _finding(domain, Status.WARN, text, "mend or drop these MX records")
    return _finding(domain, Status.PASS, told)


async def _has_address(lookup: Lookup, host: str) -> bool:
    return bool((await lookup(host, "A")).values or (await lookup(host, "AAAA")).values)


def _finding(domain: str, status: Status, text: str, mend: str = "") -> Finding:
    return Finding(Check.MX, domain, status, text, mend)
