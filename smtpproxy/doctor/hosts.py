"""Hosts that send and receive: sending addresses and their names (PTR), the MX of a domain, and the
MTA behind the relay: whether it greets, and whether its TLS is valid."""

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from msgspec import Struct

from smtpproxy.doctor.finding import Check, Finding, Lookup, Status
from smtpproxy.doctor.machine import days_left, judge_days
from smtpproxy.doctor.spf_record import IpAddress
from smtpproxy.resolver import DnsFailure, Kind, MxRecord
from smtpproxy.settings import Settings, TcpAddress, UnixAddress, UpstreamSettings
from smtpproxy.settings.places import is_loopback
from smtpproxy.tls import TlsError, client_context
from smtpproxy.wire.client import Capabilities, ReplyError, ReplyReader

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
        return _finding(
            domain,
            Status.WARN,
            "no MX record: mail goes to the address of the domain itself",
            _PUBLISH_MX,
        )
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


_READ = 65_536


class UpstreamSeen(Struct, frozen=True):
    """What one connection showed. `failure`: why it ended early; `untrusted`: why TLS failed."""

    failure: str = ""
    protocol: str = ""  # of TLS, empty without TLS
    untrusted: str = ""
    expires: datetime | None = None


async def upstream(settings: UpstreamSettings, hostname: str, now: datetime) -> Finding:
    """Connect, send EHLO, STARTTLS and QUIT, and judge the answers. No mail is sent."""
    return judge_upstream(settings, await look(settings, hostname), now)


async def look(settings: UpstreamSettings, hostname: str) -> UpstreamSeen:
    """Look at the upstream; never raises for what it does. Bounded by the caller's timeout."""
    try:
        context = client_context(settings.ca_file)
        conversation = await _Conversation.open(settings, context)
    except TlsError as error:
        return UpstreamSeen(failure=str(error))
    except ssl.SSLError as error:
        return UpstreamSeen(untrusted=_reason(error))
    except OSError as error:
        return UpstreamSeen(failure=f"no connection to {settings.address}: {error}")
    try:
        return await conversation.hold(settings, context, hostname)
    except (OSError, EOFError, ReplyError) as error:
        return UpstreamSeen(failure=f"{settings.address} went away: {error or 'closed'}")
    finally:
        conversation.close()


def judge_upstream(settings: UpstreamSettings, seen: UpstreamSeen, now: datetime) -> Finding:
    """Require valid TLS if mail leaves this machine on its way to the MTA."""
    address = str(settings.address)
    if seen.failure:
        return _upstream_finding(
            address, Status.FAIL, seen.failure, "start the MTA, or fix [upstream]"
        )
    near, asked = is_loopback(settings.address), settings.tls != "none"
    if near and not asked:
        text = "it greets, and mail to it does not leave this machine"
        return _upstream_finding(address, Status.PASS, text)
    if seen.untrusted:
        text = f"its certificate is not valid for {_name(settings)}: {seen.untrusted}"
        fix = "give it a valid one, or set ca_file or tls_name in [upstream]"
        status = Status.FAIL if asked else Status.WARN
        return _upstream_finding(address, status, text, fix)
    if not seen.protocol:
        if asked:
            fix = "have the MTA offer STARTTLS; until then nothing is relayed"
            return _upstream_finding(address, Status.FAIL, "it does not offer STARTTLS", fix)
        fix = 'have the MTA offer it, and set tls = "starttls" in [upstream]'
        return _upstream_finding(address, Status.FAIL, "mail goes to it in the clear", fix)
    status, validity, fix = judge_days(days_left(seen.expires, now))
    text = f"{seen.protocol}, {validity}"
    if not asked and status is Status.PASS:
        fix = 'set tls = "starttls" in [upstream]'
        return _upstream_finding(
            address, Status.WARN, f"{text}; but the relay does not require it", fix
        )
    return _upstream_finding(address, status, text, fix)


class _Conversation:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._replies = ReplyReader()

    @classmethod
    async def open(cls, settings: UpstreamSettings, context: ssl.SSLContext) -> "_Conversation":
        address = settings.address
        tls = context if settings.tls == "implicit" else None
        name = _name(settings) if tls else None
        if isinstance(address, UnixAddress):
            path = str(address.path)
            return cls(*await asyncio.open_unix_connection(path, ssl=tls, server_hostname=name))
        host, port = address.host, address.port
        return cls(*await asyncio.open_connection(host, port, ssl=tls, server_hostname=name))

    async def hold(
        self, settings: UpstreamSettings, context: ssl.SSLContext, hostname: str
    ) -> UpstreamSeen:
        code, text, _ = await self._reply()
        if code != 220:
            return UpstreamSeen(failure=f"it greets with {code} {text}")
        code, text, capabilities = await self._say(f"EHLO {hostname}")
        if code != 250:
            return UpstreamSeen(failure=f"it answers EHLO with {code} {text}")
        offered = "STARTTLS" in capabilities.keywords
        if settings.tls != "implicit" and offered:
            code, text, _ = await self._say("STARTTLS")
            if code != 220:
                return UpstreamSeen(failure=f"it answers STARTTLS with {code} {text}")
            try:
                await self._writer.start_tls(context, server_hostname=_name(settings))
            except ssl.SSLError as error:
                return UpstreamSeen(untrusted=_reason(error))
        seen = self._seen()
        self._writer.write(b"QUIT\r\n")
        return seen

    def _seen(self) -> UpstreamSeen:
        tls = self._writer.get_extra_info("ssl_object")
        if tls is None:
            return UpstreamSeen()
        seconds = ssl.cert_time_to_seconds(tls.getpeercert()["notAfter"])
        expires = datetime.fromtimestamp(seconds, UTC)
        return UpstreamSeen(protocol=tls.version(), expires=expires)

    async def _say(self, line: str) -> tuple[int, str, Capabilities]:
        self._writer.write(f"{line}\r\n".encode())
        return await self._reply()

    async def _reply(self) -> tuple[int, str, Capabilities]:
        while True:
            data = await self._reader.read(_READ)
            if not data:
                raise EOFError("connection closed")
            for reply in self._replies.receive_data(data):
                return reply.code, reply.lines[0][:80], Capabilities.of(reply)

    def close(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.close()


def _name(settings: UpstreamSettings) -> str:
    address = settings.address
    if settings.tls_name is not None:
        return settings.tls_name
    return "localhost" if isinstance(address, UnixAddress) else address.host


def _reason(error: ssl.SSLError) -> str:
    return getattr(error, "verify_message", "") or error.reason or str(error)


_upstream_finding = partial(Finding, Check.UPSTREAM)
