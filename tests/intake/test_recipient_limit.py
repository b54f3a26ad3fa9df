"""A message to more recipients than its stream permits is refused whole at the end."""

import pytest

from tests.intake.conftest import Listen
from tests.intake.listening import Client
from tests.kit.messages import marketing
from tests.kit.messages import message as receipt
from tests.kit.relay import STREAMS
from tests.kit.upstream import FakeUpstream

PEOPLE = ("consent@people.example", "customer@people.example")


def limited(most: int) -> list[dict[str, object]]:
    return [{**stream, "max_recipients": most} for stream in STREAMS]


def sent(client: Client, content: bytes) -> str:
    client.greet()
    client.say("MAIL FROM:<news@shop.example>")
    for person in PEOPLE:
        assert client.say(f"RCPT TO:<{person}>").startswith("250 ")
    assert client.say("DATA").startswith("354 ")
    return client.say(content, b".\r\n")


@pytest.mark.parametrize("stream", ["offers", "receipts"])
def test_one_recipient_too_many_refuses_the_whole_message(
    listen: Listen, upstream: FakeUpstream, stream: str
) -> None:
    intake = listen({"stream": limited(1)})
    content = marketing(stream=stream) if stream == "offers" else receipt(stream=stream)
    with intake.client() as client:
        answer = sent(client, content)
    assert answer.startswith(f"550 5.5.3 refused: recipient_limit (stream {stream}) id=")
    assert upstream.messages == []
    decided = intake.records.decided[-1]
    assert decided.decision.message is not None
    assert decided.decision.message.reason == "recipient_limit"
    assert decided.relayed is False


def test_as_many_recipients_as_permitted_are_mailed(listen: Listen, upstream: FakeUpstream) -> None:
    intake = listen({"stream": limited(2)})
    with intake.client() as client:
        assert sent(client, marketing(stream="offers")).startswith("250 ")
    (mail,) = upstream.messages
    assert mail.recipients == PEOPLE
