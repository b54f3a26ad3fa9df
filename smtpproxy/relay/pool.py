"""The connections to the upstream: opened on demand, kept while idle, counted.

A message takes the first connection that opens or comes back: an MTA with a short queue for new
connections may not greet on some of them for minutes, while it answers on others, and one with a
limit of its own refuses the rest.
"""

import asyncio
from collections import defaultdict
from itertools import chain

from smtpproxy.relay.connecting import Connector
from smtpproxy.relay.connection import (
    NO_MORE,
    UpstreamClosing,
    UpstreamConnection,
    UpstreamError,
    UpstreamLost,
)
from smtpproxy.relay.shares import Shares, UpstreamBusy
from smtpproxy.relay.upstream_limit import GREETED_WITHIN, MORE_EVERY, UpstreamLimit, Workers
from smtpproxy.settings import UpstreamSettings
from smtpproxy.waiting import NEVER, Deadlines
from smtpproxy.wire.commands import ClientInfo

_AT_A_TIME = 8  # connections being opened: the upstream's queue for new ones may be short


class _Waiter(asyncio.Future[UpstreamConnection]):
    """A message that has a slot: it waits for any connection, or only for a `new` one. Its turn
    is that of who waits `since` then, but what its client took until `turn_at` is no waiting."""

    refused = False  # on a new connection; perhaps it would be on any

    def __init__(
        self, client: str, since: float, turn_at: float = 0.0, *, new: bool = False
    ) -> None:
        super().__init__()
        self.client, self.since, self.new = client, since, new
        self.asked_at = max(since, turn_at)


