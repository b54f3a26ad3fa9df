"""Complaints that are no formal report: a provider only attaches the message."""

import pytest

from smtpproxy.feedback import read_report
from smtpproxy.feedback.records import Action, Class, Kind, Sent
from tests.feedback.test_read_report import Tokens, summary
from tests.kit.reports import attached_complaint

JEANNE = "jeanne@people.example"
OURS = Sent("paul@people.example", stream="offers", brand="shop")
PERSON = "Jeanne <jeanne@people.example>"


@pytest.mark.parametrize(
    "mail",
    [
        attached_complaint(),
        attached_complaint(before="\r\n"),
        attached_complaint(sender="Hotmail <Staff@Hotmail.com>"),
        attached_complaint(sender="scomp@aol.net", recipient="redacted@aol.com", before=" "),
        attached_complaint(f"X-HmXmrOriginalRecipient: {JEANNE}"),
    ],
)
def test_our_token_says_whom_the_complaint_is_about(mail: bytes) -> None:
    report = read_report(mail, tokens=Tokens(OURS), require_token=True)
    assert report.kind is Kind.COMPLAINT
    assert summary(report) == [("paul@people.example", "complaint", "suppress", "brand:shop")]


def test_without_a_token_it_is_like_a_report_that_hides_the_recipient() -> None:
    (nobody,) = read_report(attached_complaint()).events
    assert (nobody.address, nobody.event_class, nobody.action) == (
        None,
        Class.COMPLAINT,
        Action.COUNT,
    )
    named = attached_complaint(recipient=JEANNE)
    assert summary(read_report(named)) == [(JEANNE, "complaint", "suppress", "marketing")]
    (untrusted,) = read_report(named, require_token=True).events
    assert (untrusted.action, "token" in untrusted.why) == (Action.COUNT, True)


@pytest.mark.parametrize(
    "mail",
    [
        attached_complaint(sender=PERSON, before="See below, why do I get this?"),
        attached_complaint(sender="support@hotmail.com"),
        attached_complaint(sender="staff@hotmail.com.shop.example"),
        attached_complaint(sender=f"staff@hotmail.com, {PERSON}"),
        attached_complaint().replace(b"From: staff", b"From: jeanne@people.example\r\nFrom: staff"),
        attached_complaint().replace(b"message/rfc822", b"text/plain"),
    ],
    ids=["person", "another", "lookalike", "two", "two fields", "nothing attached"],
)
def test_forwarding_our_message_is_not_a_complaint(mail: bytes) -> None:
    report = read_report(mail, tokens=Tokens(OURS), require_token=False)
    assert (report.kind, report.events) == (Kind.OTHER, ())
