"""Hosts that send and receive: sending addresses and their names (PTR), and the MX of a domain."""

import contextlib
import ipaddress
from collections.abc import Mapping, Sequence
from functools import partial

from smtpproxy.doctor.finding import Check, Finding, Lookup, Status
from smtpproxy.doctor.spf_record import IpAddress
from smtpproxy.resolver import DnsFailure, Kind, MxRecord
from smtpproxy.settings import Settings, TcpAddress
from smtpproxy.settings.places import is_loopback

_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)


async def sending_addresses(settings: Settings, lookup: Lookup) -> tuple[IpAddress, ...]:
    """Return the addresses in `[doctor]`, otherwise those of the upstream's name, or of our own.

    A guess leaves out private addresses. Empty: not known.
    """
    if settings.doctor.sending_addresses:
        return tuple(map(ipaddress.ip_address, settings.doctor.sending_addresses))
    upstream = settings.upstream.address
    near = is_loopback(upstream)
    host = upstream.host if isinstance(upstream, TcpAddress) and not near else None
    return await _public_addresses(lookup, host or settings.server.hostname)


async def _public_addresses(lookup: Lookup, host: str) -> tuple[IpAddress, ...]:
    with contextlib.suppress(ValueError):
        ip = ipaddress.ip_address(host)
        return (ip,) if _is_public(ip) else ()
    try:
        values = (*(await lookup(host, "A")).values, *(await lookup(host, "AAAA")).values)
    except DnsFailure:
        return ()
    found = map(ipaddress.ip_address, values)
    return tuple(ip for ip in found if _is_public(ip))


def _is_public(ip: IpAddress) -> bool:
    if ip.is_loopback or ip.is_unspecified or ip.is_link_local:
        return False
    return not any(ip.version == network.version and ip in network for network in _PRIVATE)


_NAME_IT = (
    "have the provider of the address set its PTR to the name that the MTA greets with, and give"
    " that name an A or AAAA record with the address"
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
    """Judge the names of an address; `forward` has the addresses of each name."""
    if not forward:
        return Finding(Check.PTR, str(ip), Status.FAIL, "the address has no PTR record", _NAME_IT)
    back = [name for name, values in forward.items() if ip in map(ipaddress.ip_address, values)]
    if not back:
        text = f"its name {', '.join(forward)} does not resolve to the address"
        return Finding(Check.PTR, str(ip), Status.FAIL, text, _NAME_IT)
    return Finding(Check.PTR, str(ip), Status.PASS, f"{back[0]}, which resolves to the address")


_PUBLISH_MX = "publish MX records of hosts that accept its mail: bounces and replies go there"


async def mx(lookup: Lookup, domain: str) -> Finding:
    try:
        exchangers = (await lookup(domain, "MX")).exchangers
        hosts = [each.host for each in exchangers if each.host] or [domain]
        known = {host: await _has_address(lookup, host) for host in hosts[:20]}
    except DnsFailure as error:
        return _finding(domain, Status.UNKNOWN, f"no answer: {error}", "ask again")
    return judge_mx(domain, exchangers, known)


def judge_mx(domain: str, exchangers: Sequence[MxRecord], known: dict[str, bool]) -> Finding:
    """Judge MX records; `known`: whether each host, or without MX the domain, has an address."""
    null = [each for each in exchangers if not each.host]
    if null and len(exchangers) == 1:
        text = "a null MX: the domain accepts no mail (RFC 7505), so servers refuse mail from it"
        return _finding(domain, Status.FAIL, text, _PUBLISH_MX)
    if null:
        text = "a null MX beside other MX records, which RFC 7505 forbids"
        return _finding(domain, Status.FAIL, text, "remove the null MX")
    if not exchangers:
        if not known.get(domain):
            return _finding(domain, Status.FAIL, "no MX record and no address", _PUBLISH_MX)
        text = "no MX record: mail goes to the address of the domain itself"
        return _finding(domain, Status.WARN, text, _PUBLISH_MX)
    lost = [host for host, found in known.items() if not found]
    hosts = ", ".join(known)
    if len(lost) == len(known):
        return _finding(domain, Status.FAIL, f"no MX has an address: {hosts}", _PUBLISH_MX)
    if lost:
        text = f"MX without an address: {', '.join(lost)}"
        return _finding(domain, Status.WARN, text, "fix or remove these MX records")
    return _finding(domain, Status.PASS, hosts)


async def _has_address(lookup: Lookup, host: str) -> bool:
    return bool((await lookup(host, "A")).values or (await lookup(host, "AAAA")).values)


_finding = partial(Finding, Check.MX)
