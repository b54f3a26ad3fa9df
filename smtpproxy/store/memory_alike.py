"""A count of texts in memory, for tests and trials."""

from collections.abc import Collection
from datetime import datetime, timedelta

from smtpproxy.store.protocols import StoreUnavailable


class MemoryAlike:
    """An `AlikeLog` for one process. `fail_with` makes exact counts fail."""

    def __init__(self) -> None:
        self._sent: dict[bytes, dict[str, datetime]] = {}
        self.fail_with: str | None = None

    async def count(
        self, fingerprint: bytes, people: Collection[str], at: datetime, window: float, most: int
    ) -> int:
        if self.fail_with:
            raise StoreUnavailable(self.fail_with)
        sent = self._sent.setdefault(fingerprint, {})
        sent.update(dict.fromkeys(people, at))
        since = at - timedelta(seconds=window)
        return sum(1 for moment in sent.values() if moment > since)

    async def estimate(
        self, fingerprint: bytes, people: Collection[str], at: datetime, window: float, most: int
    ) -> int:
        return 0 if self.fail_with else await self.count(fingerprint, people, at, window, most)

    def close(self) -> None:
        self.fail_with = self.fail_with or "the count of texts is closed"
