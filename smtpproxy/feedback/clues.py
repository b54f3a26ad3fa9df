"""Where a report carries our own tokens: who it came to, and fields of the message it is about."""

import re
from collections.abc import Iterable

from smtpproxy.feedback.addresses import ADDRESS
from smtpproxy.feedback.original import Original
from smtpproxy.feedback.parts import Mail, field
from smtpproxy.feedback.records import Clues

_MOST = 20
_URI = re.compile(r"<\s{0,5}([^<>\s]{1,1000})\s{0,5}>")
_ID = re.compile(r"<[^<>\s]{1,250}>")
_TO = ("Delivered-To", "X-Original-To", "Envelope-To", "X-Envelope-To", "To")


def clues_of(mail: Mail, original: Original, recipient: str) -> Clues:
    """Return every place that may hold a token, unread. Local parts keep their case."""
    recipients = [recipient] if recipient else []
    for name in _TO:
        recipients += _written(field(mail.headers, name))
    ids = [*original.values("Message-ID"), *_fields(mail, "In-Reply-To", "References")]
    return Clues(
        recipients=_once(recipients),
        message_ids=_once(found for value in ids for found in _ID.findall(value)),
        unsubscribe_uris=_once(
            found for value in original.values("List-Unsubscribe") for found in _URI.findall(value)
        ),
        feedback_ids=_once(original.values("Feedback-ID")),
        reverse_paths=_once(
            found for value in original.values("Return-Path") for found in _written(value)
        ),
    )


def _fields(mail: Mail, *names: str) -> list[str]:
    return [field(mail.headers, name) for name in names]


def _written(value: str) -> list[str]:
    return [match[1] for match in ADDRESS.finditer(value)]


def _once(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))[:_MOST]
