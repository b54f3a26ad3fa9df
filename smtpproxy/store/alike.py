"""How many people were sent one text: what undeclared bulk is told by."""

from collections.abc import Collection
from datetime import datetime
from typing import Protocol


class AlikeLog(Protocol):
    """Counts people by the fingerprint of what they are sent, across workers."""

    def close(self) -> None: ...

    async def count(
        self, fingerprint: bytes, people: Collection[str], at: datetime, window: float, most: int
    ) -> int:
        """Count a text for canonical addresses; return to how many people it went, these among
        them, within `window` seconds.

        Exact up to `most`; beyond it only that it is more. The same person counts once. One step
        for all workers. Raises StoreUnavailable.
        """
        ...

    async def estimate(
        self, fingerprint: bytes, people: Collection[str], at: datetime, window: float, most: int
    ) -> int:
        """The same, cheaper: what other workers counted may be some seconds old.

        It never fails: what cannot be read or written is not counted.
        """
        ...
