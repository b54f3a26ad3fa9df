"""Rate limits for API tokens and links in mail, and the address of a client behind proxies."""

import ipaddress
from collections import OrderedDict
from collections.abc import Callable

PER_MINUTE = 10  # uses of one link
_LINKS = 10_000  # remembered
_HOPS = 20  # of X-Forwarded-For that are read


class Bucket:
    """A token bucket: `per_minute` requests a minute, as many at once after a pause."""

    def __init__(self, per_minute: int) -> None:
        self._size = float(per_minute)
        self._left = float(per_minute)
        self._seen = 0.0

    @property
    def left(self) -> int:
        """How many may come at once, as of the last request."""
        return int(self._left)

    def take(self, now: float) -> float:
        """Take one and return 0.0, or return the seconds until one is available."""
        self._left = min(self._size, self._left + (now - self._seen) * self._size / 60)
        self._seen = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return self.wait

    @property
    def wait(self) -> float:
        """The seconds until one is available, as of the last request."""
        return max(0.0, (1 - self._left) * 60 / self._size)


class LinkRates:
    """The use of each link. `clock`: monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def too_often(self, token: str) -> bool:
        """Count a use of a link, and return whether it is above its rate.

        Only someone who has a link can exhaust its rate.
        """
        bucket = self._buckets.pop(token, None) or Bucket(PER_MINUTE)
        self._buckets[token] = bucket
        if len(self._buckets) > _LINKS:
            self._buckets.popitem(last=False)
        return bucket.take(self._clock()) > 0


def forwarded_client(header: str, trusts: Callable[[str], bool]) -> str | None:
    """Return the last address in X-Forwarded-For that is not a trusted proxy's, if any."""
    for hop in reversed(header.rsplit(",", _HOPS)[-_HOPS:]):
        try:
            address = str(ipaddress.ip_address(hop.strip()))
        except ValueError:
            return None
        if not trusts(address):
            return address
    return None
