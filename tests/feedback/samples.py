"""Reports in the words of the MTAs and providers that write them."""

ORIGINAL = """\
Return-Path: <bounces@shop.example>
Message-ID: <1@shop.example>
From: Shop <news@shop.example>
To: Jeanne <jeanne@people.example>
Subject: Our offers
List-Unsubscribe: <https://shop.example/u/abc>, <mailto:leave@shop.example>
Feedback-ID: 7:offers:shop
"""


def bounce(
    text: str = "",
    fields: str = "",
    *,
    subject: str = "Undelivered Mail Returned to Sender",
    sender: str = "Mail Delivery System <MAILER-DAEMON@mx.example>",
    original: str = ORIGINAL,
) -> bytes:
    """A multipart/report with the fields of one or more recipients (RFC 3464)."""
    return f"""\
Return-Path: <>
From: {sender}
To: bounces@shop.example
Subject: {subject}
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="=_b"

--=_b
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

{text}

--=_b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example

{fields}

--=_b
Content-Type: message/rfc822

{original}

--=_b--
""".encode()


def failed(
    status: str = "5.0.0",
    said: str = "",
    *,
    recipient: str = "jeanne@people.example",
    action: str = "failed",
) -> str:
    """The fields of one recipient."""
    diagnostic = f"\nDiagnostic-Code: smtp; {said}" if said else ""
    return f"Final-Recipient: rfc822; {recipient}\nAction: {action}\nStatus: {status}{diagnostic}\n"


def plain(
    text: str,
    *,
    subject: str = "failure notice",
    sender: str = "MAILER-DAEMON@mx.example",
    more: str = "Return-Path: <>\n",
) -> bytes:
    """A plain-text mail."""
    return f"""\
{more}From: {sender}
To: bounces@shop.example
Subject: {subject}
Content-Type: text/plain; charset=utf-8

{text}
""".encode()


def complaint(fields: str, original: str = ORIGINAL, sender: str = "fbl@provider.example") -> bytes:
    """An abuse report (RFC 5965)."""
    return f"""\
From: <{sender}>
To: fbl@shop.example
Subject: FW: Our offers
MIME-Version: 1.0
Content-Type: multipart/report; report-type=feedback-report; boundary="=_a"

--=_a
Content-Type: text/plain

This is an email abuse report for a message received from 192.0.2.1.

--=_a
Content-Type: message/feedback-report

{fields}

--=_a
Content-Type: message/rfc822

{original}

Buy now.
--=_a--
""".encode()
