"""A client abandons a transaction without RSET because a recipient was refused."""

import pytest

from tests.intake.conftest import Listen
from tests.kit.messages import marketing
from tests.kit.ports import wait_for
from tests.kit.upstream import FakeUpstream

MAIL = "MAIL FROM:<news@shop.example>"
CONSENT, CUSTOMER, STRANGER = (
    f"RCPT TO:<{name}@people.example>" for name in ("consent", "customer", "stranger")
)


@pytest.mark.parametrize("accepted", [[], [CUSTOMER]])
def test_the_next_mail_begins_a_new_transaction(
    listen: Listen, upstream: FakeUpstream, accepted: list[str]
) -> None:
    intake = listen(streams=["offers"], default_stream="offers")
    with intake.client() as client:
        client.greet()
        for _ in range(2):
            client.send(MAIL, *accepted, STRANGER)
            refused = client.replies(2 + len(accepted))[-1]
            assert refused.startswith("550 5.7.1 <stranger@people.example> refused: no_record ")
        assert client.say(MAIL) == "250 2.1.0 sender noted"
        assert client.say(CONSENT).startswith("250 ")
        assert client.say("DATA").startswith("354 ")
        assert client.say(marketing(), b".\r\n").startswith("250 ")
    assert [sent.recipients for sent in upstream.messages] == [("consent@people.example",)]
    assert [each.stage for each in intake.records.decided] == ["rcpt", "rcpt", "data"]


@pytest.mark.parametrize("fault", ["MAIL x", "MAIL FROM:<news@shop.example> SIZE=999999999999"])
def test_even_a_malformed_mail_abandons_the_transaction(
    listen: Listen, upstream: FakeUpstream, fault: str
) -> None:
    """Content pipelined behind it must not reach the recipients accepted before."""
    intake = listen(streams=["offers"], default_stream="offers")
    with intake.client() as client:
        client.greet()
        client.send(MAIL, CUSTOMER, STRANGER)
        assert client.replies(3)[-1].startswith("550 ")
        client.send(fault, CONSENT)
        assert client.replies(2)[1] == "503 5.5.1 send MAIL first"
        client.send(MAIL, CONSENT)
        assert client.replies(2)[1].startswith("250 ")
        assert client.say("DATA").startswith("354 ")
        assert client.say(marketing(), b".\r\n").startswith("250 ")
    assert [sent.recipients for sent in upstream.messages] == [("consent@people.example",)]


def test_no_new_transaction_begins_while_the_relay_drains(listen: Listen) -> None:
    intake = listen(streams=["offers"], default_stream="offers")
    with intake.client() as client:
        client.greet()
        client.begin()
        assert client.say(marketing(), b".\r\n").startswith("250 ")
        client.send(MAIL, STRANGER)
        assert client.replies(2)[1].startswith("550 ")
        drained = intake.call(intake.door.drain())
        wait_for(lambda: intake.door.draining, "the drain")
        assert client.say(MAIL).startswith("421 4.3.2 ")
        drained.result(30)


def test_without_a_refusal_rset_is_needed(listen: Listen) -> None:
    intake = listen(streams=["offers"], default_stream="offers")
    with intake.client() as client:
        client.greet()
        client.send(MAIL, CONSENT, MAIL)
        assert client.replies(3)[-1] == "503 5.5.1 a transaction is open; send RSET first"
        assert client.say("DATA").startswith("354 ")
