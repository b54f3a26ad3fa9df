"""The connections to the upstream: opened on demand, kept while idle, counted.

A message takes the first connection that opens or comes back: an MTA with a short queue for new
connections may not greet on some of them for minutes, while it answers on others, and one with a
limit of its own refuses the rest.
"""

import asyncio
from collections import Counter

from smtpproxy.relay.connecting import Connector
from smtpproxy.relay.connection import (
    UpstreamConnection,
    UpstreamError,
    UpstreamFull,
    UpstreamLost,
    UpstreamUnreachable,
)
from smtpproxy.relay.shares import Shares, UpstreamBusy
from smtpproxy.relay.upstream_limit import GREETED_WITHIN, MORE_EVERY, UpstreamLimit, Workers
from smtpproxy.settings import UpstreamSettings
from smtpproxy.waiting import Deadlines
from smtpproxy.wire.commands import ClientInfo

_AT_A_TIME = 8  # connections being opened: the upstream's queue for new ones may be short


class _Wanted(asyncio.Future[UpstreamConnection]):
    """The connection for a message that has a slot: any that comes, or only a `fresh` one."""

    def __init__(self, since: float, fresh: bool) -> None:
        super().__init__()
        self.since = since
        self.fresh = fresh


class UpstreamPool:
    """Hands out live connections, the most recently used first."""

    def __init__(
        self,
        settings: UpstreamSettings,
        hostname: str,
        deadlines: Deadlines,
        replies: Counter[int],
        workers: Workers | None = None,
    ) -> None:
        """`replies` counts the upstream's by the first digit of their code; 0: none came."""
        self.settings = settings
        self.deadlines = deadlines
        self._shares = Shares(settings)
        self._limit = UpstreamLimit(
            settings.max_connections, workers or Workers.alone(deadlines.now), deadlines.now
        )
        self._surplus = 0  # connections that another worker is to have
        self._hostname = hostname
        self._connector = Connector(settings, hostname, deadlines, replies)
        self._idle: list[UpstreamConnection] = []  # all of them alive
        self._lent = 0  # those that messages have
        self._wanted: dict[_Wanted, None] = {}  # by messages with a slot, the next first
        self._opening: dict[asyncio.Task[UpstreamConnection], float] = {}  # since when, in order
        self._again: asyncio.TimerHandle | None = None
        self._trimmer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def busy(self) -> int:
        """How many messages have a connection or a right to the next."""
        return self._shares.taken

    @property
    def in_use(self) -> int:
        """How many connections messages have."""
        return self._lent

    @property
    def waiting(self) -> int:
        """How many messages are waiting for a connection."""
        return self._shares.waiting + self.busy - self._lent

    @property
    def saturated(self) -> bool:
        """Whether a message is waiting for a connection, and no more may be opened."""
        if len(self._still_waiting()) > len(self._opening):
            return self._open + len(self._opening) >= self._limit()
        return self._shares.all_taken and self._shares.waiting > 0

    def acquire_idle(self, client: str) -> UpstreamConnection | None:
        """Return a connection if one is ready for `client`; otherwise use `acquire`."""
        idle = self._idle
        if not idle or not self._shares.take(client):
            return None
        self._lent += 1
        connection = idle.pop()
        connection.client = client
        return connection

    async def acquire(self, client: str = "", *, fresh: bool = False) -> UpstreamConnection:
        """Return a connection that has greeted us, for use by `client`; empty: the relay itself.

        `fresh`: do not take an idle one. Raises UpstreamError.
        """
        if not self._shares.take(client):
            await self._shares.wait(client)
        try:
            connection = await self._next(fresh)
        except BaseException:
            self._shares.free(client)
            raise
        connection.client = client
        return connection

    async def introduce(self, connection: UpstreamConnection, client: ClientInfo) -> None:
        """Make a connection that of the client named by XCLIENT. Raises UpstreamError."""
        await connection.introduce(client, self._hostname, self.settings.command_timeout)

    def release(self, connection: UpstreamConnection) -> None:
        """Take back a connection, for further use if it is alive."""
        self._lent -= 1
        if connection.private or self._surplus:
            connection.quit()
            self._surplus = max(self._surplus - 1, 0)
        elif connection.alive:
            self._hand_out(connection)
        self._shares.free(connection.client)
        if not connection.alive:
            self._limit.ended()
            self._open_more()

    def make_room(self) -> None:
        """Give up connections that another worker needs more; to be called every second."""
        self._surplus = self._limit.surplus(
            self._open, len(self._idle), self.waiting > 0, self._surplus
        )
        for idle in self._idle[: self._surplus]:
            idle.quit()
            self._surplus -= 1

    def close(self) -> None:
        """Close the idle connections; busy ones are closed when they come back."""
        if self._trimmer is not None:
            self._trimmer.cancel()
        self._cancel_needless()
        while self._idle:
            self._idle.pop().quit()

    async def _next(self, fresh: bool) -> UpstreamConnection:
        """Return an idle connection, or the first that opens or comes back. Raises UpstreamError
        if one cannot be opened."""
        if self._idle and not fresh:
            self._lent += 1
            return self._idle.pop()
        wanted = _Wanted(self.deadlines.now(), fresh)
        self._wanted[wanted] = None
        self._open_more()
        try:
            return await wanted
        except asyncio.CancelledError:
            self._cancel_needless()
            if not wanted.cancelled() and wanted.exception() is None:  # it came just now
                self._lent -= 1
                if wanted.result().alive:
                    self._hand_out(wanted.result())
            raise
        finally:
            self._wanted.pop(wanted, None)

    def _open_more(self) -> None:
        """Begin to open connections for the messages that wait, a few at a time."""
        waiting = self._still_waiting()
        while self._hopeful() < min(len(waiting), _AT_A_TIME) and self._may_open():
            attempt = asyncio.get_running_loop().create_task(self._connect())
            attempt.add_done_callback(self._opened)
            self._opening[attempt] = self.deadlines.now()
        expired = self.deadlines.now() - self.settings.wait_timeout
        for wanted in waiting[len(self._opening) :]:
            if wanted.since <= expired:
                wanted.set_exception(UpstreamBusy(f"{self._open} connections, and no more"))
        if waiting and self._again is None:
            self._again = asyncio.get_running_loop().call_later(MORE_EVERY, self._try_again)

    def _hopeful(self) -> int:
        """How many attempts may soon bring a connection."""
        since = self.deadlines.now() - GREETED_WITHIN
        return sum(begun > since for begun in self._opening.values())

    def _still_waiting(self) -> list[_Wanted]:
        return [wanted for wanted in self._wanted if not wanted.done()]

    def _cancel_needless(self) -> None:
        """Give up attempts that no message waits for."""
        for attempt in list(self._opening)[len(self._still_waiting()) :]:
            attempt.cancel()

    def _try_again(self) -> None:
        self._again = None
        self._open_more()

    def _may_open(self) -> bool:
        """Whether there may be one connection more. Whoever waits although some are idle needs a
        fresh one: an idle one makes room for it."""
        limit = self._limit()
        if self._idle and self._open + len(self._opening) >= limit:
            self._idle[0].quit()
            self._limit.ended()
        return self._open + len(self._opening) < limit

    @property
    def _open(self) -> int:
        """How many connections are idle or in use by a message."""
        return self._lent + len(self._idle)

    def _opened(self, attempt: asyncio.Task[UpstreamConnection]) -> None:
        """Give the connection to whoever waits for it. A failure is that of one message for which
        the attempt was made, if no other attempt may serve it."""
        begun = self._opening.pop(attempt)
        try:
            connection = attempt.result()
            if not connection.alive:
                raise UpstreamLost("closed after its greeting")
        except asyncio.CancelledError:
            pass
        except (UpstreamFull, UpstreamUnreachable, UpstreamLost) as error:
            self._refused(error)
            self._give_up(begun, error)
        except Exception as error:
            waiting = self._still_waiting()
            if len(waiting) > self._hopeful() and waiting[0].since <= begun:
                waiting[0].set_exception(error)
            self._give_up(begun, error)
        else:
            self._hand_out(connection, fresh=True)
            self._limit.opened(self._open)
        self._open_more()

    def _refused(self, error: UpstreamError) -> None:
        """Make do with the connections that the upstream takes, if any."""
        if self._limit.refused(self._open + len(self._opening)):
            for wanted in self._still_waiting():
                wanted.set_exception(error)

    def _give_up(self, begun: float, error: Exception) -> None:
        """Fail messages that waited for long, and for this attempt too: there is always another,
        which may fail as well."""
        until = min(begun, self.deadlines.now() - self.settings.wait_timeout)
        for wanted in self._still_waiting():
            if wanted.since <= until:
                wanted.set_exception(error)

    def _hand_out(self, connection: UpstreamConnection, *, fresh: bool = False) -> None:
        """Keep a connection, or give it to the message that has waited longest for one."""
        for wanted in self._wanted:
            if not wanted.done() and (fresh or not wanted.fresh):
                del self._wanted[wanted]
                self._lent += 1
                wanted.set_result(connection)
                return
        connection.idle_since = self.deadlines.now()
        self._idle.append(connection)
        if self._trimmer is None:
            self._trim()

    async def _connect(self) -> UpstreamConnection:
        return await self._connector.open(self._drop_dead)

    def _drop_dead(self) -> None:
        alive = [connection for connection in self._idle if connection.alive]
        if len(alive) < len(self._idle):
            self._idle = alive
            self._limit.ended()

    def _trim(self) -> None:
        """Close connections that were idle for too long; check again while any are idle."""
        limit = self.deadlines.now() - self.settings.idle_timeout
        for connection in [c for c in self._idle if c.idle_since <= limit]:
            connection.quit()
        self._trimmer = (
            asyncio.get_running_loop().call_later(self.settings.idle_timeout / 4, self._trim)
            if self._idle
            else None
        )
