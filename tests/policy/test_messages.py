"""Section 6 of the design: how a message is judged."""

from typing import Any

import pytest
from msgspec.structs import replace

from smtpproxy.policy.decide import judge
from smtpproxy.policy.model import (
    Action,
    MessageFeatures,
    Stream,
    Transaction,
)
from tests.policy.cases import BOOK, GOOD_MESSAGE, NOW, OFFERS, RECEIPTS

ANY_DOMAIN = replace(OFFERS, from_domains=frozenset())
OPTIONAL = replace(OFFERS, one_click_required=False)
RECEIPTS_OF_US = replace(RECEIPTS, from_domains=frozenset({"example.com"}))


def _judged(stream: Stream, message: MessageFeatures) -> str:
    verdict = judge(Transaction((stream,), (), message), {}, BOOK, NOW).message
    assert verdict is not None
    assert (verdict.action is Action.ALLOW) == (verdict.reason == "none")
    return verdict.reason


MAILTO = ("mailto:leave@example.com",)
CASES = [
    (OFFERS, {}, "none"),
    (OFFERS, {"malformed": "a NUL in line 2"}, "header_malformed"),
    (OFFERS, {"malformed": ""}, "header_malformed"),
    (OFFERS, {"from_domains": ()}, "header_malformed"),
    (OFFERS, {"malformed": "x", "from_domains": ("example.net",)}, "header_malformed"),
    (OFFERS, {"from_domains": ("example.net",)}, "sender_not_permitted"),
    (OFFERS, {"from_domains": ("news.example.com",)}, "sender_not_permitted"),
    (OFFERS, {"from_domains": ("example.com", "example.net")}, "sender_not_permitted"),
    (OFFERS, {"from_domains": ("example.com", "example.com")}, "none"),
    (ANY_DOMAIN, {"from_domains": ("example.net",)}, "none"),
    (OFFERS, {"unsubscribe_fields": 0, "unsubscribe_https": ()}, "unsubscribe_missing"),
    (OFFERS, {"unsubscribe_fields": 0, "from_domains": ("x",)}, "sender_not_permitted"),
    (OFFERS, {"unsubscribe_fields": 2}, "unsubscribe_malformed"),
    (OFFERS, {"unsubscribe_https": ()}, "unsubscribe_malformed"),
    (OFFERS, {"unsubscribe_https": (), "one_click": False}, "unsubscribe_malformed"),
    (OFFERS, {"unsubscribe_https": (), "unsubscribe_mailto": MAILTO}, "one_click_missing"),
    (OFFERS, {"one_click": False}, "one_click_missing"),
    (OFFERS, {"unsubscribe_encoded": True}, "none"),
    (OPTIONAL, {"one_click": False}, "none"),
    (OPTIONAL, {"unsubscribe_https": (), "unsubscribe_mailto": MAILTO}, "none"),
    (OPTIONAL, {"unsubscribe_https": ()}, "unsubscribe_malformed"),
    # transactional mail needs a readable header and its own domain, no more
    (RECEIPTS, {"unsubscribe_fields": 0, "one_click": False}, "none"),
    (RECEIPTS, {"unsubscribe_fields": 3}, "none"),
    (RECEIPTS, {"malformed": "there is no From field"}, "header_malformed"),
    (RECEIPTS_OF_US, {"from_domains": ("example.net",)}, "sender_not_permitted"),
]


@pytest.mark.parametrize(("stream", "changes", "expected"), CASES)
def test_messages(stream: Stream, changes: dict[str, Any], expected: str) -> None:
    assert _judged(stream, replace(GOOD_MESSAGE, **changes)) == expected


def test_a_paused_stream_says_nothing_against_the_message() -> None:
    assert _judged(replace(OFFERS, paused=True), GOOD_MESSAGE) == "none"
