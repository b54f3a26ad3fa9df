"""Clients get the upstream's own replies and the extensions it offers."""

import asyncio

import pytest
from msgspec.structs import replace

from smtpproxy.relay.connection import UpstreamError
from smtpproxy.relay.mail_parameters import MailParameters
from smtpproxy.relay.transaction import UpstreamTransaction
from smtpproxy.wire.commands import Rcpt
from tests.kit.upstream import (
    KEYWORDS,
    At,
    Close,
    FakeUpstream,
    Step,
)
from tests.kit.upstream import Reply as Says
from tests.relay.sending import (
    CONTENT,
    JEANNE,
    SENDER,
    pooled,
    send,
    serving,
)


@pytest.mark.parametrize("step", ["mail", "rcpt", "data", "end"])
@pytest.mark.parametrize(
    ("says", "mirrored"),
    [
        ("450 4.2.0 later", "450 4.2.0 later"),
        ("550 5.1.1 no such user", "550 5.1.1 no such user"),
        ("554 go away", "554 5.0.0 go away"),
        ("452 full", "452 4.0.0 full"),
        ("550 5.7.1 one\n550 5.7.1 two", "550-5.7.1 one / 550 5.7.1 two"),
        ("550 one\n550 two\n550 three", "550-5.0.0 one / 550-5.0.0 two / 550 5.0.0 three"),
        ("550 5.7.1 one\n550 two", "550-5.7.1 one / 550 5.7.1 two"),
        ("599 9.9.9 odd", "599 5.0.0 9.9.9 odd"),
        ("550", "550 5.0.0 "),
        (  # 512 octets with the enhanced code and CRLF; PHPMailer reads 511 of them
            f"550 {'x' * 400} {'y' * 99}",
            f"550-5.0.0 {'x' * 400} / 550 5.0.0 {'y' * 99}",
        ),
        (f"550 5.7.1 {'x' * 600}", f"550-5.7.1 {'x' * 499} / 550 5.7.1 {'x' * 101}"),
    ],
)
async def test_a_refusal_is_passed_on_unchanged(step: Step, says: str, mirrored: str) -> None:
    with FakeUpstream(At(step, Says(says))) as upstream:
        async with pooled(upstream.port) as pool:
            sent = await send(pool)
            assert str(sent.last) == mirrored
            upstream.behaviours.clear()
            assert (await send(pool)).last.code == 250
        assert upstream.connections == 1
        assert len(upstream.messages) == 1


async def test_an_acceptance_is_passed_on_unchanged() -> None:
    with FakeUpstream(
        At("rcpt", Says("251 2.1.5 will forward")), At("end", Says("250 2.6.0 queued\n250 as 7"))
    ) as upstream:
        async with pooled(upstream.port) as pool:
            sent = await send(pool)
    assert list(map(str, sent.recipients)) == ["251 2.1.5 will forward"]
    assert str(sent.final) == "250-2.6.0 queued / 250 2.6.0 as 7"


async def test_each_recipient_gets_its_own_reply(upstream: FakeUpstream) -> None:
    upstream.behaviours += [
        At("rcpt", Says("550 5.1.1 no"), nth=2),
        At("rcpt", Says("450 4.2.0 later"), nth=4),
    ]
    names = [f"{number}@people.example" for number in range(1, 6)]
    async with pooled(upstream.port) as pool:
        sent = await send(pool, *names)
    assert [reply.code for reply in sent.recipients] == [250, 550, 250, 450, 250]
    (message,) = upstream.messages
    assert message.recipients == (names[0], names[2], names[4])


async def test_the_refusal_of_mail_answers_every_recipient(upstream: FakeUpstream) -> None:
    upstream.behaviours.append(At("mail", Says("451 4.7.1 greylisted")))
    async with pooled(upstream.port) as pool:
        transaction = UpstreamTransaction(pool, MailParameters(SENDER))
        for names in ((JEANNE, "paul@people.example"), (JEANNE,)):
            replies = await transaction.recipients([Rcpt(name) for name in names])
            assert list(map(str, replies)) == ["451 4.7.1 greylisted"] * len(names)
        transaction.abort()
    verbs = [line.split(" ")[0] for _, line in upstream.commands]
    assert verbs.count("MAIL") == 1
    assert "DATA" not in verbs


