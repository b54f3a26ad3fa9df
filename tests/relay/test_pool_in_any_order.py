"""Messages waiting for connections, in any order, before an upstream without a network."""

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import chain, repeat
from random import Random
from typing import Any

import pytest

from smtpproxy.relay.connection import (
    UpstreamClosing,
    UpstreamError,
    UpstreamFull,
    UpstreamLost,
    UpstreamUnreachable,
)
from smtpproxy.relay.pool import UpstreamPool
from smtpproxy.relay.shares import UpstreamBusy
from smtpproxy.relay.upstream_limit import Table, Workers
from smtpproxy.settings import TcpAddress, UpstreamSettings
from smtpproxy.waiting import NEVER, Deadlines
from tests.kit.jumping_loop import run
from tests.kit.soak import times

pytestmark = pytest.mark.soak


class Connection:
    """The part of an UpstreamConnection that a pool uses."""

    def __init__(self, pool: "Pool", *, refused: bool = False) -> None:
        self.alive, self.used, self.private, self.client = True, False, False, ""
        self.place, self.idle_since, self.wanted_since = ("", 0), 0.0, 0.0
        self.turn_at = 0.0
        self.due = NEVER
        self.refused = refused  # MAIL is answered 421
        self._pool = pool
        pool.connections.add(self)
        pool.upstream.add(self)

    def close(self) -> None:
        if self.alive:
            self.alive = False
            self._pool.connections.discard(self)
            self._pool.upstream.discard(self)
            self._pool._drop_dead()

    quit = close


class Pool(UpstreamPool):
    """A pool and its upstream, which accepts `limit` connections and `refuses` others.

    Pools with the same `upstream` and `table` belong to the workers of one relay.
    """

    def __init__(
        self,
        limit: int,
        greets: Callable[[], float] = lambda: 0.01,
        fails: Callable[[], bool] = lambda: False,
        refuses: type[UpstreamError] = UpstreamFull,
        upstream: set[Connection] | None = None,
        table: Table | None = None,
        *,
        greets_all: bool = False,
        **settings: Any,
    ) -> None:
        """`greets` says after how many seconds, `fails` whether that is an error. If it
        `greets_all`, it refuses the others' messages."""
        deadlines = Deadlines(asyncio.get_running_loop())
        super().__init__(
            UpstreamSettings(TcpAddress("upstream.example", 25), **settings),
            "relay.example",
            deadlines,
            defaultdict(int),
            Workers(Table() if table is None else table, deadlines.now),
        )
        self.connections: set[Connection] = set()
        self.upstream: set[Connection] = set() if upstream is None else upstream
        self.refusing = 0
        self._takes, self._greets, self._fails, self._refuses = limit, greets, fails, refuses
        self._greets_all = greets_all

    async def _connect(self) -> Any:
        refused = len(self.upstream) >= self._takes
        if refused and not self._greets_all:
            self.refusing += 1
            try:
                self.check()
                await asyncio.sleep(self._greets())
            finally:
                self.refusing -= 1
            raise self._refuses("too many")
        connection = Connection(self, refused=refused)
        try:
            self.check()
            await asyncio.sleep(self._greets())
            if self._fails():
                raise UpstreamError("as told")
        except BaseException:
            connection.close()
            raise
        return connection

    async def keep_making_room(self) -> None:
        """Make room as each worker does."""
        while True:
            await asyncio.sleep(1)
            self.make_room()
            self.check()

    def check(self) -> None:
        """Check what must hold at any time."""
        most, shares = self.settings.max_connections, self._shares
        assert len(self.connections) + self.refusing <= most
        assert sum(shares._held.values()) == shares.taken <= most
        assert len(self._lent) <= shares.taken
        assert all(idle.alive and not idle.private for idle in self._idle)
        assert len(set(map(id, self._idle))) == len(self._idle)

    def check_nobody_waits(self) -> None:
        self.check()
        shares = self._shares
        assert (shares.taken, shares._held, shares._waiting) == (0, {}, {})
        assert (self._lent, self.refusing) == (set(), 0)
        assert (self._waiters, self._opening, self._again) == ({}, {}, None)
        assert self.connections == set(self._idle)


