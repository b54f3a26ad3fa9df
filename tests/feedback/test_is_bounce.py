"""A mail is a bounce if it has two signs, one of which no person produces by chance."""

import pytest

from smtpproxy.feedback.bounce import is_bounce
from smtpproxy.feedback.parts import read_mail

PERSON, DAEMON = "From: bea@people.example\n", "From: MAILER-DAEMON@mx.example\n"
SUBJECT, WORDS = "Subject: Undelivered mail\n", "Your mail could not be delivered.\n"
REPORT, MIXED = (f"Content-Type: multipart/{kind}; boundary=b\n" for kind in ("report", "mixed"))
REPLY = "Auto-Submitted: auto-replied\n"
HELLO = "Hello\n"


def parts(text: str, *, returned: bool = False) -> str:
    first = f"--b\n\n{text}\n"
    return first + ("--b\nContent-Type: message/rfc822\n\nSubject: x\n\n" * returned) + "--b--\n"


@pytest.mark.parametrize(
    ("header", "body", "expected"),
    [
        (PERSON + "X-Failed-Recipients: ann@people.example\n", HELLO, True),
        (DAEMON, HELLO, False),
        (DAEMON + SUBJECT, HELLO, True),
        (DAEMON, WORDS, True),
        (PERSON + SUBJECT, WORDS, False),  # a person who writes about a bounce
        ("From: bea@smtp.bounces.example\n" + SUBJECT, WORDS, False),
        ("From: root@mx.example (Mail Delivery System)\n" + SUBJECT, HELLO, True),
        ("Return-Path: <>\n" + PERSON + SUBJECT, HELLO, True),
        ("Return-Path: <bea@people.example>\n" + PERSON + SUBJECT, HELLO, False),
        ("Return-Path: <>\n" + PERSON + REPLY, WORDS, False),  # as RFC 3834 3.3 requires
        ("Return-Path: <>\n" + DAEMON + REPLY, WORDS, True),
        (SUBJECT, HELLO, True),  # without a sender
        ("From: <>\n" + REPLY, WORDS, True),
        (DAEMON + "Subject: A bounced mail\n", HELLO, True),
        (PERSON + REPORT, parts(HELLO), False),
        (DAEMON + REPORT, parts(HELLO), True),
        (PERSON + SUBJECT + REPORT, parts(HELLO), True),
        (PERSON + REPORT, parts(WORDS), True),
        (PERSON + SUBJECT + MIXED, parts(WORDS), False),
        (PERSON + SUBJECT + MIXED, parts(WORDS, returned=True), True),
        (PERSON + MIXED, parts(WORDS, returned=True), False),
        (PERSON + SUBJECT + MIXED, parts(HELLO, returned=True), False),
        (DAEMON + MIXED, parts(HELLO, returned=True), False),
    ],
)
def test_a_bounce_has_two_signs(header: str, body: str, expected: bool) -> None:
    assert is_bounce(read_mail((header + "\n" + body).encode())) is expected
