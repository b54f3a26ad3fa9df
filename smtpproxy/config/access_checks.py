"""Consistency of the keys for access: protocols, TLS, logins, trust.

A half-configured protection is a fault, never a weaker protection.
"""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from smtpproxy.settings import ListenerSettings
from smtpproxy.settings.places import address as read_address
from smtpproxy.settings.places import is_loopback
from smtpproxy.settings.places import network as read_network
from smtpproxy.toml import shown
from smtpproxy.toml_tables import Fault, keys_of, table, tables

Document = Mapping[str, Any]


def access_checks(document: Document) -> Iterator[Fault]:
    """Yield the faults in the keys for access."""
    users = "users" in table(document, "auth")
    certificates = any("certificate" in table for _, table in tables(document, "credential"))
    for index, listener in tables(document, "listener"):
        for key, text in (*_tls(listener), *_auth(listener, users, certificates)):
            yield Fault(("listener", index, key), text)
    yield from _protocols(document)
    yield from _trust(document)
    yield from _credentials(document)
    upstream = table(document, "upstream")
    if upstream.get("tls", "none") == "none":
        for key in ("ca_file", "tls_name"):
            if key in upstream:
                yield Fault(
                    ("upstream", key), 'does nothing without tls = "starttls" or "implicit"'
                )


