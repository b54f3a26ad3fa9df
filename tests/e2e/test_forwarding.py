"""XCLIENT and XFORWARD: the client behind a trusted host is recorded and passed on to Postfix."""

import smtplib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.kit.audit import records
from tests.kit.messages import marketing
from tests.kit.parts import needs
from tests.kit.ports import LOOPBACK
from tests.kit.postfix import PostfixInstance
from tests.kit.relay import RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import KEYWORDS, FakeUpstream

SUBSCRIBER = address("consent")
SENDER = "news@shop.example"
TAKES_IT = "XFORWARD NAME ADDR PROTO HELO SOURCE"


def _config() -> dict[str, Any]:
    believed = {"xclient_trusted": ["127.0.0.0/8"], "login_trusted": [LOOPBACK]}
    return {
        "listener": [
            listener("apps", "offers", default="offers", **believed),
            listener("others", "offers", default="offers", xclient_trusted=["192.0.2.0/24"]),
        ]
    }


def _send(relay: RelayProcess, *commands: str, via: str = "apps") -> list[tuple[int, bytes]]:
    """Send `commands` after EHLO, then a message; return the replies to them."""
    with smtplib.SMTP(LOOPBACK, relay.port(via), timeout=30) as client:
        client.ehlo("filter.example")
        answers = []
        for command in commands:
            answers.append(client.docmd(command))
            if command.startswith("XCLIENT"):
                client.ehlo("client.example")
        client.sendmail(SENDER, SUBSCRIBER, marketing())
        client.sendmail(SENDER, SUBSCRIBER, marketing())
        return answers


@pytest.fixture(scope="module")
def relay(filled: Callable[..., RelayProcess], mta: FakeUpstream) -> RelayProcess:
    return filled(mta.address, _config())


def test_xforward_holds_for_the_next_message_only(relay: RelayProcess, mta: FakeUpstream) -> None:
    answers = _send(relay, "XFORWARD ADDR=192.0.2.7 NAME=a.example", "XFORWARD HELO=spike.example")
    assert [code for code, _ in answers] == [250, 250]
    first, second = [record.decided.client for record in records(relay)][-2:]
    assert (first.peer, first.helo) == ("192.0.2.7", "spike.example")
    assert (second.peer, second.helo) == (LOOPBACK, "filter.example")
    received = mta.messages[-2].data.partition(b"\r\n\r\n")[0]
    assert b"spike.example" in received
    assert b"192.0.2.7" in received


def test_xclient_holds_for_the_session(relay: RelayProcess) -> None:
    answers = _send(relay, "XCLIENT ADDR=IPV6:2001:db8::7 LOGIN=shop")
    assert answers[0][0] == 220
    for record in records(relay)[-2:]:
        client = record.decided.client
        assert (client.peer, client.helo, client.login) == (
            "2001:db8::7",
            "client.example",
            "shop",
        )


def test_untrusted_hosts_are_not_believed(relay: RelayProcess) -> None:
    (answer,) = _send(relay, "XFORWARD ADDR=192.0.2.7", via="others")
    assert answer[0] == 550
    assert records(relay)[-1].decided.client.peer == LOOPBACK


@contextmanager
def saying(mta: FakeUpstream, *keywords: str) -> Iterator[None]:
    """Announce these keywords too from the next connection on."""
    mta.begin()
    mta.keywords = (*KEYWORDS, *keywords)
    mta.drop_connections()
    yield
    mta.keywords = KEYWORDS
    mta.drop_connections()


def test_an_upstream_that_accepts_xforward_gets_it(relay: RelayProcess, mta: FakeUpstream) -> None:
    with saying(mta, TAKES_IT):
        _send(relay, "XFORWARD ADDR=192.0.2.7 NAME=a.example HELO=spike.example SOURCE=LOCAL")
    assert len(mta.messages) == 2, "a 500 to XFORWARD must not stop the mail"
    told = [line for _, line in mta.commands if line.startswith("XFORWARD")]
    assert told == [
        "XFORWARD ADDR=192.0.2.7 NAME=a.example PROTO=ESMTP HELO=spike.example SOURCE=LOCAL",
        "XFORWARD ADDR=127.0.0.1 NAME=[UNAVAILABLE] PROTO=ESMTP HELO=filter.example SOURCE=REMOTE",
    ]


def test_an_upstream_that_allows_xclient_gets_a_session_for_the_client(
    relay: RelayProcess, mta: FakeUpstream
) -> None:
    """On its own connection, which no other client's mail uses."""
    with saying(mta, "XCLIENT NAME ADDR PORT PROTO HELO LOGIN"):
        _send(relay)
        _send(
            relay, "XCLIENT ADDR=192.0.2.7 PORT=4711 NAME=a.example HELO=spike.example LOGIN=shop"
        )
        _send(relay)
    assert len(mta.messages) == 6
    said = [(n, line) for n, line in mta.commands if line.startswith(("XCLIENT", "MAIL"))]
    places = {n: place for place, n in enumerate(dict.fromkeys(n for n, _ in said), 1)}
    assert [(places[n], line.partition(" ")[0]) for n, line in said] == [
        *[(1, "MAIL")] * 2,
        *[(1, "XCLIENT"), (1, "MAIL"), (2, "XCLIENT"), (2, "MAIL")],
        *[(3, "MAIL")] * 2,
    ]
    named = "ADDR=192.0.2.7 NAME=a.example PORT=4711"
    command = f"XCLIENT {named} PROTO=ESMTP HELO=client.example LOGIN=shop"
    assert [line for _, line in said if line.startswith("XCLIENT")] == [command] * 2


@needs("postfix")
def test_postfix_treats_the_client_as_its_own(filled: Callable[..., RelayProcess]) -> None:
    with PostfixInstance(main={"smtpd_authorized_xclient_hosts": LOOPBACK}) as postfix:
        relay = filled(postfix.address, _config())
        _send(relay, "XCLIENT ADDR=192.0.2.7 NAME=a.example HELO=spike.example")
        assert len(postfix.delivered(2)) == 2
        assert postfix.log.count("client=a.example[192.0.2.7]") == 2
