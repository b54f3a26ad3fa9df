"""The notice about refused recipients, read by Python's email package (RFC 3464, 6533)."""

from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage, Message
from email.policy import SMTP, SMTPUTF8
from email.utils import parsedate_to_datetime
from typing import cast

import pytest

from smtpproxy.locale import notice_texts
from smtpproxy.mail.dsn import Envelope, RefusedRecipient, failure_notice
from smtpproxy.mail.reply import Reply

ID = "01J9ZZZZZZZZZZZZZZZZZZZZZZ"
AT = datetime(2026, 3, 1, 9, 5, 7, tzinfo=UTC)
HEADER = (
    b"From: Shop <news@shop.example>\r\n"
    b"Subject: New shoes\r\n\tare in\r\n"
    b"Received: from a (b)\r\n"
    b"received: from c (d)\r\n"
    b"\r\n"
)


def refused(address: str, reason: str = "no_record") -> RefusedRecipient:
    shown = address.encode("ascii", "backslashreplace").decode()
    text = f"<{shown}> refused: {reason} (stream offers) id={ID}"
    return RefusedRecipient(address, Reply.of(550, "5.7.1", text))


JEANNE = refused("Jeanne+x@People.Example")
PAUL = refused("paul@people.example", "consent_withdrawn")


def notice(
    *entries: RefusedRecipient,
    reverse_path: str = "News@Shop.Example",
    header: bytes = HEADER,
    lang: str = "en",
) -> bytes:
    envelope = Envelope("relay.example", ID, AT, reverse_path, notice_texts(lang))
    return failure_notice(envelope, entries or (JEANNE, PAUL), header)


def parsed(data: bytes) -> tuple[EmailMessage, list[EmailMessage]]:
    message = message_from_bytes(data, policy=SMTPUTF8)
    assert [part.defects for part in message.walk()] == [[]] * len(list(message.walk()))
    return message, cast(list[EmailMessage], list(message.iter_parts()))


def groups(part: bytes) -> list[Message]:
    """The field groups of a delivery-status part."""
    return [message_from_bytes(group, policy=SMTP) for group in part.strip().split(b"\r\n\r\n")]


def raw_part(data: bytes, number: int) -> bytes:
    """The body of a part as sent."""
    part = data.split(f"--=_smtpproxy_{ID}".encode())[number + 1]
    return part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")


def test_a_notice_is_a_report_that_invites_no_answer() -> None:
    message, parts = parsed(notice())
    assert message["From"] == "Mail relay <MAILER-DAEMON@relay.example>"
    assert message["To"] == "News@Shop.Example"
    assert message["Date"].datetime == AT
    assert message["Message-ID"] == f"<{ID}.refused@relay.example>"
    assert message["Auto-Submitted"] == "auto-replied"  # RFC 3834 5.2
    assert message["MIME-Version"] == "1.0"
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert [part.get_content_type() for part in parts] == [
        "text/plain",
        "message/delivery-status",
        "text/rfc822-headers",
    ]


def test_the_text_says_who_was_refused_and_why() -> None:
    _, (text, _, _) = parsed(notice())
    content = text.get_content().replace("\r\n", "\n")
    for entry in (JEANNE, PAUL):
        assert f"  <{entry.address}>: {entry.reply.text}\n" in content


def test_the_status_has_a_group_for_the_message_and_one_per_recipient() -> None:
    about_message, *recipients = groups(raw_part(notice(), 1))
    assert about_message["Reporting-MTA"] == "dns; relay.example"
    assert parsedate_to_datetime(about_message["Arrival-Date"]) == AT
    assert about_message["X-SMTPProxy-Id"] == ID
    assert [dict(group.items()) for group in recipients] == [
        {
            "Final-Recipient": f"rfc822; {entry.address}",
            "Action": "failed",
            "Status": "5.7.1",
            "Diagnostic-Code": f"smtp; 550 5.7.1 {entry.reply.text}",
        }
        for entry in (JEANNE, PAUL)
    ]


def test_the_email_package_sees_the_same_groups() -> None:
    _, (_, status, _) = parsed(notice())
    payload = cast(list[Message], status.get_payload())
    assert [group["Final-Recipient"] for group in payload] == [
        None,
        "rfc822; Jeanne+x@People.Example",
        "rfc822; paul@people.example",
    ]


def test_the_original_header_is_included_unchanged() -> None:
    _, (_, _, headers) = parsed(notice())
    assert headers["Content-Transfer-Encoding"] == "7bit"
    assert raw_part(notice(), 2) == HEADER.removesuffix(b"\r\n")