class Walk:
    """Clients send messages; some give up, some connections end. Call `run` once."""

    def __init__(self, seed: int) -> None:
        draw = self.draw = Random(seed)
        self.most = draw.choice([1, 2, 3, 20])
        self.limit = draw.choice([1_000, 1, 2, self.most])
        self.hangs, self.fails = draw.choice([0, 0, 0.05]), draw.choice([0, 0, 0.1])
        self.waits, self.greets_all = draw.choice([0.5, 30, 1_000]), draw.random() < 0.3
        self.results: Counter[str] = Counter()
        self.using: set[Any] = set()

    async def run(self) -> None:
        draw = self.draw
        await asyncio.sleep(1)  # a clock has never stood at 0
        upstream: set[Connection] = set()
        table = Table()
        self.pools = [self._pool(upstream, table) for _ in range(draw.choice([1, 1, 2, 3]))]
        beats = [asyncio.create_task(pool.keep_making_room()) for pool in self.pools]
        messages = []
        for _ in range(draw.choice([5, 50, 200])):
            messages.append(asyncio.create_task(self._message(draw.choice(["", "a", "b", "c"]))))
            if draw.random() < 0.3:
                await asyncio.sleep(draw.choice([0, 0, 0.01]))
            self._check()
        for _ in range(draw.choice([0, 0, 30])):
            await asyncio.sleep(draw.choice([0, 0.01]))
            draw.choice(messages).cancel()
            for idle in draw.choice(self.pools)._idle[: draw.choice([0, 0, 1])]:
                idle.close()
        async with asyncio.timeout(2_000):  # simulated seconds
            await asyncio.gather(*messages, return_exceptions=True)
        for message in messages:
            if not message.cancelled():
                message.result()
        await asyncio.sleep(100)  # until hanging attempts end
        for pool in self.pools:
            pool.check_nobody_waits()
        await asyncio.sleep(100)
        assert not upstream  # all idle for too long
        if not self.hangs and not self.fails and self.waits == 1_000:
            assert self.results.keys() <= {"sent"}
        for beat in beats:
            beat.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beat

    def _pool(self, upstream: set[Connection], table: Table) -> Pool:
        draw = self.draw
        return Pool(
            self.limit,
            lambda: 60 if draw.random() < self.hangs else draw.choice([0, 0.01, 0.2]),
            lambda: draw.random() < self.fails,
            draw.choice([UpstreamFull, UpstreamUnreachable, UpstreamLost]),
            upstream,
            table,
            greets_all=self.greets_all,
            max_connections=self.most,
            max_connections_per_address=draw.choice([None, 1, self.most]),
            wait_timeout=self.waits,
            idle_timeout=draw.choice([1, 60]),
        )

    def _check(self) -> None:
        for pool in self.pools:
            pool.check()

    async def _message(self, client: str) -> None:
        draw, pool = self.draw, self.draw.choice(self.pools)
        try:
            connection: Any = pool.acquire_idle(client) or await pool.acquire(client)
            for again in (draw.random() < 0.5, False):
                while connection.refused:
                    connection = await pool.replace(connection, UpstreamClosing("421"))
                if await self._use(pool, connection, again=again):
                    break
                connection = await pool.replace(connection)
            self.results["sent"] += 1
        except UpstreamError as error:
            self.results[type(error).__name__] += 1
        pool.check()

    async def _use(self, pool: Pool, connection: Any, *, again: bool) -> bool:
        """Use a connection and release it, unless it ended and is to be replaced."""
        draw = self.draw
        assert connection not in self.using
        self.using.add(connection)
        released = connection.used = True
        try:
            await asyncio.sleep(draw.choice([0, 0, 0.01, 0.1, 1]))
            if draw.random() < 0.1:
                connection.close()
            released = connection.alive or not again
        finally:
            self.using.discard(connection)
            connection.private = draw.random() < 0.1
            if released:
                pool.release(connection)
        return released


async def _send(pool: Pool, seconds: float) -> None:
    connection: Any = pool.acquire_idle("") or await pool.acquire()
    while connection.refused:
        connection = await pool.replace(connection, UpstreamClosing("421"))
    connection.used = True
    try:
        await asyncio.sleep(seconds)
    finally:
        pool.release(connection)


def test_every_message_ends_and_no_connection_is_left_over() -> None:
    for seed in range(times(60, 2_000)):
        run(Walk(seed).run())


