"""How many connections a listener takes, in all and from one address (IPv6: one /64)."""

from collections import Counter
from typing import Literal

from smtpproxy.auth.authenticator import network_of
from smtpproxy.settings import ListenerSettings

Refusal = Literal["limit", "address_limit", "rate", "draining"]
"""Why a connection is not taken."""


class ConnectionLimits:
    """Counts the open connections of one listener in one worker."""

    def __init__(self, settings: ListenerSettings, workers: int) -> None:
        self.total = _share(settings.max_connections, workers)
        self._each = _share(settings.max_connections_per_address, workers)
        self._by_address: Counter[str] = Counter()
        self.open = 0

    def refusal(self, peer: str) -> Literal["limit", "address_limit"] | None:
        """Why another connection from `peer` cannot be taken, or None."""
        if self.open >= self.total:
            return "limit"
        if self._by_address[network_of(peer)] >= self._each:
            return "address_limit"
        return None

    def opened(self, peer: str) -> None:
        self.open += 1
        self._by_address[network_of(peer)] += 1

    def closed(self, peer: str) -> None:
        self.open -= 1
        network = network_of(peer)
        self._by_address[network] -= 1
        if not self._by_address[network]:
            del self._by_address[network]


def _share(limit: int, workers: int) -> int:
    """A worker's part, rounded up: workers share a port but not their counts."""
    return -(-limit // workers)
