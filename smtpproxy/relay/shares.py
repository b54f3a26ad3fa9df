"""Who may have a connection to the upstream: only so many at once, and no client gets them all.

Clients are identified by address. One may hold `max_connections_per_address`; if all are in use,
the waiting clients take turns, however many messages each has waiting.
"""

import asyncio
import contextlib
from collections import deque

from smtpproxy.mail.reply import Reply
from smtpproxy.relay.connection import UpstreamError
from smtpproxy.settings import UpstreamSettings


class UpstreamBusy(UpstreamError):
    """All connections are in use, and none became free in time."""

    reply = Reply.of(451, "4.4.5", "too many messages under way; try later")


class UpstreamShareUsed(UpstreamBusy):
    """The client's own messages hold as many connections as one client may."""

    reply = Reply.of(451, "4.4.5", "too many messages of this client under way; try later")


class Shares:
    """Slots, one for each message that has or awaits a connection."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self._most, self._share = settings.max_connections, settings.share
        self._wait_timeout = settings.wait_timeout
        self.taken = 0
        self._held: dict[str, int] = {}  # slots in use, by client
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # the next client comes first

    @property
    def waiting(self) -> int:
        """How many messages are waiting for a slot."""
        return sum(map(len, self._waiting.values()))

    @property
    def all_taken(self) -> bool:
        return self.taken >= self._most

    def take(self, client: str) -> bool:
        """Take a slot if `client` may have one now; empty: the relay itself, which has no share."""
        held = self._held.get(client, 0)
        if self.taken >= self._most or client in self._waiting or (client and held >= self._share):
            return False
        self.taken += 1
        self._held[client] = held + 1
        return True

    async def wait(self, client: str) -> None:
        """Wait for a slot, which `_serve` takes for us. Raises UpstreamBusy."""
        slot: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(slot)
        try:
            async with asyncio.timeout(self._wait_timeout):
                await slot
        except BaseException as error:
            if slot.done() and not slot.cancelled():
                self.free(client)  # it arrived just now
            else:
                self._forget(client, slot)
            if isinstance(error, TimeoutError):
                raise self._refusal(client) from None
            raise

    def free(self, client: str) -> None:
        """Release a slot directly to a waiting message, so that nobody jumps the queue."""
        self.taken -= 1
        left = self._held.pop(client) - 1
        if left:
            self._held[client] = left
        if self._waiting and self.taken < self._most:
            self._serve()

    def _serve(self) -> None:
        """Give a slot to the next message that may have one; clients take turns."""
        while (client := next(filter(self._may_have, self._waiting), None)) is not None:
            queue = self._waiting.pop(client)
            slot = queue.popleft()
            given = not slot.done() and self.take(client)  # otherwise it is just giving up
            if queue:
                self._waiting[client] = queue  # behind all others
            if given:
                slot.set_result(None)
                return

    def _may_have(self, client: str) -> bool:
        return not client or self._held.get(client, 0) < self._share

    def _forget(self, client: str, slot: asyncio.Future[None]) -> None:
        queue = self._waiting.get(client, deque())
        with contextlib.suppress(ValueError):
            queue.remove(slot)
        if not queue:
            self._waiting.pop(client, None)

    def _refusal(self, client: str) -> UpstreamBusy:
        if self._may_have(client):
            return UpstreamBusy(f"{self.taken} connections in use")
        return UpstreamShareUsed(f"{self._held.get(client, 0)} connections in use by one client")
