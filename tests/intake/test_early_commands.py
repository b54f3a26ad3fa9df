"""Clients that send before their turn: such commands are never carried out."""

import socket
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.auth.users import empty, write
from tests.intake.conftest import Listen
from tests.kit.messages import marketing
from tests.kit.upstream import FakeUpstream

EARLY = "554 5.5.0 input came before it was asked for; closing the connection"
BEFORE = ("MAIL FROM:<news@shop.example>", "RCPT TO:<consent@people.example>")


@pytest.mark.parametrize("hello", ["EHLO", "HELO"])
def test_commands_behind_ehlo_are_not_carried_out(listen: Listen, hello: str) -> None:
    intake = listen()
    with intake.client() as client:
        assert client.reply().startswith("220 ")
        client.send(f"{hello} client.example", *BEFORE)
        assert client.rest() == [EARLY]
    assert intake.wait_closed() == ["pipelining"]


def test_commands_behind_lhlo_are_not_carried_out(listen: Listen) -> None:
    intake = listen(protocol="lmtp")
    with intake.client() as client:
        assert client.reply().startswith("220 ")
        client.send("LHLO client.example", "NOOP")
        assert client.rest() == [EARLY]


def test_content_before_354_is_refused(listen: Listen, upstream: FakeUpstream) -> None:
    """No second message may hide in what an earlier server took for content."""
    intake = listen()
    with intake.client() as client:
        client.greet()
        client.send(*BEFORE, "DATA", marketing(), b".\r\n", *BEFORE)
        assert [reply[:3] for reply in client.replies(3)] == ["250", "250", "554"]
        assert client.rest() == []
    assert intake.wait_closed() == ["pipelining"]
    assert upstream.messages == []
    assert [each for each in intake.records.decided if each.stage == "data"] == []


@pytest.mark.parametrize(
    ("first", "then"), [("AUTH PLAIN", "AGEAYg=="), ("AUTH LOGIN", "YQ=="), (None, "NOOP")]
)
def test_commands_behind_auth_are_not_carried_out(
    listen: Listen, tmp_path: Path, first: str | None, then: str
) -> None:
    write(tmp_path / "users", empty())
    config = {"auth": {"users": str(tmp_path / "users")}}
    intake = listen(config, auth="optional", auth_without_tls=True)
    with intake.client() as client:
        client.greet()
        if first is None:  # the answer to a challenge
            assert client.say("AUTH LOGIN").startswith("334 ")
            first = "YQ=="
        client.send(first, then)
        assert client.rest() == [EARLY]
    assert intake.wait_closed() == ["pipelining"]


def test_commands_before_the_greeting_are_not_carried_out(listen: Listen) -> None:
    """Input already there when the connection is accepted; a busy listener finds more."""
    intake = listen(proxy_protocol=True, proxy_trusted=["127.0.0.1"])
    with intake.client() as client:
        client.send(b"PROXY TCP4 192.0.2.7 198.51.100.1 1 25\r\n", "EHLO client.example")
        assert client.rest() == [EARLY]
    assert intake.wait_closed() == ["pipelining"]


def test_half_a_close_before_the_greeting_ends_the_session(listen: Listen) -> None:
    """A health check may do that: `nc -N relay 25 < /dev/null`."""
    intake = listen(proxy_protocol=True, proxy_trusted=["127.0.0.1"])
    with intake.client() as client:
        client.send(b"PROXY UNKNOWN\r\n")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.rest() == ["220 relay.example ESMTP smtpproxy"]
    assert intake.wait_closed() == ["eof"]


def test_quit_may_be_pipelined_behind_anything(listen: Listen) -> None:
    intake = listen(proxy_protocol=True, proxy_trusted=["127.0.0.1"])
    for lines in (("QUIT",), ("quit",)):
        with intake.client() as client:
            client.send(b"PROXY UNKNOWN\r\n", *lines)
            assert [reply[:3] for reply in client.replies(2)] == ["220", "221"]
    with intake.client() as client:
        client.send(b"PROXY UNKNOWN\r\n")
        assert client.reply().startswith("220 ")
        client.send("EHLO client.example", "QUIT")
        assert [reply[:3] for reply in client.replies(2)] == ["250", "221"]


@pytest.mark.parametrize(
    "lines",
    [
        (*BEFORE, "RSET", *BEFORE, "DATA"),
        ("NOOP", "HELP", "VRFY x", *BEFORE, "DATA"),
        (*BEFORE, "RCPT TO:<customer@people.example>", "DATA"),
    ],
    ids=["reset", "harmless", "group"],
)
def test_groups_of_commands_that_may_be_pipelined(listen: Listen, lines: tuple[str, ...]) -> None:
    intake = listen()
    with intake.client() as client:
        client.greet()
        client.send(*lines)
        assert client.replies(len(lines))[-1].startswith("354 ")
        assert client.say(marketing(), b".\r\n").startswith("250 ")


def test_chunks_may_be_pipelined_with_their_envelope(
    listen: Listen, upstream: FakeUpstream
) -> None:
    intake = listen()
    data = marketing()
    with intake.client() as client:
        client.greet()
        client.send(
            *BEFORE, f"BDAT {len(data)} LAST", data, *BEFORE, f"BDAT {len(data)} LAST", data
        )
        assert [reply[:3] for reply in client.replies(6)] == ["250"] * 6
    assert len(upstream.messages) == 2


@pytest.mark.parametrize("keys", [{}, {"proxy_protocol": True, "proxy_trusted": ["127.0.0.1"]}])
def test_a_listener_can_permit_early_commands(
    listen: Listen, upstream: FakeUpstream, keys: dict[str, Any]
) -> None:
    intake = listen(early_commands="permit", **keys)
    header = b"PROXY UNKNOWN\r\n" if keys else b""
    with intake.client() as client:
        client.send(header, "EHLO client.example", *BEFORE, "DATA", marketing() + b".\r\n", "QUIT")
        assert client.replies(7)[-1].startswith("221 ")
    assert len(upstream.messages) == 1
