"""Delivery status notifications: what a sender is told about refused recipients (RFC 3464).

Made only when the other recipients were mailed, so that the SMTP reply cannot say it
(`on_mixed = "split"`).
"""

from binascii import b2a_qp
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from smtpproxy.mail.reply import Reply
from smtpproxy.mail.trace import date_time

_LINE_LIMIT = 998  # RFC 5322 2.1.1, without CRLF
_TEXT = """\
This is the mail relay at {hostname}.

Your message was passed on to its other recipients, but not to these, whom you may
not mail. Each line gives the address and the reason; nothing was sent to them.

{refusals}

Please do not send again before the reason is gone. The reasons are explained in
the documentation of smtpproxy (docs/reasons.md); the id names the recorded decision.
"""


@dataclass(frozen=True, slots=True)
class RefusedRecipient:
    address: str
    reply: Reply


def failure_notice(
    *,
    hostname: str,
    id: str,
    at: datetime,
    reverse_path: str,
    refused: Sequence[RefusedRecipient],
    header: bytes,
) -> bytes:
    """Return a multipart/report for the reverse path, dot-unstuffed, CRLF line ends.

    `header` is the header section of the message it is about; it goes along as it came,
    quoted-printable where it is no legal 7-bit text (RFC 6522 section 4).
    Addresses keep their case (RFC 3464 2.3.2); what is not ASCII makes the report a
    `message/global-delivery-status` (RFC 6533). The notice says auto-replied, never
    auto-generated (RFC 3834 5.2, read with 3464), and its envelope sender is to be null.
    """
    unicode = any(not entry.address.isascii() for entry in refused) or not reverse_path.isascii()
    boundary = f"=_smtpproxy_{id}"
    text = _TEXT.format(
        hostname=hostname,
        refusals="\n".join(f"  <{entry.address}>: {entry.reply.text}" for entry in refused),
    )
    status_type = "message/global-delivery-status" if unicode else "message/delivery-status"
    headers_type, encoding, headers = _attached(header.rstrip(b"\r\n") + b"\r\n", unicode)
    parts = (
        f"From: Mail relay <MAILER-DAEMON@{hostname}>\n"
        f"To: <{reverse_path}>\n"
        f"Date: {date_time(at)}\n"
        f"Message-ID: <{id}.dsn@{hostname}>\n"
        "Subject: Not mailed: some recipients were refused\n"
        "Auto-Submitted: auto-replied\n"
        "MIME-Version: 1.0\n"
        "Content-Type: multipart/report; report-type=delivery-status;\n"
        f'\tboundary="{boundary}"\n'
        "\n"
        "This is a delivery status notification in MIME format.\n"
        f"\n--{boundary}\n"
        "Content-Type: text/plain; charset=utf-8\n"
        f"Content-Transfer-Encoding: {'8bit' if unicode else '7bit'}\n"
        "\n"
        f"{text}"
        f"\n--{boundary}\n"
        f"Content-Type: {status_type}\n"
        f"Content-Transfer-Encoding: {'8bit' if unicode else '7bit'}\n"
        "\n"
        f"{_status(hostname, id, at, refused)}"
        f"\n--{boundary}\n"
        f"Content-Type: {headers_type}\n"
        f"Content-Transfer-Encoding: {encoding}\n"
        "\n"
    )
    opening = parts.replace("\n", "\r\n").encode("utf-8", "surrogateescape")
    return opening + headers + f"\r\n--{boundary}--\r\n".encode()


def _attached(header: bytes, unicode: bool) -> tuple[str, str, bytes]:
    """Return (Content-Type, Content-Transfer-Encoding, the header section in it)."""
    if max(map(len, header.split(b"\r\n"))) <= _LINE_LIMIT:
        if header.isascii():
            return "text/rfc822-headers", "7bit", header
        if unicode:
            return "message/global-headers", "8bit", header
    return "text/rfc822-headers", "quoted-printable", b2a_qp(header, istext=True)


def _status(hostname: str, id: str, at: datetime, refused: Sequence[RefusedRecipient]) -> str:
    """The machine-readable part: one group for the message, one for each recipient."""
    groups = [
        f"Reporting-MTA: dns; {hostname}\nX-SMTPProxy-Id: {id}\nArrival-Date: {date_time(at)}\n"
    ]
    for entry in refused:
        kind = "rfc822" if entry.address.isascii() else "utf-8"
        groups.append(
            f"Final-Recipient: {kind}; {entry.address}\n"
            "Action: failed\n"
            f"Status: {entry.reply.enhanced}\n"
            f"Diagnostic-Code: smtp; {entry.reply}\n"
        )
    return "\n".join(groups)
