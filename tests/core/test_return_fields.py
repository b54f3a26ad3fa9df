"""The fields added to a copy so that complaints can be traced, and when none are."""

import pytest

from smtpproxy.core.edits import identifying_fields
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.policy.model import Stream, StreamClass

PATH = "b7k@bounces.example"
OFFERS = Stream(name="offers", purpose="offers")
RECEIPTS = Stream(name="receipts", stream_class=StreamClass.TRANSACTIONAL)
MESSAGE_ID = b"Message-ID: <b7k@bounces.example>\r\n"
FEEDBACK_ID = b"Feedback-ID: b7k::offers:smtpproxy\r\n"
SIGNED = "DKIM-Signature: v=1; d=shop.example; h=From:{}; b=x\r\n"


@pytest.mark.parametrize(
    ("header", "stream", "expected"),
    [
        ("", OFFERS, MESSAGE_ID + FEEDBACK_ID),
        ("", RECEIPTS, MESSAGE_ID),
        ("Message-Id: <1@shop.example>\r\n", OFFERS, FEEDBACK_ID),
        ("Feedback-ID: a:b:c:shop\r\n", OFFERS, MESSAGE_ID),
        (SIGNED.format("Subject"), OFFERS, MESSAGE_ID + FEEDBACK_ID),
        (SIGNED.format("Message-ID:Feedback-ID"), OFFERS, b""),
        (SIGNED.format("feedback-id"), OFFERS, MESSAGE_ID),
    ],
)
def test_fields_are_added_only_where_absent_and_not_signed_absent(
    header: str, stream: Stream, expected: bytes
) -> None:
    block = HeaderBlock(f"From: a@shop.example\r\n{header}\r\n".encode())
    assert identifying_fields(block, stream, PATH) == expected
