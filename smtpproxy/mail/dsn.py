"""Delivery status notifications: what a sender is told outside of SMTP replies (RFC 3464).

Of refused recipients, when the others were mailed, so that the SMTP reply cannot say it
(`on_mixed = "split"`); and that mail was relayed to where no notice of success is to be had.
"""

from binascii import b2a_qp
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from msgspec import Struct

from smtpproxy.mail.reply import Reply
from smtpproxy.mail.trace import date_time
from smtpproxy.mail.xtext import from_xtext

_LINE_LIMIT = 998  # RFC 5322 2.1.1, without CRLF
_REFUSED = """\
This is the mail relay at {hostname}.

Your message was passed on to its other recipients, but not to these, whom you may
not mail. Each line gives the address and the reason; nothing was sent to them.

{refusals}

Please do not send again before the reason is gone. The reasons are explained in
the documentation of smtpproxy (docs/reasons.md); the id names the recorded decision.
"""
_UNDELIVERED = """\
This is the mail relay at {hostname}.

Your message was passed on to its other recipients, but the next mail server did not
take it for these. Each line gives the address and what it answered. Nothing is tried
again here: to reach them, send again to these addresses alone.

{failures}
"""
_RELAYED = """\
This is the mail relay at {hostname}.

You asked for a notice of success. Your message was passed on for these recipients to a
mail server that sends none, so this is the last that you will hear of it unless it fails:

{recipients}
"""


@dataclass(frozen=True, slots=True)
class RefusedRecipient:
    address: str
    reply: Reply
    orcpt: str | None = None  # as the sender gave it, in xtext


class Envelope(Struct, frozen=True):
    """Of what message a notice is: what the sender called it, and who gets the notice."""

    hostname: str
    id: str
    at: datetime
    reverse_path: str
    envid: str | None = None  # in xtext


def failure_notice(envelope: Envelope, refused: Sequence[RefusedRecipient], header: bytes) -> bytes:
    """Return the notice about recipients that were refused, CRLF line ends, not dot-stuffed.

    `header` is the header section of the message it is about; it goes along as it came,
    quoted-printable where it is no legal 7-bit text (RFC 6522 section 4).
    """
    lines = [f"  <{entry.address}>: {entry.reply.text}" for entry in refused]
    text = _REFUSED.format(hostname=envelope.hostname, refusals="\n".join(lines))
    subject = "Not mailed: some recipients were refused"
    return _failures(envelope, "refused", subject, text, refused, header)


def undelivered_notice(
    envelope: Envelope, failed: Sequence[RefusedRecipient], header: bytes
) -> bytes:
    """Return the notice about recipients whom the next server did not take the message for.

    They failed for good, whatever the server says of later: nobody here tries again
    (RFC 3464 2.3.3, 2.3.4: `failed` may carry a status of 4).
    """
    lines = [f"  <{entry.address}>: {entry.reply}" for entry in failed]
    text = _UNDELIVERED.format(hostname=envelope.hostname, failures="\n".join(lines))
    subject = "Not delivered to some recipients"
    return _failures(envelope, "undelivered", subject, text, failed, header)


def _failures(
    envelope: Envelope,
    kind: str,
    subject: str,
    text: str,
    refused: Sequence[RefusedRecipient],
    header: bytes,
) -> bytes:
    return _report(
        envelope,
        kind,
        subject,
        text,
        [
            _group(
                entry.address,
                entry.orcpt,
                f"Action: failed\nStatus: {entry.reply.enhanced}\n"
                f"Diagnostic-Code: smtp; {entry.reply}\n",
            )
            for entry in refused
        ],
        header,
    )


def relayed_notice(
    envelope: Envelope, relayed: Sequence[tuple[str, str | None]], header: bytes
) -> bytes:
    """Return the notice that mail went to where no notice of success is to be had.

    `relayed` are addresses, each with the original recipient that the sender gave
    (RFC 3461 5.2.2).
    """
    lines = "\n".join(f"  <{address}>" for address, _ in relayed)
    return _report(
        envelope,
        "relayed",
        "Relayed: no further notice of success",
        _RELAYED.format(hostname=envelope.hostname, recipients=lines),
        [_group(address, orcpt, "Action: relayed\nStatus: 2.0.0\n") for address, orcpt in relayed],
        header,
    )


def _report(
    envelope: Envelope, kind: str, subject: str, text: str, groups: Sequence[str], header: bytes
) -> bytes:
    """A multipart/report for the reverse path.

    `kind` is in its Message-ID: of two notices about one message, mailboxes that drop what
    they have would keep one.
    Addresses keep their case (RFC 3464 2.3.2); what is not ASCII makes the report a
    `message/global-delivery-status` (RFC 6533). The notice says auto-replied, never
    auto-generated (RFC 3834 5.2, read with 3464), and its envelope sender is to be null.
    """
    hostname, id = envelope.hostname, envelope.id
    status = "\n".join([_message_group(envelope), *groups])
    unicode = not status.isascii() or not envelope.reverse_path.isascii()
    boundary = f"=_smtpproxy_{id}"
    status_type = "message/global-delivery-status" if unicode else "message/delivery-status"
    headers_type, encoding, headers = _attached(header.rstrip(b"\r\n") + b"\r\n", unicode)
    parts = (
        f"From: Mail relay <MAILER-DAEMON@{hostname}>\n"
        f"To: <{envelope.reverse_path}>\n"
        f"Date: {date_time(envelope.at)}\n"
        f"Message-ID: <{id}.{kind}@{hostname}>\n"
        f"Subject: {subject}\n"
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
        f"{status}"
        f"\n--{boundary}\n"
        f"Content-Type: {headers_type}\n"
        f"Content-Transfer-Encoding: {encoding}\n"
        "\n"
    )
    opening = parts.replace("\n", "\r\n").encode("utf-8", "surrogateescape")
    return opening + headers + f"\r\n--{boundary}--\r\n".encode()


def _message_group(envelope: Envelope) -> str:
    """The fields about the message, which begin the machine-readable part."""
    original = f"Original-Envelope-Id: {from_xtext(envelope.envid)}\n" if envelope.envid else ""
    return (
        f"{original}Reporting-MTA: dns; {envelope.hostname}\nX-SMTPProxy-Id: {envelope.id}\n"
        f"Arrival-Date: {date_time(envelope.at)}\n"
    )


def _group(address: str, orcpt: str | None, outcome: str) -> str:
    """The fields about one recipient."""
    kind = "rfc822" if address.isascii() else "utf-8"
    original = ""
    if orcpt:
        of_type, _, text = orcpt.partition(";")
        original = f"Original-Recipient: {of_type}; {from_xtext(text)}\n"
    return f"{original}Final-Recipient: {kind}; {address}\n{outcome}"


def _attached(header: bytes, unicode: bool) -> tuple[str, str, bytes]:
    """Return (Content-Type, Content-Transfer-Encoding, the header section in it)."""
    if max(map(len, header.split(b"\r\n"))) <= _LINE_LIMIT:
        if header.isascii():
            return "text/rfc822-headers", "7bit", header
        if unicode:
            return "message/global-headers", "8bit", header
    return "text/rfc822-headers", "quoted-printable", b2a_qp(header, istext=True)
