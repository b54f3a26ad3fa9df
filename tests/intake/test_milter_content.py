"""A milter reads the text of messages only where a stream requires it."""

from typing import Any

import pytest

from tests.intake.conftest import Listen
from tests.kit.messages import marketing, message
from tests.kit.mta import mta
from tests.kit.relay import STREAMS

WAY_OUT = "Sale!\r\nUnsubscribe: https://unsubscribe.shop.example/x\r\n"


NEWS = "View it in your browser: https://x.example/7\r\nYou are subscribed. Unsubscribe here.\r\n"


def streams(**offers: Any) -> list[dict[str, Any]]:
    return [{**stream, **offers} if stream["name"] == "offers" else stream for stream in STREAMS]


@pytest.mark.parametrize(("body", "answer"), [(WAY_OUT, "c"), ("Sale!\r\n", "y")])
def test_a_visible_unsubscribe_link_is_required(listen: Listen, body: str, answer: str) -> None:
    milter = listen({"stream": streams(body_optout=True)}, protocol="milter")
    with mta(milter.port) as peer:
        peer.negotiate()
        for text in (body, body + "x" * 70_000):  # in several pieces
            peer.connect()
            peer.mail("news@shop.example")
            assert peer.rcpt("consent@people.example").final == "c"
            outcome = peer.message(marketing(body=text))
            assert outcome.final == answer
            if answer == "y":
                assert "550 5.7.0 refused: body_optout_missing" in outcome.reply


def test_alignment_knows_that_a_milter_does_not_sign(listen: Listen) -> None:
    milter = listen({"stream": streams(alignment="strict")}, protocol="milter")
    with mta(milter.port) as peer:
        peer.negotiate()
        for sender, answer in (("news@shop.example", "c"), ("news@esp.example", "y")):
            peer.connect()
            peer.mail(sender)
            assert peer.rcpt("consent@people.example").final == "c"
            assert peer.message(marketing()).final == answer


@pytest.mark.parametrize(("body", "answer"), [(NEWS, "y"), ("Anna, it is ready.\r\n", "c")])
def test_undeclared_bulk_is_recognised_by_its_text(listen: Listen, body: str, answer: str) -> None:
    refusing = [
        {**stream, "undeclared_bulk": "refuse"} if stream["name"] == "receipts" else stream
        for stream in STREAMS
    ]
    milter = listen({"stream": refusing}, protocol="milter")
    weak = [("List-Unsubscribe", "<https://x.example/>")]
    with mta(milter.port) as peer:
        peer.negotiate()
        for text in (body, body + "x" * 70_000):
            peer.connect()
            peer.mail("news@shop.example")
            assert peer.rcpt("consent@people.example").final == "c"
            news = message(
                stream="receipts",
                sender="Shop <hello@shop.example>",
                subject="Hello",
                headers=weak,
                body=text,
            )
            assert peer.message(news).final == answer


def test_pixels_without_consent(listen: Listen) -> None:
    milter = listen({"stream": streams(tracking_pixels="refuse")}, protocol="milter")
    pixel = '<img src="https://t.example/o?id=1234567" width="1" height="1">'
    with mta(milter.port) as peer:
        peer.negotiate()
        for body, answer in ((pixel, "y"), ("x" * 70_000 + pixel, "y"), ("<p>Hello</p>", "c")):
            peer.connect()
            peer.mail("news@shop.example")
            assert peer.rcpt("consent@people.example").final == "c"
            outcome = peer.message(marketing(body=body, headers=[("Content-Type", "text/html")]))
            assert outcome.final == answer
            if answer == "y":
                assert "550 5.7.1" in outcome.reply
                assert "refused: tracking_unconsented" in outcome.reply
