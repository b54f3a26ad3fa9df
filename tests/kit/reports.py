"""Bounces and complaints as mail servers and providers write them."""

MAILER = "MAILER-DAEMON@mx.example"


def original(recipient: str, *fields: str) -> str:
    """The header of the message that a report is about."""
    lines = (*fields, "From: Shop <news@shop.example>", f"To: {recipient}", "Subject: New shoes")
    return "\r\n".join(lines) + "\r\n"


def bounce(
    recipient: str,
    *fields: str,
    to: str = "news@shop.example",
    status: str = "5.1.1",
    said: str = "550 5.1.1 no such user",
    action: str = "failed",
    subject: str = "Undelivered Mail Returned to Sender",
) -> bytes:
    """A delivery status notification (RFC 3464); `fields` are those of the returned message."""
    return _report(
        to,
        subject,
        "delivery-status",
        "message/delivery-status",
        "Reporting-MTA: dns; mx.example\r\n\r\n"
        f"Final-Recipient: rfc822; {recipient}\r\nAction: {action}\r\nStatus: {status}\r\n"
        f"Diagnostic-Code: smtp; {said}\r\n",
        original(recipient, *fields),
    )


def complaint(recipient: str, *fields: str, to: str = "abuse@shop.example") -> bytes:
    """An abuse report (RFC 5965); an empty recipient is a hidden one."""
    named = f"Original-Rcpt-To: {recipient}\r\n" if recipient else ""
    return _report(
        to,
        "Abuse report",
        "feedback-report",
        "message/feedback-report",
        f"Feedback-Type: abuse\r\nUser-Agent: Loop/1\r\nVersion: 1\r\n{named}",
        original(recipient or "redacted@people.example", *fields),
    )


def attached_complaint(
    *fields: str,
    recipient: str = "undisclosed-recipients:;",
    sender: str = "staff@hotmail.com",
    before: str = "",
) -> bytes:
    """A complaint as Microsoft sends it unless ARF is requested: just the message. `fields` are
    those of the message, which often names nobody; `before` is the part before it."""
    boundary = "F0000EEE2-0000-2111-AAB0-000000000000"
    text = f"--{boundary}\r\nContent-Type: text/plain\r\n\r\n{before}\r\n" if before else ""
    return (
        "Received: from BAY004-OMC4S22.hotmail.com ([192.0.2.25]) by mx.shop.example with ESMTPS;"
        " Thu, 29 Oct 2026 23:34:45 +0000\r\n"
        "Date: Thu, 29 Oct 2026 23:34:45 +0000\r\n"
        f"From: {sender}\r\n"
        "Subject:  complaint about message from 192.0.2.222\r\n"
        "To: jmrp@shop.example\r\n"
        "MIME-Version: 1.0\r\n"
        f'Content-Type: multipart/mixed; boundary="{boundary}"\r\n'
        "Message-ID: <BAY0-JMR-000000000000000022@BAY0-XMR.phx.gbl>\r\n"
        "\r\n"
        f"{text}--{boundary}\r\n"
        "Content-Type: message/rfc822\r\n"
        "Content-Disposition: inline\r\n"
        "\r\n"
        "X-Reporter-IP: 192.0.2.22\r\n"
        "X-SID-PRA: news@shop.example\r\n"
        "Received: from out.shop.example ([192.0.2.222]) by BAY0-MC1.hotmail.com over TLS;"
        " Thu, 29 Oct 2026 23:30:01 +0000\r\n"
        f"{original(recipient, *fields)}"
        "\r\n"
        "Buy now.\r\n"
        f"\r\n--{boundary}--\r\n"
    ).encode()


def letter(subject: str, *fields: str, to: str, sender: str, body: str = "") -> bytes:
    """A message written by a person."""
    lines = (*fields, f"From: {sender}", f"To: {to}", f"Subject: {subject}", "", body, "")
    return "\r\n".join(lines).encode()


def _report(to: str, subject: str, kind: str, media: str, fields: str, header: str) -> bytes:
    parts = (
        ("text/plain", "It did not arrive, or was not wanted.\r\n"),
        (media, fields),
        ("text/rfc822-headers", header),
    )
    body = "".join(f"--=_1\r\nContent-Type: {media}\r\n\r\n{text}\r\n" for media, text in parts)
    return (
        f"From: {MAILER}\r\nTo: {to}\r\nSubject: {subject}\r\nMIME-Version: 1.0\r\n"
        f'Content-Type: multipart/report; report-type={kind}; boundary="=_1"\r\n\r\n'
        f"{body}--=_1--\r\n"
    ).encode()
