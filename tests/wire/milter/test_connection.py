"""The milter side of the protocol: order, negotiation, macros, limits, hostile input."""

import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smtpproxy.wire.milter import MilterConnection, Signal
from smtpproxy.wire.milter_packets import (
    Abort,
    Actions,
    Body,
    Command,
    Connect,
    Data,
    EndOfHeaders,
    EndOfMessage,
    Header,
    Helo,
    Mail,
    MilterError,
    Negotiation,
    NextConnection,
    Quit,
    Rcpt,
    Stage,
    Steps,
    Unknown,
)
from tests.kit.mta import connection, encode, macros, negotiation, split_packets, strings
from tests.kit.soak import times

ALL = Actions(0x1FF), Steps(0x1FFFFF)
quick = settings(
    deadline=None, max_examples=times(25, 3_000), suppress_health_check=[HealthCheck.too_slow]
)


@dataclass
class Talk:
    """The outcome of a connection."""

    events: list[Command] = field(default_factory=list)
    answers: bytes = b""
    error: str | None = None


def engine_of(**options: int) -> MilterConnection:
    return MilterConnection(actions=Actions(0), steps=Steps(0), **options)


def talk(data: bytes, sizes: Sequence[int] = (), engine: MilterConnection | None = None) -> Talk:
    engine = engine or engine_of()
    talked, at = Talk(), 0
    for size in itertools.cycle(sizes or [len(data) or 1]):
        engine.receive_data(data[at : at + size])
        at += size
        try:
            while not isinstance(event := engine.next_event(), Signal):
                talked.events.append(event)
                talked.answers += engine.answer(event)
        except MilterError as error:
            talked.error = str(error)
            break
        if at >= len(data):
            break
    return talked


def settled(data: bytes) -> Talk:
    """Feed whole, octet by octet and in odd pieces; all outcomes must be equal."""
    whole = talk(data)
    for sizes in ((1,), (2,), (3, 1), (7, 5)):
        assert talk(data, sizes) == whole, f"differs in pieces of {sizes}"
    return whole


BEGUN = negotiation() + encode("M", strings("<>"))

TABLE: list[tuple[bytes, Command]] = [
    (negotiation(6, 0x1FF, 0x1FFFFF), Negotiation(6, Actions(0x1FF), Steps(0x1FFFFF))),
    (connection("c.example", "192.0.2.9", 25), Connect("c.example", "4", 25, "192.0.2.9")),
    (connection("c", "IPv6:2001:db8::1", 9), Connect("c", "6", 9, "IPv6:2001:db8::1")),
    (encode("C", b"c\0U"), Connect("c", "U")),
    (encode("C", b"c\0L\0\0/run/x\0"), Connect("c", "L", 0, "/run/x")),
    (encode("H", strings("client.example")), Helo("client.example")),
    (encode("M", strings("<>")), Mail("<>")),
    (encode("M", strings("<a@b>", "SIZE=1", "X=")), Mail("<a@b>", ("SIZE=1", "X="))),
    (encode("R", strings("<jos\u00e9@b>", "A=1")), Rcpt("<jos\u00e9@b>", ("A=1",))),
    (encode("R", b"<\xff@b>\0"), Rcpt("<\udcff@b>")),
    (encode("T"), Data()),
    (encode("L", b"Subject\0 a\n\tb\0"), Header(b"Subject", b" a\n\tb")),
    (encode("L", b"\0\0"), Header(b"", b"")),
    (encode("N"), EndOfHeaders()),
    (encode("B", b"x\0y"), Body(b"x\0y")),
    (encode("B"), Body(b"")),
    (encode("E", b"last"), EndOfMessage(b"last")),
    (encode("E"), EndOfMessage()),
    (encode("U", strings("XWHAT ever")), Unknown("XWHAT ever")),
    (encode("A"), Abort()),
    (encode("K"), NextConnection()),
    (encode("Q"), Quit()),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "meant"), TABLE)
def test_every_command(raw: bytes, meant: Command) -> None:
    before = b"" if isinstance(meant, Negotiation) else BEGUN
    talked = settled(before + raw)
    assert talked.error is None
    assert talked.events[-1] == meant
    assert settled(before + raw + b"\0\0\0") == talked  # an incomplete packet is awaited


