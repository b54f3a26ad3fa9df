"""However an upstream fails, the client gets a 451 and nothing is lost."""

import asyncio
import contextlib
import io
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Debugging

from smtpproxy.relay import connecting
from smtpproxy.relay.connection import (
    UpstreamError,
    UpstreamLost,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from smtpproxy.relay.mail_parameters import MailParameters
from smtpproxy.relay.transaction import UpstreamTransaction
from smtpproxy.settings import TcpAddress, UpstreamSettings
from smtpproxy.web.health import greet
from smtpproxy.wire.commands import Rcpt
from tests.kit.certificates import Authority
from tests.kit.ports import LOOPBACK, free_port, wait_for
from tests.kit.silent_network import dead_machine
from tests.kit.upstream import (
    Action,
    At,
    Close,
    Delay,
    FakeUpstream,
    Hold,
    Raw,
    Step,
)
from tests.kit.upstream import Reply as Says
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

LOST = "451 4.4.2 connection to the next mail server lost; try later"
FULL = "451 4.4.1 the next mail server accepts no more connections; try later"
UNREACHABLE = "451 4.4.1 the next mail server cannot be reached; try later"
LATE = "451 4.4.2 the next mail server did not answer in time; try later"
INSECURE = "451 4.7.5 no secure connection to the next mail server; try later"
WRONG = "451 4.4.0 the next mail server did not answer as it should; try later"


async def failing(pool: Pool, **how: object) -> UpstreamError:
    with pytest.raises(UpstreamError) as error:
        await send(pool, **how)  # type: ignore[arg-type]
    return error.value


STEPS: list[Step] = ["connect", "ehlo", "mail", "rcpt", "data", "end"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("reset", [False, True])
async def test_an_upstream_that_closes_at_any_step_defers_mail(step: Step, reset: bool) -> None:
    """The connection is replaced once, unless the upstream had asked for content."""
    times = 2 if step in ("mail", "rcpt", "data") else 1
    with FakeUpstream(*(At(step, Close(reset), nth=nth + 1) for nth in range(times))) as upstream:
        async with pooled(upstream.port) as pool:
            reply = str((await failing(pool)).reply)
            assert reply == LOST or (reset and step == "connect" and reply == UNREACHABLE)
            assert upstream.connections == times
            assert (await send(pool)).last.code == 250
        assert [message.data for message in upstream.messages] == [CONTENT]


async def test_a_connection_lost_at_every_step_is_replaced_at_every_step() -> None:
    lost = At("mail", Close(), nth=1), At("rcpt", Close(), nth=2), At("data", Close(), nth=1)
    with FakeUpstream(*lost) as upstream:
        async with pooled(upstream.port) as pool:
            transaction = UpstreamTransaction(pool, MailParameters(SENDER))
            for path in (JEANNE, "paul@people.example"):
                (reply,) = await transaction.recipients([Rcpt(path)])
                assert reply.code == 250
            assert await transaction.begin_data() is None
            final = await transaction.send_content([CONTENT])
            assert final is not None
            assert final.code == 250
        assert upstream.connections == 4
        assert [len(message.recipients) for message in upstream.messages] == [2]


@pytest.mark.parametrize("step", STEPS)
async def test_a_silent_upstream_defers_mail(step: Step) -> None:
    timeouts = {"command_timeout": 0.6, "data_timeout": 0.6}
    with FakeUpstream(At(step, Hold(), nth=1)) as upstream:
        async with pooled(upstream.port, **timeouts) as pool:
            error = await failing(pool)
            assert isinstance(error, UpstreamTimeout)
            assert str(error.reply) == LATE
            upstream.release()
            assert (await send(pool)).last.code == 250


NAME = TcpAddress("mta.shop.example", 25)


def named(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    """Give NAME several addresses, which are ports here."""

    def look_up(*_: object, **__: object) -> object:
        kind = socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, ""
        return [(*kind, (LOOPBACK, port)) for port in ports]

    monkeypatch.setattr("smtpproxy.first_address.getaddrinfo", look_up)


async def test_the_next_address_is_used_when_the_first_is_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with FakeUpstream() as upstream, dead_machine() as dead:
        named(monkeypatch, dead, upstream.port)
        async with pooled(NAME, connect_timeout=10.0) as pool:
            assert (await send(pool)).last.code == 250
        await greet(UpstreamSettings(NAME))


@pytest.mark.parametrize(
    "says", [Says("421 4.3.2 too many"), Says("554 5.3.2 no mail here"), Close()], ids=str
)
async def test_the_next_address_is_used_when_the_first_refuses_everybody(
    monkeypatch: pytest.MonkeyPatch, says: Action
) -> None:
    """All mail used to be answered 451, though the second address accepts it."""
    with FakeUpstream(At("connect", says)) as first, FakeUpstream() as second:
        named(monkeypatch, first.port, second.port)
        async with pooled(NAME) as pool:
            assert (await send(pool)).last.code == 250
        await greet(UpstreamSettings(NAME))
        named(monkeypatch, first.port, first.port + 1)
        async with pooled(NAME) as pool:
            await failing(pool)
        with pytest.raises(OSError, match="does not greet"):
            await greet(UpstreamSettings(NAME))


@pytest.mark.parametrize(
    "says", [Says("421 4.3.2 too many"), Close()], ids=["greets with 421", "closes"]
)
async def test_mail_waits_for_a_full_address_when_the_next_refuses_everybody(
    monkeypatch: pytest.MonkeyPatch, says: Action
) -> None:
    """The message used to be answered 451 at once."""
    full = [At("connect", says, nth=nth) for nth in range(2, 50)]
    with FakeUpstream(*full) as first, FakeUpstream(At("connect", Says("554 no"))) as second:
        named(monkeypatch, first.port, second.port)
        async with pooled(NAME) as pool:
            only = await pool.acquire()
            sending = asyncio.create_task(send(pool))
            await asyncio.to_thread(wait_for, lambda: second.connections, "the second is asked")
            pool.release(only)
            assert (await sending).last.code == 250


@pytest.mark.parametrize("step", ["mail", "rcpt", "data"])
async def test_the_next_address_is_used_when_the_first_refuses_every_message(
    monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    """All mail used to be answered 451, though the second address accepts it."""
    closing = At(step, Says("421 4.3.2 closing"))
    with FakeUpstream(closing) as first, FakeUpstream() as second:
        named(monkeypatch, first.port, second.port)
        async with pooled(NAME) as pool:
            sent = await asyncio.gather(*(send(pool) for _ in range(20)))
            assert {each.last.code for each in sent} == {250}
            assert (await send(pool)).last.code == 250
        assert first.connections <= 20
        assert len(second.messages) == 21


@pytest.mark.parametrize("step", ["mail", "rcpt", "data"])
async def test_the_one_address_that_works_is_found_among_many_that_close(
    monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    """With two closing, all mail was answered 451, and again after every six seconds."""
    closing = At(step, Close())
    with FakeUpstream(closing) as first, FakeUpstream(closing) as second, FakeUpstream() as third:
        named(monkeypatch, first.port, second.port, third.port)
        async with pooled(NAME) as pool:
            assert (await send(pool)).last.code == 250
        async with pooled(NAME) as pool:
            sent = await asyncio.gather(*(send(pool) for _ in range(50)))
        assert {each.last.code for each in sent} == {250}


@pytest.mark.parametrize("step", ["mail", "rcpt", "data"])
async def test_mail_waits_for_a_full_address_when_the_next_closes(
    monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    """Most messages used to be answered 451."""
    full = [At("connect", Says("421 4.3.2 too many"), nth=nth) for nth in range(2, 50)]
    with FakeUpstream(*full) as first, FakeUpstream(At(step, Close())) as second:
        named(monkeypatch, first.port, second.port)
        async with pooled(NAME) as pool:
            sent = await asyncio.gather(*(send(pool) for _ in range(20)))
        assert {each.last.code for each in sent} == {250}


async def test_the_next_address_is_used_when_the_first_never_greets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All mail used to wait `command_timeout` for a greeting from the first."""
    with FakeUpstream(At("connect", Hold())) as first, FakeUpstream() as second:
        named(monkeypatch, first.port, second.port)
        async with pooled(NAME, max_connections=10) as pool, asyncio.timeout(10):
            sent = await asyncio.gather(*(send(pool) for _ in range(20)))
            await greet(pool.settings)  # as /readyz does
        first.release()
        assert {each.last.code for each in sent} == {250}


@pytest.mark.parametrize("step", ["mail", "rcpt", "data"])
async def test_the_next_address_is_used_when_the_first_greets_but_never_answers(
    monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    """Every message went there and was answered 451 after `command_timeout`."""
    monkeypatch.setattr(connecting, "_ANSWERS_WITHIN", 0.1)
    with FakeUpstream(At(step, Hold())) as first, FakeUpstream() as second:
        named(monkeypatch, first.port, second.port)
        async with pooled(NAME) as pool, asyncio.timeout(10):
            lost = asyncio.create_task(send(pool))
            await asyncio.to_thread(first.wait_held)
            await asyncio.sleep(0.2)
            sent = await asyncio.gather(*(send(pool) for _ in range(5)))
            first.release()
            await lost
        assert {each.last.code for each in sent} == {250}
        assert len(second.messages) == 5


@pytest.mark.parametrize("other", ["refuses", "dead", "greets with 554", "answers MAIL with 421"])
async def test_mail_is_deferred_promptly_when_no_address_accepts_messages(
    monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """Nobody waits, and no address is tried over and over."""
    closing = At("mail", Says("421 4.3.2 closing"))
    says = closing if "MAIL" in other else At("connect", Says("554 5.3.2 no mail here"))
    with FakeUpstream(closing) as first, FakeUpstream(says) as second, dead_machine() as dead:
        port = {"refuses": free_port(), "dead": dead}.get(other, second.port)
        named(monkeypatch, first.port, port)
        async with pooled(NAME) as pool, asyncio.timeout(5):
            assert str((await failing(pool)).reply) == LOST
        assert first.connections <= 2


async def test_addresses_that_are_slow_to_refuse_are_not_tried_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each was tried again and again, as its last refusal was too old to count."""
    monkeypatch.setattr(connecting, "_FAILED_FOR", 0.1)
    slow = At("mail", Delay(0.2), Says("421 4.3.2 closing"))
    with FakeUpstream(slow) as first, FakeUpstream(slow) as second:
        named(monkeypatch, first.port, second.port)
        async with pooled(NAME, wait_timeout=1.0) as pool, asyncio.timeout(5):
            assert str((await failing(pool)).reply) == LOST


async def test_a_full_address_beside_a_dead_one_does_not_lengthen_the_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Clients waited 24 seconds, though the dead one was given up after 10."""
    with FakeUpstream(At("connect", Says("421 4.3.2 full"))) as full, dead_machine() as dead:
        named(monkeypatch, full.port, dead)
        async with pooled(NAME, connect_timeout=7.0) as pool, asyncio.timeout(9):
            sent = await asyncio.gather(*(send(pool) for _ in range(3)), return_exceptions=True)
        assert {str(each.reply) for each in sent} == {FULL}  # type: ignore[union-attr]


async def test_at_most_sixteen_addresses_of_a_name_are_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with contextlib.ExitStack() as held:
        refusing = At("connect", Says("421 4.3.2 full"))
        mtas = [held.enter_context(FakeUpstream(refusing)) for _ in range(20)]
        named(monkeypatch, *(each.port for each in mtas))
        async with pooled(NAME) as pool:
            await failing(pool)
        assert [each.connections for each in mtas] == [1] * 16 + [0] * 4


async def test_an_address_without_tls_is_skipped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue(NAME.host)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    expired = Authority(tmp_path, "other").issue(NAME.host)
    other.load_cert_chain(expired.certificate, expired.key)
    with mta() as plain, mta(other) as untrusted, mta(context) as good:
        named(monkeypatch, plain, untrusted, good)
        async with pooled(NAME, tls="starttls", ca_file=authority.path) as pool:
            assert (await send(pool)).last.code == 250
        named(monkeypatch, plain, untrusted)
        async with pooled(NAME, tls="starttls", ca_file=authority.path) as pool:
            assert str((await failing(pool)).reply) == INSECURE


@contextlib.contextmanager
def mta(tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Run an independent MTA, with STARTTLS if `tls`; yield its port."""
    port = free_port()
    controller = Controller(Debugging(io.StringIO()), hostname=LOOPBACK, port=port, tls_context=tls)
    controller.start()
    try:
        yield port
    finally:
        controller.stop()


def test_the_next_address_is_found_on_uvloop_too() -> None:
    async def deliver(port: int) -> None:
        address = TcpAddress("localhost", port)
        async with pooled(address) as pool:
            assert (await send(pool)).last.code == 250
        await greet(UpstreamSettings(address))

    with FakeUpstream() as upstream:
        uvloop.run(deliver(upstream.port))


@pytest.mark.parametrize("step", STEPS)
async def test_a_connection_that_answered_421_is_not_used_again(step: Step) -> None:
    """Not even if the upstream leaves it open."""
    with FakeUpstream(At(step, Says("421 4.3.2 going down"), nth=1)) as upstream:
        async with pooled(upstream.port) as pool:
            try:
                reply = (await send(pool)).last
            except UpstreamError as error:
                reply = error.reply
            assert str(reply) == (FULL if step in ("connect", "ehlo") else LOST)
            assert pool.idle == 0
            assert (await send(pool)).last.code == 250
        assert upstream.connections == 2


async def test_421_ends_the_wait_for_the_replies_that_follow() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await converse(reader, writer, [EHLO, b"421 4.3.2 going down\r\n"])
        await reader.read()

    async with serving(handle) as port, pooled(port, command_timeout=60) as pool:
        error = await asyncio.wait_for(failing(pool, content=()), 5)
        assert isinstance(error, UpstreamLost)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "garbage",
    [b"\r\n", b"what?\r\n", b"\xff\xfe\0\n", b"250-a\r\n550 b\r\n", b"2" * 5000, b"999 no\r\n"],
    ids=["empty", "text", "binary", "two codes", "endless", "no code"],
)
async def test_nonsense_from_an_upstream_defers_mail(step: Step, garbage: bytes) -> None:
    with FakeUpstream(At(step, Raw(garbage), nth=1)) as upstream:
        async with pooled(upstream.port, command_timeout=2, data_timeout=2) as pool:
            error = await failing(pool)
            assert str(error.reply) == WRONG
            assert (await send(pool)).last.code == 250
        assert upstream.connections == 2


@pytest.mark.parametrize(
    ("step", "code"),
    [("mail", 354), ("rcpt", 354), ("data", 250), ("data", 220), ("data", 355), ("end", 354)],
)
async def test_a_reply_of_the_wrong_kind_is_never_a_success(step: Step, code: int) -> None:
    """Otherwise a message would be lost with a 250."""
    with FakeUpstream(At(step, Says(f"{code} 2.0.0 yes"), nth=1)) as upstream:
        async with pooled(upstream.port) as pool:
            sent = await send(pool)
            assert sent.last.code == 451
            assert (await send(pool)).last.code == 250
        assert len(upstream.messages) == 1


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("step", [b"MAIL", b"RCPT", b"DATA", b"RSET", b"."])
async def test_a_surplus_reply_is_never_a_success(step: bytes, apart: bool) -> None:
    """Every later reply is then off by one; no refused message may look accepted.

    Only a 2xx after the 354 cannot be told from the answer to the message."""
    surplus = b""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 upstream.example\r\n")
        recipients = 0
        while line := await reader.readline():
            verb = line[:4].strip()
            if verb == step:
                writer.write(surplus)
                if apart:
                    await asyncio.sleep(0.01)
            if verb == b"EHLO":
                writer.write(EHLO)
            elif verb == b"RCPT":
                recipients += 1
                writer.write(b"550 5.1.1 who?\r\n" if recipients % 2 else OK)
            elif verb == b"DATA":
                writer.write(GO_ON)
                await reader.readuntil(b"\r\n.\r\n")
                if step == b".":
                    writer.write(surplus)
                    await asyncio.sleep(0.01 * apart)
                writer.write(b"554 5.7.1 no\r\n")
            else:
                writer.write(OK)

    async def final(pool: Pool, *recipients: str) -> str:
        try:
            sent = await send(pool, *recipients)
        except UpstreamError as error:
            return str(error.reply)
        return str(sent.last)

    async with serving(handle) as port:
        replies = [b"550 5.1.1 no\r\n", GO_ON, b"354 ", b"550 "]
        for surplus in replies if step == b"." else [OK, b"250 ", *replies]:
            async with pooled(port, command_timeout=5, data_timeout=5) as pool:
                said = [await final(pool, *to) for to in ([JEANNE], [JEANNE, SENDER], [JEANNE])]
            assert {each[:1] for each in said} <= {"4", "5"}, (surplus, said)


@pytest.mark.parametrize("greeting", ["554 5.7.1 not you", "450 4.3.2 busy", "250 odd"])
async def test_an_upstream_that_refuses_in_its_greeting_defers_mail(greeting: str) -> None:
    with FakeUpstream(At("connect", Says(greeting))) as upstream:
        async with pooled(upstream.port) as pool:
            assert str((await failing(pool)).reply) == WRONG
    assert upstream.commands == []


async def test_an_upstream_that_refuses_ehlo_and_helo_defers_mail() -> None:
    with FakeUpstream(At("ehlo", Says("502 5.5.1 no"))) as upstream:
        async with pooled(upstream.port) as pool:
            assert str((await failing(pool)).reply) == WRONG
    assert [line for _, line in upstream.commands] == ["EHLO relay.example", "HELO relay.example"]


@pytest.mark.parametrize("behind", [b"2", b"250-x\r\n", OK, None])
async def test_octets_after_the_answer_to_starttls_end_the_connection_at_once(
    behind: bytes | None,
) -> None:
    """A handshake on a closed connection would otherwise be awaited for ever."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await converse(reader, writer, [EHLO.replace(b"PIPELINING", b"STARTTLS")])
        await reader.readuntil(b"\r\n")
        writer.write(b"220 2.0.0 go on\r\n" + (behind or b""))
        if behind is None:
            writer.write_eof()
        assert await reader.read() == b"" or behind is None

    async with serving(handle) as port, pooled(port, tls="starttls") as pool:
        error = await asyncio.wait_for(failing(pool), 5)
        assert str(error.reply) == INSECURE


async def test_421_to_starttls_means_that_the_upstream_is_full() -> None:
    """The client used to be told that the connection was not secure."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        offers = EHLO.replace(b"PIPELINING", b"STARTTLS")
        await converse(reader, writer, [offers, b"421 4.3.2 too many\r\n"])

    async with serving(handle) as port, pooled(port, tls="starttls") as pool:
        assert str((await failing(pool)).reply) == FULL


# while content is being sent


def large(pieces: int) -> Iterator[bytes]:
    for _ in range(pieces):
        yield (b"x" * 62 + b"\r\n") * 1024  # 64 KiB


@pytest.mark.parametrize("reset", [False, True])
async def test_an_upstream_that_closes_during_the_content_defers_mail(reset: bool) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await converse(reader, writer, TO_DATA)
        await reader.readexactly(1000)
        if reset:
            writer.transport.abort()

    async with serving(handle) as port, pooled(port) as pool:
        error = await failing(pool, content=large(400))
        assert str(error.reply) == LOST


async def test_a_reply_during_the_content_is_no_success() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await converse(reader, writer, TO_DATA)
        await reader.readexactly(1000)
        writer.write(OK)
        while await reader.read(65536):
            pass

    async with serving(handle) as port, pooled(port) as pool:
        error = await failing(pool, content=large(400))
        assert str(error.reply) == LOST


async def test_memory_stays_bounded_while_the_upstream_does_not_read() -> None:
    """25 MB stay where they are until it reads again."""
    go = asyncio.Event()
    taken = 0
    received = 0

    def content() -> Iterator[bytes]:
        nonlocal taken
        for piece in large(400):
            taken += 1
            yield piece

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        await converse(reader, writer, TO_DATA)
        await go.wait()
        tail = b""
        while not tail.endswith(b"\r\n.\r\n"):
            data = await reader.read(65536)
            received += len(data)
            tail = (tail + data)[-5:]
        writer.write(OK)
        await reader.read()

    async with serving(handle) as port, pooled(port) as pool:
        sending = asyncio.ensure_future(send(pool, content=content()))
        stood = -1
        while stood != taken or not taken:
            stood = taken
            await asyncio.sleep(0.1)
        assert taken < 200, "all of it was read though the upstream reads nothing"
        go.set()
        assert (await sending).last.code == 250
    assert received == 400 * 65536 + 3


@pytest.mark.parametrize("half_a_line", [b"", b"45"])
async def test_mail_is_deferred_when_the_upstream_stops_reading(half_a_line: bytes) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await converse(reader, writer, TO_DATA)
        await asyncio.sleep(0.05)
        writer.write(half_a_line)
        await asyncio.sleep(60)

    async with serving(handle) as port, pooled(port, data_timeout=0.2) as pool:
        async with asyncio.timeout(10):
            error = await failing(pool, content=large(400))
        assert str(error.reply) == LATE


async def test_no_socket_stays_open_to_an_upstream_that_stops_reading() -> None:
    """Unread data would keep the socket for ever."""
    done = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await converse(reader, writer, TO_DATA)
        await done.wait()

    async with serving(handle) as port, pooled(port, data_timeout=0.2) as pool:
        await failing(pool, content=large(400))
        await asyncio.sleep(0)
        assert _connected_to(port) == 0
        done.set()


def _connected_to(port: int) -> int:
    """The number of sockets this process has open to that port."""
    count = 0
    for file in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(file.readlink()).startswith("socket:"):
                with socket.socket(fileno=os.dup(int(file.name))) as found:
                    count += found.getpeername()[1:2] == (port,)
    return count


async def test_content_that_cannot_be_read_never_looks_complete(upstream: FakeUpstream) -> None:
    """When the spool fails half-way, what was sent must not become a message."""

    def broken() -> Iterator[bytes]:
        yield CONTENT
        raise OSError(5, "Input/output error")

    async with pooled(upstream.port) as pool:
        with pytest.raises(OSError, match="Input/output error"):
            await send(pool, content=broken())
        assert (await send(pool)).last.code == 250
    assert [message.data for message in upstream.messages] == [CONTENT]
    assert upstream.connections == 2


async def test_a_refused_reset_does_not_harm_the_next_transaction() -> None:
    """The next transaction moves to another connection, where its MAIL is in order."""
    connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await converse(reader, writer, TO_DATA[:-1])
        if connections == 1:
            said = b""
            while said.count(b"\r\n") < 3:  # RSET, then MAIL and RCPT of the next one
                said += await reader.read(4096)
            writer.write(b"502 5.5.1 no RSET\r\n503 5.5.1 nested MAIL\r\n503 5.5.1 no\r\n")
        await reader.read()

    async with serving(handle) as port, pooled(port) as pool:
        first = UpstreamTransaction(pool, MailParameters(SENDER))
        await first.recipients([Rcpt(JEANNE)])
        first.abort()
        second = UpstreamTransaction(pool, MailParameters(SENDER))
        (reply,) = await second.recipients([Rcpt(JEANNE)])
        assert reply.code == 250
        second.abort()
    assert connections == 2


@pytest.mark.parametrize("pause", [0.0, 0.05], ids=["with-its-answer", "later"])
@pytest.mark.parametrize("goes", [b"421 4.3.2 going\r\n", b"42", b""], ids=["421", "part", "eof"])
async def test_a_connection_lost_while_the_client_is_idle_is_returned_at_once(
    goes: bytes, pause: float
) -> None:
    """Otherwise a silent client would hold a place in the pool for a dead connection."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await converse(reader, writer, [EHLO])
        await reader.readuntil(b"RCPT TO:<" + JEANNE.encode() + b">\r\n")
        if pause:
            writer.write(OK + OK)
            await asyncio.sleep(pause)
            writer.write(goes)
        else:
            writer.write(OK + OK + goes)
        if goes == b"42":
            await reader.readuntil(b"RSET\r\n")

    over, too_late = asyncio.Event(), asyncio.Event()
    async with serving(handle) as port, pooled(port, hold_timeout=0.2) as pool:
        silent = UpstreamTransaction(pool, MailParameters(SENDER))
        await silent.recipients([Rcpt(JEANNE)])
        silent.begin_client_turn(over.set)
        await asyncio.wait_for(over.wait(), 5)
        assert not silent.is_open
        assert pool.busy == 0

        ended = UpstreamTransaction(pool, MailParameters(SENDER))
        await ended.recipients([Rcpt(JEANNE)])
        ended.begin_client_turn(too_late.set)
        await asyncio.sleep(0.1)
        ended.abort()
        await asyncio.sleep(0.3)
        assert not too_late.is_set(), "it was no longer the client's turn"


async def test_a_dns_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log said TimeoutError(), as for an upstream that is down."""
    answered = threading.Event()
    monkeypatch.setattr("smtpproxy.first_address.getaddrinfo", lambda *_, **__: answered.wait())
    try:
        async with pooled(NAME, connect_timeout=0.1) as pool:
            with pytest.raises(UpstreamUnreachable, match="no answer when its name"):
                await send(pool)
    finally:
        answered.set()