@pytest.mark.parametrize(
    "header",
    [
        "Subject: bücher\r\nFrom: a@shop.example\r\n\r\n".encode(),
        b"Subject: \xff\xfe caf\xe9\r\n\r\n",
        b"Subject: " + b"x" * 5000 + b"\r\n\r\n",
        b"Subject: " + b"x" * 5000,
        b"X: " + b"x" * 990 + b"\r\nSubject: a=b \r\nY: \xe9\r\n\r\n",
    ],
)
def test_a_header_that_is_not_7_bit_is_encoded_and_decodes_unchanged(header: bytes) -> None:
    data = notice(header=header)
    assert data.isascii()
    _, (_, _, headers) = parsed(data)
    assert headers["Content-Transfer-Encoding"] == "quoted-printable"
    assert headers.get_payload(decode=True) == header.rstrip(b"\r\n") + b"\r\n"


@pytest.mark.parametrize("header", [b"", b"\r\n", HEADER, b"X: " + b"x" * 995 + b"\r\n\r\n"])
def test_a_7_bit_header_is_not_encoded(header: bytes) -> None:
    assert raw_part(notice(header=header), 2) == header.rstrip(b"\r\n") + b"\r\n"


JOSE = refused("José@bücher.example")


@pytest.mark.parametrize(
    ("entries", "reverse_path"),
    [((JEANNE, JOSE), "News@Shop.Example"), ((JEANNE,), "némo@shop.example")],
)
def test_non_ascii_addresses_make_it_a_global_report(
    entries: tuple[RefusedRecipient, ...], reverse_path: str
) -> None:
    data = notice(*entries, reverse_path=reverse_path)
    message, parts = parsed(data)
    assert f"To: <{reverse_path}>\r\n".encode() in data
    assert message.get_param("report-type") == "delivery-status"
    assert [part.get_content_type() for part in parts] == [
        "text/plain",
        "message/global-delivery-status",
        "text/rfc822-headers",
    ]
    assert parts[0]["Content-Transfer-Encoding"] == "8bit"
    assert parts[1]["Content-Transfer-Encoding"] == "8bit"
    assert parts[2]["Content-Transfer-Encoding"] == "7bit"
    lines = raw_part(data, 1).decode().split("\r\n")
    assert [line for line in lines if line.startswith("Final-Recipient")] == [
        f"Final-Recipient: {'rfc822' if e.address.isascii() else 'utf-8'}; {e.address}"
        for e in entries
    ]


def test_a_global_report_carries_an_8_bit_header_unencoded() -> None:
    header = "Subject: bücher\r\n".encode()
    data = notice(JOSE, header=header)
    _, parts = parsed(data)
    assert parts[2].get_content_type() == "message/global-headers"
    assert parts[2]["Content-Transfer-Encoding"] == "8bit"
    assert raw_part(data, 2) == header


LONG = refused(f"{'l' * 64}@{'.'.join(['d' * 61] * 3)}.ddd")


@pytest.mark.parametrize("entry", [JEANNE, JOSE, LONG])
@pytest.mark.parametrize("header", [HEADER, b"X: " + b"y" * 20_000 + b"\r\n", b"X: \xe9\r\n"])
def test_lines_are_terminated_and_short_and_encodings_are_declared(
    entry: RefusedRecipient, header: bytes
) -> None:
    data = notice(entry, header=header)
    assert data.endswith(b"\r\n")
    assert data.count(b"\r\n") == data.count(b"\n") == data.count(b"\r")
    assert max(map(len, data.split(b"\r\n"))) <= 998
    for number, part in enumerate(parsed(data)[1]):
        encoding = part["Content-Transfer-Encoding"]
        assert raw_part(data, number).isascii() or encoding == "8bit"


def test_parts_end_with_their_last_line() -> None:
    """The line end before a boundary belongs to the boundary."""
    for number in range(3):
        part = raw_part(notice(), number)
        assert part.endswith(b"\r\n")
        assert not part.endswith(b"\r\n\r\n")


def test_a_french_notice_is_still_7_bit() -> None:
    """The next server may lack 8BITMIME."""
    data = notice(lang="fr")
    assert data.isascii()
    assert max(map(len, data.split(b"\r\n"))) <= 998
    message, parts = parsed(data)
    assert message["Subject"] == "Non envoyé\u202f: des destinataires ont été refusés"
    assert message["From"].addresses[0].display_name == "Relais de messagerie"
    text = parts[0].get_content()
    assert "Votre message a été transmis à ses autres destinataires" in text
    assert "<paul@people.example> refused: consent_withdrawn" in text
    german = notice(refused("jürgen@people.example"), lang="fr")
    assert "a été transmis" in parsed(german)[1][0].get_content()
