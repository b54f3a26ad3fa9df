"""An MTA that disconnects at any point from a milter or policy listener."""

import gc
import socket
import struct
from itertools import cycle

import pytest

from smtpproxy.intake.milter import MilterSession
from smtpproxy.intake.policy import PolicySession
from smtpproxy.relay.content import Content
from tests.intake.conftest import Listen
from tests.kit.messages import marketing
from tests.kit.mta import connection, encode, fields, macros, negotiation, strings
from tests.kit.policy import request
from tests.kit.ports import wait_for

ANN, STRANGER = "consent@people.example", "stranger@people.example"


def milter_dialog() -> bytes:
    """A message that is aborted after its end, and another."""
    head, _, body = marketing().partition(b"\r\n\r\n")
    message = encode("M", strings("<news@shop.example>"))
    message += b"".join(encode("R", strings(f"<{path}>")) for path in (ANN, STRANGER))
    message += encode("T")
    message += b"".join(encode("L", strings(name, value)) for name, value in fields(head))
    message += encode("N") + encode("B", body) + macros("E", {"i": "4Q"}) + encode("E")
    begin = negotiation() + macros("C", {"v": "Postfix 3.7"}) + connection()
    return begin + encode("H", strings("c.example")) + message + encode("A") + message + encode("Q")


def policy_dialog() -> bytes:
    asked = [request(recipient=path) for path in (ANN, STRANGER)]
    later = {"recipient": ANN, "recipient_count": "1"}
    asked += [request(protocol_state=state, **later) for state in ("DATA", "END-OF-MESSAGE")]
    return b"".join(asked)


@pytest.mark.parametrize(
    ("protocol", "dialog"), [("milter", milter_dialog()), ("policy", policy_dialog())]
)
def test_an_mta_that_disconnects_leaves_nothing_behind(
    listen: Listen, protocol: str, dialog: bytes
) -> None:
    intake = listen(
        protocol=protocol,
        streams=["offers"],
        default_stream="offers",
        max_connections_per_address=1000,
    )
    ways = cycle(["close", "reset", "eof"])
    for point, how in zip(range(0, len(dialog) + 1, 19), ways, strict=False):
        with intake.client() as peer:
            peer.socket.sendall(dialog[:point])
            if how == "reset":
                linger = struct.pack("ii", 1, 0)
                peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            elif how == "eof":
                peer.socket.shutdown(socket.SHUT_WR)
                peer.rest()
    with intake.client() as peer:  # after all others
        peer.socket.shutdown(socket.SHUT_WR)
        peer.rest()
    wait_for(lambda: intake.door._limits.open == 0, "all sessions to end")
    assert not intake.door._sessions
    assert not intake.door.deadlines._watched
    assert intake.door.spool.in_memory == 0
    gc.collect()
    kinds = (MilterSession, PolicySession, Content)
    assert [kept for kept in gc.get_objects() if isinstance(kept, kinds)] == []
