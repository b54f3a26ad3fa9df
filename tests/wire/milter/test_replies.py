"""Milter replies, octet for octet, also as read by kilter.protocol."""

from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.mail.reply import Reply
from smtpproxy.wire import milter_packets
from smtpproxy.wire.milter_packets import (
    Actions,
    Body,
    Command,
    Connect,
    Header,
    Helo,
    Macros,
    Mail,
    Negotiation,
    Rcpt,
    Stage,
    Steps,
    parse,
)
from tests.kit.mta import split_packets

messages: Any = pytest.importorskip("kilter.protocol.messages")
buffers: Any = pytest.importorskip("kilter.protocol.buffer")

RAW = [
    (milter_packets.CONTINUE, b"\0\0\0\1c"),
    (milter_packets.TEMPORARY_FAILURE, b"\0\0\0\1t"),
    (milter_packets.PROGRESS, b"\0\0\0\1p"),
    (milter_packets.delete_recipient("<a@b>"), b"\0\0\0\7-<a@b>\0"),
    (milter_packets.change_header("A", b"b", 2), b"\0\0\0\x09m\0\0\0\2A\0b\0"),
    (milter_packets.delete_header("A", 3), b"\0\0\0\x08m\0\0\0\3A\0\0"),
    (
        milter_packets.negotiated(Negotiation(6, Actions(8), Steps(1)), {Stage.HELO: ["i"]}),
        b"\0\0\0\x13O\0\0\0\6\0\0\0\x08\0\0\0\1\0\0\0\1i\0",
    ),
]


@pytest.mark.parametrize(("packet", "raw"), RAW)
def test_replies_octet_for_octet(packet: bytes, raw: bytes) -> None:
    assert packet == raw


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Reply.of(550, "5.7.1", "no"), b"550 5.7.1 no"),
        (Reply.of(451, None, "later"), b"451 later"),
        (Reply.of(552, "5.3.4", "100% full"), b"552 5.3.4 100%% full"),
        (Reply.of(450, "4.7.0", "a", "b"), b"450-4.7.0 a\r\n450 4.7.0 b"),
        (Reply.of(550, "5.7.1", "a\r\nb\0c"), b"550 5.7.1 a  b c"),
    ],
)
def test_custom_reply_codes(reply: Reply, text: bytes) -> None:
    assert split_packets(milter_packets.reply_code(reply)) == [("y", text + b"\0")]


@pytest.mark.parametrize("code", [250, 354, 199, 600])
def test_only_refusals_can_have_a_custom_reply(code: int) -> None:
    with pytest.raises(ValueError, match=str(code)):
        milter_packets.reply_code(Reply.of(code, None, "no"))


def test_a_nul_cannot_end_a_string_early() -> None:
    with pytest.raises(ValueError, match="NUL"):
        milter_packets.delete_recipient("<a@b>\0<c@d>")


# the other implementation


def understood(packet: bytes) -> Any:
    """What kilter reads; it must consume the whole packet."""
    buffer = buffers.SimpleBuffer(len(packet))
    buffer[:] = packet
    message, size = messages.Message.unpack(buffer)
    assert size == len(packet)
    return message


text = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)


@given(name=text.filter(bool), value=text, index=st.integers(1, 1000))
def test_headers_are_understood(name: str, value: str, index: int) -> None:
    changed = understood(milter_packets.change_header(name, value.encode(), index))
    assert (type(changed).__name__, changed.index, changed.name) == ("ChangeHeader", index, name)
    assert bytes(changed.value) == value.encode()


@given(code=st.sampled_from([450, 451, 550, 554]), said=text)
def test_reply_codes_are_understood(code: int, said: str) -> None:
    reply = understood(milter_packets.reply_code(Reply.of(code, f"{code // 100}.7.1", said)))
    assert type(reply).__name__ == "ReplyCode"
    line = f"{code} {code // 100}.7.1 {said}".replace("%", "%%")
    assert bytes(reply.content).rstrip(b"\0") == line.encode()


@given(address=text.filter(bool))
def test_recipients_are_understood(address: str) -> None:
    removed = understood(milter_packets.delete_recipient(address))
    assert (type(removed).__name__, removed.address) == ("RemoveRecipient", address)


def test_the_negotiation_is_understood() -> None:
    agreed = understood(
        milter_packets.negotiated(Negotiation(6, Actions(0x118), Steps(0x1C03C0)), {})
    )
    assert (agreed.version, int(agreed.action_flags)) == (6, 0x118)
    assert int(agreed.protocol_flags) == 0x1C03C0


def said(message: Any) -> Command:
    """What we read from kilter's output."""
    buffer = buffers.SimpleBuffer(1000)
    message.pack(buffer)
    raw = bytes(buffer[: buffer.filled])
    ((letter, data),) = split_packets(raw)
    return parse(ord(letter), data)


def test_packets_of_another_implementation_are_understood() -> None:
    assert said(messages.Connect("c.example", IPv4Address("192.0.2.9"), 25)) == Connect(
        "c.example", "4", 25, "192.0.2.9"
    )
    assert said(messages.Helo("h.example")) == Helo("h.example")
    assert said(messages.EnvelopeFrom(b"<a@b>", [b"SIZE=1"])) == Mail("<a@b>", ("SIZE=1",))
    assert said(messages.EnvelopeRecipient(b"<c@d>")) == Rcpt("<c@d>")
    assert said(messages.Header("Subject", b" hi")) == Header(b"Subject", b" hi")
    assert said(messages.Body(b"text")) == Body(b"text")
    assert said(messages.Macro(ord("M"), {"i": "4Q"})) == Macros("M", {"i": "4Q"})
