"""Undeclared bulk mail, recognised by header and text; receipts share single signs."""

import pytest
from msgspec.structs import replace

from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.visible_text import folded
from smtpproxy.policy.bulk import LONGEST_TEXT, BulkSigns, asks_for_text, bulk_signs
from smtpproxy.policy.bulk import OFFER_WORDS as WORDS
from smtpproxy.policy.bulk_text import BROWSER, NEWSLETTER, OPT_OUT, SUBSCRIBED, UNSUBSCRIBE
from smtpproxy.policy.decide import judge
from smtpproxy.policy.model import ContentFeatures, Transaction, UndeclaredBulk
from tests.policy.cases import BOOK, GOOD_MESSAGE, NOW, RECEIPTS

WAY_OUT = "List-Unsubscribe: <https://x.example/>\r\n"
ONE_CLICK = WAY_OUT + "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
FEEDBACK = "Feedback-ID: 1:2:3:esp\r\n"
PRECEDENCE = "Precedence: bulk\r\n"
LIST_ID = "List-Id: <news.x.example>\r\n"
BOTH = WAY_OUT + FEEDBACK
CERTIFIED = "X-CSA-Complaints: csa-complaints@eco.de\r\n"

RECEIPT, OFFER, NEITHER = "Your receipt", "Last chance: 20% off", "Hello"

TOLD: list[tuple[str, str, tuple[str, ...]]] = [
    # (fields, Subject, what gives it away)
    ("", OFFER, ()),
    ("Auto-Submitted: auto-generated\r\n", OFFER, ()),
    ("X-Mailer: PHPMailer 6.0\r\n", OFFER, ()),
    ("X-Mailer: Microsoft Outlook 16.0\r\n", OFFER, ()),
    ("Precedence: special-delivery\r\n", OFFER, ()),
    # decisive whatever the subject says
    ("X-Campaign-ID: 7\r\n", RECEIPT, ("x-campaign-id",)),
    ("X-Mailer: phplist v3\r\n", RECEIPT, ("x-mailer",)),
    ("List-Post: <mailto:l@x.example>\r\n", RECEIPT, ("list-post",)),
    ("X-MC-User: 7\r\n" + FEEDBACK, NEITHER, ("x-mc-user", "feedback-id")),
    # one usual sign
    (WAY_OUT, RECEIPT, ()),
    (WAY_OUT, NEITHER, ()),
    (ONE_CLICK, NEITHER, ()),
    (FEEDBACK, NEITHER, ()),
    (PRECEDENCE, NEITHER, ()),
    (LIST_ID, NEITHER, ()),
    ("X-SFMC-Stack: 1\r\nX-Job: 7\r\n", NEITHER, ()),
    (WAY_OUT, OFFER, ("list-unsubscribe", "subject")),
    (FEEDBACK, OFFER, ("feedback-id", "subject")),
    (WAY_OUT, "Your order: 20% off the next", ()),
    (WAY_OUT, "=?utf-8?q?Derni=C3=A8re_chance?=", ("list-unsubscribe", "subject")),
    # both together are usual on receipts too
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
    (WAY_OUT + PRECEDENCE, "20% off your order", ("list-unsubscribe", "precedence", "subject")),
]


def _markers(fields: str, subject: str, sender: str = "hello@shop.example") -> tuple[str, ...]:
    raw = f"From: Shop <{sender}>\r\nSubject: {subject}\r\n{fields}\r\n"
    return bulk_signs(HeaderBlock(raw.encode())).fields


@pytest.mark.parametrize(("fields", "subject", "told"), TOLD)
def test_signs_of_bulk_in_the_header(fields: str, subject: str, told: tuple[str, ...]) -> None:
    assert _markers(fields, subject) == told


def test_the_sender_counts_as_a_sign() -> None:
    assert _markers(WAY_OUT, NEITHER, "store-news@shop.example")[-1] == "from"
    assert _markers(WAY_OUT, NEITHER, "hello@newsletter.shop.example")[-1] == "from"
    assert _markers(WAY_OUT, RECEIPT, "store-news@shop.example") == ()
    assert _markers(BOTH + PRECEDENCE, NEITHER, "receipts@shop.example") == ()
    assert _markers(BOTH + PRECEDENCE, NEITHER, "auto-confirm@shop.example") == ()
    assert _markers(WAY_OUT, NEITHER, "news") == ()
    assert bulk_signs(HeaderBlock(WAY_OUT.encode())) == BulkSigns()


@pytest.mark.parametrize("undeclared", UndeclaredBulk)
def test_how_undeclared_bulk_is_judged(undeclared: UndeclaredBulk) -> None:
    stream = replace(RECEIPTS, undeclared_bulk=undeclared)
    told = undeclared == "refuse"
    by_header = ContentFeatures(bulk_markers=("x-campaign",))
    by_text = ContentFeatures(bulk_text=("browser", "unsubscribe"))
    for content, refused in ((ContentFeatures(), False), (by_header, told), (by_text, told)):
        message = replace(GOOD_MESSAGE, content=content)
        verdict = judge(Transaction((stream,), (), message), {}, BOOK, NOW).message
        assert verdict is not None
        assert (verdict.reason == "bulk_undeclared") == refused


