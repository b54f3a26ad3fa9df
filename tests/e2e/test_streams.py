"""Which stream a message belongs to, and what follows (design: sections 3 and 4)."""

import re
import smtplib
from collections.abc import Callable
from typing import Any

import pytest

from smtpproxy.sinks.audit.reader import Record
from tests.kit.audit import records
from tests.kit.messages import marketing, message
from tests.kit.ports import LOOPBACK, wait_for
from tests.kit.relay import RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import Accepted, FakeUpstream

ID = r"id=[0-9A-HJKMNP-TV-Z]{26}"
SENDERS = [
    {"address": "@till.example", "streams": ["receipts"], "default_stream": "receipts"},
    {"address": "news@till.example", "streams": ["offers"], "default_stream": "offers"},
    {"address": "greedy@shop.example", "streams": ["b2b"], "default_stream": "b2b"},
    {"address": "<>", "streams": ["receipts"], "default_stream": "receipts"},
]


def listeners() -> list[dict[str, Any]]:
    return [
        listener("apps", "offers", "receipts", "appeals", "b2b", default="offers"),
        listener("choosers", "offers", "receipts"),
        listener("shop", "offers", default="offers"),
        listener("till", "receipts", default="receipts"),
        listener("strangers"),
    ]


@pytest.fixture(scope="module")
def relay(mta: FakeUpstream, filled: Callable[..., RelayProcess]) -> RelayProcess:
    return filled(mta.address, {"listener": listeners(), "sender": SENDERS})


class Shop:
    """Sends messages, and knows what the upstream got."""

    def __init__(self, relay: RelayProcess, mta: FakeUpstream) -> None:
        self.relay = relay
        self.mta = mta
        self._before = len(mta.messages)

    def send(
        self, mail: bytes, *names: str, via: str = "apps", sender: str = "news@shop.example"
    ) -> tuple[int, str]:
        recipients = [name if "@" in name else address(name) for name in names]
        return self.relay.send(mail, *recipients, listener=via, sender=sender)

    def mailed(self) -> list[Accepted]:
        return self.mta.messages[self._before :]


@pytest.fixture
def shop(relay: RelayProcess, mta: FakeUpstream) -> Shop:
    return Shop(relay, mta)


def refusal(name: str, reason: str, stream: str) -> str:
    return rf"5\.7\.1 <{re.escape(address(name))}> refused: {reason} \(stream {stream}\) {ID}"


def rcpt(relay: RelayProcess, via: str, name: str) -> tuple[int, str]:
    """The reply to RCPT alone."""
    with smtplib.SMTP(LOOPBACK, relay.port(via)) as client:
        client.ehlo()
        client.mail("news@shop.example")
        code, text = client.rcpt(address(name))
        return code, text.decode()


def test_the_header_chooses_and_is_removed(shop: Shop) -> None:
    mail = message(stream="receipts")
    assert shop.send(mail, "stranger")[0] == 250
    (relayed,) = shop.mailed()
    trace, _, rest = relayed.data.partition(b"From: ")
    assert b"From: " + rest == mail.replace(b"X-Mail-Stream: receipts\r\n", b"")
    assert re.fullmatch(rb"Received: [^\r\n]*(\r\n\t[^\r\n]*)*\r\n", trace)


@pytest.mark.parametrize(
    "field",
    [
        b"x-mAIL-stream:receipts",
        b"X-Mail-Stream:\r\n\t receipts ",
        b"X-Mail-Stream: receipts\r\nX-Other: 1\r\nX-MAIL-STREAM: receipts",
    ],
)
def test_the_header_is_read_and_removed_in_any_spelling(shop: Shop, field: bytes) -> None:
    mail = message()
    assert shop.send(field + b"\r\n" + mail, "stranger")[0] == 250
    (relayed,) = shop.mailed()
    kept = b"X-Other: 1\r\n" if b"X-Other" in field else b""
    assert relayed.data.endswith(b"\r\n" + kept + mail)
    assert b"x-mail-stream" not in relayed.data.lower()


def test_without_the_header_the_listeners_default_stream_is_used(shop: Shop) -> None:
    code, text = shop.send(marketing(), "nothing")
    assert code == 550
    assert re.fullmatch(refusal("nothing", "consent_missing", "offers"), text)
    assert shop.send(marketing(), "consent")[0] == 250
    assert [mail.recipients for mail in shop.mailed()] == [(address("consent"),)]


@pytest.mark.parametrize("values", [("b2b",), ("secret",), ("",), ("offers", "receipts")])
def test_a_stream_that_the_client_may_not_use_is_refused(
    shop: Shop, values: tuple[str, ...]
) -> None:
    mail = marketing(headers=[("X-Mail-Stream", value) for value in values])
    code, text = shop.send(mail, "consent", via="choosers")
    assert code == 550
    assert re.fullmatch(rf"5\.7\.1 refused: stream_not_permitted \(stream default\) {ID}", text)
    assert shop.mailed() == []


def test_a_client_that_must_choose_and_does_not_gets_the_strict_stream(shop: Shop) -> None:
    """`consent` agreed to offers, not to the purpose of the stream `default`."""
    code, text = shop.send(marketing(), "consent", via="choosers")
    assert code == 550
    assert re.fullmatch(refusal("consent", "consent_missing", "default"), text)
    assert shop.send(marketing(stream="offers"), "consent", via="choosers")[0] == 250