@pytest.mark.parametrize("seconds", [8, 60])
def test_an_upstream_slow_to_accept_but_quick_to_refuse_gets_all_mail(seconds: int) -> None:
    """Messages that waited used to be answered 451 after six seconds."""

    async def message(pool: Pool) -> str:
        try:
            connection: Any = await pool.acquire()
            while connection.refused:
                connection = await pool.replace(connection, UpstreamClosing("421"))
        except UpstreamError:
            return f"451 after {pool.deadlines.now() - began:.0f} s"
        connection.due = pool.deadlines.now() + pool.settings.command_timeout
        await asyncio.sleep(seconds)
        connection.used, connection.due = True, NEVER
        pool.release(connection)
        return "sent"

    async def work() -> None:
        nonlocal began
        await asyncio.sleep(1)  # a clock has never stood at 0
        pool = Pool(2, greets_all=True)
        began = pool.deadlines.now()
        answers = await asyncio.gather(*(message(pool) for _ in range(6)))
        late = "sent" if seconds == 8 else "451 after 24 s"
        assert answers == ["sent"] * 2 + [late] * 4

    began = 0.0
    run(work())


def test_time_spent_by_the_client_does_not_count_as_waiting() -> None:
    """A message whose RCPTs took 40 seconds used to be answered 451 at the next 421."""

    async def work() -> None:
        await asyncio.sleep(1)  # a clock has never stood at 0
        pool = Pool(2, greets_all=True)
        other: Any = await pool.acquire()
        named: Any = await pool.acquire()
        other.used = named.used = True
        await asyncio.sleep(40)
        named.turn_at = pool.deadlines.now()
        waiting = asyncio.create_task(pool.replace(named, UpstreamClosing("421")))
        await asyncio.sleep(0.5)
        pool.release(other)
        pool.release(await waiting)

    run(work())


async def _refused(pool: Pool) -> None:
    """A message that is answered 421 wherever it goes."""
    connection: Any = await pool.acquire()
    replaced = False
    while not (connection.used and replaced):
        await asyncio.sleep(0.01)
        replaced |= connection.used
        closing = None if connection.used else UpstreamClosing("421")
        connection = await pool.replace(connection, closing)
    pool.was_not_full()
    connection.close()
    pool.release(connection)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_message_that_is_answered_421_on_all_connections_fails_no_other(workers: int) -> None:
    """It had every new one first: 99 of 100 others were answered 451, or waited for 30 seconds if
    another worker had a connection."""

    async def work() -> None:
        pools, beats = await _beside(workers, 1_000)
        beside = asyncio.create_task(_send(pools[0], 20)) if workers > 1 else beats[0]
        await asyncio.sleep(0.1)
        sending = [asyncio.create_task(_refused(pools[-1]))]
        async with asyncio.timeout(4):
            for _ in range(100):
                sending.append(asyncio.create_task(_send(pools[-1], 0.05)))
                await asyncio.sleep(0.01)
            await asyncio.gather(*sending)
        for task in (beside, *beats):
            task.cancel()
        await asyncio.sleep(0)

    run(work())


def test_messages_that_are_answered_421_on_all_connections_leave_enough_to_the_others() -> None:
    """No more connections were opened than at the last refusal, which was never a second ago, and
    each such message ended two: 144 of 377 others were answered 451 after 30 seconds."""

    async def work() -> None:
        await asyncio.sleep(1)  # a clock has never stood at 0
        pool = Pool(1_000)
        sending = []
        for number in range(400):
            if number % 4 == 0:
                sending.append(asyncio.create_task(_refused(pool)))
            sending.append(asyncio.create_task(_send(pool, 0.3)))
            await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            await asyncio.gather(*sending)

    run(work())


def test_waiting_for_a_slot_counts_as_waiting_for_a_connection() -> None:
    """A message waited for `wait_timeout` twice: for another to give up, then in its place."""

    async def asks(pool: Pool, after: float) -> float:
        await asyncio.sleep(after)
        with pytest.raises(UpstreamError):
            await pool.acquire()
        return pool.deadlines.now() - began

    async def work() -> None:
        nonlocal began
        await asyncio.sleep(1)  # a clock has never stood at 0
        pool = Pool(1, max_connections=2, wait_timeout=30)
        began = pool.deadlines.now()
        only = await pool.acquire()
        first, second = await asyncio.gather(asks(pool, 1), asks(pool, 16))
        assert first == pytest.approx(31, abs=2)
        assert second == pytest.approx(46, abs=2)
        pool.release(only)

    began = 0.0
    run(work())


