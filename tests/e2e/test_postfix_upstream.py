"""Postfix behind the relay delivers what it would have delivered without us."""

import random
import re
import smtplib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.kit.messages import marketing, message
from tests.kit.parts import needs
from tests.kit.ports import LOOPBACK, wait_for
from tests.kit.postfix import Delivered, PostfixInstance
from tests.kit.relay import RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

StartFilled = Callable[..., RelayProcess]

pytestmark = needs("postfix")

HEADER = message().partition(b"\r\n\r\n")[0] + b"\r\n"
STREAM = b"X-Mail-Stream: receipts\r\n"
OURS = re.compile(
    rb"Received: from client\.example \(\[127\.0\.0\.1\]\)\r\n"
    rb"\tby relay\.example \(smtpproxy\) with (?:ESMTP|UTF8SMTP) id [0-9A-Z]{26}\r\n"
    rb"\tfor <[^>]*>;\r\n"
    rb"\t\w{3}, \d+ \w{3} \d{4} \d\d:\d\d:\d\d \+0000\r\n"
)


def random_lines(size: int) -> bytes:
    """Lines of any octets but NUL, CR and LF, many of them starting with a dot."""
    source = random.Random(5322)
    lines = []
    while size > 0:
        line = source.randbytes(source.randrange(997)).translate(None, b"\0\r\n")
        lines.append(source.choice((b"", b".", b"..")) + line[:990])
        size -= len(lines[-1])
    return b"\r\n".join(lines) + b"\r\n"


LONG_LINES = (b"x" * 998, b"." * 998, b"\xe9" * 998)
ODD_FIELDS = (
    b"x-FOLDED:\r\n\tone\r\n two \r\n\t \r\n three\r\n"
    b"X-Empty:\r\nX-Space :  a\t\r\nX-X:a:b\r\nX-Raw: caf\xe9 \xe2\x82\xac\r\n"
)
MESSAGES = {
    "dots": HEADER + b"\r\n.\r\n..\r\n...\r\n.x\r\n. \r\n.\r\n",
    "dots-in-header": HEADER + b"X-Dots: a\r\n .\r\n ..b\r\n\r\n.\r\n",
    "no-body": HEADER + b"\r\n",
    "no-empty-line": HEADER,
    "empty-lines": HEADER + b"\r\n\r\n\r\n \r\n\t\r\n\r\n\r\n",
    "8-bit": HEADER + b"\r\n" + bytes(range(128, 256)) + b"\r\ncaf\xe9 \xe2\x82\xac\xff\xfe\r\n",
    "control": HEADER + b"\r\n" + bytes(set(range(1, 32)) - {10, 13}) + b"\x7f\r\n",
    "longest-lines": HEADER + b"\r\n" + b"\r\n".join(LONG_LINES) + b"\r\n",
    "longest-field": HEADER + b"X-Long: " + b"y" * 990 + b"\r\n\r\nx\r\n",
    "odd-fields": HEADER + ODD_FIELDS + b"\r\nx\r\n",
    "from-lines": HEADER + b"\r\nFrom here on\r\n>From there\r\nReceived: not a field\r\n",
    "long-header": b"X-Many: 1\r\n" * 900 + HEADER + b"\r\n.body\r\n",
    "5-MB": HEADER + b"\r\n" + random_lines(5_000_000),
}


def listeners() -> list[dict[str, Any]]:
    return [
        listener("till", "receipts", default="receipts"),
        listener("apps", "offers", "receipts", default="offers"),
    ]


@pytest.fixture(scope="module")
def mailbox() -> Iterator[PostfixInstance]:
    with PostfixInstance() as server:
        yield server


@pytest.fixture(scope="module")
def relay(mailbox: PostfixInstance, filled: StartFilled) -> RelayProcess:
    return filled(mailbox.address, {"listener": listeners()})


@pytest.fixture(scope="module")
def fake_relay(mta: FakeUpstream, filled: StartFilled) -> RelayProcess:
    return filled(mta.address, {"listener": listeners()})


def send(port: int, mail: bytes, recipient: str, *options: str) -> None:
    with smtplib.SMTP(LOOPBACK, port, "client.example", timeout=60) as client:
        client.ehlo()
        if "SMTPUTF8" in options:
            client.command_encoding = "utf-8"
        for code, text in (
            client.mail("orders@shop.example", list(options)),
            client.rcpt(recipient),
            client.data(mail),
        ):
            assert code == 250, text


def choosing(mail: bytes) -> bytes:
    """The same message with the stream header as its last field."""
    head, empty_line, body = mail.partition(b"\r\n\r\n")
    return head.removesuffix(b"\r\n") + b"\r\n" + STREAM + empty_line[2:] + body


