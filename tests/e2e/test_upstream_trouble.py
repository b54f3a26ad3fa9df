"""An upstream that fails at any step: 451 4.4.x, a record, and no message lost."""

import re
import smtplib
from collections.abc import Callable, Iterator

import pytest

from tests.kit.audit import outcome, records, relayed
from tests.kit.messages import message
from tests.kit.ports import LOOPBACK, wait_for
from tests.kit.relay import RelayProcess, listener
from tests.kit.upstream import Action, At, Close, Delay, FakeUpstream, Raw, Reply, Step

CLOSING = Reply("421 4.3.2 shutting down")


@pytest.fixture(scope="module")
def relay(mta: FakeUpstream, filled: Callable[..., RelayProcess]) -> RelayProcess:
    till = listener("till", "receipts", default="receipts")
    upstream = {"command_timeout": "1s", "data_timeout": "1s"}
    return filled(mta.address, {"listener": [till], "upstream": upstream})


@pytest.fixture
def troubled(mta: FakeUpstream) -> Iterator[FakeUpstream]:
    """The upstream with new connections and without behaviours of earlier tests."""
    mta.drop_connections()
    yield mta
    mta.behaviours.clear()


def send(relay: RelayProcess, name: str) -> tuple[int, str]:
    mail = message(message_id=f"<{name}@shop.example>")
    return relay.send(mail, "jeanne@people.example", sender="orders@shop.example")


def outcomes(relay: RelayProcess, name: str) -> list[int | None]:
    message_id = f"<{name}@shop.example>"
    return [
        outcome(entry)
        for entry in relayed(records(relay))
        if entry.decided.message_id == message_id
    ]


@pytest.mark.parametrize("action", [Close(), Close(reset=True), CLOSING, Raw(b"nonsense\r\n")])
@pytest.mark.parametrize("step", ["connect", "ehlo", "mail", "rcpt", "data", "end"])
def test_the_client_may_try_again(
    step: Step, action: Action, relay: RelayProcess, troubled: FakeUpstream
) -> None:
    name = f"{step}-{action}".translate(str.maketrans("<>()'\\ ,", "--------"))
    before = len(troubled.messages)
    troubled.behaviours.append(At(step, action))
    code, text = send(relay, name)
    assert code == 451
    assert re.match(r"4\.4\.[0-9] .*try later", text)
    assert len(troubled.messages) == before
    if step in ("data", "end"):
        wait_for(lambda: outcomes(relay, name) == [451], "the record of it")
    else:
        assert outcomes(relay, name) == []
    troubled.behaviours.clear()
    assert send(relay, name + "-again") == (250, "2.0.0 queued as FAKE")
    assert len(troubled.messages) == before + 1


def test_connections_that_died_idle_lose_no_message(
    relay: RelayProcess, troubled: FakeUpstream
) -> None:
    before = len(troubled.messages)
    for _ in range(3):
        assert send(relay, "idle")[0] == 250
        troubled.drop_connections()
    assert len(troubled.messages) == before + 3


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("mail", "550 5.7.1 no such sender here"),
        ("rcpt", "450 4.2.1 mailbox busy"),
        ("end", "552 5.2.2 mailbox full\n552 5.2.2 by 12 octets"),
    ],
)
def test_the_client_gets_its_refusal(
    step: Step, said: str, relay: RelayProcess, troubled: FakeUpstream
) -> None:
    before = len(troubled.messages)
    troubled.behaviours.append(At(step, Reply(said)))
    code, text = send(relay, f"refused-{step}")
    assert [f"{code} {line}" for line in text.split("\n")] == said.split("\n")
    assert len(troubled.messages) == before
    if step == "end":
        wait_for(lambda: outcomes(relay, "refused-end") == [552], "the record of it")


def test_a_client_that_leaves_before_the_end_sends_nothing(
    relay: RelayProcess, troubled: FakeUpstream
) -> None:
    before = len(troubled.messages)
    with smtplib.SMTP(LOOPBACK, relay.port(), timeout=30) as client:
        client.ehlo()
        client.mail("orders@shop.example")
        client.rcpt("jeanne@people.example")
        client.docmd("DATA")
        client.send(message(message_id="<half@shop.example>"))
        client.close()
    assert send(relay, "next") == (250, "2.0.0 queued as FAKE")
    assert len(troubled.messages) == before + 1
    assert outcomes(relay, "half") == []


def test_a_client_that_leaves_at_the_end_has_its_mail_relayed_and_recorded(
    relay: RelayProcess, troubled: FakeUpstream
) -> None:
    """The upstream may have the message, so its outcome must be known."""
    before = len(troubled.messages)
    troubled.behaviours.append(At("end", Delay(0.3)))
    with smtplib.SMTP(LOOPBACK, relay.port(), timeout=30) as client:
        client.ehlo()
        client.mail("orders@shop.example")
        client.rcpt("jeanne@people.example")
        client.docmd("DATA")
        client.send(message(message_id="<gone@shop.example>") + b".\r\n")
        client.close()
    wait_for(lambda: outcomes(relay, "gone") == [250], "the record of it")
    assert len(troubled.messages) == before + 1
