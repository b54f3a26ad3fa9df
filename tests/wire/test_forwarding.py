"""XCLIENT and XFORWARD: accepted only from trusted hosts, and sent to an upstream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.mail.reply import from_xtext, to_xtext
from smtpproxy.wire.commands import ClientInfo, XClient, XForward
from smtpproxy.wire.forwarding import XCLIENT, XFORWARD, XFORWARD_NAMES, xforward_command
from smtpproxy.wire.session import BASE
from tests.wire.feeding import HELLO, settled

OFFERED = (*BASE, XCLIENT, XFORWARD)
MAIL = b"MAIL FROM:<a@shop.example>\r\n"


def test_attributes_offered_to_trusted_hosts() -> None:
    lines = settled(HELLO, extensions=OFFERED).lines
    assert lines[-2:] == [
        "250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT",
        "250 XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE",
    ]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("ADDR=192.0.2.7 NAME=a.example", ClientInfo("192.0.2.7", "a.example")),
        ("addr=IPv6:2001:db8::1", ClientInfo("2001:db8::1")),
        ("ADDR=IPV6:::ffff:192.0.2.7", ClientInfo("192.0.2.7")),
        ("ADDR=[UNAVAILABLE] NAME=[tempunavail]", ClientInfo("", "")),
        (
            "HELO=spike.example+20x PROTO=ESMTP",
            ClientInfo(helo="spike.example x", protocol="ESMTP"),
        ),
        ("PORT=25", ClientInfo(port="25")),
    ],
)
def test_attributes_from_a_trusted_host(line: str, told: ClientInfo) -> None:
    talked = settled(HELLO + f"XFORWARD {line}\r\n".encode(), extensions=OFFERED)
    assert talked.commands[-1] == XForward(told)
    talked = settled(f"XCLIENT {line}\r\n".encode() + MAIL, extensions=OFFERED)
    assert talked.commands == [XClient(told)]
    assert talked.codes[-1] == "503 5.5.1", "the client must greet again"


@pytest.mark.parametrize(
    "line",
    ["", "ADDR", "ADDR=1.2.3", "ADDR=::1x", "WHO=me", "NAME=" + "x" * 256, "ADDR =1.2.3.4"],
)
def test_malformed_attributes_are_refused(line: str) -> None:
    for verb in ("XCLIENT", "XFORWARD"):
        talked = settled(HELLO + f"{verb} {line}\r\n".encode(), extensions=OFFERED)
        assert talked.codes[-1] == "501 5.5.4", line
        assert talked.errors == 1


def test_untrusted_hosts_are_refused() -> None:
    for verb in ("XCLIENT", "XFORWARD"):
        talked = settled(HELLO + f"{verb} ADDR=192.0.2.7\r\n".encode())
        assert talked.lines[-1] == f"550 5.7.0 {verb} is for trusted hosts only"


def test_neither_is_accepted_inside_a_transaction() -> None:
    for verb in (b"XCLIENT", b"XFORWARD"):
        talked = settled(HELLO + MAIL + verb + b" ADDR=192.0.2.7\r\n", extensions=OFFERED)
        assert talked.codes[-1] == "503 5.5.1"


def test_an_upstream_gets_the_attributes_it_accepts() -> None:
    told = ClientInfo("2001:db8::1", "", None, "ESMTP", "a b=c", None, "4Abc", "REMOTE")
    assert xforward_command(told, frozenset(XFORWARD_NAMES)) == (
        b"XFORWARD ADDR=IPV6:2001:db8::1 NAME=[UNAVAILABLE] PROTO=ESMTP HELO=a+20b+3Dc"
        b" IDENT=4Abc SOURCE=REMOTE\r\n"
    )
    assert xforward_command(ClientInfo("192.0.2.7"), frozenset({"ADDR"})) == (
        b"XFORWARD ADDR=192.0.2.7\r\n"
    )
    assert xforward_command(told, frozenset({"PROTO"})) == b"XFORWARD PROTO=ESMTP\r\n"
    assert xforward_command(told, frozenset({"LOGIN"})) == b""


@given(st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc", "Zl", "Zp"))))
def test_xtext_round_trip(text: str) -> None:
    encoded = to_xtext(text)
    assert encoded.isascii()
    assert " " not in encoded
    assert from_xtext(encoded) == "".join(c if c.isprintable() else "\ufffd" for c in text)
