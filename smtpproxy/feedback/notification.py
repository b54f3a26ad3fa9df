"""Amazon's notifications by mail (SES through SNS): JSON, where others use RFC 3464 or 5965."""

import msgspec
from msgspec import Struct

from smtpproxy.feedback.parts import Mail, Part

_MAX_RECIPIENTS = 50
_MAX_FIELDS = 100
_SIGNED_OFF = b"\r\n\r\n--"  # before what SNS adds about its subscription
_WRAPPED = b"!\r\n "  # how lines that are too long are broken


class _Recipient(Struct, rename="camel"):
    email_address: str
    action: str | None = None
    status: str | None = None
    diagnostic_code: str | None = None


class _Bounce(Struct, rename="camel"):
    bounced_recipients: list[_Recipient]
    bounce_type: str = ""


class _Delay(Struct, rename="camel"):
    delayed_recipients: list[_Recipient]


class _Delivery(Struct):
    recipients: list[str]


class _Complaint(Struct, rename="camel"):
    complained_recipients: list[_Recipient]
    complaint_feedback_type: str | None = None


class _Field(Struct):
    name: str
    value: str


class _Sent(Struct):
    source: str = ""
    headers: list[_Field] = []


class _Notification(Struct, rename="camel"):
    mail: _Sent
    bounce: _Bounce | None = None
    delivery_delay: _Delay | None = None
    delivery: _Delivery | None = None
    complaint: _Complaint | None = None


class _Envelope(Struct):
    message: str = msgspec.field(name="Message")


def as_report(mail: Mail) -> Mail | None:
    """Return a notification in the form that others use; None if the mail is not one."""
    if len(mail.parts) != 1:
        return None
    octets = mail.parts[0].octets.lstrip()
    if not octets.startswith(b"{") or b'"mail' not in octets.replace(b"\\", b""):
        return None
    notification = _read(octets.partition(_SIGNED_OFF)[0].replace(_WRAPPED, b""))
    if notification is None:
        return None
    if notification.complaint is not None:
        return _reported(
            mail, notification, "message/feedback-report", _complaint(notification.complaint)
        )
    groups = _groups(notification)
    if not groups:
        return None
    text = "\r\n\r\n".join(("Reporting-MTA: dns; amazonses.com", *groups))
    return _reported(mail, notification, "message/delivery-status", text)


def _read(octets: bytes) -> _Notification | None:
    try:
        return msgspec.json.decode(octets, type=_Notification)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        pass
    try:
        inner = msgspec.json.decode(octets, type=_Envelope).message
        return msgspec.json.decode(inner, type=_Notification)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


def _reported(mail: Mail, notification: _Notification, kind: str, fields: str) -> Mail:
    sent = [_line("Return-Path", f"<{notification.mail.source}>")]
    sent += [_line(field.name, field.value) for field in notification.mail.headers[:_MAX_FIELDS]]
    parts = (
        Part(kind, "", fields.encode("utf-8", "replace")),
        Part("text/rfc822-headers", "", "\r\n".join((*sent, "", "")).encode("utf-8", "replace")),
    )
    return Mail(mail.headers, "multipart/report", {}, parts)


def _complaint(complaint: _Complaint) -> str:
    kind = complaint.complaint_feedback_type or "abuse"
    named = complaint.complained_recipients[:_MAX_RECIPIENTS]
    lines = [_line("Original-Rcpt-To", one.email_address) for one in named]
    return "\r\n".join((_line("Feedback-Type", kind), *lines, "", ""))


def _groups(notification: _Notification) -> list[str]:
    if notification.bounce is not None:
        default = "4.0.0" if notification.bounce.bounce_type == "Transient" else ""
        some = notification.bounce.bounced_recipients[:_MAX_RECIPIENTS]
        return [_group(one, one.action or "failed", default) for one in some]
    if notification.delivery_delay is not None:
        some = notification.delivery_delay.delayed_recipients[:_MAX_RECIPIENTS]
        return [_group(one, "delayed", "") for one in some]
    if notification.delivery is not None:
        arrived = notification.delivery.recipients[:_MAX_RECIPIENTS]
        return [_group(_Recipient(one), "delivered", "") for one in arrived]
    return []


def _group(recipient: _Recipient, action: str, default: str) -> str:
    lines = (
        _line("Final-Recipient", f"rfc822; {recipient.email_address}"),
        _line("Action", action),
        _line("Status", recipient.status or default),
        _line("Diagnostic-Code", recipient.diagnostic_code or ""),
    )
    return "\r\n".join(lines)


def _line(name: str, value: str) -> str:
    return f"{_flat(name)}: {_flat(value)}"


def _flat(text: str) -> str:
    """The text without line ends, so that a value cannot look like more fields."""
    return " ".join(text.split())
