"""Postfix in front of the relay: `relayhost` is smtpproxy, and Postfix keeps the queue."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit.messages import marketing, message
from tests.kit.parts import needs
from tests.kit.ports import wait_for
from tests.kit.postfix import Delivered, PostfixInstance
from tests.kit.relay import RelayProcess
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

pytestmark = needs("postfix")

SENDER = "news@shop.example"


@pytest.fixture(scope="module")
def relay(mta: FakeUpstream, filled: Callable[..., RelayProcess]) -> RelayProcess:
    return filled(mta.address)


@pytest.fixture(scope="module")
def client(relay: RelayProcess) -> Iterator[PostfixInstance]:
    """It sends all mail to the relay except bounces to the shop, as a real one would."""
    with PostfixInstance(
        hostname="client.example",
        relayhost=relay.address,
        main={
            "virtual_mailbox_domains": "shop.example",
            "virtual_mailbox_maps": "static:all/",
            "virtual_mailbox_base": "$queue_directory/../mail",
            "virtual_uid_maps": "static:65534",
            "virtual_gid_maps": "static:65534",
        },
    ) as server:
        yield server


def bounce(client: PostfixInstance, about: str) -> Delivered:
    def found() -> list[Delivered]:
        return [mail for mail in client.delivered() if about.encode() in mail.message]

    (mail,) = wait_for(found, f"a bounce about {about}", every=0.1)
    return mail


def test_a_receipt_is_delivered(client: PostfixInstance, mta: FakeUpstream) -> None:
    mail = message(stream="receipts", message_id="<receipt@shop.example>")
    client.submit(mail, SENDER, ["stranger@people.example"])
    (sent,) = wait_for(
        lambda: [m for m in mta.messages if b"<receipt@shop.example>" in m.data], "the receipt"
    )
    assert (sent.sender, sent.recipients) == (SENDER, ("stranger@people.example",))
    assert sent.data.endswith(mail.partition(b"\r\n\r\n")[2])
    assert b"X-Mail-Stream" not in sent.data
    client.wait_empty()


def test_a_refused_newsletter_bounces_with_the_reason(
    client: PostfixInstance, mta: FakeUpstream
) -> None:
    mail = marketing(message_id="<refused@shop.example>")
    client.submit(mail, SENDER, [address("withdrawn")])
    notice = bounce(client, "<refused@shop.example>")
    assert (notice.recipient, notice.return_path) == (SENDER, "")
    text = b" ".join(notice.message.split())
    assert b"550 5.7.1 <withdrawn@people.example> refused: consent_withdrawn" in text
    assert b"(stream offers) id=" in text
    assert b"Status: 5.7.1" in text
    client.wait_empty()
    assert [m for m in mta.messages if b"<refused@shop.example>" in m.data] == []


def test_a_newsletter_without_unsubscribe_fields_bounces(client: PostfixInstance) -> None:
    mail = marketing(message_id="<bare@shop.example>", unsubscribe=None, one_click=None)
    client.submit(mail, SENDER, [address("consent")])
    text = b" ".join(bounce(client, "<bare@shop.example>").message.split())
    assert b"550 5.7.0 refused: unsubscribe_missing (stream offers) id=" in text


def test_an_internal_failure_leaves_the_mail_queued_until_it_is_over(
    client: PostfixInstance, mta: FakeUpstream, relay: RelayProcess
) -> None:
    database = Path(relay.config["store"]["url"].removeprefix("sqlite://"))
    away = database.rename(database.with_suffix(".away"))
    mail = marketing(message_id="<later@shop.example>")
    client.submit(mail, SENDER, [address("consent")])
    wait_for(lambda: "451 4.3.0 temporary_failure" in client.log, "Postfix to be deferred")
    (waiting,) = client.queued()
    assert [r["address"] for r in waiting["recipients"]] == [address("consent")]
    assert [m for m in mta.messages if b"<later@shop.example>" in m.data] == []
    away.rename(database)
    client.flush()
    client.wait_empty()
    (sent,) = [m for m in mta.messages if b"<later@shop.example>" in m.data]
    assert sent.recipients == (address("consent"),)
    assert [m for m in client.delivered() if b"<later@shop.example>" in m.message] == []
