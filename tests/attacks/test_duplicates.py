"""A copy for each recipient: what a retrying client sends twice, and who must not get it twice.

A retry after a 4xx sends the missing copies. Sending again after a 250 is a second message.
"""

import smtplib
import time
from collections.abc import Callable

import pytest

from tests.attacks.clients import SENDER, adding
from tests.kit.messages import marketing
from tests.kit.ports import LOOPBACK, wait_for
from tests.kit.relay import RelayProcess
from tests.kit.store import address
from tests.kit.upstream import At, Close, FakeUpstream, Hold, Reply

StartFilled = Callable[..., RelayProcess]

JEANNE, PAUL, DESK = address("consent"), address("customer"), address("desk")
FULL = Reply("550 5.2.2 mailbox full")
LATER = Reply("451 4.3.0 later")


@pytest.fixture(scope="module")
def relay(mta: FakeUpstream, filled: StartFilled) -> RelayProcess:
    """One relay for all tests here: each uses its own Message-ID."""
    return filled(mta.address, adding())


def bare(**more: str) -> bytes:
    """A marketing message to which the relay adds the unsubscribe fields."""
    return marketing(unsubscribe=None, one_click=None, **more)  # type: ignore[arg-type]


def copies(mta: FakeUpstream) -> dict[str, int]:
    """How many messages each recipient has got, not counting notices."""
    mailed = [each.recipients[0] for each in mta.messages if each.sender]
    return {recipient: mailed.count(recipient) for recipient in mailed}


def notices(mta: FakeUpstream) -> list[bytes]:
    return [each.data for each in mta.messages if each.sender == ""]


def test_a_retry_mails_nobody_twice(relay: RelayProcess, mta: FakeUpstream) -> None:
    """One recipient is refused permanently, and the notice of that is deferred."""
    mail = bare()
    mta.begin(At("end", FULL, to=PAUL), At("end", LATER, to=SENDER))
    codes = [relay.send(mail, JEANNE, PAUL, DESK)[0] for _ in range(6)]
    assert set(codes) <= {250, 451}
    assert codes[0] == 451
    assert copies(mta) == {JEANNE: 1, DESK: 1}


def test_a_retry_is_answered_for_all_once_the_notice_is_accepted(
    relay: RelayProcess, mta: FakeUpstream
) -> None:
    mail = bare()
    mta.begin(At("end", FULL, to=PAUL), At("end", LATER, to=SENDER))
    assert relay.send(mail, JEANNE, PAUL, DESK)[0] == 451
    mta.behaviours.pop()  # notices are accepted again
    code, text = relay.send(mail, JEANNE, PAUL, DESK)
    assert (code, "2 of 3 recipients" in text) == (250, True)
    assert copies(mta) == {JEANNE: 1, DESK: 1}
    (notice,) = notices(mta)
    assert PAUL.encode() in notice
    assert JEANNE.encode() not in notice


def test_a_retry_mails_those_without_a_copy(relay: RelayProcess, mta: FakeUpstream) -> None:
    mail = bare()
    mta.begin(At("end", LATER, to=PAUL), At("end", LATER, to=SENDER))
    assert relay.send(mail, JEANNE, PAUL, DESK)[0] == 451
    mta.behaviours.clear()
    assert relay.send(mail, JEANNE, PAUL, DESK)[0] == 250
    assert copies(mta) == {JEANNE: 1, PAUL: 1, DESK: 1}
    assert notices(mta) == []


def test_a_retry_after_a_crash_mails_those_without_a_copy(
    filled: StartFilled, mta: FakeUpstream
) -> None:
    relay, mail = filled(mta.address, adding()), bare()
    mta.begin(At("end", FULL, to=PAUL), At("end", LATER, to=SENDER))
    assert relay.send(mail, JEANNE, PAUL, DESK)[0] == 451
    relay.kill()
    relay.start()
    mta.behaviours.clear()
    assert relay.send(mail, JEANNE, PAUL, DESK)[0] == 250
    assert copies(mta) == {JEANNE: 1, PAUL: 1, DESK: 1}


