"""Which hosts are believed: by the address of the socket's peer, never by one that was named."""

import ipaddress
from collections.abc import Sequence


class TrustedHosts:
    """The networks of one of a listener's `…_trusted`; "unix" stands for its UNIX socket."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._unix = "unix" in networks
        self._networks = [ipaddress.ip_network(each) for each in networks if each != "unix"]

    def __contains__(self, peer: str) -> bool:
        """`peer` is an IP address, or "unix"."""
        if peer == "unix":
            return self._unix
        try:
            address = ipaddress.ip_address(peer.partition("%")[0])
        except ValueError:
            return False
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        address = mapped or address
        return any(
            address in network for network in self._networks if network.version == address.version
        )
