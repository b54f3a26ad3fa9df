"""Undeclared bulk, by the header: one sign that receipts have too is none."""

import pytest
from msgspec.structs import replace

from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.policy.bulk import bulk_markers
from smtpproxy.policy.decide import judge
from smtpproxy.policy.model import ContentFeatures, Transaction, UndeclaredBulk
from tests.policy.cases import BOOK, GOOD_MESSAGE, NOW, RECEIPTS

UNSUBSCRIBE = "List-Unsubscribe: <https://x.example/>\r\n"
ONE_CLICK = UNSUBSCRIBE + "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
FEEDBACK = "Feedback-ID: 1:2:3:esp\r\n"
PRECEDENCE = "Precedence: bulk\r\n"
LIST_ID = "List-Id: <news.x.example>\r\n"
BOTH = UNSUBSCRIBE + FEEDBACK

RECEIPT, OFFER, NEITHER = "Your receipt", "Last chance: 20% off", "Hello"

TOLD: list[tuple[str, str, tuple[str, ...]]] = [
    # (fields, Subject, what tells it)
    ("", OFFER, ()),
    ("Auto-Submitted: auto-generated\r\n", OFFER, ()),
    ("X-Mailer: PHPMailer 6.0\r\n", OFFER, ()),
    ("X-Mailer: Microsoft Outlook 16.0\r\n", OFFER, ()),
    ("Precedence: special-delivery\r\n", OFFER, ()),
    # decisive, whatever the subject says
    ("X-Campaign-ID: 7\r\n", RECEIPT, ("x-campaign-id",)),
    ("X-Mailer: phplist v3\r\n", RECEIPT, ("x-mailer",)),
    ("List-Post: <mailto:l@x.example>\r\n", RECEIPT, ("list-post",)),
    ("X-MC-User: 7\r\n" + FEEDBACK, NEITHER, ("x-mc-user", "feedback-id")),
    # one usual sign
    (UNSUBSCRIBE, RECEIPT, ()),
    (UNSUBSCRIBE, NEITHER, ()),
    (ONE_CLICK, NEITHER, ()),
    (FEEDBACK, NEITHER, ()),
    (PRECEDENCE, NEITHER, ()),
    (LIST_ID, NEITHER, ()),
    ("X-SFMC-Stack: 1\r\nX-Job: 7\r\n", NEITHER, ()),
    (UNSUBSCRIBE, OFFER, ("list-unsubscribe", "subject")),
    (FEEDBACK, OFFER, ("feedback-id", "subject")),
    (UNSUBSCRIBE, "Your order: 20% off the next", ()),
    (UNSUBSCRIBE, "=?utf-8?q?Derni=C3=A8re_chance?=", ("list-unsubscribe", "subject")),
    # usual on receipts too, both together
    (BOTH, NEITHER, ()),
    (BOTH, RECEIPT, ()),
    (BOTH, OFFER, ("list-unsubscribe", "feedback-id", "subject")),
    (BOTH, "20% off your order", ()),
    (BOTH + "X-SFMC-Stack: 1\r\n", NEITHER, ()),
    (ONE_CLICK + LIST_ID, NEITHER, ()),
    # many
    (BOTH + PRECEDENCE, NEITHER, ("list-unsubscribe", "feedback-id", "precedence")),
    (LIST_ID + PRECEDENCE, "", ("list-id", "precedence")),
    (BOTH + LIST_ID + "X-Job: 1\r\n", "", ("list-unsubscribe", "feedback-id", "list-id", "x-job")),
    (BOTH + PRECEDENCE + LIST_ID, RECEIPT, ()),
    (BOTH + PRECEDENCE, "Ihre Rechnung 7", ()),
    (BOTH + PRECEDENCE, "Votre commande est en route", ()),
    (BOTH + PRECEDENCE, "Has\u0142o zmienione", ()),
    (BOTH + PRECEDENCE, "Reset your password", ()),
    (BOTH + PRECEDENCE, "Re: F3K9P", ()),
    (UNSUBSCRIBE + PRECEDENCE, "20% off your order", ("list-unsubscribe", "precedence", "subject")),
]


def _markers(fields: str, subject: str, sender: str = "hello@shop.example") -> tuple[str, ...]:
    raw = f"From: Shop <{sender}>\r\nSubject: {subject}\r\n{fields}\r\n"
    return bulk_markers(HeaderBlock(raw.encode()))


@pytest.mark.parametrize(("fields", "subject", "told"), TOLD)
def test_by_what_bulk_is_told(fields: str, subject: str, told: tuple[str, ...]) -> None:
    assert _markers(fields, subject) == told


def test_who_sends_it_counts() -> None:
    assert _markers(UNSUBSCRIBE, NEITHER, "store-news@shop.example")[-1] == "from"
    assert _markers(UNSUBSCRIBE, NEITHER, "hello@newsletter.shop.example")[-1] == "from"
    assert _markers(UNSUBSCRIBE, RECEIPT, "store-news@shop.example") == ()
    assert _markers(BOTH + PRECEDENCE, NEITHER, "receipts@shop.example") == ()
    assert _markers(BOTH + PRECEDENCE, NEITHER, "auto-confirm@shop.example") == ()
    assert _markers(UNSUBSCRIBE, NEITHER, "news") == ()
    assert bulk_markers(HeaderBlock(UNSUBSCRIBE.encode())) == ()


@pytest.mark.parametrize("undeclared", UndeclaredBulk)
def test_what_becomes_of_it(undeclared: UndeclaredBulk) -> None:
    stream = replace(RECEIPTS, undeclared_bulk=undeclared)
    for markers, refused in (((), False), (("x-campaign",), undeclared == "refuse")):
        message = replace(GOOD_MESSAGE, content=ContentFeatures(bulk_markers=markers))
        verdict = judge(Transaction((stream,), (), message), {}, BOOK, NOW).message
        assert verdict is not None
        assert (verdict.reason == "bulk_undeclared") == refused
