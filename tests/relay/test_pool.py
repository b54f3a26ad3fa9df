"""The pool of upstream connections: reuse, connections that die, and limits."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from smtpproxy.relay.connection import (
    UpstreamError,
    UpstreamFull,
    UpstreamLost,
    UpstreamUnreachable,
)
from smtpproxy.relay.mail_parameters import MailParameters
from smtpproxy.relay.shares import UpstreamBusy
from smtpproxy.relay.transaction import UpstreamTransaction
from smtpproxy.relay.upstream_limit import Table
from smtpproxy.settings import UnixAddress
from smtpproxy.wire.commands import ClientInfo, Rcpt
from tests.kit.ports import LOOPBACK, free_port, wait_for
from tests.kit.upstream import Action, At, Close, Delay, FakeUpstream, Hold, Raw, Reply, Step
from tests.relay.sending import (
    CONTENT,
    EHLO,
    GO_ON,
    JEANNE,
    OK,
    SENDER,
    TO_DATA,
    Pool,
    converse,
    pooled,
    send,
    serving,
)


async def until(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(lambda: wait_for(condition, what))


async def test_messages_share_a_connection(upstream: FakeUpstream) -> None:
    async with pooled(upstream.port) as pool:
        for _ in range(20):
            assert (await send(pool)).last.code == 250
        assert (pool.idle, pool.busy) == (1, 0)
    assert upstream.connections == 1
    assert [message.data for message in upstream.messages] == [CONTENT] * 20


async def test_concurrent_messages_get_separate_connections(upstream: FakeUpstream) -> None:
    async with pooled(upstream.port) as pool:
        await asyncio.gather(*(send(pool) for _ in range(10)))
        await until(lambda: pool.idle == upstream.connections, "the last to have greeted")
        used = upstream.connections
        assert 1 < used <= 10
        await asyncio.gather(*(send(pool) for _ in range(used)))
        assert upstream.connections == used
        assert pool.idle == used


async def test_a_message_takes_a_returned_connection_while_a_new_one_is_not_greeted() -> None:
    """Sendmail and OpenSMTPD queue few new connections, and the kernel drops the rest."""
    with FakeUpstream(At("connect", Hold(), nth=2)) as upstream:
        async with pooled(upstream.port) as pool:
            busy = await pool.acquire()
            sending = asyncio.create_task(send(pool))
            await until(lambda: upstream.connections == 2, "the second connection")
            pool.release(busy)
            assert (await sending).last.code == 250
            assert (pool.idle, pool.busy) == (1, 0)
            upstream.release()
            await until(lambda: pool.idle == 2, "the greeting of the second connection")


@contextlib.asynccontextmanager
async def left_alone(**settings: Any) -> AsyncIterator[tuple[FakeUpstream, Pool]]:
    """An idle connection, and one still awaiting its greeting, whose message took the first."""
    with FakeUpstream(At("connect", Hold(), nth=2)) as upstream:
        async with pooled(upstream.port, **settings) as pool:
            busy = await pool.acquire()
            sending = asyncio.create_task(send(pool))
            await until(lambda: upstream.connections == 2, "the second connection")
            pool.release(busy)
            await sending
            yield upstream, pool
            upstream.release()


async def test_connections_being_opened_count_too() -> None:
    async with left_alone(max_connections=2) as (upstream, pool):
        sent = await asyncio.gather(*(send(pool) for _ in range(4)))
        assert [each.last.code for each in sent] == [250] * 4
        assert upstream.connections == 2


async def test_an_abandoned_attempt_serves_the_next_message() -> None:
    async with left_alone() as (upstream, pool):
        busy = await pool.acquire()
        sending = asyncio.create_task(send(pool))
        await asyncio.sleep(0.05)
        upstream.release()
        assert (await sending).last.code == 250
        assert upstream.connections == 2
        pool.release(busy)


async def test_a_message_waits_only_briefly_for_an_inherited_attempt() -> None:
    async with left_alone() as (upstream, pool):
        busy = await pool.acquire()
        assert (await send(pool)).last.code == 250
        assert upstream.connections == 3
        pool.release(busy)


async def test_an_attempt_that_fails_fails_one_message(upstream: FakeUpstream) -> None:
    upstream.behaviours.append(At("connect", Reply("554 5.3.2 not you"), nth=1))
    # Only now, or its message could get another's connection before this one fails:
    upstream.behaviours += [At("connect", Delay(0.3), nth=nth) for nth in (2, 3)]
    async with pooled(upstream.port) as pool:
        sent = await asyncio.gather(*(send(pool) for _ in range(3)), return_exceptions=True)
        assert [isinstance(each, UpstreamError) for each in sent].count(True) == 1
    assert len(upstream.messages) == 2


class Few:
    """An upstream that accepts `most` connections at a time and greets others with 421."""

    def __init__(self, most: int, messages: int = 1_000) -> None:
        self.most = most
        self.messages = messages  # per connection
        self.open = self.refused = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.open >= self.most:
            self.refused += 1
            writer.write(b"421 too many concurrent SMTP connections\r\n")
            return
        self.open += 1
        try:
            await asyncio.sleep(0.05)
            await converse(reader, writer, TO_DATA)
            for count in range(self.messages):
                await reader.readuntil(b"\r\n.\r\n")
                writer.write(OK)
                if count + 1 < self.messages:
                    for reply in TO_DATA[1:]:
                        await reader.readuntil(b"\r\n")
                        writer.write(reply)
        finally:
            self.open -= 1


@pytest.mark.parametrize("messages", [1_000, 1])
async def test_an_upstreams_own_limit_is_respected(messages: int) -> None:
    """Exim accepts 20 connections by default."""
    few = Few(4, messages)
    async with serving(few) as port, pooled(port) as pool:
        sent = await asyncio.gather(*(send(pool) for _ in range(40)))
        assert {each.last.code for each in sent} == {250}
        assert pool.busy == 0
    assert few.refused <= 50  # 36 at once, then one per second


async def test_after_a_refusal_more_connections_are_tried_once_a_second() -> None:
    few = Few(1)
    async with serving(few) as port, pooled(port) as pool:
        busy = await pool.acquire()
        sending = [asyncio.create_task(pool.acquire()) for _ in range(3)]
        await until(lambda: few.refused >= 3, "the refusals")
        few.most = 4
        for connection in (busy, *await asyncio.gather(*sending)):
            pool.release(connection)
        assert (pool.busy, pool.idle) == (0, 4)


async def test_a_message_waits_for_a_full_upstream_like_for_a_full_pool() -> None:
    few = Few(1)
    async with serving(few) as port, pooled(port, wait_timeout=0.2) as pool:
        busy = await pool.acquire()
        asking = asyncio.create_task(pool.acquire())
        await until(lambda: few.refused > 0, "the refusal")
        await asyncio.sleep(0.05)
        assert pool.saturated
        assert (pool.in_use, pool.waiting) == (1, 1)
        with pytest.raises(UpstreamBusy):
            await asking
        assert not pool.saturated
        pool.release(busy)
        assert (pool.busy, pool.idle) == (0, 1)


async def test_nobody_waits_when_the_upstream_refuses_all_connections() -> None:
    few = Few(0)
    async with serving(few) as port, pooled(port) as pool:
        sent = await asyncio.gather(*(send(pool) for _ in range(9)), return_exceptions=True)
        assert {type(each) for each in sent} == {UpstreamFull}
        assert pool.busy == 0
        few.most = 1
        assert (await send(pool)).last.code == 250


class GreetsAll(Few):
    """An upstream that greets everybody but answers 421 to a command on surplus connections."""

    def __init__(self, most: int, until_421: list[bytes]) -> None:
        super().__init__(most)
        self.until_421 = until_421

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.open < self.most:
            await super().__call__(reader, writer)
        else:
            self.refused += 1
            await converse(reader, writer, [*self.until_421, b"421 4.3.2 too many\r\n"])


XCLIENT = b"250-upstream.example\r\n250 XCLIENT ADDR\r\n"
GREETING = b"220 upstream.example\r\n"
APART = b"250 upstream.example\r\n"  # no PIPELINING


@pytest.mark.parametrize(
    "until_421",
    [
        pytest.param([], id="ehlo"),
        pytest.param([EHLO], id="mail"),
        pytest.param([EHLO, OK], id="rcpt"),
        pytest.param([EHLO, OK, OK], id="data"),
        pytest.param([APART], id="mail-apart"),
        pytest.param([APART, OK], id="rcpt-apart"),
        pytest.param([APART, OK, OK], id="data-apart"),
        pytest.param([XCLIENT], id="xclient"),
        pytest.param([XCLIENT, GREETING], id="ehlo-again"),
    ],
)
async def test_the_limit_of_an_upstream_that_greets_everybody_is_respected(
    until_421: list[bytes],
) -> None:
    """Of 400 concurrent messages, 384 used to be answered 451."""
    few = GreetsAll(4, until_421)
    client = ClientInfo("192.0.2.1", port=1, helo="shop.example")
    mail = MailParameters(SENDER, client=client, xclient_override=True)
    async with serving(few) as port, pooled(port) as pool:
        sent = await asyncio.gather(*(send(pool, mail=mail) for _ in range(40)))
        assert {each.last.code for each in sent} == {250}
    assert few.refused <= 50


@pytest.mark.parametrize("messages", [1, 40])
async def test_nobody_waits_when_every_command_is_answered_421(messages: int) -> None:
    few = GreetsAll(0, [EHLO])
    async with serving(few) as port, pooled(port) as pool, asyncio.timeout(10):
        sent = await asyncio.gather(*(send(pool) for _ in range(messages)), return_exceptions=True)
    assert {str(error.reply) for error in sent} == {str(UpstreamLost.reply)}  # type: ignore[union-attr]
    assert few.refused <= messages


async def test_a_worker_without_a_connection_waits_for_one_from_another_worker() -> None:
    """Its message used to be answered with the third 421."""
    few, table = GreetsAll(1, [EHLO]), Table()
    async with serving(few) as port, pooled(port, table=table) as first:
        only = await first.acquire()
        only.used = True
        async with pooled(port, table=table) as second:
            sending = asyncio.create_task(send(second))
            while few.refused < 4:
                first.make_room()
                await asyncio.sleep(0.1)
            only.close()
            first.release(only)
            assert (await sending).last.code == 250


async def test_421_to_the_same_message_on_every_connection_is_its_answer() -> None:
    """It may be the upstream's policy; other messages are relayed meanwhile."""
    said = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal said
        await converse(reader, writer, [EHLO])
        while (line := await reader.readline()) and b"paul@" not in line:
            writer.write(GO_ON if line == b"DATA\r\n" else OK)
            if line == b"DATA\r\n":
                await reader.readuntil(b"\r\n.\r\n")
                await asyncio.sleep(0.2)
                writer.write(OK)
        said += bool(line)
        writer.write(b"421 4.7.0 not from you\r\n" if line else b"")

    async with serving(handle) as port, pooled(port) as pool, asyncio.timeout(20):
        others = [asyncio.create_task(send(pool)) for _ in range(4)]
        await asyncio.sleep(0.1)
        with pytest.raises(UpstreamLost):
            await send(pool, mail=MailParameters("paul@shop.example"))
        assert {(await each).last.code for each in others} == {250}
    assert said == 4


