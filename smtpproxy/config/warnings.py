"""What is allowed in a configuration but may not be what somebody meant."""

import ipaddress
from collections.abc import Iterator

from smtpproxy.config import content, dkim, propagation
from smtpproxy.policy.model import DEFAULT_STREAM, Basis, Mode, Stream, StreamClass
from smtpproxy.settings import Address, ListenerSettings, Settings, UnixAddress

RFC_RECIPIENTS = 100  # RFC 5321 4.5.3.1.8
RFC_MESSAGE_OCTETS = 64 * 1024  # RFC 5321 4.5.3.1.7


def warnings(settings: Settings) -> list[str]:
    """Return what deserves a second look, each as `key.path: what and why`."""
    found = [*_server(settings)]
    for listener in settings.listeners:
        found += _listener(listener)
        if listener.protocol in ("milter", "policy") and listener.origin is None:
            found.append(
                f'listener "{listener.name}".origin: not set, so an address without a domain is'
                " refused here: give the MTA's own domain (Postfix: myorigin)"
            )
        if listener.protocol == "policy":
            found += _policy_listener(listener, settings)
    if settings.web is None:
        found.append("web: not set, so there are no metrics, health checks or unsubscribe pages")
    elif _public(settings.web.address):
        found.append(f"web.address: {settings.web.address} can be reached from outside")
    found += [*_streams(settings), *_sender_rules(settings), *propagation.warnings(settings)]
    return [*found, *dkim.warnings(settings), *content.warnings(settings)]


def _server(settings: Settings) -> Iterator[str]:
    server = settings.server
    if "." not in server.hostname:
        yield f'server.hostname: "{server.hostname}" is not a full name; other servers may mind'
    if server.data_size_limit < RFC_MESSAGE_OCTETS:
        yield "server.data_size_limit: below the 64 KiB that RFC 5321 asks for"


def _listener(listener: ListenerSettings) -> Iterator[str]:
    where = f'listener "{listener.name}"'
    if _public(listener.address) and listener.auth != "required":
        yield (
            f"{where}.address: {listener.address} can be reached from outside, and whoever"
            " reaches it may send: guard the port"
        )
    if listener.auth_without_tls and not _loopback(listener.address):
        yield f"{where}.auth_without_tls: passwords cross the network readable"
    if listener.tls == "starttls" and not listener.require_tls and listener.auth != "required":
        yield f"{where}.require_tls: not set, so clients may send in clear although TLS is offered"
    yield from _trusted(listener)
    if not listener.streams:
        yield (
            f"{where}.streams: none, so all its mail is on the stream {DEFAULT_STREAM.name}"
            f" (marketing, purpose {DEFAULT_STREAM.purpose})"
        )
    if listener.max_recipients < RFC_RECIPIENTS:
        yield f"{where}.max_recipients: below the 100 that RFC 5321 asks for"


def _trusted(listener: ListenerSettings) -> Iterator[str]:
    where = f'listener "{listener.name}"'
    if listener.proxy_protocol and listener.xclient_trusted:
        yield f"{where}.xclient_trusted: XCLIENT is never offered behind a PROXY header"
    for each in listener.login_trusted or ():
        if each != "unix" and not _single(ipaddress.ip_network(each)):
            yield (
                f"{where}.login_trusted: whoever takes an address of {each} needs no password:"
                " name single hosts"
            )


def _single(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    return network.num_addresses == 1 or network.is_loopback


def _policy_listener(listener: ListenerSettings, settings: Settings) -> Iterator[str]:
    """What a listener cannot do that sees no header and no content."""
    where = f'listener "{listener.name}".streams'
    names = dict.fromkeys((listener.default_stream or DEFAULT_STREAM.name, *listener.streams))
    if len(names) > 1:
        yield (
            f"{where}: a policy listener does not see the stream header, so that only those are"
            " refused whom every stream refuses: give it one stream, or sender rules"
        )
    for stream in [settings.streams[name] for name in names if name in settings.streams]:
        if stream.counts_mailings:
            yield (
                f'{where}: a policy listener does not count mail, so "{stream.name}" has no'
                " frequency cap and no notice in first messages there"
            )
        if stream.refuse_at_data:
            yield (
                f"{where}: a policy listener refuses at RCPT, whatever refuse_at of"
                f' "{stream.name}" says'
            )


def _streams(settings: Settings) -> Iterator[str]:
    usable = {DEFAULT_STREAM.name}.union(*(listener.streams for listener in settings.listeners))
    observing = settings.policy.mode is Mode.OBSERVE
    if observing:
        yield 'policy.mode: "observe", so mail that should be refused passes'
    for stream in settings.streams.values():
        where = f'stream "{stream.name}"'
        if stream.mode is Mode.OBSERVE and not observing:
            yield f'{where}.mode: "observe", so its mail that should be refused passes'
        if _needs_no_agreement(stream, settings):
            yield (
                f'{where}.rulebook: "{stream.rulebook}" has the basis opt_out, so mail passes to'
                " everybody who has not objected"
            )
        if stream.paused:
            yield f"{where}.paused: its marketing mail is deferred until it is no longer paused"
        if stream.unsubscribe_scope is not None and not _signs(stream, settings):
            yield (
                f'{where}.unsubscribe: "add", and no [[dkim]] key signs its mail: providers show'
                " their button only where a signature covers the fields (RFC 8058 section 4);"
                " have the MTA behind sign them"
            )
        if stream.name not in usable:
            yield f"{where}: no listener may use it"


def _signs(stream: Stream, settings: Settings) -> bool:
    return any(not key.streams or stream.name in key.streams for key in settings.dkim)


def _needs_no_agreement(stream: Stream, settings: Settings) -> bool:
    marketing = stream.stream_class is StreamClass.MARKETING
    return marketing and Basis.OPT_OUT in settings.rulebooks[stream.rulebook].bases


def _sender_rules(settings: Settings) -> Iterator[str]:
    for rule in settings.sender_rules:
        if not any(set(rule.streams) & set(listener.streams) for listener in settings.listeners):
            yield f'sender "{rule.sender}": no listener may use any of its streams'


def _loopback(address: Address) -> bool:
    if isinstance(address, UnixAddress) or address.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return False


def _public(address: Address) -> bool:
    """Whether the address is all of this machine's, or one of the public internet."""
    if isinstance(address, UnixAddress):
        return False
    try:
        ip = ipaddress.ip_address(address.host)
    except ValueError:
        return False
    return ip.is_unspecified or ip.is_global