@pytest.mark.parametrize("keywords", [KEYWORDS, KEYWORDS[1:]])  # OpenSMTPD has no PIPELINING
async def test_a_limit_of_messages_per_connection_does_not_reach_the_client(
    keywords: tuple[str, ...],
) -> None:
    too_many = Says("452 4.5.3 Too many messages sent")
    with FakeUpstream(At("mail", too_many, nth=3), keywords=keywords) as upstream:
        async with pooled(upstream.port) as pool:
            assert [(await send(pool)).last.code for _ in range(4)] == [250] * 4
            assert (upstream.connections, len(upstream.messages)) == (2, 4)
            upstream.behaviours = [At("mail", too_many)]
            sent = await send(pool)  # refused on a new connection too, so it is about the message
            assert str(sent.last) == "452 4.5.3 Too many messages sent"
            assert (upstream.connections, pool.idle) == (3, 1)


async def test_replies_are_counted_by_class(upstream: FakeUpstream) -> None:
    upstream.behaviours.append(At("rcpt", Says("450 4.2.0 later"), nth=2))
    upstream.behaviours.append(At("end", Close(), nth=2))
    async with pooled(upstream.port) as pool:
        await send(pool, JEANNE, "paul@people.example")
        pool.replies.clear()
        with pytest.raises(UpstreamError):
            await send(pool)
        assert pool.replies == {2: 2, 3: 1, 0: 1}


# extensions


