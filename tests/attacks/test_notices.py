"""A notice is mail: its recipient may be suppressed, and the upstream may not accept it."""

import smtplib
from collections.abc import Callable

import pytest

from tests.attacks.clients import SENDER, Smtp, adding, submission
from tests.kit.audit import records
from tests.kit.messages import marketing
from tests.kit.mta import mta as milter_client
from tests.kit.ports import LOOPBACK
from tests.kit.relay import STREAMS, RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import KEYWORDS, At, Delay, FakeUpstream, Reply

StartFilled = Callable[..., RelayProcess]

JEANNE, PAUL, WITHDRAWN = address("consent"), address("customer"), address("withdrawn")
SUPPRESSED = "suppressed@shop.example"
SPLIT = {"policy": {"on_mixed": "split"}}
NO_DSN = tuple(keyword for keyword in KEYWORDS if keyword != "DSN")


def notices(mta: FakeUpstream) -> list[str]:
    """The recipients of notices."""
    return [each.recipients[0] for each in mta.messages if each.sender == ""]


def recorded_for(relay: RelayProcess, recipient: str) -> list[str]:
    """The decisions on mail to this recipient."""
    return [
        found.verdict.action
        for record in records(relay)
        for found in record.decided.recipients
        if found.canonical == recipient
    ]


def suppress_sender(relay: RelayProcess, sender: str = SENDER) -> None:
    relay.must("suppress", "add", sender, "--scope", "all", "--origin", "objection")


@pytest.fixture(scope="module")
def splitting(filled: StartFilled, mta: FakeUpstream) -> RelayProcess:
    return filled(mta.address, SPLIT)


def test_a_split_is_refused_if_the_sender_is_suppressed(
    splitting: RelayProcess, mta: FakeUpstream
) -> None:
    mta.begin()
    suppress_sender(splitting, SUPPRESSED)
    code, text = splitting.send(marketing(), JEANNE, WITHDRAWN, sender=SUPPRESSED)
    assert notices(mta) == []
    assert mta.messages == []
    assert (code, f"<{WITHDRAWN}> refused: consent_withdrawn" in text) == (550, True)


def test_a_milters_split_is_refused_if_the_sender_is_suppressed(filled: StartFilled) -> None:
    late = [stream | {"refuse_at": "data"} for stream in STREAMS]
    offers = listener("apps", "offers", default="offers", protocol="milter")
    with FakeUpstream() as mta:
        relay = filled(mta.address, {**SPLIT, "stream": late, "listener": [offers]})
        suppress_sender(relay)
        with milter_client(relay.port()) as peer:
            peer.negotiate()
            peer.connect()
            peer.mail(SENDER)
            for recipient in (JEANNE, WITHDRAWN):
                assert peer.rcpt(recipient).final == "c"
            outcome = peer.message(marketing())
        assert notices(mta) == []
        assert (outcome.final, "consent_withdrawn" in outcome.reply) == ("y", True)


def test_a_notice_is_judged_and_recorded(splitting: RelayProcess, mta: FakeUpstream) -> None:
    mta.begin()
    told = "told@shop.example"
    assert splitting.send(marketing(), JEANNE, WITHDRAWN, sender=told)[0] == 250
    assert notices(mta) == [told]
    assert recorded_for(splitting, told) == ["allow"]


def test_a_suppressed_sender_gets_no_notice_of_success(filled: StartFilled) -> None:
    """The upstream has no DSN, so the relay itself would send the notice."""
    with FakeUpstream(keywords=NO_DSN) as mta:
        relay = filled(mta.address)
        suppress_sender(relay)
        with smtplib.SMTP(LOOPBACK, relay.port(), timeout=60) as client:
            client.ehlo("client.example")
            client.mail(SENDER)
            client.rcpt(JEANNE, ["NOTIFY=SUCCESS"])
            assert client.data(marketing())[0] == 250
        assert notices(mta) == []
        assert [each.recipients for each in mta.messages] == [(JEANNE,)]


def test_a_suppressed_sender_must_send_one_message_per_recipient(filled: StartFilled) -> None:
    """Like the null sender: nobody could be told of a failure after another was mailed."""
    with FakeUpstream(At("end", Reply("550 5.2.2 full"), to=PAUL)) as mta:
        relay = filled(mta.address, adding())
        suppress_sender(relay)
        code, text = relay.send(marketing(unsubscribe=None, one_click=None), JEANNE, PAUL)
        assert notices(mta) == []
        assert (code, text[:5]) == (554, "5.5.4")
        assert mta.messages == []


def test_a_split_is_refused_if_the_recipient_of_its_notice_is_refused(
    splitting: RelayProcess, mta: FakeUpstream
) -> None:
    mta.begin(At("rcpt", Reply("550 5.1.1 no such user"), to=SENDER))
    code, text = splitting.send(marketing(), JEANNE, WITHDRAWN)
    assert mta.messages == []
    assert (code, f"<{WITHDRAWN}> refused: consent_withdrawn" in text) == (550, True)


# connections


def test_concurrent_splits_take_no_more_connections_than_allowed(filled: StartFilled) -> None:
    few = {"max_connections": 4, "max_connections_per_address": 4, "wait_timeout": "2s"}
    slow = [
        At("rcpt", Delay(1), nth=nth) for nth in range(9, 13)
    ]  # all get here before any of them ends
    with FakeUpstream(*slow) as mta:
        relay = filled(mta.address, {**SPLIT, "upstream": few})
        sessions = [submission(Smtp, relay.port(), JEANNE, WITHDRAWN) for _ in range(4)]
        clients = [session.__enter__() for session in sessions]
        for client in clients:
            client.docmd("DATA")
            client.send(marketing())
        for client in clients:
            client.send(b".\r\n")
        codes = [client.answers()[0][0] for client in clients]
        for session in sessions:
            session.__exit__(None, None, None)
        assert codes == [250] * 4
        assert sum(each.sender == SENDER for each in mta.messages) == 4
        assert notices(mta) == [SENDER] * 4
