"""How often a token of the API, or the link of a mail, may be used."""

from collections import OrderedDict
from collections.abc import Callable

PER_MINUTE = 10  # uses of one link
_LINKS = 10_000  # whose rates are remembered


class Bucket:
    """Lets `per_minute` requests through a minute; all of them at once if none came before."""

    def __init__(self, per_minute: int) -> None:
        self._size = float(per_minute)
        self._left = float(per_minute)
        self._seen = 0.0

    @property
    def left(self) -> int:
        """How many may come at once, as of the last that came."""
        return int(self._left)

    def take(self, now: float) -> float:
        """Take one (0.0), or return in how many seconds there will be one."""
        self._left = min(self._size, self._left + (now - self._seen) * self._size / 60)
        self._seen = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return self.wait

    @property
    def wait(self) -> float:
        """Return in how many seconds, as of the last that came, there will be one."""
        return max(0.0, (1 - self._left) * 60 / self._size)


class LinkRates:
    """How often each link was used. `clock` is in seconds and never goes back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def too_often(self, token: str) -> bool:
        """Only someone with a link can use up its rate, so nobody can use up another's."""
        bucket = self._buckets.pop(token, None) or Bucket(PER_MINUTE)
        self._buckets[token] = bucket
        if len(self._buckets) > _LINKS:
            self._buckets.popitem(last=False)
        return bucket.take(self._clock()) > 0
