"""SPF of a domain: whether it names the addresses that its mail leaves from."""

import asyncio
import ipaddress
from collections.abc import Sequence

from smtpproxy.doctor.finding import Check, Finding, Lookup, Status
from smtpproxy.doctor.spf import LOOKUPS, Asked, IpAddress, Spf, SpfResult, check_host

STRANGER = ipaddress.ip_address("240.0.0.1")
"""Nobody can send from here (RFC 1112 section 4): who passes it lets everybody pass."""

_NEARLY = LOOKUPS - 1


async def spf(lookup: Lookup, domain: str, addresses: Sequence[IpAddress]) -> Finding:
    """Ask as receivers do, for mail whose reverse path is of `domain`."""
    asked = [Asked(ip, f"postmaster@{domain}", domain) for ip in (*addresses, STRANGER)]
    found = await asyncio.gather(*(check_host(lookup, each, domain) for each in asked))
    return judge_spf(domain, dict(zip(addresses, found, strict=False)), found[-1])


def judge_spf(domain: str, results: dict[IpAddress, Spf], stranger: Spf) -> Finding:
    """`results` are those of the sending addresses, `stranger` that of one that is nobody's."""
    first = next(iter(results.values()), stranger)
    lookups = max(each.lookups for each in (*results.values(), stranger))
    wrong = {ip: each for ip, each in results.items() if each.result is not SpfResult.PASS}
    if first.result is SpfResult.NONE:
        return _finding(domain, Status.FAIL, "no SPF record", _publish(list(results)))
    for each in (*results.values(), stranger):
        if each.result is SpfResult.PERMERROR:
            text = f"the record cannot be used (permerror): {each.problem}"
            return _finding(domain, Status.FAIL, text, _MEND_RECORD)
    for each in (*results.values(), stranger):
        if each.result is SpfResult.TEMPERROR:
            return _finding(domain, Status.UNKNOWN, f"no answer: {each.problem}", _ASK_AGAIN)
    if wrong:
        told = ", ".join(f"{ip} {each.result}" for ip, each in wrong.items())
        mend = f"add {' '.join(map(_mechanism, wrong))} to the record"
        return _finding(domain, Status.FAIL, f"not every sending address passes: {told}", mend)
    if stranger.result is SpfResult.PASS:
        text = f"every address there is passes ({stranger.term})"
        return _finding(domain, Status.WARN, text, "name the addresses, and end with -all or ~all")
    if not results:
        return _finding(domain, Status.UNKNOWN, "there is a record; " + NO_ADDRESSES, _NAME_THEM)
    told = f"{', '.join(map(str, results))} passes ({first.term}), with {lookups} lookups"
    if lookups > _NEARLY:
        return _finding(domain, Status.WARN, f"{told}, and {LOOKUPS} is the most", _MEND_RECORD)
    return _finding(domain, Status.PASS, told)


NO_ADDRESSES = "the addresses that mail leaves from are not known"
_NAME_THEM = "set sending_addresses in [doctor]"
_MEND_RECORD = (
    f"publish one record, of at most {LOOKUPS} terms that need the DNS: fewer include: and mx,"
    " more ip4: and ip6:"
)
_ASK_AGAIN = "look at the name servers of the domain, or ask again"


def _publish(addresses: list[IpAddress]) -> str:
    terms = " ".join(map(_mechanism, addresses)) or "ip4:ADDRESS"
    return f'publish TXT "v=spf1 {terms} -all"'


def _mechanism(ip: IpAddress) -> str:
    return f"ip{ip.version}:{ip}"


def _finding(domain: str, status: Status, text: str, mend: str = "") -> Finding:
    return Finding(Check.SPF, domain, status, text, mend)
