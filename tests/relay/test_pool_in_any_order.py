"""Messages that wait for connections, in every order, with an upstream that has no network."""

import asyncio
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from smtpproxy.relay.connection import (
    UpstreamError,
    UpstreamFull,
    UpstreamLost,
    UpstreamUnreachable,
)
from smtpproxy.relay.pool import UpstreamPool
from smtpproxy.settings import TcpAddress, UpstreamSettings
from smtpproxy.waiting import Deadlines
from tests.kit.jumping_loop import run
from tests.kit.soak import times

pytestmark = pytest.mark.soak


class Connection:
    """As much of an UpstreamConnection as a pool knows."""

    def __init__(self, pool: "Pool") -> None:
        self.alive, self.private, self.client, self.idle_since = True, False, "", 0.0
        self._pool = pool
        pool.connections.add(self)

    def close(self) -> None:
        if self.alive:
            self.alive = False
            self._pool.connections.discard(self)
            self._pool._drop_dead()

    quit = close


class Pool(UpstreamPool):
    """A pool with its upstream, which takes `limit` connections and `refuses` others."""

    def __init__(
        self,
        limit: int,
        greets: Callable[[], float] = lambda: 0.01,
        fails: Callable[[], bool] = lambda: False,
        refuses: type[UpstreamError] = UpstreamFull,
        **settings: Any,
    ) -> None:
        """`greets` says after how many seconds, `fails` whether that is an error."""
        super().__init__(
            UpstreamSettings(TcpAddress("upstream.example", 25), **settings),
            "relay.example",
            Deadlines(asyncio.get_running_loop()),
            Counter(),
        )
        self.connections: set[Connection] = set()
        self.refusing = 0
        self._takes, self._greets, self._fails, self._refuses = limit, greets, fails, refuses

    async def _connect(self) -> Any:
        if len(self.connections) >= self._takes:
            self.refusing += 1
            try:
                self.check()
                await asyncio.sleep(self._greets())
            finally:
                self.refusing -= 1
            raise self._refuses("too many")
        connection = Connection(self)
        try:
            self.check()
            await asyncio.sleep(self._greets())
            if self._fails():
                raise UpstreamError("as told")
        except BaseException:
            connection.close()
            raise
        return connection

    def check(self) -> None:
        """What holds at any time."""
        assert len(self.connections) + self.refusing <= self._most
        assert sum(self._held.values()) == self._busy <= self._most
        assert self._lent <= self._busy
        assert all(idle.alive and not idle.private for idle in self._idle)
        assert len(set(map(id, self._idle))) == len(self._idle)

    def check_nobody_waits(self) -> None:
        self.check()
        assert (self._busy, self._lent, self._held, self.refusing) == (0, 0, {}, 0)
        assert (self._waiting, self._wanted, self._opening, self._again) == ({}, {}, {}, None)
        assert self.connections == set(self._idle)


class Walk:
    """Clients with messages; some give up, some connections end. Use `run` once."""

    def __init__(self, seed: int) -> None:
        draw = self.draw = Random(seed)
        self.most = draw.choice([1, 2, 3, 20])
        self.limit = draw.choice([1_000, 1, 2, self.most])
        self.hangs, self.fails = draw.choice([0, 0, 0.05]), draw.choice([0, 0, 0.1])
        self.waits = draw.choice([0.5, 30, 1_000])
        self.results: Counter[str] = Counter()
        self.using: set[Any] = set()

    async def run(self) -> None:
        draw = self.draw
        self.pool = pool = Pool(
            self.limit,
            lambda: 60 if draw.random() < self.hangs else draw.choice([0, 0.01, 0.2]),
            lambda: draw.random() < self.fails,
            draw.choice([UpstreamFull, UpstreamUnreachable, UpstreamLost]),
            max_connections=self.most,
            max_connections_per_address=draw.choice([None, 1, self.most]),
            wait_timeout=self.waits,
            idle_timeout=draw.choice([1, 60]),
        )
        messages = []
        for _ in range(draw.choice([5, 50, 200])):
            messages.append(asyncio.create_task(self._message(draw.choice(["", "a", "b", "c"]))))
            if draw.random() < 0.3:
                await asyncio.sleep(draw.choice([0, 0, 0.01]))
            pool.check()
        for _ in range(draw.choice([0, 0, 30])):
            await asyncio.sleep(draw.choice([0, 0.01]))
            draw.choice(messages).cancel()
            for idle in pool._idle[: draw.choice([0, 0, 1])]:
                idle.close()
        async with asyncio.timeout(2_000):  # seconds that pass in no time
            await asyncio.gather(*messages, return_exceptions=True)
        for message in messages:
            if not message.cancelled():
                message.result()
        await asyncio.sleep(100)  # until hanging attempts end
        pool.check_nobody_waits()
        await asyncio.sleep(100)
        assert not pool.connections  # idle for too long
        if not self.hangs and not self.fails and self.waits == 1_000:
            assert self.results.keys() <= {"sent"}

    async def _message(self, client: str) -> None:
        pool, draw, fresh = self.pool, self.draw, False
        for _ in range(2):
            connection: Any = None if fresh else pool.acquire_idle(client)
            try:
                connection = connection or await pool.acquire(client, fresh=fresh)
            except UpstreamError as error:
                self.results[type(error).__name__] += 1
                return
            assert connection not in self.using
            self.using.add(connection)
            try:
                await asyncio.sleep(draw.choice([0, 0, 0.01, 0.1, 1]))
            finally:
                self.using.discard(connection)
                if draw.random() < 0.1:
                    connection.close()
                connection.private = draw.random() < 0.1
                pool.release(connection)
                pool.check()
            fresh = not connection.alive
            if not fresh or draw.random() < 0.5:
                break
        self.results["sent"] += 1