def test_a_message_that_needs_a_new_connection_replaces_an_idle_one() -> None:
    """It would wait in vain otherwise: the idle one may be dead too."""

    async def work() -> None:
        pool = Pool(1)
        ended: Any = await pool.acquire("a")
        ended.close()
        pool.release(await pool.acquire("b"))
        async with asyncio.timeout(5):
            pool.release(await pool.replace(ended))
        assert len(pool.connections) == 1

    run(work())


def test_nobody_overtakes_a_message_waiting_for_a_full_upstream() -> None:
    """The upstream accepts four connections, with one message on each."""
    sent: list[int] = []

    async def message(pool: Pool, number: int) -> None:
        connection: Any = await pool.acquire()
        sent.append(number)
        await asyncio.sleep(0.1)
        connection.close()
        pool.release(connection)

    async def work() -> None:
        pool = Pool(4, max_connections=20)
        async with asyncio.timeout(12):  # each place is reused as soon as it is free
            await asyncio.gather(*(message(pool, number) for number in range(400)))
        assert max(place - number for place, number in enumerate(sent)) <= 4

    run(work())


def test_a_burst_of_messages_opens_a_few_connections_at_a_time() -> None:
    """The upstream queues ten new connections; the kernel drops others half open."""

    async def work() -> None:
        opening = 0

        class Queued(Pool):
            async def _connect(self) -> Any:
                nonlocal opening
                opening += 1
                try:
                    await asyncio.sleep(60 if opening > 10 else 0)
                    return await super()._connect()
                finally:
                    opening -= 1

        pool = Queued(1_000)
        async with asyncio.timeout(2):
            await asyncio.gather(*(_send(pool, 1) for _ in range(150)))
        assert len(pool.connections) == 150

    run(work())


def test_a_burst_of_messages_without_greetings_tries_new_connections() -> None:
    """All may have been dropped half open if others had filled the queue."""
    greets = chain([300.0] * 8, repeat(0.0))

    async def work() -> None:
        pool = Pool(1_000, lambda: next(greets))
        async with asyncio.timeout(5):
            await asyncio.gather(*(_send(pool, 0) for _ in range(20)))

    run(work())


@pytest.mark.parametrize("error", [UpstreamError, UpstreamFull, UpstreamUnreachable, UpstreamLost])
@pytest.mark.parametrize("messages", [1, 20])
def test_nobody_waits_for_ever_when_each_attempt_fails_slowly(
    error: type[UpstreamError], messages: int
) -> None:
    """The next attempt had begun by then and might have succeeded."""

    class Failing(Pool):
        async def _connect(self) -> Any:
            await asyncio.sleep(10)
            raise error("no answer")

    async def work() -> None:
        pool = Failing(0, wait_timeout=30)
        async with asyncio.timeout(60):
            sent = await asyncio.gather(
                *(_send(pool, 0) for _ in range(messages)), return_exceptions=True
            )
        assert type(sent[0]) is error
        assert {type(each) for each in sent} <= {error, UpstreamBusy}

    run(work())


def test_a_refusal_caused_by_a_connection_closed_since_fails_no_message() -> None:
    async def work() -> None:
        pool = Pool(1)
        only: Any = await pool.acquire()
        waiting = asyncio.create_task(pool.acquire())
        await asyncio.sleep(0.005)  # the attempt is under way
        only.close()
        pool.release(only)
        pool.release(await waiting)

    run(work())


def test_a_refusal_caused_by_an_idle_connection_closed_since_fails_no_message() -> None:
    async def work() -> None:
        pool = Pool(1)
        ended: Any = await pool.acquire()
        ended.close()
        pool.release(await pool.acquire())
        waiting = asyncio.create_task(pool.replace(ended))
        await asyncio.sleep(0.005)  # the attempt is under way
        (idle,) = pool._idle
        idle.close()
        pool.release(await waiting)

    run(work())


def test_an_inherited_attempt_that_fails_does_not_fail_its_new_message() -> None:
    greets = iter([0.0, 9.0, 1.0])
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


