"""Mail declared 8BITMIME or SMTPUTF8 before an upstream without either: only what needs them is
refused (RFC 6152 section 3, RFC 6531 sections 3.5 and 3.6)."""

import smtplib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.kit.audit import outcome, records
from tests.kit.messages import marketing, message
from tests.kit.ports import LOOPBACK, wait_for
from tests.kit.relay import STREAMS, RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import KEYWORDS, FakeUpstream

SUBSCRIBER, OTHER, STRANGER = address("consent"), address("customer"), address("nothing")
SENDER = "news@shop.example"
BOTH = ("SMTPUTF8", "BODY=8BITMIME")
NO_8BIT = "554 5.6.3 the next mail server does not accept 8-bit content"
NO_UTF8 = "554 5.6.9 the next mail server does not accept UTF-8 in header fields"
NO_ADDRESS = "550 5.6.7 the next mail server does not accept SMTPUTF8"

PLAIN = marketing()
EIGHT_BIT = marketing(body="caf\u00e9\r\n")
UTF8_HEADER = PLAIN.replace(b"Subject: ", "Subject: caf\u00e9 ".encode(), 1)


def _config(**more: Any) -> dict[str, Any]:
    adding = {**STREAMS[0], "name": "adding", "unsubscribe": "add"}
    return {
        "stream": [*STREAMS, adding],
        "web": {"public_url": "https://unsubscribe.shop.example"},
        "policy": {"on_mixed": "split"},
        "listener": [
            listener("apps", "offers", "receipts", default="offers"),
            listener("local", "offers", default="offers", protocol="lmtp"),
            listener("adding", "adding", default="adding"),
            listener("free", "offers", "receipts"),
        ],
        **more,
    }


@pytest.fixture(scope="module")
def bare() -> Iterator[FakeUpstream]:
    keywords = tuple(word for word in KEYWORDS if word not in ("8BITMIME", "SMTPUTF8"))
    with FakeUpstream(keywords=keywords) as server:
        yield server


@pytest.fixture(scope="module")
def relay(filled: Callable[..., RelayProcess], bare: FakeUpstream) -> RelayProcess:
    return filled(bare.address, _config())


@pytest.fixture
def mta(bare: FakeUpstream) -> FakeUpstream:
    bare.messages.clear()
    bare.commands.clear()
    return bare


def _send(
    relay: RelayProcess,
    mail: bytes,
    *rcpts: str,
    by: str = "apps",
    options: tuple[str, ...] = BOTH,
    sender: str = SENDER,
) -> list[str]:
    """The replies to RCPT, and to the content (over LMTP one for each recipient)."""
    client: smtplib.SMTP
    if by == "local":
        client = smtplib.LMTP(LOOPBACK, relay.port(by), timeout=30)
        client.connect(LOOPBACK, relay.port(by))
    else:
        client = smtplib.SMTP(LOOPBACK, relay.port(by), timeout=30)
    with client:
        client.ehlo("client.example")
        client.command_encoding = "utf-8"
        assert client.mail(sender, options)[0] == 250
        told = [client.rcpt(rcpt) for rcpt in rcpts]
        taken = sum(code == 250 for code, _ in told)
        if taken:
            told.append(client.data(mail))
            if by == "local":
                told += [client.getreply() for _ in range(taken - 1)]
    return [f"{code} {text.decode()}" for code, text in told]


@pytest.mark.parametrize("by", ["apps", "local"])
@pytest.mark.parametrize("options", [BOTH, BOTH[:1], BOTH[1:]])
def test_ascii_is_relayed_without_the_parameter(
    relay: RelayProcess, mta: FakeUpstream, by: str, options: tuple[str, ...]
) -> None:
    told = _send(relay, PLAIN, SUBSCRIBER, by=by, options=options)
    assert [reply[:3] for reply in told] == ["250", "250"]
    (message,) = mta.messages
    assert not {"SMTPUTF8", "BODY=8BITMIME"} & set(message.parameters)


@pytest.mark.parametrize("by", ["apps", "local", "adding"])
@pytest.mark.parametrize(
    ("mail", "options", "refusal"),
    [
        (EIGHT_BIT, BOTH, NO_8BIT),
        (EIGHT_BIT, BOTH[1:], NO_8BIT),
        (EIGHT_BIT, BOTH[:1], NO_8BIT),
        (UTF8_HEADER, BOTH, NO_UTF8),
        (UTF8_HEADER, BOTH[1:], NO_8BIT),
    ],
)
def test_content_that_needs_it_is_refused_at_the_end_of_data(
    relay: RelayProcess,
    mta: FakeUpstream,
    by: str,
    mail: bytes,
    options: tuple[str, ...],
    refusal: str,
) -> None:
    rcpts = (SUBSCRIBER, OTHER)
    told = _send(relay, mail, *rcpts, by=by, options=options)
    answers = 2 if by == "local" else 1
    assert told[2:] == [refusal] * answers
    assert mta.messages == []
    assert "DATA" not in [line for _, line in mta.commands]
    wait_for(lambda: outcome(records(relay)[-1]) == 554, "the record of it")


def test_ascii_copies_reach_each_of_several_recipients(
    relay: RelayProcess, mta: FakeUpstream
) -> None:
    mail = marketing(unsubscribe=None, one_click=None)
    told = _send(relay, mail, SUBSCRIBER, OTHER, by="adding")
    assert [reply[:3] for reply in told] == ["250"] * 3
    assert sorted(message.recipients for message in mta.messages) == [(SUBSCRIBER,), (OTHER,)]


def test_a_notice_goes_where_the_message_goes(relay: RelayProcess, mta: FakeUpstream) -> None:
    mail = marketing(stream="offers", body="caf\u00e9\r\n")
    told = _send(relay, mail, SUBSCRIBER, STRANGER, by="free")
    assert (told[-1], mta.messages) == (NO_8BIT, [])
    told = _send(relay, marketing(stream="offers"), SUBSCRIBER, STRANGER, by="free")
    assert told[-1].startswith("250")
    notice, message = mta.messages
    assert (notice.sender, notice.recipients) == ("", (SENDER,))
    assert message.recipients == (SUBSCRIBER,)


def test_a_non_ascii_recipient_is_refused_alone(relay: RelayProcess, mta: FakeUpstream) -> None:
    mail = message(stream="receipts")
    told = _send(relay, mail, "jos\u00e9@people.example", SUBSCRIBER, by="free")
    assert told[0] == NO_ADDRESS
    assert [reply[:3] for reply in told[1:]] == ["250", "250"]
    assert mta.messages[0].recipients == (SUBSCRIBER,)
    assert mta.messages[0].parameters[1:] == ()


def test_a_non_ascii_sender_is_refused(relay: RelayProcess, mta: FakeUpstream) -> None:
    told = _send(relay, PLAIN, SUBSCRIBER, sender="caf\u00e9@shop.example")
    assert told == [NO_ADDRESS]
