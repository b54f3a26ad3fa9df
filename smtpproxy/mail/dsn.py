"""Delivery status notifications: notices to the sender outside SMTP replies (RFC 3464).

One kind is about refused recipients when the others were mailed, so that the SMTP reply cannot say
it (`on_mixed = "split"`); another says that mail was relayed to a server that sends no notice of
success.
"""

from binascii import b2a_qp
from collections.abc import Sequence
from datetime import datetime
from email.header import Header

from msgspec import Struct

from smtpproxy.mail.reply import Reply, date_time, from_xtext

_LINE_LIMIT = 998  # RFC 5322 2.1.1, without CRLF


class NoticeText(Struct, frozen=True):
    """The text for people, with `{hostname}` and `{recipients}` (a list of lines) to fill in."""

    subject: str
    text: str


class NoticeTexts(Struct, frozen=True):
    """The texts of all kinds of notices, in one language; `sender` is the display name of From."""

    sender: str
    refused: NoticeText
    undelivered: NoticeText
    relayed: NoticeText


class RefusedRecipient(Struct, frozen=True):
    address: str
    reply: Reply
    orcpt: str | None = None  # as the sender gave it, in xtext


class Envelope(Struct, frozen=True):
    """The message that a notice is about, and who gets the notice."""

    hostname: str
    id: str
    at: datetime
    reverse_path: str
    texts: NoticeTexts
    envid: str | None = None  # in xtext


def failure_notice(envelope: Envelope, refused: Sequence[RefusedRecipient], header: bytes) -> bytes:
    """Return the notice about refused recipients, with CRLF line ends, not dot-stuffed.

    `header` is the header section of the message; it is included as it came, or quoted-printable if
    it is not legal 7-bit text (RFC 6522 section 4).
    """
    lines = [f"  <{entry.address}>: {entry.reply.text}" for entry in refused]
    return _failures(envelope, "refused", envelope.texts.refused, lines, refused, header)


def undelivered_notice(
    envelope: Envelope, failed: Sequence[RefusedRecipient], header: bytes
) -> bytes:
    """Return the notice about recipients for whom the next server did not accept the message.

    They failed permanently, even if the server says to try later, because the relay does not retry
    (RFC 3464 2.3.3, 2.3.4: `failed` may have a status of 4).
    """
    lines = [f"  <{entry.address}>: {entry.reply}" for entry in failed]
    return _failures(envelope, "undelivered", envelope.texts.undelivered, lines, failed, header)


def _failures(
    envelope: Envelope,
    kind: str,
    notice: NoticeText,
    lines: Sequence[str],
    refused: Sequence[RefusedRecipient],
    header: bytes,
) -> bytes:
    return _report(
        envelope,
        kind,
        notice,
        lines,
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
    """Return the notice that mail went to a server that sends no notice of success.

    `relayed` are addresses, each with the original recipient that the sender gave
    (RFC 3461 5.2.2).
    """
    lines = [f"  <{address}>" for address, _ in relayed]
    return _report(
        envelope,
        "relayed",
        envelope.texts.relayed,
        lines,
        [_group(address, orcpt, "Action: relayed\nStatus: 2.0.0\n") for address, orcpt in relayed],
        header,
    )


def _report(
    envelope: Envelope,
    kind: str,
    notice: NoticeText,
    lines: Sequence[str],
    groups: Sequence[str],
    header: bytes,
) -> bytes:
    """Return a multipart/report for the reverse path.

    `kind` is in its Message-ID, so that mailboxes that drop duplicates keep two notices about one
    message. Addresses keep their case (RFC 3464 2.3.2); anything but ASCII makes the report a
    `message/global-delivery-status` (RFC 6533). The notice says auto-replied, never auto-generated
    (RFC 3834 5.2, read with 3464), and its envelope sender must be null.
    """
    hostname, id = envelope.hostname, envelope.id
    status = "\n".join([_message_group(envelope), *groups])
    unicode = not status.isascii() or not envelope.reverse_path.isascii()
    boundary = f"=_smtpproxy_{id}"
    text_encoding, text = _text(notice.text, hostname, lines, unicode)
    status_type = "message/global-delivery-status" if unicode else "message/delivery-status"
    headers_type, encoding, headers = _attached(header.rstrip(b"\r\n") + b"\r\n", unicode)
    parts = (
        f"From: {_word(envelope.texts.sender)} <MAILER-DAEMON@{hostname}>\n"
        f"To: <{envelope.reverse_path}>\n"
        f"Date: {date_time(envelope.at)}\n"
        f"Message-ID: <{id}.{kind}@{hostname}>\n"
        f"Subject: {_word(notice.subject)}\n"
        "Auto-Submitted: auto-replied\n"
        "MIME-Version: 1.0\n"
        "Content-Type: multipart/report; report-type=delivery-status;\n"
        f'\tboundary="{boundary}"\n'
        "\n"
        "This is a delivery status notification in MIME format.\n"
        f"\n--{boundary}\n"
        "Content-Type: text/plain; charset=utf-8\n"
        f"Content-Transfer-Encoding: {text_encoding}\n"
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


def _text(template: str, hostname: str, lines: Sequence[str], unicode: bool) -> tuple[str, str]:
    """Return the Content-Transfer-Encoding and the text in it; without `unicode` it is 7-bit."""
    text = template.format(hostname=hostname, recipients="\n".join(lines)).rstrip() + "\n"
    if unicode:
        return "8bit", text
    if text.isascii():
        return "7bit", text
    return "quoted-printable", b2a_qp(text.encode(), istext=True).decode("ascii")


def _word(text: str) -> str:
    """Return words of a header field, as encoded words if they are not ASCII (RFC 2047)."""
    return Header(text, "us-ascii" if text.isascii() else "utf-8", maxlinelen=60).encode("\n")


def _message_group(envelope: Envelope) -> str:
    """Return the fields about the message, which begin the machine-readable part."""
    original = f"Original-Envelope-Id: {from_xtext(envelope.envid)}\n" if envelope.envid else ""
    return (
        f"{original}Reporting-MTA: dns; {envelope.hostname}\nX-SMTPProxy-Id: {envelope.id}\n"
        f"Arrival-Date: {date_time(envelope.at)}\n"
    )


def _group(address: str, orcpt: str | None, outcome: str) -> str:
    """Return the fields about one recipient."""
    kind = "rfc822" if address.isascii() else "utf-8"
    original = ""
    if orcpt:
        of_type, _, text = orcpt.partition(";")
        original = f"Original-Recipient: {of_type}; {from_xtext(text)}\n"
    return f"{original}Final-Recipient: {kind}; {address}\n{outcome}"


def _attached(header: bytes, unicode: bool) -> tuple[str, str, bytes]:
    """Return the Content-Type, the Content-Transfer-Encoding and the header section in it."""
    if max(map(len, header.split(b"\r\n"))) <= _LINE_LIMIT:
        if header.isascii():
            return "text/rfc822-headers", "7bit", header
        if unicode:
            return "message/global-headers", "8bit", header
    return "text/rfc822-headers", "quoted-printable", b2a_qp(header, istext=True)