async def _beside(count: int, limit: int, **settings: Any) -> tuple[list[Pool], list[Any]]:
    """The pools of a relay's workers before an MTA with a limit, with their periodic work."""
    await asyncio.sleep(1)  # a clock has never stood at 0
    upstream: set[Connection] = set()
    table = Table()
    pools = [Pool(limit, upstream=upstream, table=table, **settings) for _ in range(count)]
    return pools, [asyncio.create_task(pool.keep_making_room()) for pool in pools]


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_share_the_connections_the_upstream_accepts(workers: int) -> None:
    """The first had all 20 and the others none, so their messages were refused at once."""

    async def work() -> None:
        pools, beats = await _beside(workers, 20)
        async with asyncio.timeout(60):
            for _ in range(2):
                await asyncio.gather(
                    *(_send(pool, 0.2) for pool in pools for _ in range(600 // workers))
                )
        for beat in beats:
            beat.cancel()

    run(work())


def test_a_late_worker_gets_its_share_of_connections_that_are_always_busy() -> None:
    async def work() -> None:
        (first, second), beats = await _beside(2, 20)

        async def keep_sending(pool: Pool) -> None:
            while True:
                await _send(pool, 0.05)

        busy = [asyncio.create_task(keep_sending(first)) for _ in range(40)]
        await asyncio.sleep(10)
        assert first.in_use == 20
        async with asyncio.timeout(4):
            await _send(second, 0.05)
        busy += [asyncio.create_task(keep_sending(second)) for _ in range(40)]
        await asyncio.sleep(10)
        assert (first.in_use, second.in_use) in [(9, 11), (10, 10), (11, 9), (10, 9), (9, 10)]
        for task in busy[:40]:
            task.cancel()
        await asyncio.sleep(80)
        assert second.in_use >= 19  # once the first worker's have been idle for long
        for task in (*busy[40:], *beats):
            task.cancel()
        await asyncio.sleep(0)

    run(work())


@pytest.mark.parametrize("limit", [1, 4])
def test_a_worker_gets_its_share_however_long_messages_take_elsewhere(limit: int) -> None:
    """The other kept what it owed if no message ended within a second."""

    async def work() -> None:
        (first, second), beats = await _beside(2, limit)

        async def keep_sending(after: float) -> None:
            await asyncio.sleep(after)
            while True:
                await _send(first, 15)

        busy = [asyncio.create_task(keep_sending(number)) for number in range(3 * limit)]
        await asyncio.sleep(30)
        async with asyncio.timeout(20):
            await _send(second, 0.05)
        for task in (*busy, *beats):
            task.cancel()
        await asyncio.sleep(0)

    run(work())


def test_a_worker_that_has_ended_holds_no_connections() -> None:
    """Messages must not wait for its connections: the upstream accepts none at all."""

    async def work() -> None:
        (first, second), beats = await _beside(2, 1)
        held = await first.acquire()
        beats[0].cancel()
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(4)
        assert not waiting.done()  # the first worker might give one up
        async with asyncio.timeout(4):
            with pytest.raises(UpstreamFull):
                await waiting
        first.release(held)
        beats[1].cancel()

    run(work())


@pytest.mark.parametrize("greets_all", [False, True])
def test_a_message_waits_for_a_connection_of_another_worker(greets_all: bool) -> None:
    """That may take longer than a closed connection is still counted for."""

    async def work() -> None:
        (first, second), beats = await _beside(2, 1, greets_all=greets_all)
        busy = asyncio.create_task(_send(first, 25))
        await asyncio.sleep(10)
        await asyncio.gather(_send(second, 0), busy)
        for beat in beats:
            beat.cancel()

    run(work())


def test_attempts_are_awaited_though_the_upstream_accepted_nobody_before() -> None:
    greets = iter([0.01, 1.0, 0.01, 0.01])

    async def work() -> None:
        pool = Pool(0, lambda: next(greets))
        beat = asyncio.create_task(pool.keep_making_room())
        with pytest.raises(UpstreamFull):
            await _send(pool, 0)
        await asyncio.sleep(10)
        pool._takes = 1
        await asyncio.gather(_send(pool, 0), _send(pool, 0))
        beat.cancel()

    run(work())


@pytest.mark.parametrize("greets_all", [False, True])
@pytest.mark.parametrize("after", [0.01, 0.5, 1.2])
@pytest.mark.parametrize("workers", [1, 4])
def test_nobody_waits_when_all_connections_are_answered_421(
    workers: int, after: float, greets_all: bool
) -> None:
    """For 30 seconds a worker mistook its own and others' attempts for connections."""

    async def message(pool: Pool) -> None:
        connection: Any = pool.acquire_idle("") or await pool.acquire()
        while True:
            await asyncio.sleep(after)
            connection = await pool.replace(connection, UpstreamClosing("421"))

    async def work() -> None:
        pools, beats = await _beside(workers, 0, greets=lambda: after, greets_all=greets_all)
        for _ in range(3):
            async with asyncio.timeout(20):
                failed = await asyncio.gather(
                    *(message(pool) for pool in pools for _ in range(5)), return_exceptions=True
                )
            assert {type(each) for each in failed} == {
                UpstreamClosing if greets_all else UpstreamFull
            }
            await asyncio.sleep(0.5)
        for beat in beats:
            beat.cancel()

    run(work())


@pytest.mark.parametrize(("workers", "limit"), [(4, 3), (4, 5), (3, 2), (2, 1)])
def test_workers_take_turns_when_the_upstream_accepts_few_connections(
    workers: int, limit: int
) -> None:
    """Workers kept their connections, busy or idle, and the others' messages were refused."""

    async def work() -> None:
        pools, beats = await _beside(workers, limit)
        for _ in range(2):
            await asyncio.gather(
                *(_send(pool, 0.02) for pool in pools for _ in range(400 // workers))
            )
        first = [asyncio.create_task(_send(pools[0], 0.02)) for _ in range(4_000)]
        await asyncio.gather(*(_send(pool, 0.02) for pool in pools[1:]))
        for task in (*first, *beats):
            task.cancel()
        await asyncio.gather(*first, return_exceptions=True)

    run(work())


def test_a_worker_gives_up_only_another_workers_share() -> None:
    async def work() -> None:
        (first, second), beats = await _beside(2, 4)
        busy = [await first.acquire() for _ in range(4)]
        waiting = [asyncio.create_task(_send(second, 10)) for _ in range(2)]
        await asyncio.sleep(1.5)
        for connection in busy:
            first.release(connection)
        assert first.idle == 2
        await asyncio.gather(*waiting)
        for beat in beats:
            beat.cancel()

    run(work())


def test_eight_workers_share_the_only_connection() -> None:
    """Each kept it for six seconds and any might be next: some waited for thirty."""

    async def work() -> None:
        pools, beats = await _beside(8, 1)

        async def keep_sending(pool: Pool, after: float) -> None:
            await asyncio.sleep(after)
            while True:
                await _send(pool, 0.05)

        busy = [
            asyncio.create_task(keep_sending(pool, (7 * number + again) / 10))
            for number, pool in enumerate(pools)
            for again in range(5)
        ]
        done, _ = await asyncio.wait(busy, timeout=300, return_when=asyncio.FIRST_EXCEPTION)
        assert not done, [task.exception() for task in done]
        for task in (*busy, *beats):
            task.cancel()
        await asyncio.gather(*busy, *beats, return_exceptions=True)

    run(work())


class Sendmail:
    """Accepts `most` connections; then it stops listening and checks again every 15 seconds."""

    def __init__(self, most: int) -> None:
        self.most, self.closed = most, False
        self.connections: set[Connection] = set()

    async def keep_looking(self) -> None:
        while True:
            await asyncio.sleep(15 if self.closed else 0.01)
            self.closed = len(self.connections) >= self.most

    def pool(self, table: Table) -> Pool:
        sendmail = self

        class OfSendmail(Pool):
            async def _connect(self) -> Any:
                if sendmail.closed:
                    raise UpstreamUnreachable("it does not listen")
                return await super()._connect()

        return OfSendmail(1_000, upstream=self.connections, table=table, wait_timeout=60)


@pytest.mark.parametrize("seed", range(4))
def test_workers_keep_their_connections_while_a_full_sendmail_does_not_listen(seed: int) -> None:
    """They gave up one after another until none was left and messages were refused."""

    async def message(draw: Random, pool: Pool) -> None:
        await asyncio.sleep(draw.random() / 5)
        await _send(pool, 0.05)

    async def work() -> None:
        draw = Random(seed)
        await asyncio.sleep(1)  # a clock has never stood at 0
        sendmail, table = Sendmail(10), Table()
        pools = [sendmail.pool(table) for _ in range(8)]
        tasks = [asyncio.create_task(sendmail.keep_looking())]
        for pool in pools:
            await asyncio.sleep(draw.random())
            tasks.append(asyncio.create_task(pool.keep_making_room()))
        for _ in range(4):
            await asyncio.gather(*(message(draw, draw.choice(pools)) for _ in range(150)))
            await asyncio.sleep(0.5)
        for task in tasks:
            task.cancel()

    run(work())
