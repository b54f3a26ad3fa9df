"""Clients that write in several pieces need not wait for delayed acknowledgements.

They hold the last piece back until the one before is acknowledged (RFC 896), which a kernel
delays by 40 ms once it has seen that answers go the same way.
"""

import socket
import time
from collections.abc import Callable

import pytest

from tests.intake.conftest import Listen
from tests.kit.mta import encode, mta
from tests.kit.policy import policy_client, request

CERTAIN = {"streams": ["offers"], "default_stream": "offers"}
SENDER, PERSON = "news@shop.example", "consent@people.example"


def least(sock: socket.socket, send: Callable[[], None]) -> float:
    """Return the duration of the fastest of several runs, in seconds."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    times = []
    for _ in range(12):
        began = time.monotonic()
        send()
        times.append(time.monotonic() - began)
    return min(times[4:])  # the first acknowledgements are always immediate


@pytest.mark.parametrize("command", ["DATA", "BDAT"])
def test_content_in_pieces_is_not_delayed(listen: Listen, command: str) -> None:
    """PHP writes line by line, Java writes the dot separately, others BDAT and its octets."""
    intake = listen(**CERTAIN)
    with intake.client() as client:
        client.greet()

        def send() -> None:
            client.say(f"MAIL FROM:<{SENDER}>")
            client.say(f"RCPT TO:<{PERSON}>")
            if command == "DATA":
                client.say("DATA")
                client.send("From: news@shop.example")
                client.send(".")
            else:
                client.send("BDAT 25 LAST")
                client.socket.sendall(b"From: news@shop.example\r\n")
            assert client.reply().startswith("550 ")  # no link to unsubscribe

        assert least(client.socket, send) < 0.035


def test_header_fields_for_a_milter_are_not_delayed(listen: Listen) -> None:
    """Postfix writes each field in a packet, which gets no answer."""
    intake = listen(protocol="milter", **CERTAIN)
    with mta(intake.port) as peer:
        peer.negotiate()
        peer.connect()

        def send() -> None:
            peer.mail(SENDER)
            assert peer.rcpt(PERSON).final == "c"
            peer.send(encode("L", b"From\0news@shop.example\0"))
            peer.send(encode("L", b"Subject\0in pieces\0"))
            peer.send(encode("E", b""))
            assert peer.read()[0] == "y"

        assert least(peer.socket, send) < 0.035


def test_a_policy_request_in_pieces_is_not_delayed(listen: Listen) -> None:
    intake = listen(protocol="policy", **CERTAIN)
    with policy_client(intake.port) as peer:

        def send() -> None:
            asked = request(sender=SENDER, recipient=PERSON)
            for piece in (asked[:40], asked[40:80], asked[80:]):
                peer.socket.sendall(piece)
            assert peer.action() == "DUNNO"

        assert least(peer.socket, send) < 0.035
