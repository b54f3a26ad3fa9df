"""The addresses that mail leaves from, as the world sees them."""

import contextlib
import ipaddress

from smtpproxy.doctor.finding import Lookup
from smtpproxy.doctor.spf import IpAddress
from smtpproxy.doctor.upstream import is_local
from smtpproxy.resolver import DnsFailure
from smtpproxy.settings import Settings, TcpAddress

_INSIDE = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)


async def sending_addresses(settings: Settings, lookup: Lookup) -> tuple[IpAddress, ...]:
    """Return what `[doctor]` names, else what the upstream's name leads to, else our own.

    A guess leaves out addresses that nobody outside can see. Empty: not known.
    """
    if settings.doctor.sending_addresses:
        return tuple(map(ipaddress.ip_address, settings.doctor.sending_addresses))
    upstream = settings.upstream.address
    near = is_local(upstream)
    host = upstream.host if isinstance(upstream, TcpAddress) and not near else None
    return await _of(lookup, host or settings.server.hostname)


async def _of(lookup: Lookup, host: str) -> tuple[IpAddress, ...]:
    with contextlib.suppress(ValueError):
        ip = ipaddress.ip_address(host)
        return (ip,) if _is_seen(ip) else ()
    try:
        values = (*(await lookup(host, "A")).values, *(await lookup(host, "AAAA")).values)
    except DnsFailure:
        return ()
    found = map(ipaddress.ip_address, values)
    return tuple(ip for ip in found if _is_seen(ip))


def _is_seen(ip: IpAddress) -> bool:
    if ip.is_loopback or ip.is_unspecified or ip.is_link_local:
        return False
    return not any(ip.version == network.version and ip in network for network in _INSIDE)