SAYS_SUBSCRIBED = "you get this because you subscribed"
SAYS_BROWSER = "view in your browser"
SAYS_NEWSLETTER = "in this issue: much"
SAYS_WAY_OUT = "unsubscribe here"

BY_TEXT: list[tuple[str, str, str, BulkSigns]] = [
    # (fields, Subject, folded text, what gives it away)
    (WAY_OUT, NEITHER, "your parcel is here", BulkSigns()),
    (WAY_OUT, NEITHER, SAYS_WAY_OUT, BulkSigns()),  # one sign, which a receipt has in both places
    (FEEDBACK, NEITHER, SAYS_WAY_OUT, BulkSigns()),
    ("", NEITHER, SAYS_BROWSER, BulkSigns()),
    ("", OFFER, "come soon", BulkSigns()),
    # notifications have these words, too
    ("", NEITHER, "to remove yourself from the team, open its page", BulkSigns()),
    ("", "Your weekly summary", "two comments. manage your notification settings", BulkSigns()),
    ("", NEITHER, "gerer vos alertes dans votre espace. offre valable jusqu'au 3", BulkSigns()),
    # words found around receipts too count only with telling fields
    (WAY_OUT, NEITHER, f"{SAYS_BROWSER} {SAYS_WAY_OUT}", BulkSigns()),
    (BOTH, NEITHER, f"{SAYS_BROWSER} {SAYS_WAY_OUT}", BulkSigns()),
    (
        BOTH + CERTIFIED,
        NEITHER,
        f"{SAYS_BROWSER} {SAYS_WAY_OUT}",
        BulkSigns(
            ("list-unsubscribe", "feedback-id", "x-csa-complaints"), ("browser", "unsubscribe")
        ),
    ),
    (WAY_OUT, NEITHER, SAYS_NEWSLETTER, BulkSigns(("list-unsubscribe",), ("newsletter",))),
    (FEEDBACK, NEITHER, SAYS_BROWSER, BulkSigns()),
    (FEEDBACK, NEITHER, f"{SAYS_BROWSER} {SAYS_WAY_OUT}", BulkSigns()),
    (
        "",
        NEITHER,
        f"{SAYS_SUBSCRIBED} {SAYS_WAY_OUT}",
        BulkSigns((), ("subscribed", "unsubscribe")),
    ),
    ("", NEITHER, f"{SAYS_NEWSLETTER} {SAYS_BROWSER}", BulkSigns((), ("browser", "newsletter"))),
    ("", OFFER, SAYS_WAY_OUT, BulkSigns(("subject",), ("unsubscribe",))),
    # the reader's own affairs
    (WAY_OUT, RECEIPT, f"{SAYS_BROWSER} {SAYS_SUBSCRIBED} {SAYS_WAY_OUT}", BulkSigns()),
    (WAY_OUT, "Re: F3K9P", f"{SAYS_NEWSLETTER} {SAYS_SUBSCRIBED}", BulkSigns()),
    # the header suffices, so the text is ignored
    (WAY_OUT, OFFER, SAYS_BROWSER, BulkSigns(("list-unsubscribe", "subject"))),
    ("X-Campaign-ID: 7\r\n", NEITHER, SAYS_BROWSER, BulkSigns(("x-campaign-id",))),
    # late text is ignored
    (WAY_OUT, NEITHER, "x" * LONGEST_TEXT + SAYS_NEWSLETTER, BulkSigns()),
]


@pytest.mark.parametrize(("fields", "subject", "text", "told"), BY_TEXT)
def test_signs_of_bulk_in_the_text(fields: str, subject: str, text: str, told: BulkSigns) -> None:
    raw = f"From: Shop <hello@shop.example>\r\nSubject: {subject}\r\n{fields}\r\n"
    assert bulk_signs(HeaderBlock(raw.encode()), text) == told


@pytest.mark.parametrize(
    ("fields", "subject", "asks"),
    [
        ("", NEITHER, False),
        ("", OFFER, False),
        (WAY_OUT, NEITHER, True),
        (FEEDBACK, NEITHER, True),
        (PRECEDENCE, NEITHER, True),
        (WAY_OUT, RECEIPT, False),
        (WAY_OUT, OFFER, False),
        (BOTH + PRECEDENCE, NEITHER, False),
        ("X-Campaign-ID: 7\r\n", NEITHER, False),
    ],
)
def test_the_text_is_read_only_when_the_header_is_inconclusive(
    fields: str, subject: str, asks: bool
) -> None:
    raw = f"From: Shop <hello@shop.example>\r\nSubject: {subject}\r\n{fields}\r\n"
    assert asks_for_text(HeaderBlock(raw.encode())) == asks


def test_the_phrases_are_folded() -> None:
    for kind in (SUBSCRIBED, BROWSER, NEWSLETTER, UNSUBSCRIBE, OPT_OUT):
        assert set(kind) == set(WORDS)
        for phrases in kind.values():
            for phrase in phrases:
                assert phrase == folded(phrase)
                assert len(phrase) > 4


def test_no_phrase_for_unsubscribing_is_there_twice() -> None:
    phrases = [one for each in (*UNSUBSCRIBE.values(), *OPT_OUT.values()) for one in each]
    assert sorted(phrases) == sorted(set(phrases))
