"""Complaints from mailbox providers: abuse reports (RFC 5965, 6590, 6650), and older forms."""

import re
from collections.abc import Iterable

from msgspec import Struct

from smtpproxy.feedback.addresses import of_field
from smtpproxy.feedback.original import Original
from smtpproxy.feedback.parts import Mail, field, header_block, text_of
from smtpproxy.feedback.personal import writer
from smtpproxy.mail.headers import HeaderBlock

REPORT_TYPE = "message/feedback-report"

_MAX_VALUES = 20
_RECIPIENT_FIELDS = ("Original-Rcpt-To", "Removal-Recipient", "Original-Recipient")
# Fields that only a report on failed authentication has (RFC 6591 3.1), whatever type it claims.
_AUTHENTICATION = ("Auth-Failure", "Identity-Alignment", "DKIM-Canonicalized-Header", "SPF-DNS")
_REDACTED = re.compile(r"(?:redacted|anonymi[sz]ed|hidden|removed|xxx+|undisclosed)\b|.{0,64}=\Z")

_ATTACHING = frozenset({"staff@hotmail.com", "scomp@aol.net"})
"""Senders whose complaints only attach the message: Microsoft (JMRP), formerly AOL."""


class Complaint(Struct, frozen=True):
    """`feedback_type` is IANA's, in lower case; `addresses` are those that complained."""

    feedback_type: str
    addresses: tuple[str, ...]


def complaint_of(mail: Mail, original: Original) -> Complaint | None:
    """Return what a feedback report says; None if the mail is not one."""
    for part in mail.of_type(REPORT_TYPE):
        return _complaint(header_block(part.octets), original)
    if mail.parameters.get("report-type", "").lower() == "feedback-report":
        for part in mail.of_type("text/plain"):  # some mislabel it
            fields = header_block(part.octets)
            if fields.count("Feedback-Type"):
                return _complaint(fields, original)
    if _only_attaches(mail) or original.values("X-HmXmrOriginalRecipient"):  # Microsoft's field
        return _complaint(HeaderBlock(b""), original)
    return None


def _only_attaches(mail: Mail) -> bool:
    """Whether a mailbox provider returns only the message, without any report.

    Anybody else who does so forwards it, which is not a complaint.
    """
    return (
        mail.type in ("multipart/mixed", "message/rfc822")
        and writer(mail) in _ATTACHING
        and mail.has("message/rfc822")
    )


def _complaint(fields: HeaderBlock, original: Original) -> Complaint:
    kind = field(fields, "Feedback-Type").partition("(")[0].strip().lower() or "abuse"
    if any(fields.count(name) for name in _AUTHENTICATION):
        kind = "auth-failure"
    for name in _RECIPIENT_FIELDS:
        values = [text_of(value) for value in fields.values(name)[:_MAX_VALUES]]
        named = _unredacted(of_field(value) for value in values)
        if named:
            return Complaint(kind, named)
    return Complaint(kind, _unredacted([original.recipient]))


def _unredacted(addresses: Iterable[str | None]) -> tuple[str, ...]:
    """Return the addresses that are not redacted (RFC 6590 leaves the form of redaction open)."""
    found = (one for one in addresses if one and not _REDACTED.match(one.partition("@")[0]))
    return tuple(dict.fromkeys(found))
