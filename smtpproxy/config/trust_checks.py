"""Who is believed about others, and whether that would let somebody in without a password."""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from smtpproxy.config import access_values, values
from smtpproxy.config.faults import Fault
from smtpproxy.config.tables import tables
from smtpproxy.settings import TcpAddress

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Networks = Sequence[tuple[int, Network | None]]
"""By their place in the list; None is `unix`."""

_KEYS = ("proxy_trusted", "xclient_trusted", "login_trusted")
_MTAS = ("milter", "policy")


def trust_checks(document: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield the faults in `proxy_trusted`, `xclient_trusted` and `login_trusted`."""
    users = any("user" in table for _, table in tables(document, "credential"))
    for index, listener in tables(document, "listener"):
        for location, text in _of_listener(listener, users):
            yield Fault(("listener", index, *location), text)


def _of_listener(
    listener: Mapping[str, Any], users: bool
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    proxy, xclient, login = (_networks(listener, key) for key in _KEYS)
    for key, networks in zip(_KEYS, (proxy, xclient, login), strict=True):
        if _is_everybody(networks):
            yield (key,), 'is every host there is: name those that are believed, "10.0.0.5"'
    if listener.get("protocol", "smtp") in _MTAS:
        if users and "login_trusted" not in listener and not _is_near(listener.get("address")):
            yield (
                ("login_trusted",),
                "missing; hosts on the network may reach this listener, and the login that they"
                ' tell chooses a [[credential]]: name the MTA, login_trusted = ["10.0.0.5"]',
            )
        return
    proxied = listener.get("proxy_protocol") is True
    if proxied and not listener.get("proxy_trusted"):
        yield (
            ("proxy_protocol",),
            "needs proxy_trusted, the balancers whose header is believed,"
            ' for example proxy_trusted = ["10.0.0.5"]',
        )
    if proxy and not proxied:
        yield ("proxy_trusted",), "does nothing without proxy_protocol = true"
    for at, network in xclient if proxied else ():
        if any(_meet(network, other) for _, other in proxy):
            yield (
                ("xclient_trusted", at),
                f"{_shown(network)} is in proxy_trusted too: whoever connects through that balancer"
                " could say by XCLIENT who they are, without a password; give the hosts that"
                " send XCLIENT a listener of their own",
            )
    for at, network in login:
        if not any(_within(network, other) for _, other in xclient):
            yield (
                ("login_trusted", at),
                f"{_shown(network)} is not in xclient_trusted, so it cannot tell a login:"
                " add it there, or leave it out here",
            )


def _networks(listener: Mapping[str, Any], key: str) -> Networks:
    """Those that can be read; the others are faults of their own."""
    written = listener.get(key)
    found: list[tuple[int, Network | None]] = []
    for at, value in enumerate(written if isinstance(written, list) else ()):
        try:
            network = access_values.network(value)
        except ValueError:
            continue
        found.append((at, None if network == "unix" else ipaddress.ip_network(network)))
    return found


def _is_everybody(networks: Networks) -> bool:
    """Whether they are, together, all addresses of a family."""
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
    return values.shown("unix" if network is None else str(network))


def _is_near(address: object) -> bool:
    """Whether only this machine reaches it. What cannot be read is a fault of its own."""
    try:
        found = values.address(address)
    except ValueError:
        return True
    if not isinstance(found, TcpAddress) or found.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(found.host).is_loopback
    except ValueError:
        return False