def test_an_mta_may_leave_before_saying_anything() -> None:
    assert settled(encode("Q")).error is None


def test_a_whole_connection_with_two_messages() -> None:
    mail = [
        encode("M", strings("<a@b>")),
        encode("R", strings("<c@d>")),
        encode("T"),
        encode("L", strings("From", " a@b")),
        encode("N"),
        encode("B", b"body"),
        encode("E"),
    ]
    opening = [negotiation(), connection(), encode("H", strings("h"))]
    talked = settled(b"".join([*opening, *mail, encode("A"), *mail, encode("Q")]))
    assert talked.error is None
    assert "".join(letter for letter, _ in split_packets(talked.answers)) == "O" + "c" * 16


def test_commands_negotiated_as_unanswered_get_no_answer() -> None:
    wished = Steps.UNANSWERED_MAIL | Steps.UNANSWERED_BODY | Steps.UNANSWERED_RCPT
    engine = MilterConnection(actions=Actions(0), steps=wished)
    data = negotiation(6, 0, Steps.UNANSWERED_MAIL | Steps.UNANSWERED_BODY)
    data += encode("M", strings("<>")) + encode("R", strings("<a@b>")) + encode("B")
    answers = split_packets(talk(data, (), engine).answers)
    assert [letter for letter, _ in answers] == ["O", "c"]


@pytest.mark.parametrize("version", [2, 3, 4, 6, 7, 2**32 - 1])
@pytest.mark.parametrize("offered", [(0, 0), (0x3F, 0x7F), (2**32 - 1, 2**32 - 1)])
def test_nothing_is_requested_that_is_not_offered(version: int, offered: tuple[int, int]) -> None:
    engine = MilterConnection(actions=ALL[0], steps=ALL[1], macros={Stage.MAIL: ("i", "{x}")})
    ((letter, data),) = split_packets(talk(negotiation(version, *offered), (), engine).answers)
    assert letter == "O"
    said = struct.unpack_from("!III", data)
    assert said == (min(version, 6), 0x1FF & offered[0], 0x1FFFFF & offered[1])
    assert data[12:] == (b"\0\0\0\2i {x}\0" if offered[0] & 0x100 else b"")


READY = negotiation()
WRONG = {
    "before the negotiation": encode("M", strings("<>")),
    "a second negotiation": negotiation() * 2,
    "version 1": negotiation(1),
    "shorter than": encode("O", b"\0" * 11),
    "without a command": b"\0\0\0\0",
    "no such command": encode("z"),
    "Rcpt without a message": READY + encode("R", strings("<a@b>")),
    "EndOfMessage without a message": READY + encode("E"),
    "Header without a message": BEGUN + encode("A") + encode("L", strings("a", "b")),
    "EndOfHeaders without a message": BEGUN + encode("H", strings("h")) + encode("N"),
    "Data without a message": BEGUN + encode("K") + encode("T"),
    "Body without a message": BEGUN + encode("E") + encode("B", b"more"),
    "mail: a string without its NUL": READY + encode("M", b"<>"),
    "rcpt: a string without its NUL": BEGUN + encode("R"),
    "header: not a name": BEGUN + encode("L", b"a\0"),
    "a name without a value": READY + encode("D", b"Mi\0"),
    "unknown command": READY + encode("D", b"\xffi\0a\0"),
    "connect: not": READY + encode("C", b"host"),
    "connect: no port": READY + encode("C", b"host\x004\0"),
    "the limit is 1048576": READY + struct.pack("!I", 1024 * 1024 + 1),
}


@pytest.mark.parametrize("what", WRONG)
def test_protocol_violations_are_errors(what: str) -> None:
    talked = settled(WRONG[what])
    assert talked.error is not None
    assert what in talked.error


def test_the_largest_packet_is_accepted_and_a_larger_one_is_an_error_at_once() -> None:
    engine = engine_of(packet_limit=100)
    talked = talk(negotiation() + encode("M", strings("x" * 98)), (), engine)
    assert talked.events[1] == Mail("x" * 98)
    engine.receive_data(struct.pack("!I", 101))
    with pytest.raises(MilterError, match="101 octets"):
        engine.next_event()


