"""Names of the sending addresses: PTR, and a name that leads back (forward-confirmed)."""

import ipaddress
from collections.abc import Mapping

from smtpproxy.doctor.finding import Check, Finding, Lookup, Status
from smtpproxy.doctor.spf import IpAddress
from smtpproxy.resolver import DnsFailure, Kind

_MEND = (
    "have whoever gave you the address name it (PTR) as the MTA greets, and give that name an"
    " A or AAAA record of the address"
)
_MOST = 10


async def ptr(lookup: Lookup, ip: IpAddress) -> Finding:
    try:
        names = (await lookup(ip.reverse_pointer, "PTR")).values[:_MOST]
        kind: Kind = "A" if ip.version == 4 else "AAAA"
        forward = {name: (await lookup(name, kind)).values for name in names}
    except DnsFailure as error:
        return Finding(Check.PTR, str(ip), Status.UNKNOWN, f"no answer: {error}", "ask again")
    return judge_ptr(ip, forward)


def judge_ptr(ip: IpAddress, forward: Mapping[str, tuple[str, ...]]) -> Finding:
    """`forward` has the addresses of each name that the address has."""
    if not forward:
        return Finding(Check.PTR, str(ip), Status.FAIL, "the address has no name (PTR)", _MEND)
    back = [name for name, values in forward.items() if ip in map(ipaddress.ip_address, values)]
    if not back:
        text = f"its name {', '.join(forward)} does not lead back to it"
        return Finding(Check.PTR, str(ip), Status.FAIL, text, _MEND)
    return Finding(Check.PTR, str(ip), Status.PASS, f"{back[0]}, which leads back")