class UpstreamPool:
    """Hands out live connections, the most recently used first."""

    def __init__(
        self,
        settings: UpstreamSettings,
        hostname: str,
        deadlines: Deadlines,
        replies: defaultdict[int, int],
        workers: Workers | None = None,
    ) -> None:
        """`replies` counts the upstream's by the first digit of their code; 0: none came."""
        self.settings = settings
        self.deadlines = deadlines
        self._shares = Shares(settings)
        self._limit = UpstreamLimit(
            settings.max_connections, workers or Workers.alone(deadlines.now), deadlines.now
        )
        self._surplus = 0  # connections to give up to another worker
        self._hostname = hostname
        self._idle: list[UpstreamConnection] = []  # all of them alive
        self._lent: set[UpstreamConnection] = set()  # those in use by a message
        self._connector = Connector(settings, hostname, deadlines, replies, self._lent)
        self._waiters: dict[_Waiter, None] = {}  # the next first
        self._opening: dict[asyncio.Task[UpstreamConnection], float] = {}  # since when, in order
        self._again: asyncio.TimerHandle | None = None
        self._trimmer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def busy(self) -> int:
        """How many messages have a connection, or may have the next."""
        return self._shares.taken

    @property
    def in_use(self) -> int:
        """How many connections messages have."""
        return len(self._lent)

    @property
    def waiting(self) -> int:
        """How many messages are waiting for a connection."""
        return self._shares.waiting + self.busy - len(self._lent)

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
        connection = idle.pop()
        self._lent.add(connection)
        connection.client, connection.wanted_since = client, NEVER
        return connection

    async def acquire(self, client: str = "") -> UpstreamConnection:
        """Return a connection that has greeted us, for use by `client`; empty: the relay itself.
        Raises UpstreamError."""
        since = self.deadlines.now()
        if not self._shares.take(client):
            await self._shares.wait(client)
        return await self._next(_Waiter(client, since))

    def takes_no_more(self, ended: UpstreamConnection, error: UpstreamLost) -> bool:
        """Try an address last for a while, as a new connection to it ended before the content.
        Return whether it takes no more: it said so, or another address may take messages or has
        taken one. Otherwise the connection may have been lost by chance."""
        return (
            self._connector.has_another(ended.place)
            or isinstance(error, UpstreamClosing)
            or any(c.used and c.place != ended.place for c in chain(self._lent, self._idle))
        )

    def was_not_full(self) -> None:
        """Open as many connections as before the last refusals, which may be due to a message."""
        self._limit.lift()

    async def replace(
        self, ended: UpstreamConnection, full: UpstreamError | None = None
    ) -> UpstreamConnection:
        """Return another connection for the same message, which keeps its turn: a new one, since
        idle ones may have ended too; or any, if the upstream takes no more where it led (`full`).
        Raises UpstreamError."""
        now = self.deadlines.now()
        since = min(ended.wanted_since, now)
        waiter = _Waiter(ended.client, since, ended.turn_at, new=full is None)
        waiter.refused = full is not None
        ended.close()
        self._lent.remove(ended)
        self._waiters = dict.fromkeys(sorted([*self._waiters, waiter], key=lambda w: w.since))
        if full is None:
            self._surplus = max(self._surplus - 1, 0)
            self._limit.ended(took=ended.used)
        elif self._connector.avoids(ended.place):  # slow refusals could lead in a circle for ever
            self._fail(now, full)
        else:
            self._refused(now, full)
        return await self._next(waiter)

    async def introduce(self, connection: UpstreamConnection, client: ClientInfo) -> None:
        """Make a connection that of the client named by XCLIENT. Raises UpstreamError."""
        await connection.introduce(client, self._hostname, self.settings.command_timeout)

    def release(self, connection: UpstreamConnection) -> None:
        """Take back a connection, for further use if it is alive."""
        client = connection.client  # before another takes the connection
        self._lent.remove(connection)
        if connection.private or self._surplus:
            connection.quit()
            self._surplus = max(self._surplus - 1, 0)
        elif connection.alive:
            self._hand_out(connection)
        self._shares.free(client)
        if not connection.alive:
            self._limit.ended(took=connection.used)
            self._open_more()

    def make_room(self) -> None:
        """Give up connections that another worker needs more; to be called every second."""
        self._surplus = self._limit.surplus(
            self._open, len(self._idle), self.waiting > 0, self._surplus, took=self._took
        )
        for idle in self._idle[: self._surplus]:
            idle.quit()
            self._surplus -= 1

    def close(self) -> None:
        """Close the connections; each is closed when no message uses it any more."""
        if self._trimmer is not None:
            self._trimmer.cancel()
        self._cancel_needless()
        while self._idle:
            self._idle.pop().quit()

    async def _next(self, waiter: _Waiter) -> UpstreamConnection:
        """Return an idle connection, or the first that opens or comes back. Raises UpstreamError
        if one cannot be opened."""
        if self._idle and not (waiter.new or waiter.done()):
            self._give(self._idle.pop(), waiter)
        self._waiters.setdefault(waiter)
        self._open_more()
        try:
            return await waiter
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                self._cancel_needless()
                if not waiter.cancelled() and waiter.exception() is None:  # it arrived just now
                    self._lent.remove(waiter.result())
                    if waiter.result().alive:
                        self._hand_out(waiter.result())
            self._shares.free(waiter.client)
            raise
        finally:
            self._waiters.pop(waiter, None)

    def _open_more(self) -> None:
        """Start opening connections for the waiting messages, a few at a time."""
        waiting = self._still_waiting()
        while self._recent_attempts() < min(len(waiting), _AT_A_TIME) and self._may_open():
            attempt = asyncio.get_running_loop().create_task(self._connect())
            attempt.add_done_callback(self._opened)
            self._opening[attempt] = self.deadlines.now()
        expired = self.deadlines.now() - self.settings.wait_timeout
        for waiter in waiting[len(self._opening) :]:
            if waiter.asked_at <= expired:
                waiter.set_exception(UpstreamBusy(f"{self._open} connections, and no more allowed"))
        if waiting and self._again is None:
            self._again = asyncio.get_running_loop().call_later(MORE_EVERY, self._try_again)

    def _recent_attempts(self) -> int:
        """How many attempts began so recently that they may soon succeed."""
        since = self.deadlines.now() - GREETED_WITHIN
        return sum(started > since for started in self._opening.values())

    def _still_waiting(self) -> list[_Waiter]:
        return [waiter for waiter in self._waiters if not waiter.done()]

    def _cancel_needless(self) -> None:
        """Give up attempts that no message waits for."""
        for attempt in list(self._opening)[len(self._still_waiting()) :]:
            attempt.cancel()

    def _try_again(self) -> None:
        self._again = None
        self._open_more()

    def _may_open(self) -> bool:
        """Whether one more connection may be opened. If a message waits although some are idle, it
        needs a fresh one: an idle one makes room for it."""
        limit = self._limit()
        if self._idle and self._open + len(self._opening) >= limit:
            self._idle[0].quit()
        return self._open + len(self._opening) < limit

    @property
    def _open(self) -> int:
        """How many connections are idle or in use by a message."""
        return len(self._lent) + len(self._idle)

    @property
    def _took(self) -> bool:
        """Whether the upstream has taken a message on one of them."""
        return any(connection.used for connection in chain(self._lent, self._idle))

    @property
    def _asked_at(self) -> float:
        """When we sent what the upstream has left unanswered for longest."""
        due = min((connection.due for connection in self._lent), default=NEVER)
        return due - self.settings.command_timeout

    def _opened(self, attempt: asyncio.Task[UpstreamConnection]) -> None:
        """Give the connection to whoever waits for it. If the attempt failed, fail the message it
        was made for, unless another attempt may serve it."""
        started = self._opening.pop(attempt)
        try:
            connection = attempt.result()
            if not connection.alive:
                raise UpstreamLost("closed after its greeting")
        except asyncio.CancelledError:
            pass
        except NO_MORE as error:
            self._refused(started, error)
        except Exception as error:
            waiting = self._still_waiting()
            if len(waiting) > self._recent_attempts() and waiting[0].asked_at <= started:
                waiting[0].set_exception(error)
            self._fail(started, error)
        else:
            if self._connector.avoids(connection.place):  # as is known since the attempt began
                connection.quit()
            else:
                self._hand_out(connection, new=True)
                self._limit.opened(self._open)
        self._open_more()

    def _refused(self, started: float, error: UpstreamError) -> None:
        """Make do with the connections that the upstream accepts. If there are none, all fail."""
        greets_all = isinstance(error, UpstreamClosing)
        in_vain = self._limit.refused(
            self._open + len(self._opening),
            self._took if greets_all else self._open > 0,
            listens=error.listens,
            greets_all=greets_all,
            heard_at=error.heard_at,
            asked_at=self._asked_at,
        )
        self._fail(NEVER if in_vain else started, error)

    def _fail(self, started: float, error: Exception) -> None:
        """Fail messages that have waited long, and since before an attempt that `started`: another
        always follows, which may fail as well."""
        limit = self.deadlines.now() - self.settings.wait_timeout
        for waiter in self._still_waiting():
            if started == NEVER or waiter.asked_at <= min(started, limit):
                waiter.set_exception(error)

    def _hand_out(self, connection: UpstreamConnection, *, new: bool = False) -> None:
        """Keep a connection, or give it to a message that waits for one."""
        if self._waiters and (waiter := self._first(new=new)) is not None:
            self._give(connection, waiter)
            return
        connection.idle_since = self.deadlines.now()
        self._idle.append(connection)
        if self._trimmer is None:
            self._trim()

    def _first(self, *, new: bool) -> _Waiter | None:
        """Return the message that has waited longest for a connection; for a new one, rather one
        that has not been refused on one."""
        waiting = (w for w in self._waiters if not w.done() and (new or not w.new))
        if new:
            return min(waiting, key=lambda each: each.refused, default=None)
        return next(waiting, None)  # thousands may wait

    def _give(self, connection: UpstreamConnection, waiter: _Waiter) -> None:
        self._waiters.pop(waiter, None)
        self._lent.add(connection)
        connection.client = waiter.client
        connection.wanted_since, connection.turn_at = waiter.since, waiter.asked_at
        waiter.set_result(connection)

    async def _connect(self) -> UpstreamConnection:
        return await self._connector.open(self._drop_dead)

    def _drop_dead(self) -> None:
        dead = [connection for connection in self._idle if not connection.alive]
        if dead:
            self._idle = [connection for connection in self._idle if connection.alive]
            self._limit.ended(took=any(connection.used for connection in dead))

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
