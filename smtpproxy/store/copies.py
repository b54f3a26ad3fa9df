"""Who has a copy already of a message whose client was asked to try again."""

from collections.abc import Callable, Collection
from typing import Protocol


class CopyLedger(Protocol):
    """Keeps forward paths by message, across workers and over a crash of the process.

    A message is its reverse path and the digest of its content, octet for octet as it came; it
    is asked for only where it matters. Entries end with the final answer to the client, and after
    the days for which mail servers retry. Methods raise StoreUnavailable, and what `digest` raises.
    """

    async def find(
        self, reverse_path: str, digest: Callable[[], bytes], forward_paths: Collection[str]
    ) -> frozenset[str]:
        """Return which of the forward paths have their copy."""
        ...

    async def note(self, reverse_path: str, digest: Callable[[], bytes], forward_path: str) -> None:
        """Keep that a forward path has its copy."""
        ...

    async def forget(
        self, reverse_path: str, digest: Callable[[], bytes], forward_paths: Collection[str]
    ) -> None:
        """The client has its final answer about these; others may be in another transaction."""
        ...

    def close(self) -> None: ...