def _tls(listener: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if listener.get("tls", "none") == "none":
        for key in ("certificate", "private_key", "client_ca"):
            if key in listener:
                yield key, 'does nothing without tls = "starttls" or "implicit"'
        if listener.get("require_tls") is True:
            yield "require_tls", 'nobody could send mail: set tls = "starttls" or "implicit"'
        return
    for key, example in (("certificate", "relay.pem"), ("private_key", "relay.key")):
        if key not in listener:
            yield key, f'missing; TLS needs it, for example {key} = "/etc/smtpproxy/{example}"'


def _auth(
    listener: Mapping[str, Any], users: bool, certificates: bool
) -> Iterator[tuple[str, str]]:
    auth = listener.get("auth", "off")
    without_tls = listener.get("auth_without_tls") is True
    if auth not in ("optional", "required"):
        if without_tls:
            yield "auth_without_tls", 'does nothing without auth = "optional" or "required"'
        return
    by_certificate = "client_ca" in listener and certificates
    if not users and not by_certificate:
        yield "auth", 'needs users, for example [auth] with users = "/etc/smtpproxy/users"'
    if listener.get("tls", "none") == "none" and not without_tls:
        yield (
            "auth",
            "would never be offered: passwords need TLS;"
            ' set tls = "starttls" or "implicit" (or auth_without_tls = true)',
        )


def _credentials(document: Document) -> Iterator[Fault]:
    seen: dict[tuple[str, str], int] = {}
    domains = {
        stream["name"]: stream.get("from_domains") or []
        for _, stream in tables(document, "stream")
        if isinstance(stream.get("name"), str)
    }
    for index, credential in tables(document, "credential"):
        keys = [key for key in ("user", "certificate") if isinstance(credential.get(key), str)]
        if len(keys) != 1 and not any(
            key in credential and key not in keys for key in ("user", "certificate")
        ):
            yield Fault(
                ("credential", index),
                'needs either user = "shop" or certificate = "SHA-256 fingerprint or subject"',
            )
        for key in keys:
            same = key, credential[key].replace(":", "").lower()
            if same in seen:
                text = f"{shown(credential[key])} is in credential[{seen[same]}] too"
                yield Fault(("credential", index, key), text)
            seen.setdefault(same, index)
        yield from _from_domains(index, credential, domains)


def _from_domains(
    index: int, credential: Mapping[str, Any], domains: Mapping[Any, Any]
) -> Iterator[Fault]:
    """Yield streams that share no domain with the credential: none of its mail could pass."""
    own, streams = credential.get("from_domains"), credential.get("streams")
    if not isinstance(own, list) or not own or not isinstance(streams, list):
        return
    for at, stream in enumerate(streams):
        theirs = domains.get(stream) if isinstance(stream, str) else None
        if isinstance(theirs, list) and theirs and not set(map(str, own)) & set(map(str, theirs)):
            yield Fault(
                ("credential", index, "streams", at),
                f"{shown(stream)} has other from_domains than this credential, so none of its"
                " mail could pass",
            )


_EVERYWHERE = frozenset(
    {
        "name",
        "protocol",
        "address",
        "streams",
        "default_stream",
        "max_connections",
        "max_connections_per_address",
        "connection_rate",
        "command_timeout",
        "data_timeout",
    }
)
_SMTP = frozenset(keys_of(ListenerSettings)) - {"origin"}
_ASKED = _EVERYWHERE | {"max_recipients", "max_refused_recipients", "origin", "login_trusted"}
_MEANINGFUL = {"smtp": _SMTP, "lmtp": _SMTP, "milter": _ASKED, "policy": _ASKED}


def _protocols(document: Document) -> Iterator[Fault]:
    """Yield the keys that are set but would do nothing."""
    for index, listener in tables(document, "listener"):
        protocol = listener.get("protocol", "smtp")
        meaningful = _MEANINGFUL.get(protocol) if isinstance(protocol, str) else None
        if meaningful is None:
            continue
        for key, known in keys_of(ListenerSettings).items():
            if key in meaningful or key not in listener or known.is_default(listener[key]):
                continue
            text = f'does nothing with protocol = "{protocol}": leave it out'
            yield Fault(("listener", index, key), text)


Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Networks = Sequence[tuple[int, Network | None]]
"""With their index in the list; None is `unix`."""

_KEYS = ("proxy_trusted", "xclient_trusted", "login_trusted")
_EVERY_HOST = 'covers every host: name those to be trusted, "10.0.0.5"'
ANSWERING = ("milter", "policy")
"""Protocols in which an MTA asks and keeps the mail."""


def _trust(document: Document) -> Iterator[Fault]:
    """Yield the faults in `proxy_trusted`, `xclient_trusted`, `login_trusted`, `web.trusted`."""
    users = any("user" in table for _, table in tables(document, "credential"))
    for index, listener in tables(document, "listener"):
        for location, text in _of_listener(listener, users):
            yield Fault(("listener", index, *location), text)
    if _is_everybody(_networks(table(document, "web"), "trusted")):
        yield Fault(("web", "trusted"), _EVERY_HOST)


def _of_listener(
    listener: Mapping[str, Any], users: bool
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    proxy, xclient, login = (_networks(listener, key) for key in _KEYS)
    for key, networks in zip(_KEYS, (proxy, xclient, login), strict=True):
        if _is_everybody(networks):
            yield (key,), _EVERY_HOST
    if listener.get("protocol", "smtp") in ANSWERING:
        if users and "login_trusted" not in listener and not _is_near(listener.get("address")):
            yield (
                ("login_trusted",),
                "missing; hosts on the network may reach this listener, and the login they"
                ' report chooses a [[credential]]: name the MTA, login_trusted = ["10.0.0.5"]',
            )
        return
    proxied = listener.get("proxy_protocol") is True
    if proxied and not listener.get("proxy_trusted"):
        yield (
            ("proxy_protocol",),
            "needs proxy_trusted, the balancers whose header is trusted, for example"
            ' proxy_trusted = ["10.0.0.5"]',
        )
    if proxy and not proxied:
        yield ("proxy_trusted",), "does nothing without proxy_protocol = true"
    for at, network in xclient if proxied else ():
        if any(_meet(network, other) for _, other in proxy):
            yield (
                ("xclient_trusted", at),
                f"{_shown(network)} is in proxy_trusted too: anyone who connects through that"
                " balancer could claim any identity by XCLIENT, without a password; give the"
                " hosts that send XCLIENT a separate listener",
            )
    for at, network in login:
        if not any(_within(network, other) for _, other in xclient):
            yield (
                ("login_trusted", at),
                f"{_shown(network)} is not in xclient_trusted, so it cannot report a login:"
                " add it there, or leave it out here",
            )


def _networks(listener: Mapping[str, Any], key: str) -> Networks:
    """The networks that can be read; the others are separate faults."""
    written = listener.get(key)
    found: list[tuple[int, Network | None]] = []
    for at, value in enumerate(written if isinstance(written, list) else ()):
        try:
            network = read_network(value)
        except ValueError:
            continue
        found.append((at, None if network == "unix" else ipaddress.ip_network(network)))
    return found


def _is_everybody(networks: Networks) -> bool:
    """Whether together they are all addresses of a family."""
    for version in (4, 6):
        of_family = [each for _, each in networks if each is not None and each.version == version]
        if any(each.prefixlen == 0 for each in ipaddress.collapse_addresses(of_family)):  # type: ignore[type-var]
            return True
    return False


def _meet(one: Network | None, other: Network | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.version == other.version and one.overlaps(other)


def _within(one: Network | None, other: Network | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.version == other.version and one.subnet_of(other)  # type: ignore[arg-type]


def _shown(network: Network | None) -> str:
    return shown("unix" if network is None else str(network))


def _is_near(address: object) -> bool:
    """Whether only this machine can reach it. An unreadable address is a separate fault."""
    try:
        return is_loopback(read_address(address))
    except ValueError:
        return True