def test_consumed_octets_are_freed() -> None:
    engine = engine_of()
    talk(BEGUN, (), engine)
    for _ in range(100):
        engine.receive_data(encode("B", b"x" * 65_535))
        assert engine.next_event() == Body(b"x" * 65_535)
    assert engine.buffered == 0
    assert len(engine._buffer) <= 2 * 256 * 1024


# macros


def engine_after(*packets: bytes) -> MilterConnection:
    engine = engine_of()
    assert talk(READY + b"".join(packets), (), engine).error is None
    return engine


def test_macros_match_with_or_without_braces_and_the_newest_wins() -> None:
    engine = engine_after(
        macros("C", {"{client_addr}": "192.0.2.9", "i": "early"}),
        connection(),
        macros("M", {"i": "1", "auth_authen": "shop"}),
        encode("M", strings("<>")),
        macros("R", {"{i}": "2"}),
        encode("R", strings("<a@b>")),
    )
    assert engine.macro("i") == "2"
    assert engine.macro("auth_authen") == "shop"
    assert engine.macro("client_addr") == "192.0.2.9"
    assert engine.macro("rcpt_addr") is None


MAIL = macros("M", {"auth_authen": "shop", "i": "1"}) + encode("M", strings("<>"))


@pytest.mark.parametrize(
    "ending",
    [encode("A"), encode("E") + encode("M", strings("<>")), encode("M", strings("<>"))],
    ids=["abort", "the next message", "another MAIL"],
)
def test_macros_of_a_message_end_with_it(ending: bytes) -> None:
    engine = engine_after(macros("C", {"v": "MTA"}), connection(), MAIL, ending)
    assert engine.macro("auth_authen") is None
    assert engine.macro("v") == "MTA"


def test_macros_are_available_for_the_verdict() -> None:
    engine = engine_after(MAIL, macros("E", {"i": "4QID"}), encode("E"))
    assert engine.macro("i") == "4QID"


def test_macros_of_a_recipient_do_not_reach_the_next() -> None:
    told = macros("R", {"rcpt_mailer": "local"}) + encode("R", strings("<a@b>"))
    assert engine_after(MAIL, told).macro("rcpt_mailer") == "local"
    assert engine_after(MAIL, told, encode("R", strings("<c@d>"))).macro("rcpt_mailer") is None


def test_macros_of_a_client_do_not_reach_the_next() -> None:
    engine = engine_after(macros("C", {"client_addr": "192.0.2.9"}), connection(), encode("K"))
    assert engine.macro("client_addr") is None


# arbitrary input

sizes_of_pieces = st.lists(st.integers(1, 9), min_size=1, max_size=5)
no_nul = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=5)
packet = st.builds(
    encode,
    st.sampled_from("OCHMRTLNBEAQKUD"),
    st.binary(max_size=20) | st.lists(no_nul, max_size=4).map(lambda words: strings(*words)),
)


@quick
@given(data=st.binary(max_size=300), sizes=sizes_of_pieces)
def test_any_octets_end_in_events_or_an_error(data: bytes, sizes: list[int]) -> None:
    """Invariant: no other exception, and the same outcome however the octets are cut."""
    assert talk(READY + data, sizes) == talk(READY + data)


@quick
@given(packets=st.lists(packet, max_size=12), sizes=sizes_of_pieces)
def test_any_packets_end_in_events_or_an_error(packets: list[bytes], sizes: list[int]) -> None:
    whole = talk(READY + b"".join(packets))
    assert talk(READY + b"".join(packets), sizes) == whole
    if whole.error is None:
        assert len(whole.events) == 1 + sum(p[4:5] != b"D" for p in packets)


names = st.text("abcXYZ-", min_size=1, max_size=10)
values = st.binary(max_size=50).map(lambda data: data.replace(b"\0", b""))


@quick
@given(fields=st.lists(st.tuples(names, values), max_size=8), body=st.binary(max_size=300))
def test_messages_arrive_unchanged(fields: list[tuple[str, bytes]], body: bytes) -> None:
    data = BEGUN + b"".join(encode("L", strings(*each)) for each in fields)
    data += b"".join(encode("B", body[at : at + 7]) for at in range(0, len(body), 7))
    events = settled(data + encode("E")).events
    assert [(e.name.decode(), e.value) for e in events if isinstance(e, Header)] == fields
    assert b"".join(e.data for e in events if isinstance(e, Body)) == body