def delivered_to(mailbox: PostfixInstance, recipient: str) -> Delivered:
    def found() -> list[Delivered]:
        return [mail for mail in mailbox.delivered() if mail.recipient == recipient]

    (mail,) = wait_for(found, f"mail for {recipient}", every=0.1)
    return mail


@pytest.mark.parametrize("name", MESSAGES)
def test_the_mailbox_is_the_same_as_without_the_relay(
    mailbox: PostfixInstance, relay: RelayProcess, name: str
) -> None:
    mail = MESSAGES[name]
    send(mailbox.port, mail, f"direct.{name}@people.example")
    send(relay.port("till"), mail, f"relayed.{name}@people.example")
    send(relay.port("apps"), choosing(mail), f"chosen.{name}@people.example")
    direct = delivered_to(mailbox, f"direct.{name}@people.example")
    if name != "odd-fields":  # Postfix removes the space before a colon
        assert direct.message == mail
    for way in ("relayed", "chosen"):
        relayed = delivered_to(mailbox, f"{way}.{name}@people.example")
        assert relayed.return_path == direct.return_path
        trace = OURS.match(relayed.message)
        assert trace is not None, relayed.message[:400]
        assert relayed.message[trace.end() :] == direct.message


@pytest.mark.parametrize("name", MESSAGES)
def test_the_upstream_gets_every_octet(
    fake_relay: RelayProcess, mta: FakeUpstream, name: str
) -> None:
    send(fake_relay.port("till"), MESSAGES[name], "jeanne@people.example")
    send(fake_relay.port("apps"), choosing(MESSAGES[name]), "jeanne@people.example")
    for got in mta.messages[-2:]:
        trace = OURS.match(got.data)
        assert trace is not None, got.data[:400]
        assert got.data[trace.end() :] == MESSAGES[name]


def test_smtputf8_mail_arrives_unchanged(mailbox: PostfixInstance, relay: RelayProcess) -> None:
    mail = "From: Éva <éva@shop.example>\r\nSubject: reçu\r\n\r\nMerci\r\n".encode()
    options = ("SMTPUTF8", "BODY=8BITMIME")
    send(mailbox.port, mail, "zoé.direct@people.example", *options)
    send(relay.port("till"), mail, "zoé.relayed@people.example", *options)
    direct = delivered_to(mailbox, "zoé.direct@people.example")
    relayed = delivered_to(mailbox, "zoé.relayed@people.example")
    assert relayed.message.endswith(b"\r\n" + direct.message)
    assert b" with UTF8SMTP id " in relayed.message.partition(b"From: ")[0]


def test_a_postfix_without_8bitmime_and_smtputf8_gets_mail_that_needs_neither(
    filled: StartFilled,
) -> None:
    without = {"smtpd_discard_ehlo_keywords": "8bitmime, smtputf8"}
    options = ("SMTPUTF8", "BODY=8BITMIME")
    with PostfixInstance(main=without) as server:
        relay = filled(server.address, {"listener": listeners()})
        send(relay.port("till"), MESSAGES["dots"], "zoe@people.example", *options)
        found = delivered_to(server, "zoe@people.example")
        assert found.message.endswith(b"\r\n" + MESSAGES["dots"])
        with pytest.raises(AssertionError, match=r"5\.6\.3"):
            send(relay.port("till"), MESSAGES["8-bit"], "zoe@people.example", *options)
        with pytest.raises(AssertionError, match=r"5\.6\.9"):
            send(relay.port("till"), MESSAGES["odd-fields"], "zoe@people.example", *options)


def test_only_permitted_recipients_get_marketing_mail(
    mailbox: PostfixInstance, relay: RelayProcess
) -> None:
    mail = marketing(message_id="<permitted@shop.example>")
    assert relay.send(mail, address("withdrawn"), listener="apps")[0] == 550
    assert relay.send(mail, address("consent"), listener="apps")[0] == 250
    found = delivered_to(mailbox, address("consent"))
    assert found.message.endswith(b"\r\n" + mail)
    assert address("withdrawn") not in [each.recipient for each in mailbox.delivered()]


def test_the_client_sees_the_replies_of_postfix(
    mailbox: PostfixInstance, relay: RelayProcess
) -> None:
    code, text = relay.send(message(), "jeanne@people.example", listener="till")
    assert code == 250
    assert re.fullmatch(r"2\.0\.0 Ok: queued as [0-9A-Za-z]+", text)
    code, text = relay.send(message(), "jeanne@", listener="till")
    assert code >= 500