def test_a_client_without_streams_gets_the_strict_stream(shop: Shop) -> None:
    code, text = shop.send(marketing(), "stranger", via="strangers")
    assert code == 550
    assert re.fullmatch(refusal("stranger", "no_record", "default"), text)
    assert shop.send(marketing(), "desk", via="strangers")[0] == 250
    code, text = shop.send(message(), "desk", via="strangers")
    assert re.fullmatch(rf"5\.7\.0 refused: unsubscribe_missing \(stream default\) {ID}", text)
    code, text = shop.send(message(stream="receipts"), "desk", via="strangers")
    assert "stream_not_permitted" in text


def test_sender_rules_choose_with_addresses_before_domains(shop: Shop) -> None:
    receipt = message()
    assert shop.send(receipt, "stranger", sender="orders@till.example")[0] == 250
    assert shop.send(receipt, "stranger", sender="Orders@TILL.example")[0] == 250
    code, text = shop.send(receipt, "stranger", sender="news@till.example")
    assert code == 550
    assert re.fullmatch(refusal("stranger", "no_record", "offers"), text)
    narrowed = message(stream="offers")
    code, text = shop.send(narrowed, "stranger", sender="orders@till.example")
    assert "stream_not_permitted" in text
    assert len(shop.mailed()) == 2


def test_a_rule_for_the_null_path_holds_for_bounces_only(shop: Shop) -> None:
    assert shop.send(message(), "stranger", sender="")[0] == 250
    code, text = shop.send(marketing(), "stranger", sender="nobody@shop.example")
    assert code == 550
    assert re.fullmatch(refusal("stranger", "no_record", "offers"), text)
    code, text = shop.send(message(), "stranger", sender="", via="shop")
    assert re.fullmatch(refusal("stranger", "no_record", "default"), text)


def test_sender_rules_grant_no_streams_beyond_the_listeners(shop: Shop) -> None:
    code, text = shop.send(marketing(), "accountant", via="shop", sender="greedy@shop.example")
    assert code == 550
    assert "(stream default)" in text
    code, text = shop.send(message(), "stranger", via="strangers", sender="orders@till.example")
    assert code == 550
    assert re.fullmatch(refusal("stranger", "no_record", "default"), text)
    assert shop.send(marketing(), "accountant", sender="greedy@shop.example")[0] == 250


@pytest.mark.parametrize(
    ("via", "name", "expected"),
    [
        ("shop", "consent", r"2\.1\.5 recipient ok"),
        ("shop", "withdrawn", refusal("withdrawn", "consent_withdrawn", "offers")),
        ("shop", "unsubscribed", refusal("unsubscribed", "suppressed_unsubscribe", "offers")),
        # a receipt is still possible
        ("apps", "withdrawn", r"2\.1\.5 recipient ok"),
        ("apps", "unsubscribed", r"2\.1\.5 recipient ok"),
        # refused on every possible stream
        ("apps", "complained", refusal("complained", "suppressed_complaint", "offers")),
        ("till", "complained", refusal("complained", "suppressed_complaint", "receipts")),
        ("till", "unsubscribed", r"2\.1\.5 recipient ok"),
    ],
)
def test_a_recipient_is_refused_at_rcpt_only_if_every_stream_refuses_it(
    relay: RelayProcess, via: str, name: str, expected: str
) -> None:
    code, text = rcpt(relay, via, name)
    assert code == (250 if "ok" in expected else 550)
    assert re.fullmatch(expected, text)


def test_the_journal_has_both_stages(shop: Shop, relay: RelayProcess) -> None:
    _, at_rcpt = rcpt(relay, "shop", "preticked")
    _, at_data = shop.send(marketing(), "preticked")
    early, late = records(relay, recipient=address("preticked"))
    assert (early.decided.id, early.decided.stage) == (at_rcpt.partition("id=")[2], "rcpt")
    assert (late.decided.id, late.decided.stage) == (at_data.partition("id=")[2], "data")
    for entry in (early, late):
        assert entry.decided.recipients[0].verdict.reason == "consent_preticked"
        assert not entry.decided.relayed
        assert entry.outcome is None


def test_the_journal_has_the_upstreams_reply(shop: Shop, relay: RelayProcess) -> None:
    mail = marketing(message_id="<answered@shop.example>")
    assert shop.send(mail, "customer")[0] == 250
    (answered,) = wait_for(lambda: answers(relay, "<answered@shop.example>"), "the outcome")
    assert answered.decided.recipients[0].verdict.basis == "existing_customer"
    assert answered.outcome is not None
    assert (answered.outcome.code, answered.outcome.reply) == (250, "250 2.0.0 queued as FAKE")


def answers(relay: RelayProcess, message_id: str) -> list[Record]:
    return [e for e in records(relay) if e.outcome and e.decided.message_id == message_id]


def test_several_recipients_each_get_their_own_reply_at_rcpt(
    shop: Shop, relay: RelayProcess
) -> None:
    with smtplib.SMTP(LOOPBACK, relay.port("shop")) as client:
        client.ehlo()
        client.mail("news@shop.example")
        codes = [client.rcpt(address(n))[0] for n in ("consent", "withdrawn", "customer")]
        code, _ = client.data(marketing())
    assert (codes, code) == ([250, 550, 250], 250)
    assert [m.recipients for m in shop.mailed()] == [(address("consent"), address("customer"))]
