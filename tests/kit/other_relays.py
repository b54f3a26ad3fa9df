"""Other relays of a store, which answer about messages as a test says."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from smtpproxy.store.feedback import SentMessage
from smtpproxy.store.journals import AskedMessages


class OtherRelays(AskedMessages):
    """Answers at once with what a test gave it."""

    def __init__(self) -> None:
        self.told: dict[str, SentMessage] = {}
        self.open: set[str] = set()
        self.failure: Exception | None = None

    async def ask(self, ids: Collection[str], at: datetime) -> Mapping[str, SentMessage]:
        if self.failure is not None:
            raise self.failure
        self.open.update(ids)
        return {id: self.told[id] for id in ids if id in self.told}

    async def used(self, ids: Collection[str]) -> None:
        self.open.difference_update(ids)

    async def asked(self, relay: str, limit: int) -> Sequence[str]:
        raise AssertionError

    async def answer(
        self, relay: str, messages: Mapping[str, SentMessage | None], at: datetime
    ) -> None:
        raise AssertionError

    async def forget(self, now: datetime) -> None:
        raise AssertionError

    def close(self) -> None: ...
