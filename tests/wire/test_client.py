"""The upstream's replies, however odd, and the commands it is sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from smtpproxy.mail.reply import Reply
from smtpproxy.relay.mail_parameters import MailParameters
from smtpproxy.wire.client import (
    LINE_LIMIT,
    LINES_LIMIT,
    Capabilities,
    ReplyError,
    ReplyReader,
    rcpt_command,
)
from smtpproxy.wire.commands import ClientInfo, Rcpt
from tests.wire.feeding import SIZES, cut, quick

EVERYTHING = Capabilities.of(
    Reply.of(250, None, "up.example", "PIPELINING", "SIZE 1000", "8BITMIME", "SMTPUTF8")
)


def read(data: bytes, sizes: tuple[int, ...] | list[int] = ()) -> list[Reply]:
    reader = ReplyReader()
    return [reply for piece in cut(data, sizes) for reply in reader.receive_data(piece)]


REPLIES = {
    b"250 2.1.0 sender ok\r\n": Reply.of(250, "2.1.0", "sender ok"),
    b"250 ok\r\n": Reply.of(250, None, "ok"),
    b"250\r\n": Reply.of(250, None, ""),
    b"250 \r\n": Reply.of(250, None, ""),
    b"250 2.0.0\r\n": Reply.of(250, "2.0.0", ""),
    b"250 2.0.0 \r\n": Reply.of(250, "2.0.0", ""),
    b"250 ok\n": Reply.of(250, None, "ok"),
    b"250-one\n250 two\n": Reply.of(250, None, "one", "two"),
    b"250-one\r\n250-\r\n250 three\r\n": Reply.of(250, None, "one", "", "three"),
    b"250-one\r\n250\r\n": Reply.of(250, None, "one", ""),
    b"550-5.7.1 no\r\n550 5.7.1 really\r\n": Reply.of(550, "5.7.1", "no", "really"),
    b"550-5.7.1\r\n550 5.7.1\r\n": Reply.of(550, "5.7.1", "", ""),
    b"550-5.7.1 no\r\n550 see https://up.example\r\n": Reply.of(
        550, "5.7.1", "no", "see https://up.example"
    ),
    b"550-no\r\n550 5.7.1 really\r\n": Reply.of(550, None, "no", "5.7.1 really"),
    b"550 no 5.7.1 here\r\n": Reply.of(550, None, "no 5.7.1 here"),
    b"550 5.7.123 x\r\n": Reply.of(550, "5.7.123", "x"),
    b"550 5.7.1x\r\n": Reply.of(550, None, "5.7.1x"),
    b"550 2.7.1 of another class\r\n": Reply.of(550, None, "2.7.1 of another class"),
    b"354 go on\r\n": Reply.of(354, None, "go on"),
    b"354 3.0.0 go on\r\n": Reply.of(354, None, "3.0.0 go on"),
    b"421 4.3.2 bye\r\n": Reply.of(421, "4.3.2", "bye"),
    "250 bücher\r\n".encode(): Reply.of(250, None, "bücher"),
    b"250 a\rb\x00c\x1bd\te\r\n": Reply.of(250, None, "a b c d\te"),
    b"250 ok\r\r\n": Reply.of(250, None, "ok"),
    b"250 " + b"x" * (LINE_LIMIT - 5) + b"\r\n": Reply.of(250, None, "x" * (LINE_LIMIT - 5)),
    b"250-x\r\n" * (LINES_LIMIT - 1) + b"250 x\r\n": Reply.of(250, None, *("x",) * LINES_LIMIT),
}


@pytest.mark.parametrize("data", REPLIES)
def test_replies(data: bytes) -> None:
    for sizes in ((), (1,), (2,), (3, 1)):
        assert read(data, sizes) == [REPLIES[data]]
        assert read(data + b"250 next\r\n", sizes) == [REPLIES[data], Reply.of(250, None, "next")]


@quick
@given(st.lists(st.sampled_from(sorted(REPLIES)), max_size=6), SIZES)
def test_replies_are_read_in_order_however_they_are_cut(
    data: list[bytes], sizes: list[int]
) -> None:
    assert read(b"".join(data), sizes) == [REPLIES[each] for each in data]


def test_a_reply_is_returned_only_when_complete() -> None:
    reader = ReplyReader()
    for piece in (b"250-one\r\n", b"250 two", b"\r"):
        assert reader.receive_data(piece) == []
    assert reader.receive_data(b"\n") == [Reply.of(250, None, "one", "two")]


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (b"\r\n", "not a reply line"),
        (b"hello\r\n", "not a reply line"),
        (b"25 ok\r\n", "not a reply line"),
        (b"2500 ok\r\n", "not a reply line"),
        (b"250ok\r\n", "not a reply line"),
        (b"250+ok\r\n", "not a reply line"),
        (b" 250 ok\r\n", "not a reply line"),
        (b"150 ok\r\n", "not a reply line"),
        (b"650 ok\r\n", "not a reply line"),
        (b"\x00\xff\x16\x03\x01\n", "not a reply line"),
        (b"HTTP/1.1 400 Bad Request\r\n", "not a reply line"),
        (b"250-one\r\nhello\r\n", "not a reply line"),
        (b"250-one\r\n550 two\r\n", "reply changes its code from 250 to 550"),
        (b"250-one\r\n251-two\r\n", "reply changes its code from 250 to 251"),
        (b"250 " + b"x" * LINE_LIMIT + b"\r\n", "reply line too long"),
        (b"250-one\r\n250 " + b"x" * LINE_LIMIT + b"\r\n", "reply line too long"),
        (b"250 " + b"x" * LINE_LIMIT, "reply line too long"),
        (b"250-x\r\n" * (LINES_LIMIT + 1), "reply has too many lines"),
    ],
)
def test_a_malformed_reply_is_an_error(data: bytes, wrong: str) -> None:
    for sizes in ((), (1,), (7,)):
        with pytest.raises(ReplyError, match=wrong):
            read(data, sizes)


LIKE_REPLIES = st.lists(
    st.builds(
        b"%d%b%b%b".__mod__,
        st.tuples(
            st.sampled_from([250, 250, 250, 599, 600]),
            st.sampled_from([b" ", b" ", b"-", b"", b"\0"]),
            st.sampled_from([b"ok", b"2.1.0 ok", b"\xff", b"", b"\r"]),
            st.sampled_from([b"\r\n", b"\r\n", b"\n", b"\r"]),
        ),
    ),
    max_size=5,
).map(b"".join)


@quick
@given(st.one_of(st.binary(max_size=60), LIKE_REPLIES))
def test_garbage_is_an_error_or_incomplete(data: bytes) -> None:
    try:
        replies = read(data)
    except ReplyError:
        return
    for reply in replies:
        assert 200 <= reply.code < 600


@quick
@given(st.integers(200, 599), st.lists(st.binary(max_size=30), min_size=1, max_size=4), SIZES)
def test_a_reply_is_passed_on_unchanged(code: int, texts: list[bytes], sizes: list[int]) -> None:
    """Read and written again it is the same, without any extra line."""
    lines = [text.replace(b"\n", b"") for text in texts]
    last = len(lines) - 1
    data = b"".join(
        b"%d%s%s\r\n" % (code, b" " if number == last else b"-", line)
        for number, line in enumerate(lines)
    )
    (reply,) = read(data, sizes)
    again = reply.encode()
    assert read(again) == [reply]
    assert again.count(b"\r\n") == again.count(b"\r") == again.count(b"\n") == len(lines)


@pytest.mark.parametrize(
    ("lines", "keywords", "size", "pipelining"),
    [
        (("up.example",), set(), None, False),
        (("up.example", "PIPELINING", "SIZE 5"), {"PIPELINING", "SIZE"}, 5, True),
        (("up.example", "pipelining", "size 0"), {"PIPELINING", "SIZE"}, None, True),
        (("up.example", "SIZE", "AUTH PLAIN", ""), {"SIZE", "AUTH"}, None, False),
        (("up.example", "SIZE x"), {"SIZE"}, None, False),
        (("up.example", "SIZE ²"), {"SIZE"}, None, False),
        (("up.example", "SIZE " + "9" * 30), {"SIZE"}, None, False),
        (("PIPELINING is my name",), set(), None, False),
    ],
)
def test_capabilities(
    lines: tuple[str, ...], keywords: set[str], size: int | None, pipelining: bool
) -> None:
    capabilities = Capabilities.of(Reply.of(250, None, *lines))
    assert capabilities.keywords == keywords
    assert capabilities.size == size
    assert capabilities.pipelining is pipelining


ODD = MailParameters("é@b.example", size=7, eight_bit=True, utf8=True)
UTF8 = MailParameters("s@b.example", utf8=True)
DSN = MailParameters("s@b.example", ret="HDRS", envid="QQ+2B7")
FORWARDED = MailParameters("s@b.example", client=ClientInfo(address="192.0.2.7"))


@pytest.mark.parametrize(
    ("mail", "offered", "command"),
    [
        (ODD, EVERYTHING, "MAIL FROM:<é@b.example> SIZE=7 BODY=8BITMIME SMTPUTF8"),
        (ODD, "", "MAIL FROM:<é@b.example>"),
        (ODD, "SIZE", "MAIL FROM:<é@b.example> SIZE=7"),
        (UTF8, EVERYTHING, "MAIL FROM:<s@b.example> SMTPUTF8"),
        (UTF8, "8BITMIME", "MAIL FROM:<s@b.example> BODY=8BITMIME"),
        (MailParameters(""), EVERYTHING, "MAIL FROM:<>"),
        (MailParameters(""), "8BITMIME", "MAIL FROM:<>"),
        (MailParameters(""), "DSN", "MAIL FROM:<>"),
        (DSN, EVERYTHING, "MAIL FROM:<s@b.example>"),
        (DSN, "DSN", "MAIL FROM:<s@b.example> RET=HDRS ENVID=QQ+2B7"),
        (replace(DSN, envid=None), "DSN", "MAIL FROM:<s@b.example> RET=HDRS"),
        (replace(DSN, ret=None), "DSN", "MAIL FROM:<s@b.example> ENVID=QQ+2B7"),
        (FORWARDED, "XFORWARD ADDR", "XFORWARD ADDR=192.0.2.7\r\nMAIL FROM:<s@b.example>"),
        (FORWARDED, "XFORWARD PORT", "MAIL FROM:<s@b.example>"),
        (FORWARDED, EVERYTHING, "MAIL FROM:<s@b.example>"),
        (UTF8, "XFORWARD ADDR", "MAIL FROM:<s@b.example>"),
    ],
)
def test_mail_has_the_parameters_the_upstream_offers(
    mail: MailParameters, offered: Capabilities | str, command: str
) -> None:
    if isinstance(offered, str):
        offered = Capabilities.of(Reply.of(250, None, "up.example", offered))
    assert b"".join(mail.commands(offered)).decode() == f"{command}\r\n"


def test_recipients_keep_their_quotes() -> None:
    assert rcpt_command(Rcpt('"a b"@c.example'), EVERYTHING) == b'RCPT TO:<"a b"@c.example>\r\n'


@pytest.mark.parametrize(
    ("notify", "orcpt", "told"),
    [
        (None, None, b""),
        ("never", None, b" NOTIFY=never"),
        (None, "rfc822;A+2Bb@c.example", b" ORCPT=rfc822;A+2Bb@c.example"),
        ("DELAY", "x;y", b" NOTIFY=DELAY ORCPT=x;y"),
    ],
)
def test_an_upstream_with_dsn_gets_the_clients_parameters(
    notify: str | None, orcpt: str | None, told: bytes
) -> None:
    rcpt = Rcpt("b@c.example", notify, orcpt)
    dsn = Capabilities.of(Reply.of(250, None, "up.example", "DSN"))
    assert rcpt_command(rcpt, dsn) == b"RCPT TO:<b@c.example>" + told + b"\r\n"
    assert rcpt_command(rcpt, EVERYTHING) == b"RCPT TO:<b@c.example>\r\n"
