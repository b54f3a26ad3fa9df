"""Section 6 of the design: how a message is judged."""

from typing import Any

import pytest
from msgspec.structs import replace

from smtpproxy.mail.unsubscribe import FaultKind, UriFault
from smtpproxy.policy.decide import asks_for_signatures, judge
from smtpproxy.policy.model import (
    Action,
    ExistingUnsubscribe,
    MessageFeatures,
    SignatureFinding,
    SignatureState,
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


ADDING = replace(OFFERS, unsubscribe_scope="purpose:offers")
REPLACING = replace(ADDING, existing_unsubscribe=ExistingUnsubscribe.REPLACE)
ALONE = replace(ADDING, existing_unsubscribe=ExistingUnsubscribe.REFUSE)
NO_WAY_OUT: dict[str, Any] = {
    "unsubscribe_fields": 0,
    "unsubscribe_https": (),
    "one_click": False,
}
SIGNED = {
    "dkim_fields": 1,
    "signatures": (SignatureFinding("example.com", "s", SignatureState.VALID),),
}
CHECKED = replace(OFFERS, check_dkim=True)
VALID, UNCOVERED, BROKEN, UNUSABLE, UNKNOWN = (
    SignatureFinding("example.com", "s1", state) for state in SignatureState
)
MAILTO = ("mailto:leave@example.com",)
LEFT_IN = UriFault(FaultKind.PLACEHOLDER, "{{token}}")
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
    (OFFERS, {"unsubscribe_fault": LEFT_IN}, "unsubscribe_malformed"),
    (REPLACING, {"unsubscribe_fault": LEFT_IN}, "none"),
    (OPTIONAL, {"one_click": False}, "none"),
    (OPTIONAL, {"unsubscribe_https": (), "unsubscribe_mailto": MAILTO}, "none"),
    (OPTIONAL, {"unsubscribe_https": ()}, "unsubscribe_malformed"),
    # the relay adds the way out: the message as sent is judged
    (ADDING, {"unsubscribe_fields": 0, "unsubscribe_https": (), "one_click": False}, "none"),
    (ADDING, NO_WAY_OUT | {"from_domains": ("example.net",)}, "sender_not_permitted"),
    (ADDING, NO_WAY_OUT | {"malformed": "x"}, "header_malformed"),
    (ADDING, {}, "none"),
    (ADDING, {"unsubscribe_fields": 2}, "unsubscribe_malformed"),
    (ADDING, {"one_click": False}, "one_click_missing"),
    (REPLACING, NO_WAY_OUT, "none"),
    (REPLACING, {"unsubscribe_fields": 2, "unsubscribe_https": ()}, "none"),
    (ALONE, NO_WAY_OUT, "none"),
    (ALONE, {}, "unsubscribe_malformed"),
    # a field the relay adds is covered by its own signature or by none
    (replace(ADDING, check_dkim=True), NO_WAY_OUT | SIGNED, "unsubscribe_unsigned"),
    (replace(ADDING, check_dkim=True), SIGNED, "none"),
    (replace(ADDING, check_dkim=True), NO_WAY_OUT | {"dkim_fields": 1}, "none"),
    (
        replace(ADDING, check_dkim=True),
        NO_WAY_OUT | SIGNED | {"signed_by_relay": True},
        "none",
    ),
    # in a signed message, a valid signature must cover the way out (RFC 8058 section 4)
    (CHECKED, {"dkim_fields": 1, "signatures": (VALID,)}, "none"),
    (CHECKED, {"dkim_fields": 2, "signatures": (BROKEN, VALID)}, "none"),
    (CHECKED, {"dkim_fields": 2, "signatures": (UNKNOWN, VALID)}, "none"),
    (CHECKED, {"dkim_fields": 1, "signatures": (UNCOVERED,)}, "unsubscribe_unsigned"),
    (CHECKED, {"dkim_fields": 2, "signatures": (BROKEN, UNUSABLE)}, "unsubscribe_unsigned"),
    (CHECKED, {"dkim_fields": 9, "signatures": ()}, "unsubscribe_unsigned"),
    (CHECKED, {"dkim_fields": 2, "signatures": (BROKEN, UNKNOWN)}, "temporary_failure"),
    (CHECKED, {"signatures": (BROKEN,), "signed_by_relay": True}, "none"),
    (CHECKED, {"signatures": (BROKEN,), "one_click": False}, "one_click_missing"),
    (CHECKED, {"dkim_fields": 1}, "none"),  # recorded before signatures were checked
    (OFFERS, {"dkim_fields": 1, "signatures": (BROKEN,)}, "none"),
    (replace(RECEIPTS, check_dkim=True), {"signatures": (BROKEN,)}, "none"),
    # transactional mail only needs a readable header and its own domain
    (RECEIPTS, {"unsubscribe_fields": 0, "one_click": False}, "none"),
    (RECEIPTS, {"unsubscribe_fields": 3}, "none"),
    (RECEIPTS, {"malformed": "there is no From field"}, "header_malformed"),
    (RECEIPTS_OF_US, {"from_domains": ("example.net",)}, "sender_not_permitted"),
]


@pytest.mark.parametrize(("stream", "changes", "expected"), CASES)
def test_messages(stream: Stream, changes: dict[str, Any], expected: str) -> None:
    assert _judged(stream, replace(GOOD_MESSAGE, **changes)) == expected


@pytest.mark.parametrize(
    ("stream", "changes", "asked"),
    [
        (CHECKED, {"dkim_fields": 1}, True),
        (CHECKED, {}, False),
        (OFFERS, {"dkim_fields": 1}, False),
        (replace(RECEIPTS, check_dkim=True), {"dkim_fields": 1}, False),
        (CHECKED, {"dkim_fields": 1, "unsubscribe_fields": 0}, False),  # refused in any case
        (CHECKED, {"dkim_fields": 1, "signatures": (BROKEN,)}, False),
    ],
)
def test_the_dns_is_asked_only_if_it_decides(
    stream: Stream, changes: dict[str, Any], asked: bool
) -> None:
    assert asks_for_signatures(stream, replace(GOOD_MESSAGE, **changes)) is asked


def test_a_paused_stream_is_no_fault_of_the_message() -> None:
    assert _judged(replace(OFFERS, paused=True), GOOD_MESSAGE) == "none"
