"""BDAT: content in chunks has the same outcome as after DATA (RFC 3030)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.mail.reply import Reply
from smtpproxy.wire.commands import Rcpt
from smtpproxy.wire.content import stuffed
from smtpproxy.wire.server import ServerConnection
from smtpproxy.wire.session import Command, ContentProblem
from tests.wire.feeding import HELLO, SIZES, Server, accept, ended, quick, settled, talk, terms

MAIL = b"MAIL FROM:<a@shop.example>\r\n"
RCPT = b"RCPT TO:<b@people.example>\r\n"
BEGUN = HELLO + MAIL + RCPT
SAID = 9 + 2  # lines of replies to BEGUN


def bdat(data: bytes, last: bool = False) -> bytes:
    return b"BDAT %d%s\r\n%s" % (len(data), b" LAST" * last, data)


def test_chunks_make_one_message() -> None:
    talked = settled(
        BEGUN + bdat(b"Subject: x\r\n\r\n.do") + bdat(b"ts\r\n.\r\n", last=True) + MAIL
    )
    assert talked.contents == [b"Subject: x\r\n\r\n..dots\r\n..\r\n"]
    assert talked.lines[SAID:] == [
        "250 2.0.0 17 octets received",
        "250 2.0.0 EndOfContent",
        "250 2.0.0 Mail",
    ]
    (end,) = ended(talked)
    assert (end.size, end.problem) == (24, None)


def test_an_empty_last_chunk_ends_the_message() -> None:
    talked = settled(BEGUN + bdat(b"x\r\n") + bdat(b"", last=True))
    assert talked.contents == [b"x\r\n"]


def test_an_unterminated_last_line_gets_its_crlf() -> None:
    assert settled(BEGUN + bdat(b"x", last=True)).contents == [b"x\r\n"]
    assert settled(BEGUN + bdat(b"x\r") + bdat(b"\n", last=True)).contents == [b"x\r\n"]
    assert settled(BEGUN + bdat(b"", last=True)).contents == [b""]


def test_a_terminator_inside_is_content() -> None:
    data = b"one\r\n.\r\nMAIL FROM:<evil@x.example>\r\n"
    talked = settled(BEGUN + bdat(data, last=True) + b"NOOP\r\n")
    assert talked.contents == [stuffed(data)]
    assert talked.codes[-1] == "250 2.0.0"


@pytest.mark.parametrize("data", [b"a\nb\r\n", b"a\rb\r\n", b"a\n", b"a\r"])
def test_bare_line_ends_refuse_only_the_message(data: bytes) -> None:
    talked = settled(BEGUN + bdat(data, last=True) + MAIL)
    assert [end.problem for end in ended(talked)] == [ContentProblem.BARE_NEWLINE]
    assert talked.cause is None


def test_bare_line_ends_are_rewritten_where_configured() -> None:
    data = bdat(b"a\n.b\rc\r\n.", last=True)
    talked = settled(BEGUN + data, bare_newline="normalize")
    assert talked.contents == [b"a\r\n..b c\r\n..\r\n"]


def test_chunks_that_are_too_large_or_hold_nul_are_refused() -> None:
    over = settled(BEGUN + bdat(b"x" * 600) + bdat(b"x" * 600, last=True))
    assert [end.problem for end in ended(over)] == [ContentProblem.TOO_LARGE]
    nul = settled(BEGUN + bdat(b"x\0\r\n", last=True))
    assert [end.problem for end in ended(nul)] == [ContentProblem.NUL]


def test_a_refused_chunk_is_skipped() -> None:
    command = b"MAIL FROM:<evil@x.example>\r\n"
    talked = settled(HELLO + bdat(command, last=True) + b"NOOP\r\n")
    assert talked.lines[9:] == ["503 5.5.1 send MAIL and RCPT first", "250 2.0.0 OK"]

    def nobody(asked: Command) -> Reply:
        return Reply.of(550, "5.1.1", "no") if isinstance(asked, Rcpt) else accept(asked)

    talked = settled(BEGUN + bdat(command, last=True) + b"NOOP\r\n", nobody)
    assert talked.codes[-2:] == ["550 5.1.1", "250 2.0.0"]


@pytest.mark.parametrize("argument", [b"", b" x", b" -1", b" 1 FIRST", b" 1 LAST x", b" 1LAST"])
def test_a_chunk_without_a_size_ends_the_session(argument: bytes) -> None:
    talked = settled(BEGUN + b"BDAT" + argument + b"\r\nMAIL FROM:<evil@x.example>\r\n")
    assert talked.codes[-1] == "501 5.5.4"
    assert talked.cause == "chunk_size"


@pytest.mark.parametrize("line", [b"MAIL FROM:<x@y.example>", RCPT.strip()])
def test_only_chunks_may_follow_a_chunk(line: bytes) -> None:
    talked = settled(BEGUN + bdat(b"x\r\n") + line + b"\r\n" + bdat(b"y\r\n", last=True))
    assert talked.lines[SAID + 1] == "503 5.5.1 BDAT has begun; go on with BDAT, or send RSET"
    assert talked.contents == [b"x\r\ny\r\n"]


@pytest.mark.parametrize("line", [b"RSET\r\n", HELLO])
def test_rset_between_chunks_discards_them(line: bytes) -> None:
    talked = settled(BEGUN + bdat(b"x\r\n") + line + MAIL + RCPT + bdat(b"y\r\n", last=True))
    assert talked.contents == [b"y\r\n"]


def test_recipients_are_answered_before_chunks_are_accepted() -> None:
    server = Server()
    server.feed(BEGUN + RCPT + bdat(b"x\r\n", last=True))
    assert server.groups == [2]
    assert server.talk.contents == [b"x\r\n"]


@quick
@given(st.lists(st.binary(max_size=12), max_size=5), st.binary(max_size=12), SIZES)
def test_any_content_in_any_chunks(chunks: list[bytes], last: bytes, sizes: list[int]) -> None:
    data = BEGUN + b"".join(map(bdat, chunks)) + bdat(last, last=True) + b"NOOP\r\n"
    whole = talk(data, bare_newline="normalize")
    assert talk(data, sizes, bare_newline="normalize") == whole
    for content in whole.contents:
        assert b"\r\n.\r\n" not in b"\r\n" + content
        assert b"\r" not in content.replace(b"\r\n", b"")
        assert b"\n" not in content.replace(b"\r\n", b"")


@quick
@given(st.text("ab.\r\n", max_size=30), st.integers(0, 30))
def test_lines_in_chunks_equal_lines_after_data(text: str, at: int) -> None:
    data = "\r\n".join(text.replace("\r", "").split("\n")).encode() + b"\r\n"
    by_data = talk(BEGUN + b"DATA\r\n" + stuffed(data) + b".\r\n").contents
    assert talk(BEGUN + bdat(data[:at]) + bdat(data[at:], last=True)).contents == by_data


# LMTP and PRDR


def test_lmtp_uses_lhlo_instead_of_ehlo() -> None:
    assert terms(lmtp=True).greeting == b"220 relay.example LMTP smtpproxy\r\n"
    talked = settled(b"EHLO x\r\nHELO x\r\nMAIL FROM:<>\r\nLHLO client.example\r\n", lmtp=True)
    assert talked.codes[:3] == ["500 5.5.1", "500 5.5.1", "503 5.5.1"]
    assert talked.lines[3] == "250-relay.example greets client.example"
    assert talked.lines[2] == "503 5.5.1 send LHLO first"
    assert settled(b"LHLO x\r\n").codes == ["500 5.5.1"]
    assert settled(b"HELP\r\n", lmtp=True).lines[0].startswith("214-2.0.0 LHLO MAIL RCPT ")


def test_lmtp_answers_data_without_a_recipient_as_rfc_2033_requires() -> None:
    refused = settled(b"LHLO x\r\n" + MAIL + b"DATA\r\n", lmtp=True)
    assert refused.lines[-1] == "503 5.5.1 no valid recipients"


def _at_the_end(**options: bool) -> ServerConnection:
    engine = ServerConnection(terms(**options))
    hello = b"LHLO x\r\n" if options else b"EHLO x\r\n"
    engine.receive_data(hello + MAIL + RCPT + RCPT + bdat(b"x\r\n", last=True))
    for answered in range(4):
        assert engine.next_event(), answered
        engine.answer(Reply.of(250, "2.0.0", "OK"))
    while "EndOfContent" not in repr(engine.next_event()):
        pass
    return engine


def test_each_recipient_gets_a_reply_at_the_end() -> None:
    yes, no = Reply.of(250, "2.0.0", "yes"), Reply.of(550, "5.7.1", "no")
    lmtp = _at_the_end(lmtp=True)
    assert lmtp.answer_each([yes, no]) == b"250 2.0.0 yes\r\n550 5.7.1 no\r\n"
    assert not lmtp.in_transaction
    prdr = _at_the_end()
    assert prdr.answer_each([no, yes], final=yes) == (
        b"353 a reply for each recipient follows\r\n"
        b"550 5.7.1 no\r\n250 2.0.0 yes\r\n250 2.0.0 yes\r\n"
    )
    assert not prdr.in_transaction