async def takes_turns(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An upstream without PIPELINING that insists on one command at a time."""
    writer.write(b"220 upstream.example\r\n")
    while data := await reader.read(4096):
        if data.count(b"\n") != 1:
            writer.write(b"554 5.5.0 one at a time\r\n")
            return
        await asyncio.sleep(0.01)
        if data == b"DATA\r\n":
            writer.write(b"354 go on\r\n")
            await reader.readuntil(b"\r\n.\r\n")
        writer.write(b"250 2.0.0 ok\r\n")


async def test_without_pipelining_commands_go_one_by_one() -> None:
    async with serving(takes_turns) as port, pooled(port) as pool:
        for _ in range(3):
            sent = await send(pool, JEANNE, "paul@people.example")
            assert [reply.code for reply in [*sent.recipients, sent.last]] == [250, 250, 250]
            transaction = UpstreamTransaction(pool, MailParameters(SENDER))
            await transaction.recipients([Rcpt(JEANNE)])
            transaction.abort()  # RSET is answered before the next MAIL is sent
        assert pool.idle == 1


async def test_without_pipelining_recipients_of_a_refused_mail_are_not_sent() -> None:
    keywords = tuple(word for word in KEYWORDS if word != "PIPELINING")
    with FakeUpstream(At("mail", Says("550 5.1.8 no"), nth=1), keywords=keywords) as upstream:
        async with pooled(upstream.port) as pool:
            sent = await send(pool, JEANNE, "paul@people.example")
            assert list(map(str, sent.recipients)) == ["550 5.1.8 no"] * 2
            assert (await send(pool)).last.code == 250
    assert [line.split(" ")[0] for _, line in upstream.commands][1:5] == [
        "MAIL",
        "RSET",
        "MAIL",
        "RCPT",
    ]


async def test_an_upstream_that_knows_only_helo_works(upstream: FakeUpstream) -> None:
    upstream.behaviours += [
        At("ehlo", Says("502 5.5.1 what?"), nth=1),
        At("ehlo", Says("250 upstream.example"), nth=2),
    ]
    async with pooled(upstream.port) as pool:
        mail = MailParameters(SENDER, size=7)
        assert (await send(pool, mail=mail)).last.code == 250
    assert upstream.messages[0].parameters == ()
    assert upstream.commands[1][1] == "HELO relay.example"


async def test_parameters_are_sent_to_an_upstream_that_offers_them(upstream: FakeUpstream) -> None:
    async with pooled(upstream.port) as pool:
        mail = MailParameters("é@shop.example", size=7, eight_bit=True, utf8=True)
        await send(pool, "José@people.example", mail=mail)
    (message,) = upstream.messages
    assert message.sender == "é@shop.example"
    assert message.recipients == ("José@people.example",)
    assert message.parameters == ("SIZE=7", "BODY=8BITMIME", "SMTPUTF8")


BOTH = MailParameters(SENDER, eight_bit=True, utf8=True)
NEEDS_8BIT, NEEDS_UTF8 = frozenset({"8BITMIME"}), frozenset({"8BITMIME", "SMTPUTF8"})
NO_UTF8 = "554 5.6.9 the next mail server does not accept UTF-8 in header fields"
NO_8BIT = "554 5.6.3 the next mail server does not accept 8-bit content"
NO_ADDRESS = "550 5.6.7 the next mail server does not accept SMTPUTF8"


@pytest.mark.parametrize(
    ("keyword", "mail", "refusal"),
    [
        ("SMTPUTF8", replace(BOTH, needs=NEEDS_UTF8), NO_UTF8),
        ("8BITMIME", replace(BOTH, needs=NEEDS_UTF8), NO_8BIT),
        ("8BITMIME", replace(BOTH, needs=NEEDS_8BIT, utf8=False), NO_8BIT),
        ("SMTPUTF8", replace(BOTH, reverse_path="caf\u00e9@shop.example"), NO_ADDRESS),
    ],
)
async def test_only_mail_that_needs_a_missing_extension_is_refused(
    keyword: str, mail: MailParameters, refusal: str
) -> None:
    keywords = tuple(word for word in KEYWORDS if word != keyword)
    with FakeUpstream(keywords=keywords) as upstream:
        async with pooled(upstream.port) as pool:
            transaction = UpstreamTransaction(pool, mail)
            for _ in range(2):
                (reply,) = await transaction.recipients([Rcpt("jose@people.example")])
                assert str(reply) == refusal
            transaction.abort()
            assert (await send(pool)).last.code == 250
    assert upstream.connections == 1
    assert len(upstream.messages) == 1


@pytest.mark.parametrize(
    ("mail", "refusal"),
    [
        (BOTH, NO_UTF8),
        (replace(BOTH, eight_bit=False), NO_UTF8),
        (replace(BOTH, utf8=False), NO_8BIT),
        (MailParameters(SENDER), None),  # MTAs accept it from clients that do not ask
    ],
)
def test_content_is_refused_if_mail_asked_for_a_missing_extension(
    mail: MailParameters, refusal: str | None
) -> None:
    reply = mail.refusal(NEEDS_UTF8, frozenset())
    assert (reply and str(reply)) == refusal


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize(
    ("keyword", "parameters", "refusals"),
    [
        ("SMTPUTF8", ("BODY=8BITMIME",), (None, NO_UTF8)),
        ("8BITMIME", ("SMTPUTF8",), (NO_8BIT, NO_8BIT)),
        ("", ("BODY=8BITMIME", "SMTPUTF8"), (None, None)),
    ],
)
async def test_before_the_content_only_addresses_can_be_refused(
    keyword: str, parameters: tuple[str, ...], refusals: tuple[str | None, ...], pipelining: bool
) -> None:
    left_out = {keyword, "SIZE", "" if pipelining else "PIPELINING"}
    with FakeUpstream(keywords=tuple(word for word in KEYWORDS if word not in left_out)) as mta:
        async with pooled(mta.port) as pool:
            transaction = UpstreamTransaction(pool, BOTH)
            named = [Rcpt(path) for path in ("jos\u00e9@people.example", JEANNE)]
            replies = [str(reply) for reply in await transaction.recipients(named)]
            assert replies[0].startswith("550 5.6.7" if keyword == "SMTPUTF8" else "250")
            assert replies[1].startswith("250")
            assert transaction.offers_all == (not keyword)
            told = [transaction.refusal_of(needs) for needs in (NEEDS_8BIT, NEEDS_UTF8)]
            assert tuple(reply and str(reply) for reply in told) == refusals
            assert transaction.refusal_of(frozenset()) is None
            reply = await transaction.begin_data() or await transaction.send_content([CONTENT])
            assert reply.code == 250
    assert mta.messages[0].parameters == parameters
