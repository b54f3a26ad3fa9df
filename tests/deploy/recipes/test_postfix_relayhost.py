"""Postfix sending through smtpproxy, as in docs/deploy/postfix-relayhost.md."""

import tomllib
from collections.abc import Callable, Iterator

import pytest

from tests.deploy.recipes.clients import SENDER, arrived, send, session
from tests.kit.messages import marketing, message
from tests.kit.pages import blocks, parameters
from tests.kit.parts import needs
from tests.kit.ports import LOOPBACK, free_port
from tests.kit.postfix import PostfixInstance
from tests.kit.relay import RelayProcess
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

pytestmark = needs("postfix")


@pytest.fixture(scope="module")
def postfix(filled: Callable[..., RelayProcess], mta: FakeUpstream) -> Iterator[PostfixInstance]:
    listener = free_port()
    toml, main = blocks(
        "deploy/postfix-relayhost.md",
        {
            "127.0.0.1:2525": f"{LOOPBACK}:{listener}",
            "[127.0.0.1]:2525": f"[{LOOPBACK}]:{listener}",
            "127.0.0.1:10025": mta.address,
        },
    )
    own = {"virtual_mailbox_domains": "shop.example", "virtual_transport": "discard"}
    with PostfixInstance(relayhost="unused:1", main=parameters(main) | own) as server:
        filled(mta.address, tomllib.loads(toml))
        yield server


def test_permitted_recipients_get_mail_and_the_sender_learns_of_the_others(
    postfix: PostfixInstance, mta: FakeUpstream
) -> None:
    people = [address("withdrawn"), address("consent"), address("complained")]
    mail = marketing(message_id="<some@shop.example>", body="caf\xe9\r\n.dot\r\n")
    with session(postfix.port) as client:
        assert send(client, mail, *people)[0] == 250
    (got,) = arrived(mta, "<some@shop.example>")
    assert (got.sender, got.recipients) == (SENDER, (address("consent"),))
    assert got.data.endswith(mail)
    postfix.wait_empty()
    for reason in (
        "<withdrawn@people.example> refused: consent_withdrawn",
        "<complained@people.example> refused: suppressed_complaint",
    ):
        assert reason in postfix.log
    assert postfix.log.count("sender non-delivery notification") >= 1


def test_a_message_that_lacks_something_bounces(
    postfix: PostfixInstance, mta: FakeUpstream
) -> None:
    before = len(mta.messages)
    with session(postfix.port) as client:
        assert send(client, marketing(one_click=None), address("consent"))[0] == 250
    postfix.wait_empty()
    assert "refused: one_click_missing" in postfix.log
    assert len(mta.messages) == before


def test_local_programs_can_send(postfix: PostfixInstance, mta: FakeUpstream) -> None:
    receipt = message(stream="receipts", message_id="<cron@shop.example>")
    postfix.submit(receipt, SENDER, ["stranger@people.example"])
    (got,) = arrived(mta, "<cron@shop.example>")
    assert b"x-mail-stream" not in got.data.lower()


def test_a_bounce_for_another_host_reaches_the_sender(
    postfix: PostfixInstance, mta: FakeUpstream
) -> None:
    mail = marketing(message_id="<elsewhere@shop.example>")
    with session(postfix.port) as client:
        assert send(client, mail, address("withdrawn"), sender="news@elsewhere.example")[0] == 250
    (bounce,) = arrived(mta, "<elsewhere@shop.example>")
    assert (bounce.sender, bounce.recipients) == ("", ("news@elsewhere.example",))
    assert b"<withdrawn@people.example> refused: consent_withdrawn" in bounce.data.replace(
        b"\r\n ", b""
    )
