"""Feedback by mail: bounces, complaints, requests to unsubscribe, automatic replies.

`read_report` is pure: it says what a mail reports, about whom, and what is to be done.
"""

from smtpproxy.feedback.bounce import Failure, failures, inner_bounce, is_bounce
from smtpproxy.feedback.complaint import Complaint, complaint_of
from smtpproxy.feedback.notification import as_report
from smtpproxy.feedback.original import clues_of, original_of
from smtpproxy.feedback.parts import read_mail
from smtpproxy.feedback.personal import (
    asks_by_program,
    is_auto_reply,
    is_receipt,
    wants_out,
    writer,
)
from smtpproxy.feedback.records import (
    Action,
    Class,
    Event,
    FeedbackReport,
    Kind,
    Sent,
    TokenReader,
)

_NO_TOKEN = "no valid token of ours, which require_token asks for: "
_NO_COMPLAINT = {
    "not-spam": "the person took it out of the spam folder",
    "auth-failure": "a report on authentication: nobody complained",
}
_SAID = 300  # characters of a report's text, in `why`


def read_report(
    content: bytes,
    *,
    tokens: TokenReader | None = None,
    require_token: bool = False,
) -> FeedbackReport:
    """Return what a mail reports, and what is to be done about it.

    `content` is the whole mail, however hostile or broken. A valid token says whom the mail
    concerns, whatever the report says. Without one, nobody is suppressed if `require_token` is set.
    Never raises.
    """
    mail = read_mail(content)
    mail = as_report(mail) or inner_bounce(mail) or mail
    original = original_of(mail)
    sent = None
    if tokens is not None:
        sent = tokens(clues_of(mail, original))
    lacking = _NO_TOKEN if require_token and sent is None else ""
    complaint = complaint_of(mail, original)
    if complaint is not None:
        return _complained(complaint, sent, lacking)
    if is_bounce(mail) and not is_receipt(mail):
        events = [_failed(one, sent, lacking) for one in failures(mail, original)]
        why = "a delivery status notification" if events else "a notice that mail arrived"
        return FeedbackReport(Kind.DSN, why, tuple(events), sent)
    if is_auto_reply(mail) and not asks_by_program(mail):
        return FeedbackReport(Kind.AUTO_REPLY, "an automatic reply", (), sent)
    if wants_out(mail) or (sent is not None and sent.scope is not None):
        return _unsubscribed(writer(mail), sent, lacking)
    return FeedbackReport(Kind.OTHER, "no report of a known kind", (), sent)


def _failed(failure: Failure, sent: Sent | None, lacking: str) -> Event:
    address = sent.recipient if sent is not None else failure.address
    said = " ".join(failure.said.replace("\0", " ").split())[:_SAID] or "the report gives no reason"
    if failure.failure is not Class.DEAD:
        return Event(address, failure.failure, Action.COUNT, None, said)
    if address is None:
        return Event(None, Class.DEAD, Action.COUNT, None, f"it names nobody: {said}")
    return _suppression(address, Class.DEAD, "all", said, lacking)


def _complained(complaint: Complaint, sent: Sent | None, lacking: str) -> FeedbackReport:
    nothing = _NO_COMPLAINT.get(complaint.feedback_type)
    if nothing is not None:
        kind = Kind.OTHER if complaint.feedback_type == "auth-failure" else Kind.COMPLAINT
        return FeedbackReport(kind, nothing, (), sent)
    why = f"a complaint ({complaint.feedback_type.replace(chr(0), ' ')[:_SAID]})"
    scope = f"brand:{sent.brand}" if sent is not None and sent.brand else "marketing"
    addresses = (sent.recipient,) if sent is not None else complaint.addresses
    events = [_suppression(one, Class.COMPLAINT, scope, why, lacking) for one in addresses]
    if not events:
        events = [Event(None, Class.COMPLAINT, Action.COUNT, None, f"{why} that names nobody")]
    return FeedbackReport(Kind.COMPLAINT, why, tuple(events), sent)


def _unsubscribed(address: str | None, sent: Sent | None, lacking: str) -> FeedbackReport:
    why = "asks to be unsubscribed"
    scope = "marketing"
    if sent is not None:
        address, scope = sent.recipient, sent.scope or scope
    if address is None:
        return FeedbackReport(Kind.UNSUBSCRIBE, f"{why}, and does not say who", (), sent)
    event = _suppression(address, Class.UNSUBSCRIBE, scope, why, lacking)
    return FeedbackReport(Kind.UNSUBSCRIBE, why, (event,), sent)


def _suppression(address: str, event: Class, scope: str, why: str, lacking: str) -> Event:
    if lacking:
        return Event(address, event, Action.COUNT, None, lacking + why)
    return Event(address, event, Action.SUPPRESS, scope, why)
