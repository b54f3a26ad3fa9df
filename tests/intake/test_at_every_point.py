"""A client that leaves, or an upstream that fails, at every point of a dialog.

The fixture `listen` checks that no session met an internal failure or kept a connection.
"""

import socket
import struct
from typing import Any

import pytest

from tests.intake.conftest import Listen
from tests.kit.messages import marketing
from tests.kit.ports import wait_for
from tests.kit.upstream import At, Close, FakeUpstream, Raw, Step

CONTENT = marketing()
OFFERS: Any = {"streams": ["offers"], "default_stream": "offers"}
MESSAGE = (
    b"MAIL FROM:<news@shop.example>\r\nRCPT TO:<consent@people.example>\r\n"
    b"RCPT TO:<stranger@people.example>\r\nDATA\r\n" + CONTENT + b".\r\n"
)
DIALOG = b"EHLO client.example\r\n" + MESSAGE + b"NOOP\r\n" + MESSAGE + b"QUIT\r\n"
FIRST_ENDS = DIALOG.index(b"\r\n.\r\n") + 5


@pytest.mark.parametrize("how", ["eof", "close", "reset"])
def test_a_client_that_leaves_at_any_point(
    listen: Listen, upstream: FakeUpstream, how: str
) -> None:
    """Content is mailed once if it was complete, and otherwise not at all."""
    intake = listen(early_commands="permit", **OFFERS, max_connections_per_address=1000)
    points = [*range(0, len(DIALOG), 23), FIRST_ENDS - 1, FIRST_ENDS, len(DIALOG)]
    for point in points:
        with intake.client() as client:
            client.socket.sendall(DIALOG[:point])
            if how == "eof":
                client.socket.shutdown(socket.SHUT_WR)
                client.rest()
            elif how == "reset":
                linger = struct.pack("ii", 1, 0)
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    with intake.client() as client:  # after all others
        client.send("QUIT")
        client.rest()
    wait_for(lambda: intake.door._limits.open == 0, "all sessions to end")
    wait_for(lambda: intake.pool.busy == 0, "the upstream connections to come back")
    wait_for(lambda: not intake.pool._opening, "what nobody waits for to have opened")
    assert not intake.door._sessions
    assert len(intake.door.deadlines._watched) <= intake.pool.idle
    assert not intake.pool._shares._held
    assert intake.door.spool.in_memory == 0
    ended = sum(DIALOG[:point].count(b"\r\n.\r\n") for point in points)
    if how == "eof":
        assert len(upstream.messages) == ended
    assert len(upstream.messages) <= ended


@pytest.mark.parametrize("step", ["mail", "rcpt", "data", "end"])
@pytest.mark.parametrize("action", [Close(), Close(reset=True), Raw(b"250 2.0"), Raw(b"\0\r\n")])
def test_an_upstream_that_disconnects_at_any_point(
    listen: Listen, upstream: FakeUpstream, step: Step, action: Close | Raw
) -> None:
    upstream.behaviours.append(At(step, action, nth=2))
    intake = listen({"upstream": {"command_timeout": "1s", "data_timeout": "1s"}})
    with intake.client() as client:
        client.greet()
        for _ in range(3):
            client.send("MAIL FROM:<news@shop.example>", "RCPT TO:<consent@people.example>", "DATA")
            replies = client.replies(3)
            if replies[2].startswith("354 "):
                client.send(CONTENT, b".\r\n")
                replies.append(client.reply())
            else:
                assert client.say("RSET").startswith("250 ")
            assert all(reply[:3] in ("250", "354", "451", "554") for reply in replies), replies
        assert replies[-1].startswith("250 ")  # the third message is unharmed


def test_an_unexpected_reply_answers_nothing(listen: Listen, upstream: FakeUpstream) -> None:
    """It arrives with the last reply to a message; the next uses another connection."""
    upstream.behaviours.append(
        At("end", Raw(b"250 2.0.0 queued\r\n250 2.1.0 sender ok\r\n"), nth=1)
    )
    intake = listen()
    with intake.client() as client:
        client.greet()
        for _ in range(2):
            client.begin()
            client.send(CONTENT, b".\r\n")
            assert client.reply().startswith("250 ")
    assert upstream.connections == 2


def test_a_thousand_pipelined_commands_are_answered(listen: Listen) -> None:
    """Answers must not nest, or the stack would overflow."""
    intake = listen(
        early_commands="permit", **OFFERS, max_refused_per_connection=10_000, max_errors=10_000
    )
    once = b"MAIL FROM:<news@shop.example>\r\nRCPT TO:<stranger@people.example>\r\nRSET\r\n"
    with intake.client() as client:
        client.greet()
        client.send(once * 1_000 + b"QUIT\r\n")
        codes = [line[:3] for line in client.rest()]
    assert codes == [*["250", "550", "250"] * 1_000, "221"]
