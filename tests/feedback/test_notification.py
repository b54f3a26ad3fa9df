"""Amazon's JSON notifications by mail: from SES through SNS, bare or wrapped by SNS."""

import json
from typing import Any

import pytest

from smtpproxy.feedback import read_report
from smtpproxy.feedback.records import Clues, Kind, Sent
from tests.feedback.samples import plain

JEANNE = "jeanne@people.example"
MAIL = {
    "source": "news@shop.example",
    "headers": [
        {"name": "To", "value": JEANNE},
        {"name": "Message-ID", "value": "<one@shop.example>"},
    ],
}


def notification(mail: Any = MAIL, **told: Any) -> str:
    return json.dumps({"notificationType": "x", "mail": mail, **told}, indent=2)


def bounced(*, kind: str = "Permanent", **recipient: str) -> dict[str, Any]:
    named = {"emailAddress": JEANNE, **recipient}
    return {"bounce": {"bounceType": kind, "bouncedRecipients": [named]}}


DEAD = bounced(action="failed", status="5.1.1", diagnosticCode="smtp; 550 5.1.1 user unknown")


def sns(text: str) -> bytes:
    return plain(text, subject="AWS Notification Message", sender="no-reply@sns.example", more="")


def summary(content: bytes) -> tuple[Kind, list[tuple[str | None, str, str]]]:
    report = read_report(content)
    return report.kind, [(e.address, e.event_class, e.action) for e in report.events]


def test_a_bounce_is_read_bare_with_a_footer_and_wrapped() -> None:
    expected = (Kind.DSN, [(JEANNE, "dead", "suppress")])
    text = notification(**DEAD)
    assert summary(sns(text)) == expected
    assert summary(sns(f"{text}\n\n--\nIf you wish to stop receiving, visit {{}}")) == expected
    envelope = json.dumps({"Type": "Notification", "Message": text}, indent=2)
    assert summary(sns(envelope)) == expected
    broken = envelope.replace("shop.example", "shop.exa!\n mple", 1)
    assert summary(sns(broken)) == expected


@pytest.mark.parametrize(
    ("told", "kind", "expected"),
    [
        (bounced(status="5.2.2"), Kind.DSN, [(JEANNE, "full", "count")]),
        (bounced(kind="Transient"), Kind.DSN, [(JEANNE, "transient", "count")]),
        (bounced(), Kind.DSN, [(JEANNE, "unknown", "count")]),
        (
            {"deliveryDelay": {"delayedRecipients": [{"emailAddress": JEANNE}]}},
            Kind.DSN,
            [(JEANNE, "transient", "count")],
        ),
        ({"delivery": {"recipients": [JEANNE]}}, Kind.DSN, []),
        (
            {"complaint": {"complainedRecipients": [{"emailAddress": JEANNE}]}},
            Kind.COMPLAINT,
            [(JEANNE, "complaint", "suppress")],
        ),
        (
            {
                "complaint": {
                    "complainedRecipients": [{"emailAddress": JEANNE}],
                    "complaintFeedbackType": "not-spam",
                }
            },
            Kind.COMPLAINT,
            [],
        ),
        ({"open": {}}, Kind.OTHER, []),
    ],
)
def test_the_meaning_of_each_notification(
    told: dict[str, Any], kind: Kind, expected: list[tuple[str, str, str]]
) -> None:
    assert summary(sns(notification(**told))) == (kind, expected)


class Tokens:
    """Keeps what it was given."""

    clues = Clues()

    def __call__(self, clues: Clues) -> Sent | None:
        self.clues = clues
        return None


def test_tokens_are_found_in_the_fields_of_the_message() -> None:
    tokens = Tokens()
    read_report(sns(notification(**DEAD)), tokens=tokens)
    assert tokens.clues.message_ids == ("<one@shop.example>",)
    assert tokens.clues.reverse_paths == ("news@shop.example",)


def test_values_cannot_become_fields() -> None:
    told = bounced(emailAddress=f"{JEANNE}\r\n\r\nFinal-Recipient: rfc822; victim@people.example")
    _, events = summary(sns(notification(**told)))
    assert "victim@people.example" not in [address for address, *_ in events]


@pytest.mark.parametrize(
    "text",
    [
        '{"mail":' * 20_000,
        '{"mail":' + "[" * 200_000,
        '{"mail": {}, "bounce": {"bouncedRecipients": null}}',
        notification(bounce={"bouncedRecipients": [{"emailAddress": ""}] * 10_000}),
        notification(mail={"headers": [{"name": "a\r\nb", "value": "\ud800"}]}, **DEAD),
    ],
)
def test_malformed_notifications_do_no_harm(text: str) -> None:
    assert read_report(sns(text)).events == ()
