"""smtpproxy as Postfix's content_filter, as in docs/deploy/postfix-after-queue.md."""

import tomllib
from collections.abc import Callable, Iterator

import pytest

from tests.deploy.recipes.clients import SENDER, delivered, send, session
from tests.kit.audit import records
from tests.kit.messages import marketing, message
from tests.kit.pages import blocks, parameters
from tests.kit.parts import needs
from tests.kit.ports import LOOPBACK, free_port, wait_for
from tests.kit.postfix import PostfixInstance
from tests.kit.relay import RelayProcess
from tests.kit.store import address

pytestmark = needs("postfix")


@pytest.fixture(scope="module")
def pair(filled: Callable[..., RelayProcess]) -> Iterator[tuple[RelayProcess, PostfixInstance]]:
    listener, back = free_port(), free_port()
    toml, main, master = blocks(
        "deploy/postfix-after-queue.md",
        {
            "127.0.0.1:2525": f"{LOOPBACK}:{listener}",
            "[127.0.0.1]:2525": f"[{LOOPBACK}]:{listener}",
            "127.0.0.1:10026": f"{LOOPBACK}:{back}",
        },
    )
    with PostfixInstance(main=parameters(main), services=master) as postfix:
        yield filled(f"{LOOPBACK}:{back}", tomllib.loads(toml)), postfix


@pytest.fixture
def relay(pair: tuple[RelayProcess, PostfixInstance]) -> RelayProcess:
    return pair[0]


@pytest.fixture
def postfix(pair: tuple[RelayProcess, PostfixInstance]) -> PostfixInstance:
    return pair[1]


def test_permitted_recipients_get_mail_and_the_bounce_names_the_others(
    relay: RelayProcess, postfix: PostfixInstance
) -> None:
    """Some are refused only at the end, since the header names the stream."""
    mail = marketing(message_id="<some@shop.example>", body="caf\xe9\r\n.dot\r\n")
    people = [address("withdrawn"), address("consent"), address("complained")]
    with session(postfix.port) as client:
        assert send(client, mail, *people)[0] == 250
    got = delivered(postfix, "<some@shop.example>", 2)
    bounce = next(mail for mail in got if mail.return_path == "")
    (rest,) = [mail for mail in got if mail.return_path]
    assert (rest.recipient, bounce.recipient) == (address("consent"), SENDER)
    assert rest.message.endswith(mail)
    words = b" ".join(bounce.message.split())
    assert b"<withdrawn@people.example> refused: consent_withdrawn" in words
    assert b"<complained@people.example> refused: suppressed_complaint" in words
    assert b"Final-Recipient: rfc822; consent@people.example" not in words
    postfix.wait_empty()
    decided = records(relay)[-1].decided
    assert (decided.client.peer, decided.client.helo) == (LOOPBACK, "client.example")


def test_the_bounce_says_what_the_message_lacks(postfix: PostfixInstance) -> None:
    with session(postfix.port) as client:
        mail = marketing(unsubscribe=None, message_id="<lacks@shop.example>")
        assert send(client, mail, address("consent"))[0] == 250
    (bounce,) = delivered(postfix, "<lacks@shop.example>")
    assert b"refused: unsubscribe_missing" in b" ".join(bounce.message.split())
    postfix.wait_empty()


def test_mail_of_local_programs_passes_the_filter(postfix: PostfixInstance) -> None:
    receipt = message(stream="receipts", message_id="<cron@shop.example>")
    postfix.submit(receipt, SENDER, ["root@mx.example"])
    (got,) = delivered(postfix, "<cron@shop.example>")
    assert b"x-mail-stream" not in got.message.lower()


def test_several_messages_on_a_connection(postfix: PostfixInstance) -> None:
    with session(postfix.port) as client:
        for number in range(12):
            about = f"<many{number}@shop.example>"
            assert send(client, marketing(message_id=about), address("consent"))[0] == 250
    delivered(postfix, "<many", 12)
    postfix.wait_empty()


def test_mail_waits_while_smtpproxy_is_away(relay: RelayProcess, postfix: PostfixInstance) -> None:
    """Keep this test last, as the relay it starts ends with it."""
    assert relay.terminate() == 0
    with session(postfix.port) as client:
        mail = marketing(message_id="<waits@shop.example>")
        assert send(client, mail, address("consent"))[0] == 250
    wait_for(lambda: "Connection refused" in postfix.log, "a try")
    assert len(postfix.queued()) == 1
    relay.start()
    postfix.flush()  # Postfix may have scanned just as the first attempt ended, and not scan again
    delivered(postfix, "<waits@shop.example>")
