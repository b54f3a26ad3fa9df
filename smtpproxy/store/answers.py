"""Kept answers of the API, for clients that repeat a request because they missed the answer."""

from datetime import timedelta
from typing import Literal, Protocol

from msgspec import Struct

KEPT = timedelta(hours=24)
UNFINISHED = timedelta(minutes=10)
"""How long a request without an answer counts as running."""

MOST = 20_000
"""Answers kept; the oldest go first."""

RequestState = Literal["new", "running", "other"]
"""A new request; one that is running; another request already has the key."""


class KeptAnswer(Struct, frozen=True):
    body: bytes
    version: str | None = None  # of the object in it, if that has one


class KeptAnswers(Protocol):
    """Answers by token and key of the request. Methods raise StoreUnavailable.

    A power failure loses the last ones; repeated requests are then carried out again.
    """

    async def begin(self, token: str, key: str, asked: bytes) -> RequestState | KeptAnswer:
        """Return the kept answer, or the state. After `new`, call `finish` or `forget`."""
        ...

    async def finish(self, token: str, key: str, answer: KeptAnswer) -> None: ...

    async def forget(self, token: str, key: str) -> None:
        """Drop a request that was not carried out, so that it can be repeated."""
        ...

    def close(self) -> None: ...