def test_nobody_waits_for_ever_and_nothing_is_left_over() -> None:
    for seed in range(times(60, 2_000)):
        run(Walk(seed).run())


def test_a_message_that_needs_a_new_connection_gets_the_place_of_an_idle_one() -> None:
    """Otherwise it waits for nothing: others take the idle one, and give it back."""

    async def work() -> None:
        pool = Pool(1_000, max_connections=1)
        dying: Any = await pool.acquire("a")
        other = asyncio.create_task(pool.acquire("b"))
        await asyncio.sleep(0)
        dying.close()
        pool.release(dying)
        again = asyncio.create_task(pool.acquire("a", fresh=True))
        pool.release(await other)
        async with asyncio.timeout(5):
            pool.release(await again)
        assert len(pool.connections) == 1

    run(work())


def test_who_waits_for_a_full_upstream_is_not_overtaken() -> None:
    """The upstream takes four connections, and one message on each."""
    sent: list[int] = []

    async def message(pool: Pool, number: int) -> None:
        connection: Any = await pool.acquire()
        sent.append(number)
        await asyncio.sleep(0.1)
        connection.close()
        pool.release(connection)

    async def work() -> None:
        pool = Pool(4, max_connections=20)
        await asyncio.gather(*(message(pool, number) for number in range(400)))
        assert max(place - number for place, number in enumerate(sent)) <= 4

    run(work())


def test_messages_at_once_that_get_no_greeting_try_one_connection_more() -> None:
    """The kernel may drop all of them half open, if the queue of the upstream is short."""
    greets = iter([300.0] * 20 + [0.0])

    async def work() -> None:
        pool = Pool(1_000, lambda: next(greets))

        async def message() -> None:
            pool.release(await pool.acquire())

        async with asyncio.timeout(5):
            await asyncio.gather(*(message() for _ in range(20)))
        assert len(pool.connections) == 21

    run(work())


def test_a_refusal_because_of_a_connection_that_has_ended_since_fails_nobody() -> None:
    async def work() -> None:
        pool = Pool(1)
        only: Any = await pool.acquire()
        waiting = asyncio.create_task(pool.acquire())
        await asyncio.sleep(0.005)  # its attempt is under way
        only.close()
        pool.release(only)
        pool.release(await waiting)

    run(work())


def test_nor_does_one_because_of_an_idle_connection_that_has_ended_since() -> None:
    async def work() -> None:
        pool = Pool(1)
        pool.release(await pool.acquire())
        waiting = asyncio.create_task(pool.acquire(fresh=True))
        await asyncio.sleep(0.005)  # its attempt is under way
        (idle,) = pool._idle
        idle.close()
        pool.release(await waiting)

    run(work())


def test_an_attempt_that_others_left_does_not_fail_the_message_that_took_it_over() -> None:
    greets = iter([0.0, 9.0, 0.0])
    fails = iter([False, True, False])

    async def work() -> None:
        pool = Pool(1_000, lambda: next(greets), lambda: next(fails))
        busy = await pool.acquire()
        waiting = asyncio.create_task(pool.acquire())
        await asyncio.sleep(0.1)
        pool.release(busy)
        busy = await waiting
        await asyncio.sleep(8.5)
        pool.release(await pool.acquire())
        pool.release(busy)

    run(work())