def asked(upstream: FakeUpstream) -> list[str]:
    return [line for _, line in upstream.commands if line.startswith("MAIL")]


@pytest.mark.parametrize("ends", [Close(), Reply("421 4.7.0 too many messages")], ids=str)
async def test_421_on_a_replacement_connection_means_that_the_upstream_is_full(
    ends: Action, upstream: FakeUpstream
) -> None:
    """It used to be the answer to 15 of 200 messages, at five per connection."""
    async with pooled(upstream.port) as pool:
        other = await pool.acquire()
        await send(pool)
        full = At("mail", Reply("421 4.3.2 too many connections"), nth=2)
        upstream.begin(At("mail", ends, nth=1), full)
        sending = asyncio.create_task(send(pool))
        await until(lambda: pool.waiting == 1 and len(asked(upstream)) == 2, "the second 421")
        pool.release(other)
        assert (await sending).last.code == 250


async def test_a_connection_is_closed_after_many_resets_without_a_message(
    upstream: FakeUpstream,
) -> None:
    """Postfix delays a client after ten errors or a hundred RSETs without a message."""
    no = At("rcpt", Reply("550 5.1.1 no such user"))
    async with pooled(upstream.port) as pool:
        for behaviours, code in (([no], 550), ([], 250)) * 2:
            upstream.behaviours = list(behaviours)
            for _ in range(9):
                assert (await send(pool)).last.code == code
        assert upstream.connections == 1
        upstream.behaviours = [no]
        for _ in range(21):
            assert (await send(pool)).last.code == 550
        assert upstream.connections == 3