def test_a_retry_may_use_another_connection_and_fewer_recipients(
    relay: RelayProcess, mta: FakeUpstream
) -> None:
    """A client may drop recipients it has given up, and name the others in any order."""
    mail = bare()
    mta.begin(At("end", FULL, to=PAUL), At("end", LATER, to=SENDER))
    assert relay.send(mail, JEANNE, PAUL, DESK)[0] == 451
    assert relay.send(mail, DESK, JEANNE)[0] == 250
    assert copies(mta) == {JEANNE: 1, DESK: 1}


def test_a_retry_after_losing_the_upstream(relay: RelayProcess, mta: FakeUpstream) -> None:
    """Whoever certainly got a copy gets no second one; the last one is uncertain."""
    mail = bare()
    mta.begin(At("end", Close(), to=PAUL), At("end", LATER, to=SENDER))
    assert relay.send(mail, JEANNE, PAUL)[0] == 451
    mta.behaviours.clear()
    assert relay.send(mail, JEANNE, PAUL)[0] == 250
    assert copies(mta) == {JEANNE: 1, PAUL: 1}


def test_sending_again_after_a_250_is_a_second_message(
    relay: RelayProcess, mta: FakeUpstream
) -> None:
    mail = bare()
    mta.begin()
    for _ in range(2):
        assert relay.send(mail, JEANNE, PAUL)[0] == 250
    assert copies(mta) == {JEANNE: 2, PAUL: 2}


def test_a_client_that_hung_up_before_the_reply_mails_nobody_twice(
    relay: RelayProcess, mta: FakeUpstream
) -> None:
    """Its first attempt is completed all the same; the next one is told so."""
    mail = bare()
    mta.begin(At("end", Hold(), to=PAUL))
    client = smtplib.SMTP(LOOPBACK, relay.port(), timeout=30)
    client.ehlo("client.example")
    client.mail(SENDER)
    client.rcpt(JEANNE)
    client.rcpt(PAUL)
    client.putcmd("data")
    assert client.getreply()[0] == 354
    client.send(mail + b".\r\n")
    wait_for(lambda: copies(mta) == {JEANNE: 1}, "the first copy")
    client.close()
    time.sleep(0.3)  # the relay notices it
    mta.behaviours.clear()
    mta.release()
    wait_for(lambda: copies(mta) == {JEANNE: 1, PAUL: 1}, "the second copy")
    time.sleep(0.3)
    code, text = relay.send(mail, JEANNE, PAUL)
    assert (code, copies(mta)) == (250, {JEANNE: 1, PAUL: 1}), text


def test_another_message_after_a_4xx_is_not_a_retry(relay: RelayProcess, mta: FakeUpstream) -> None:
    """Nor is the same text with another Message-ID, or from another sender."""
    mta.begin(At("end", FULL, to=PAUL), At("end", LATER, to=SENDER))
    assert relay.send(bare(message_id="<one@shop.example>"), JEANNE, PAUL)[0] == 451
    mta.behaviours.clear()
    assert relay.send(bare(message_id="<two@shop.example>"), JEANNE, PAUL)[0] == 250
    other = "desk@shop.example"
    assert relay.send(bare(message_id="<one@shop.example>"), JEANNE, PAUL, sender=other)[0] == 250
    assert copies(mta) == {JEANNE: 3, PAUL: 2}


def test_sending_again_after_a_successful_retry_is_a_new_message(
    relay: RelayProcess, mta: FakeUpstream
) -> None:
    mail = bare()
    mta.begin(At("end", LATER, to=PAUL), At("end", LATER, to=SENDER))
    assert relay.send(mail, JEANNE, PAUL)[0] == 451
    mta.behaviours.clear()
    assert relay.send(mail, JEANNE, PAUL)[0] == 250
    assert relay.send(mail, JEANNE, PAUL)[0] == 250
    assert copies(mta) == {JEANNE: 2, PAUL: 2}
