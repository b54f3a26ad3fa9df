"""How often somebody may fail to prove who they are, by address and by user."""

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

_REMEMBERED = 20_000
"""Addresses and users whose failures are kept; the oldest are forgotten first."""

Barred = Literal["address", "user"]


class Attempts:
    """Counts failures within a window.

    A user's own addresses, where they have succeeded within the last day, are not barred by
    failures from elsewhere: else anybody could lock the user out.
    """

    def __init__(
        self, *, per_address: int, per_user: int, window: float, now: Callable[[], float]
    ) -> None:
        self._per_address = per_address
        self._per_user = per_user
        self._window = window
        self._now = now
        self._addresses: OrderedDict[str, list[float]] = OrderedDict()
        self._users: OrderedDict[str, list[float]] = OrderedDict()
        self._succeeded: OrderedDict[tuple[str, str], float] = OrderedDict()

    def barred(self, address: str, user: str | None = None) -> Barred | None:
        """Why the next attempt may not even be looked at, or None."""
        network = network_of(address)
        if self._recent(self._addresses, network) >= self._per_address:
            return "address"
        if user is None or self._recent(self._users, user) < self._per_user:
            return None
        at = self._succeeded.get((user, network))
        return None if at is not None and self._now() - at < 86_400 else "user"

    def failed(self, address: str, user: str | None) -> None:
        self._note(self._addresses, network_of(address), self._per_address)
        if user is not None:
            self._note(self._users, user, self._per_user)

    def succeeded(self, address: str, user: str) -> None:
        key = user, network_of(address)
        self._succeeded[key] = self._now()
        self._succeeded.move_to_end(key)
        if len(self._succeeded) > _REMEMBERED:
            self._succeeded.popitem(last=False)

    def _recent(self, failures: OrderedDict[str, list[float]], key: str) -> int:
        since = self._now() - self._window
        return sum(at > since for at in failures.get(key, ()))

    def _note(self, failures: OrderedDict[str, list[float]], key: str, limit: int) -> None:
        times = failures.setdefault(key, [])
        times.append(self._now())
        del times[:-limit]
        failures.move_to_end(key)
        if len(failures) > _REMEMBERED:
            failures.popitem(last=False)


def network_of(address: str) -> str:
    """Return by what a client counts: an IPv6 client has a whole /64 to itself."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network(f"{address.partition('%')[0]}/64", strict=False))
    except ValueError:
        return address