# connections that die while idle


async def test_a_connection_seen_to_die_is_not_used(upstream: FakeUpstream) -> None:
    async with pooled(upstream.port) as pool:
        await send(pool)
        upstream.drop_connections()
        await until(lambda: pool.idle == 0, "the end of the connection to be seen")
        assert (await send(pool)).last.code == 250
    assert upstream.connections == 2


async def test_a_connection_that_dies_unseen_costs_nothing(upstream: FakeUpstream) -> None:
    """The upstream closed it, but MAIL is sent before that is noticed."""
    async with pooled(upstream.port) as pool:
        for _ in range(10):
            await send(pool)
            upstream.drop_connections()
            assert (await send(pool)).last.code == 250
    assert len(upstream.messages) == 20


@pytest.mark.parametrize("step", ["mail", "rcpt"])
@pytest.mark.parametrize(
    "action",
    [Close(), Close(reset=True), Reply("421 4.4.2 too long idle")],
    ids=["close", "reset", "421"],
)
async def test_an_idle_connection_that_ends_on_mail_costs_nothing(
    upstream: FakeUpstream, step: str, action: Action
) -> None:
    upstream.behaviours.append(At(step, action, nth=2))  # type: ignore[arg-type]
    async with pooled(upstream.port) as pool:
        await send(pool)
        sent = await send(pool)
    assert sent.last.code == 250
    assert upstream.connections == 2
    assert [message.data for message in upstream.messages] == [CONTENT] * 2


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(
    "farewell", [b"421 4.4.2 idle for too long\r\n", b"421-4.4.2 idle\r\n", b"4", b"\r"]
)
async def test_unexpected_input_ends_an_idle_connection(farewell: bytes, apart: bool) -> None:
    """Even half a line would garble the reply to the next message."""
    connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await converse(reader, writer, TO_DATA)
        await reader.readuntil(b"\r\n.\r\n")
        writer.write(OK)
        if connections == 1:
            await asyncio.sleep(0.02 * apart)
            writer.write(farewell)
        await reader.read()

    async with serving(handle) as port, pooled(port) as pool:
        assert (await send(pool)).last.code == 250
        await until(lambda: pool.idle == 0, "the farewell to be read")
        assert (await send(pool)).last.code == 250
    assert connections == 2


