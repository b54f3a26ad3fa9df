"""Transactions that are abandoned, and messages that must arrive whole."""

import asyncio
import random

import pytest

from smtpproxy.mail.reply import Reply as ClientReply
from smtpproxy.relay.connection import UpstreamClosing, UpstreamError, UpstreamLost
from smtpproxy.relay.exchange import Exchange
from smtpproxy.relay.mail_parameters import MailParameters
from smtpproxy.relay.transaction import UpstreamTransaction
from smtpproxy.wire.commands import Rcpt
from tests.kit.upstream import (
    USUAL,
    Action,
    At,
    Close,
    Delay,
    FakeUpstream,
    Raw,
    Step,
)
from tests.kit.upstream import Reply as Says
from tests.relay.sending import (
    CONTENT,
    JEANNE,
    OK,
    SENDER,
    TO_DATA,
    converse,
    pooled,
    send,
    serving,
)

STEPS: list[Step] = ["connect", "ehlo", "mail", "rcpt", "data", "end"]


async def test_an_abandoned_transaction_leaves_a_clean_connection(upstream: FakeUpstream) -> None:
    async with pooled(upstream.port) as pool:
        for _ in range(3):
            transaction = UpstreamTransaction(pool, MailParameters(SENDER))
            await transaction.recipients([Rcpt("other@people.example")])
            transaction.abort()
            transaction.abort()
            assert (await send(pool)).last.code == 250
    assert upstream.connections == 1
    assert {message.recipients for message in upstream.messages} == {(JEANNE,)}
    assert [line for _, line in upstream.commands].count("RSET") == 3


async def test_abandoning_a_transaction_after_data_closes_the_connection(
    upstream: FakeUpstream,
) -> None:
    """RSET and the next message's commands would become content."""
    async with pooled(upstream.port) as pool:
        for wait in (False, True):
            transaction = UpstreamTransaction(pool, MailParameters(SENDER))
            await transaction.recipients([Rcpt(JEANNE)])
            answer = transaction.begin_data()
            if wait:
                assert await answer is None
            transaction.abort()
            assert pool.idle == 0
        assert (await send(pool)).last.code == 250
    assert [message.data for message in upstream.messages] == [CONTENT]


async def test_a_transaction_without_recipients_needs_no_connection(
    upstream: FakeUpstream,
) -> None:
    async with pooled(upstream.port) as pool:
        transaction = UpstreamTransaction(pool, MailParameters(SENDER))
        transaction.abort()
        with pytest.raises(UpstreamLost):
            transaction.begin_data()
    assert upstream.connections == 0


@pytest.mark.parametrize("ending", [b"550 5.7.1 no\r\n550 5.5.1 no\r\n250 2.0.0 ok\r\n", b""])
async def test_a_transaction_abandoned_before_its_answer_is_over(ending: bytes) -> None:
    """It neither ends the next one on that connection nor takes a connection for nobody."""
    connections, given_up, rest = 0, asyncio.Event(), b""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections, rest
        connections += 1
        await converse(reader, writer, [*TO_DATA, OK] if connections == 1 else TO_DATA[:1])
        for _ in range(2):
            await reader.readuntil(b"\r\n")  # MAIL and RCPT of the abandoned one
        await given_up.wait()
        if not ending:
            return
        await reader.readuntil(b"RSET\r\n")
        writer.write(ending)
        rest = await reader.readuntil(b"RCPT TO:<next@people.example>\r\n")
        writer.write(OK + OK)
        rest += await reader.read()

    async with serving(handle) as port, pooled(port, command_timeout=2) as pool:
        await send(pool, content=())
        first = UpstreamTransaction(pool, MailParameters(SENDER))
        first.recipients([Rcpt(JEANNE)])
        await asyncio.sleep(0.02)
        first.abort()
        given_up.set()
        if ending:
            second = UpstreamTransaction(pool, MailParameters(SENDER))
            (reply,) = await second.recipients([Rcpt("next@people.example")])
            assert reply.code == 250
            pool.close()
            second.abort()
            pool.close()
        await asyncio.sleep(0.1)
    assert connections == 1
    assert rest.count(b"RSET") == (1 if ending else 0)


async def test_an_error_lasts_until_the_transaction_is_over(upstream: FakeUpstream) -> None:
    """Recipients accepted before it cannot be mailed any more."""
    upstream.behaviours += [At("rcpt", Close(), nth=2), At("rcpt", Close(), nth=3)]
    async with pooled(upstream.port) as pool:
        transaction = UpstreamTransaction(pool, MailParameters(SENDER))
        await transaction.recipients([Rcpt(JEANNE)])
        for _ in range(2):
            with pytest.raises(UpstreamLost):
                await transaction.recipients([Rcpt("paul@people.example")])
        with pytest.raises(UpstreamLost):
            transaction.begin_data()
        transaction.abort()
    assert upstream.connections == 2


PAUL = "paul@people.example"
CLOSING = Says("421 4.3.2 shutting down")


