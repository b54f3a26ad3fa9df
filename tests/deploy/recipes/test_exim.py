"""Exim with smtpproxy as its smarthost, as in docs/deploy/exim.md."""

import tomllib
from collections.abc import Callable, Iterator

import pytest

from tests.deploy.recipes.clients import SENDER, arrived, send, session
from tests.kit.exim import EximInstance
from tests.kit.messages import marketing, message
from tests.kit.pages import blocks
from tests.kit.parts import needs
from tests.kit.ports import LOOPBACK, free_port, wait_for
from tests.kit.relay import RelayProcess
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

pytestmark = needs("exim")


@pytest.fixture(scope="module")
def pair(
    filled: Callable[..., RelayProcess], mta: FakeUpstream
) -> Iterator[tuple[RelayProcess, EximInstance]]:
    listener = free_port()
    toml, router, transport = blocks(
        "deploy/exim.md",
        {
            "127.0.0.1:2525": f"{LOOPBACK}:{listener}",
            "127.0.0.1::2525": f"{LOOPBACK}::{listener}",
            "127.0.0.1:10025": mta.address,
        },
    )
    with EximInstance(router, transport, free_port(), mta.address) as exim:
        yield filled(mta.address, tomllib.loads(toml)), exim


@pytest.fixture
def exim(pair: tuple[RelayProcess, EximInstance]) -> EximInstance:
    return pair[1]


def test_permitted_recipients_get_mail_and_the_sender_learns_of_the_others(
    exim: EximInstance, mta: FakeUpstream
) -> None:
    people = [address("withdrawn"), address("consent"), address("complained")]
    mail = marketing(message_id="<some@shop.example>", body="caf\xe9\r\n.dot\r\n")
    with session(exim.port) as client:
        assert send(client, mail, *people)[0] == 250
    found = arrived(mta, "<some@shop.example>", 2)
    (got,) = [each for each in found if each.sender]
    assert (got.sender, got.recipients) == (SENDER, (address("consent"),))
    assert got.data.endswith(mail.partition(b"\r\n\r\n")[2])
    wait_for(lambda: bounces(mta).count(b"refused: ") >= 2, "the bounces")
    assert b"<withdrawn@people.example> refused: consent_withdrawn" in bounces(mta)
    assert b"<complained@people.example> refused: suppressed_complaint" in bounces(mta)


def bounces(mta: FakeUpstream) -> bytes:
    """The words of every message with a null reverse path."""
    return b" ".join(
        b" ".join(each.data.split())
        for each in mta.messages
        if not each.sender and each.recipients == (SENDER,)
    )


def test_a_message_that_lacks_something_bounces(exim: EximInstance, mta: FakeUpstream) -> None:
    with session(exim.port) as client:
        assert send(client, marketing(one_click=None), address("consent"))[0] == 250
    wait_for(lambda: b"refused: one_click_missing" in bounces(mta), "the bounce")


def test_several_messages_and_a_large_one_pass(exim: EximInstance, mta: FakeUpstream) -> None:
    body = ("x" * 78 + "\r\n") * 20_000
    with session(exim.port) as client:
        for number in range(5):
            about = f"<many{number}@shop.example>"
            receipt = message(stream="receipts", message_id=about, body=body)
            assert send(client, receipt, "stranger@people.example")[0] == 250
    for got in arrived(mta, "<many", 5):
        assert b"x-mail-stream" not in got.data.lower()
        assert got.data.endswith(body.encode())
    assert " K C=" in exim.log  # sent with BDAT


def test_mail_waits_while_smtpproxy_is_away(
    pair: tuple[RelayProcess, EximInstance], mta: FakeUpstream
) -> None:
    """Keep this test last, as the relay it starts ends with it."""
    relay, exim = pair
    assert relay.terminate() == 0
    with session(exim.port) as client:
        mail = marketing(message_id="<waits@shop.example>")
        assert send(client, mail, address("consent"))[0] == 250
    wait_for(lambda: "Connection refused" in exim.log, "a try")
    relay.start()
    arrived(mta, "<waits@shop.example>")