async def test_a_second_lost_connection_is_an_error() -> None:
    with FakeUpstream(*(At("mail", Close(), nth=nth) for nth in range(2, 9))) as upstream:
        async with pooled(upstream.port) as pool:
            await send(pool)
            with pytest.raises(UpstreamLost):
                await send(pool)
        assert upstream.connections == 2


@pytest.mark.parametrize("step", ["mail", "rcpt", "data"])
async def test_a_new_connection_that_dies_is_replaced_once(step: Step) -> None:
    with FakeUpstream(At(step, Close())) as upstream:
        async with pooled(upstream.port) as pool:
            with pytest.raises(UpstreamLost):
                await send(pool)
        assert upstream.connections == 2


async def test_a_connection_idle_for_too_long_is_closed_with_quit(
    upstream: FakeUpstream,
) -> None:
    async with pooled(upstream.port, idle_timeout=0.1) as pool:
        await send(pool)
        await until(lambda: pool.idle == 0, "the idle connection to be closed")
        await until(lambda: (1, "QUIT") in upstream.commands, "QUIT")
        await send(pool)
    assert upstream.connections == 2


# limits


async def test_the_pool_opens_no_more_connections_than_allowed(upstream: FakeUpstream) -> None:
    async with pooled(upstream.port, max_connections=3) as pool:
        sent = await asyncio.gather(*(send(pool) for _ in range(60)))
        assert {each.last.code for each in sent} == {250}
    assert upstream.connections <= 3
    assert len(upstream.messages) == 60


async def test_the_limit_holds_when_a_connection_comes_free_as_others_ask(
    upstream: FakeUpstream,
) -> None:
    """A waiting message is served first; one that arrives at that moment must wait."""

    async def many(count: int) -> None:
        for _ in range(count):
            await send(pool)
            most.append(pool.busy)

    most: list[int] = []
    async with pooled(upstream.port, max_connections=2) as pool:
        await asyncio.gather(*(many(10) for _ in range(6)))
    assert max(most) <= 2
    assert upstream.connections <= 2


async def test_a_message_waits_for_a_connection(upstream: FakeUpstream) -> None:
    upstream.behaviours.append(At("end", Hold(), nth=1))
    async with pooled(upstream.port, max_connections=1) as pool:
        first = asyncio.ensure_future(send(pool))
        await asyncio.to_thread(upstream.wait_held)
        second = asyncio.ensure_future(send(pool))
        await asyncio.sleep(0.05)
        assert not second.done()
        upstream.release()
        assert [(await each).last.code for each in (first, second)] == [250, 250]
    assert upstream.connections == 1


async def test_a_message_that_waited_too_long_is_deferred(upstream: FakeUpstream) -> None:
    upstream.behaviours.append(At("end", Hold(), nth=1))
    async with pooled(upstream.port, max_connections=1, wait_timeout=0.05) as pool:
        first = asyncio.ensure_future(send(pool))
        await asyncio.to_thread(upstream.wait_held)
        with pytest.raises(UpstreamBusy) as error:
            await send(pool)
        assert str(error.value.reply) == "451 4.4.5 too many messages under way; try later"
        upstream.release()
        assert (await first).last.code == 250
        assert (await send(pool)).last.code == 250


