"""Answers that are kept for whoever asks the same once more, not knowing whether it was done."""

from datetime import timedelta
from typing import Literal, Protocol

from msgspec import Struct

KEPT = timedelta(hours=24)
UNFINISHED = timedelta(minutes=10)
"""For so long whoever began is believed to be at it."""

MOST = 20_000
"""Answers that are kept: the oldest go first."""

Begun = Literal["new", "running", "other"]
"""Nobody asked that before; somebody just does; the key is that of another request."""


class KeptAnswer(Struct, frozen=True):
    body: bytes
    version: str | None = None  # of what it shows, if that has one


class KeptAnswers(Protocol):
    """Answers by token and key of the request. Methods raise StoreUnavailable.

    Power that fails loses some: then what is asked again is done again.
    """

    async def begin(self, token: str, key: str, asked: bytes) -> Begun | KeptAnswer:
        """Return the answer, or say what is to be done. After `new`, finish or forget."""
        ...

    async def finish(self, token: str, key: str, answer: KeptAnswer) -> None: ...

    async def forget(self, token: str, key: str) -> None:
        """It was not done: another try begins anew."""
        ...

    def close(self) -> None: ...