@pytest.mark.parametrize("lost_by", [None, Close(), Close(reset=True), CLOSING], ids=str)
@pytest.mark.parametrize("step", ["rcpt", "data"])
@pytest.mark.parametrize("used", [False, True])
async def test_a_connection_lost_before_the_content_is_replaced(
    step: Step, lost_by: Action | None, used: bool, upstream: FakeUpstream
) -> None:
    """It is lost at that step, or before it (None); the client notices nothing."""
    async with pooled(upstream.port) as pool:
        other = await pool.acquire()  # so 421 may mean that the upstream is full
        if used:
            await send(pool)
        transaction = UpstreamTransaction(pool, MailParameters(SENDER))
        replies = await transaction.recipients([Rcpt(JEANNE)])
        if step == "data":
            replies += await transaction.recipients([Rcpt(PAUL)])
        transaction.begin_client_turn(lambda: None)
        if lost_by is None:
            upstream.drop_connections()
            await asyncio.sleep(0.05)
        else:
            upstream.begin(At(step, lost_by, nth=1))
        if step == "rcpt":
            replies += await transaction.recipients([Rcpt(PAUL)])
        transaction.end_client_turn()
        assert [reply.code for reply in replies] == [250, 250]
        assert await transaction.begin_data() is None
        assert await transaction.send_content([CONTENT]) is not None
        pool.release(other)
    arrived = [message for message in upstream.messages if PAUL in message.recipients]
    assert [message.recipients for message in arrived] == [(JEANNE, PAUL)]
    assert len(upstream.messages) <= 1 + used


@pytest.mark.parametrize("step", ["mail", "rcpt"])
async def test_a_refusal_of_an_accepted_recipient_ends_the_transaction(
    step: Step, upstream: FakeUpstream
) -> None:
    """The client already has a 250 for them, so the transaction cannot go on."""
    upstream.behaviours += [At("data", Close(), nth=1), At(step, Says("550 5.1.1 no"), nth=2)]
    async with pooled(upstream.port) as pool:
        transaction = UpstreamTransaction(pool, MailParameters(SENDER))
        await transaction.recipients([Rcpt(JEANNE)])
        with pytest.raises(UpstreamError, match="accepted earlier is now refused"):
            await transaction.begin_data()
    assert upstream.messages == []


@pytest.mark.parametrize(
    ("mail", "lacks"),
    [
        (MailParameters(SENDER, eight_bit=True), "8BITMIME"),
        (MailParameters(SENDER, utf8=True), "SMTPUTF8"),
    ],
)
async def test_content_is_not_sent_to_a_connection_that_offers_less(
    mail: MailParameters, lacks: str, upstream: FakeUpstream
) -> None:
    """Another address of the upstream's name may be a machine that would garble it."""
    upstream.behaviours.append(At("data", Close(), nth=1))
    async with pooled(upstream.port) as pool:
        transaction = UpstreamTransaction(pool, mail)
        await transaction.recipients([Rcpt(JEANNE)])
        assert transaction.offers_all
        upstream.keywords = tuple(word for word in upstream.keywords if word != lacks)
        with pytest.raises(UpstreamError, match="now refused: 554"):
            await transaction.begin_data()
        assert (await send(pool)).last.code == 250


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_transaction_abandoned_while_its_connection_is_replaced(
    cancelled: bool, upstream: FakeUpstream
) -> None:
    """Nobody else gets a connection that the upstream answered with 421."""
    upstream.behaviours += [At("data", CLOSING), At("connect", Delay(0.1), nth=2)]
    async with pooled(upstream.port) as pool:
        transaction = UpstreamTransaction(pool, MailParameters(SENDER))
        await transaction.recipients([Rcpt(JEANNE)])
        answer = transaction.begin_data()
        if cancelled:
            await asyncio.sleep(0.05)
            answer.cancel()
            transaction.abort()
        else:
            assert isinstance(answer, Exchange)
            answer.lost(UpstreamClosing("421"))
            transaction.abort()
            with pytest.raises(UpstreamLost):
                await answer
        assert (pool.idle, pool.busy) == (0, 0)


async def test_a_message_arrives_whole_or_not_at_all() -> None:
    """Send hundreds of messages at once to an upstream that fails in every way."""
    chance = random.Random(5)
    ways: list[Action] = [
        Close(),
        Close(reset=True),
        Says("421 4.3.2 bye"),
        Says("451 4.3.0 later"),
        Says("550 5.7.1 no"),
        Raw(b"what?\r\n"),
        Raw(b"250-2.0.0 half"),
        Delay(0.01),
    ]
    behaviours = [
        At(step, chance.choice(ways), nth=nth)
        for step in STEPS
        for nth in range(1, 400)
        if step in USUAL and chance.random() < 0.08
    ]
    accepted: list[tuple[str, bytes]] = []

    async def one(number: int) -> None:
        to = f"{number}@people.example"
        content = b"Subject: %d\r\n\r\n" % number + b"%d\r\n" % number * chance.randrange(3000)
        try:
            sent = await send(pool, to, content=[content[:100], content[100:]])
        except UpstreamError:
            return
        if sent.last.code == 250:
            accepted.append((to, content))

    with FakeUpstream(*behaviours) as upstream:
        async with pooled(
            upstream.port, max_connections=8, command_timeout=0.5, data_timeout=0.5
        ) as pool:
            await asyncio.gather(*(one(number) for number in range(300)))
        arrived = [(message.recipients[0], message.data) for message in upstream.messages]
    assert len(accepted) > 100
    assert set(accepted) <= set(arrived), "answered 250 but missing"
    assert len(arrived) == len({to for to, _ in arrived}), "sent twice"
    for to, content in arrived:
        number = to.partition("@")[0].encode()
        head, _, body = content.partition(b"\r\n\r\n")
        assert head == b"Subject: " + number
        assert set(body.split(b"\r\n")) <= {number, b""}


def test_upstream_errors_tell_the_client_to_try_later() -> None:
    errors: list[type[UpstreamError]] = [UpstreamError, *UpstreamError.__subclasses__()]
    for error in errors:
        assert isinstance(error.reply, ClientReply)
        assert error.reply.code == 451
        assert str(error.reply.enhanced).startswith(("4.4.", "4.7.5"))