async def test_a_timeout_of_one_message_does_not_cost_another_its_turn(
    upstream: FakeUpstream,
) -> None:
    upstream.behaviours.append(At("end", Hold(), nth=1))
    async with pooled(upstream.port, max_connections=1, wait_timeout=0.1) as pool:
        first = asyncio.ensure_future(send(pool))
        await asyncio.to_thread(upstream.wait_held)
        gave_up = await asyncio.gather(*(send(pool) for _ in range(5)), return_exceptions=True)
        assert {type(each) for each in gave_up} == {UpstreamBusy}
        waiting = asyncio.ensure_future(send(pool))
        await asyncio.sleep(0)
        upstream.release()
        assert (await waiting).last.code == 250
        assert (await first).last.code == 250


async def test_an_upstream_that_is_down_uses_up_no_connection() -> None:
    async with pooled(free_port(), max_connections=1, wait_timeout=0.05) as pool:
        for _ in range(3):
            with pytest.raises(UpstreamUnreachable) as error:
                await send(pool)
        assert (
            str(error.value.reply) == "451 4.4.1 the next mail server cannot be reached; try later"
        )


async def test_an_upstream_that_accepts_no_connection_defers_mail() -> None:
    """Its queue of connections is full, so connecting never ends."""
    with socket.socket() as full:
        full.bind((LOOPBACK, 0))
        full.listen(0)
        port = full.getsockname()[1]
        with socket.create_connection((LOOPBACK, port)):
            async with pooled(port, connect_timeout=0.2) as pool:
                with pytest.raises(UpstreamUnreachable):
                    await send(pool)


async def test_an_upstream_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "upstream"

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await converse(reader, writer, TO_DATA)
        await reader.readuntil(b"\r\n.\r\n")
        writer.write(OK)
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(handle, path)
    async with server, pooled(UnixAddress(path)) as pool:
        assert (await send(pool)).last.code == 250


def test_a_unix_socket_with_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    """The kernel refuses further connections, where with TCP it makes them wait."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await converse(reader, writer, TO_DATA)
            while True:
                await reader.readuntil(b"\r\n.\r\n")
                writer.write(OK)
                for reply in TO_DATA[1:]:
                    await reader.readuntil(b"\r\n")
                    writer.write(reply)
        writer.close()

    async def work() -> None:
        path = tmp_path / "upstream"
        server = await asyncio.start_unix_server(handle, path, backlog=3)
        async with server, pooled(UnixAddress(path)) as pool:
            sent = await asyncio.gather(*(send(pool) for _ in range(100)))
            assert {each.last.code for each in sent} == {250}
            server.close()

    uvloop.run(work())  # a worker's loop, which reports it


@pytest.mark.parametrize("step", ["connect", "ehlo", "mail", "rcpt", "data", "end"])
async def test_no_error_leaks_a_connection(step: str) -> None:
    behaviours = [At(step, Close()), At(step, Raw(b"what?\r\n"))]  # type: ignore[arg-type]
    for behaviour in behaviours:
        with FakeUpstream(behaviour) as upstream:
            async with pooled(upstream.port, max_connections=2, wait_timeout=5) as pool:
                for _ in range(6):
                    with pytest.raises(UpstreamError):
                        await send(pool)
                assert (pool.idle, pool.busy) == (0, 0)


async def test_a_connection_with_xclient_in_doubt_serves_no_other_client() -> None:
    """The message was abandoned before the upstream answered XCLIENT."""
    named = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await converse(reader, writer, [b"250-upstream.example\r\n250 XCLIENT ADDR\r\n"])
        assert (await reader.readline()).startswith(b"XCLIENT")
        named.set()
        await reader.read()

    client = ClientInfo(address="192.0.2.7")
    mail = MailParameters(SENDER, client=client, xclient_override=True)
    async with serving(handle) as port, pooled(port) as pool:
        transaction = UpstreamTransaction(pool, mail)
        offered = transaction.recipients([Rcpt(JEANNE)])
        await named.wait()
        offered.cancel()
        transaction.abort()
        assert (pool.idle, pool.busy) == (0, 0)


async def test_a_message_abandoned_before_the_greeting_leaves_no_socket() -> None:
    gone = asyncio.Event()

    async def greets_nobody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        gone.set()

    server = await asyncio.start_server(greets_nobody, LOOPBACK, 0)
    async with server, pooled(server.sockets[0].getsockname()[1]) as pool:
        asking = asyncio.create_task(pool.acquire())
        await asyncio.sleep(0.1)  # now it is connected
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        assert pool.busy == 0
        await asyncio.wait_for(gone.wait(), 10)
