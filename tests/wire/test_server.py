"""The engine as a whole: pipelining, content, limits, and ends of sessions."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.mail.reply import Reply
from smtpproxy.wire.commands import COMMAND_LIMIT, Data, Rcpt
from smtpproxy.wire.server import ServerConnection
from smtpproxy.wire.session import (
    BASE,
    BLOCKED,
    NEED_DATA,
    PRDR,
    Answered,
    Command,
    ContentProblem,
    EndOfContent,
    State,
)
from tests.wire.feeding import HELLO, SIZES, Server, accept, cut, ended, quick, settled, talk, terms

MAIL = b"MAIL FROM:<a@shop.example>\r\n"
DATA = b"DATA\r\n"


def rcpt(name: str) -> bytes:
    return f"RCPT TO:<{name}@people.example>\r\n".encode()


# pipelining


def test_pipelined_recipients_are_judged_together() -> None:
    server = Server()
    server.feed(HELLO + MAIL + rcpt("a") + rcpt("b") + rcpt("c") + DATA)
    assert server.groups == [3]
    assert server.engine.state is State.CONTENT


def test_errors_between_recipients_are_answered_in_order() -> None:
    server = Server(lambda command: named(command))
    lines = [rcpt("a"), rcpt("b"), b"RCPT TO:<bad>\r\n", rcpt("c"), b"NOOP\r\n", b"FOO\r\n"]
    talked = settled(HELLO + MAIL + b"".join(lines) + rcpt("d") + DATA, named)
    server.feed(HELLO + MAIL + b"".join(lines) + rcpt("d") + DATA)
    assert server.talk == talked
    assert talked.lines[10:] == [
        "250 2.1.5 a",
        "250 2.1.5 b",
        "501 5.1.3 address has no domain; write <local-part@domain>",
        "250 2.1.5 c",
        "250 2.0.0 OK",
        "500 5.5.1 command not recognised; HELP lists them",
        "250 2.1.5 d",
        "354 go on",
    ]
    assert server.groups == [2, 1, 1]


def named(command: Command) -> Reply:
    if isinstance(command, Rcpt):
        return Reply.of(250, "2.1.5", command.forward_path.partition("@")[0])
    return accept(command)


def test_data_waits_for_the_answers_to_its_recipients() -> None:
    """They decide whether DATA is allowed at all."""
    engine = Server().engine
    engine.receive_data(HELLO)
    engine.next_event()
    engine.answer(Reply.of(250, None, "hello"))
    engine.receive_data(MAIL + rcpt("a") + rcpt("b") + DATA + b"x\r\n.\r\n")
    engine.next_event()
    assert engine.next_event() is BLOCKED  # RCPT waits for MAIL
    engine.answer(Reply.of(250, "2.1.0", "ok"))
    assert [engine.next_event() for _ in range(3)] == [
        Rcpt("a@people.example"),
        Rcpt("b@people.example"),
        BLOCKED,
    ]
    engine.answer(Reply.of(550, "5.7.1", "no"))
    assert engine.next_event() is BLOCKED
    engine.answer(Reply.of(250, "2.1.5", "yes"))
    assert engine.next_event() == Data()
    assert engine.next_event() is BLOCKED
    engine.answer(Reply.of(354, None, "go on"))
    assert engine.next_event() is not BLOCKED


def test_data_is_refused_when_all_recipients_were_refused() -> None:
    engine = Server().engine
    engine.receive_data(HELLO + MAIL + rcpt("a") + DATA)
    for _ in range(2):
        engine.next_event()
        engine.answer(Reply.of(250, None, "ok"))
    assert engine.next_event() == Rcpt("a@people.example")
    assert engine.next_event() is BLOCKED
    engine.answer(Reply.of(550, "5.7.1", "no"))
    event = engine.next_event()
    assert isinstance(event, Answered)
    assert event.data == b"550 5.7.1 no\r\n"


@pytest.mark.parametrize("refused_by", ["the engine", "the caller"])
def test_content_behind_a_refused_data_is_not_read_as_commands(refused_by: str) -> None:
    """The author of the content may have put commands into it."""

    def answer(command: Command) -> Reply:
        refused = Rcpt if refused_by == "the engine" else Data
        if isinstance(command, refused):
            return Reply.of(550, "5.7.1", "no")
        return accept(command)

    content = b"Subject: x\r\n\r\nMAIL FROM:<evil@shop.example>\r\n.\r\nQUIT\r\n"
    talked = talk(HELLO + MAIL + rcpt("a") + DATA + content, answer=answer)
    assert talked.lines[-1] == (
        "554 5.5.0 content was sent though DATA was refused; closing the connection"
    )
    assert talked.cause == "pipelining"
    assert len([c for c in talked.commands if not isinstance(c, Data)]) == 3
    for before in (b"", HELLO, HELLO + MAIL):
        assert talk(before + DATA + content).cause == "pipelining"


def test_commands_after_a_refused_data_are_accepted_once_it_is_answered() -> None:
    server = Server()
    server.feed(HELLO + DATA)
    assert server.feed(b"NOOP\r\n") == b"250 2.0.0 OK\r\n"
    assert server.feed(MAIL + rcpt("a") + DATA).endswith(b"354 go on\r\n")


def test_a_message_and_the_next_transaction_in_one_write() -> None:
    data = MAIL + rcpt("a") + DATA + b"one\r\n.\r\n" + MAIL + rcpt("b") + DATA + b"two\r\n.\r\n"
    talked = settled(HELLO + data + b"QUIT\r\n")
    assert talked.contents == [b"one\r\n", b"two\r\n"]
    assert talked.codes[-1] == "221 2.0.0"
    assert talked.errors == 0


def test_commands_after_the_content_wait_for_its_answer() -> None:
    engine = Server().engine
    engine.receive_data(HELLO + MAIL + rcpt("a") + DATA + b"x\r\n.\r\nNOOP\r\n")
    for reply in (250, 250, 250, 354):
        engine.next_event()
        engine.answer(Reply.of(reply, None, "ok"))
    assert engine.next_event() == EndOfContent(3, None, b"x\r\n")
    assert engine.next_event() is BLOCKED
    engine.answer(Reply.of(250, "2.0.0", "queued"))
    assert engine.next_event() == Answered(b"250 2.0.0 OK\r\n")
    assert engine.next_event() is NEED_DATA
    assert engine.buffered == 0


# content


@pytest.mark.parametrize(
    ("content", "size"),
    [(b"", 0), (b".x\r\n", 4), (b"..\r\n", 4), (b"\r\n", 2), (b"a\r\n..b\r\n", 8)],
)
def test_content_stays_stuffed_and_its_size_is_as_received(content: bytes, size: int) -> None:
    talked = settled(HELLO + MAIL + rcpt("a") + DATA + content + b".\r\n")
    assert talked.contents == [content]
    assert ended(talked) == [EndOfContent(size)]


@pytest.mark.parametrize(
    ("length", "problem"),
    [(998, None), (1000, None), (1001, ContentProblem.TOO_LARGE), (5000, ContentProblem.TOO_LARGE)],
)
def test_content_over_the_limit_is_read_to_the_end(
    length: int, problem: ContentProblem | None
) -> None:
    content = b"x" * (length - 2) + b"\r\n"
    data = HELLO + MAIL + rcpt("a") + DATA + content + b".\r\nNOOP\r\n"
    talked = settled(data)
    assert ended(talked) == [EndOfContent(length, problem)]
    assert talked.lines[-1] == "250 2.0.0 OK"
    for sizes in ((), (1,), (700,)):
        server = Server()
        for piece in cut(data, sizes):
            server.feed(piece)
        assert server.handed_on <= 1000


def test_a_nul_in_content_is_refused_and_too_large_comes_first() -> None:
    opening = HELLO + MAIL + rcpt("a") + DATA
    assert ended(settled(opening + b"a\0b\r\n.\r\n")) == [EndOfContent(5, ContentProblem.NUL)]
    large = b"\0" * 1001 + b"\r\n.\r\n"
    assert ended(settled(opening + large)) == [EndOfContent(1003, ContentProblem.TOO_LARGE)]


def test_a_problem_affects_only_its_message() -> None:
    message = MAIL + rcpt("a") + DATA
    talked = settled(HELLO + message + b"\0\r\n.\r\n" + message + b"x\r\n.\r\n")
    assert [end.problem for end in ended(talked)] == [ContentProblem.NUL, None]


def test_normalized_content_is_counted_as_it_will_be_sent() -> None:
    opening = HELLO + MAIL + rcpt("a") + DATA
    talked = settled(opening + b"a\nb\r\n.\r\n", bare_newline="normalize")
    assert talked.contents == [b"a\r\nb\r\n"]
    assert ended(talked) == [EndOfContent(6)]


# ends of a session

BARE = "521 5.5.2 bare {} received; lines must end with <CR><LF>; closing the connection"


@pytest.mark.parametrize("bare_newline", ["reject", "normalize"])
@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b"NOOP\n", "<LF>"),
        (b"NOOP\rx", "<CR>"),
        (b"NOOP\r\r\n", "<CR>"),
        (b"NOOP\nNOOP\r\n", "<LF>"),
        (b"NOOP x\n\r\n", "<LF>"),
        (b"\n", "<LF>"),
        (b"MAIL FROM:<a@b.example>\nRCPT TO:<c@d.example>\nDATA\n", "<LF>"),
        (b"\0\xff\n", "<LF>"),
        (b"NOOP a\rb\nc\r\n", "<CR>"),
        (b"x" * COMMAND_LIMIT + b"\n", "<LF>"),
    ],
)
def test_a_bare_newline_in_a_command_ends_the_session_at_once(
    line: bytes, name: str, bare_newline: str
) -> None:
    """Even if no CRLF follows: a client that sends bare LF waits for its answer."""
    talked = settled(HELLO + line, bare_newline=bare_newline)
    assert talked.lines[-1] == BARE.format(name)
    assert talked.cause == "bare_newline"
    assert len(talked.commands) == 1


def test_a_bare_newline_in_content_ends_the_session() -> None:
    opening = HELLO + MAIL + rcpt("a") + DATA
    talked = settled(opening + b"a\nb\r\n.\r\n" + MAIL)
    assert talked.lines[-1] == BARE.format("<LF>")
    assert talked.cause == "bare_newline"
    assert ended(talked) == []


def test_input_after_the_end_is_ignored() -> None:
    server = Server()
    server.feed(HELLO + b"NOOP\n")
    assert server.engine.state is State.CLOSED
    assert server.feed(MAIL + b"NOOP\r\n") == b""


@pytest.mark.parametrize("length", [512, COMMAND_LIMIT])
def test_a_long_line_is_accepted(length: int) -> None:
    assert settled(HELLO + b"NOOP ".ljust(length, b"x") + b"\r\n").codes[-1] == "250 2.0.0"


@pytest.mark.parametrize("rest", [b"\r\n", b"x\r\n", b"\r", b"\rx", b"x" * 5000 + b"\r\n", b"x"])
def test_a_line_that_is_too_long_ends_the_session(rest: bytes) -> None:
    line = b"NOOP ".ljust(COMMAND_LIMIT + 1, b"x") + rest
    talked = settled(HELLO + line + b"NOOP\r\n")
    assert talked.lines[-1] == "500 5.5.2 command line too long; closing the connection"
    assert talked.cause == "line_too_long"


def test_recipients_before_a_broken_line_are_answered_first() -> None:
    too_long = (b"x" * (COMMAND_LIMIT + 2), b"x" * COMMAND_LIMIT + b"\rx")
    for broken in (b"RCPT TO:<b\n", b"\n", *too_long):
        talked = settled(HELLO + MAIL + rcpt("a") + broken)
        assert talked.lines[-2].startswith("250 2.0.0 Rcpt")
        assert talked.lines[-1].startswith("5")
        assert talked.cause in ("bare_newline", "line_too_long")


# recipients


def test_recipients_over_the_limit_are_deferred() -> None:
    talked = settled(HELLO + MAIL + b"".join(map(rcpt, "abcde")) + DATA, max_recipients=3)
    assert talked.lines[10:] == [
        *["250 2.0.0 Rcpt"] * 3,
        *["452 4.5.3 too many recipients; send the rest later"] * 2,
        "354 go on",
    ]


def test_refused_recipients_do_not_count() -> None:
    def answer(command: Command) -> Reply:
        if isinstance(command, Rcpt) and command.forward_path[0] in "ab":
            return Reply.of(550, "5.7.1", "no")
        return accept(command)

    talked = settled(HELLO + MAIL + b"".join(map(rcpt, "abcde")), answer, max_recipients=2)
    assert [code[:3] for code in talked.codes[2:]] == ["550", "550", "250", "250", "452"]


# arbitrary input

LINES = st.sampled_from(
    [
        HELLO,
        b"HELO client.example\r\n",
        MAIL,
        b"MAIL FROM:<> SIZE=5 SMTPUTF8\r\n",
        rcpt("a"),
        "RCPT TO:<é@people.example>\r\n".encode(),
        b"RCPT TO:<bad>\r\n",
        b"DATA x\r\n",
        MAIL + rcpt("a") + DATA + b"Subject: x\r\n\r\n..\r\n.\r\n",
        MAIL + rcpt("a") + DATA + b".\r\n",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"\r\n",
        b"FOO\r\n",
        b"NOOP \xff\r\n",
    ]
)


@quick
@given(st.lists(LINES, max_size=12), st.sampled_from([b"", b"QUIT\r\n", b"\n", b"x\rx"]), SIZES)
def test_a_session_has_the_same_outcome_however_it_is_cut(
    lines: list[bytes], last: bytes, sizes: list[int]
) -> None:
    """Each command is sent separately, as content after a refused DATA ends a session."""
    data = b"".join(lines).replace(b"DATA x\r\n", b"") + last
    if talk(data).cause != "pipelining":
        assert talk(data, sizes) == talk(data)


@quick
@given(st.lists(LINES, max_size=6), st.binary(max_size=300), SIZES)
def test_garbage_is_answered_or_incomplete(
    lines: list[bytes], garbage: bytes, sizes: list[int]
) -> None:
    server = Server()
    for piece in cut(b"".join(lines) + garbage, sizes):
        server.feed(piece)
        assert server.engine.buffered <= COMMAND_LIMIT + 2
    for line in server.talk.lines:
        assert line[:3].isdigit()


def test_an_idle_session_uses_little_memory() -> None:
    """Thousands may be idle: five thousand take some 100 MB in all processes together."""
    offered = terms(extensions=(*BASE, PRDR))
    ServerConnection(offered)  # shared by all
    tracemalloc.start()
    try:
        sessions = [ServerConnection(offered) for _ in range(100)]
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size / len(sessions) < 600
