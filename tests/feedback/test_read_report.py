"""The meaning of reports written by MTAs, providers and people."""

import pytest

from smtpproxy.feedback import read_report
from smtpproxy.feedback.addresses import of_field
from smtpproxy.feedback.records import Action, Class, Clues, FeedbackReport, Kind, Sent
from tests.feedback.samples import ORIGINAL, bounce, complaint, failed, plain

JEANNE = "jeanne@people.example"


def summary(report: FeedbackReport) -> list[tuple[str | None, str, str, str | None]]:
    return [(e.address, e.event_class, e.action, e.scope) for e in report.events]


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        ("5.1.1", "", Class.DEAD),
        ("5.1.1", "550 5.1.1 <jeanne@people.example>: Recipient address rejected", Class.DEAD),
        ("5.0.0", "550 5.7.1 No such user here", Class.DEAD),
        (
            "5.0.0",
            "SMTP error from remote mail server after MAIL FROM:<a@b.example>: 553 b not found",
            Class.BLOCKED,
        ),
        (
            "5.1.2",
            "5.1.2 - Bad destination host 'DNS Soft Error looking up x (MX)'",
            Class.TRANSIENT,
        ),
        ("5.1.0", "550 #5.1.0 Address rejected a@b.example (in reply to MAIL FROM)", Class.BLOCKED),
        ("5.1.0", "550 #5.1.0 Address rejected jeanne@people.example", Class.DEAD),
        ("5.1.1", "550 5.1.1 https://www.spamhaus.org/query/ip/192.0.2.1", Class.SPAM),
        ("5.0.0", "554 You've reached your daily relay quota", Class.BLOCKED),
        ("5.0.0", "550 User unknown", Class.DEAD),
        ("5.0.0", "550 unknown user <jeanne@people.example>", Class.DEAD),
        ("5.7.1", "550 5.7.1 <jeanne@people.example>... User unknown", Class.DEAD),
        ("5.0.0", "554 delivery error: dd This user doesn't have a x.example account", Class.DEAD),
        ("5.5.0", "550 5.5.0 Requested action not taken: mailbox unavailable", Class.DEAD),
        ("5.4.1", "550 5.4.1 Recipient address rejected: Access denied. AS(201806281)", Class.DEAD),
        (
            "5.7.1",
            "554 5.7.1 <x@y.example>: Recipient address rejected: Access denied",
            Class.BLOCKED,
        ),
        ("5.2.1", "550 5.2.1 The email account that you tried to reach is disabled", Class.DEAD),
        (
            "5.4.4",
            "Host or domain name not found. Name service error for name=x type=A",
            Class.DEAD,
        ),
        ("5.1.10", "556 5.1.10 Recipient domain has null MX", Class.DEAD),
        ("5.0.0", "550 Empfänger existiert nicht", Class.DEAD),
        ("5.0.0", "550 utilisateur inconnu", Class.DEAD),
        ("5.0.0", "550 收件人不存在", Class.DEAD),
        ("5.1.1", "550 5.1.1 Message blocked for spam", Class.SPAM),
        ("5.1.1", "553 Sender Policy Framework (SPF) fail", Class.BLOCKED),
        ("5.1.1", "550 5.7.1 Access denied, see our policy", Class.BLOCKED),
        (
            "5.1.1",
            "550 Mail from your server is refused by blacklist zen.spamhaus.org",
            Class.BLOCKED,
        ),
        ("5.1.8", "550 5.1.8 Sender address rejected: Domain not found", Class.BLOCKED),
        ("5.1.7", "550 5.1.7 invalid address", Class.BLOCKED),
        ("5.1.7", "", Class.BLOCKED),
        ("5.7.1", "550 relaying denied", Class.BLOCKED),
        ("5.2.2", "", Class.FULL),
        ("5.1.1", "550 5.1.1 mailbox over quota", Class.FULL),
        ("5.0.0", "552 Account(s) <x@y.example> does not have enough space", Class.FULL),
        ("5.3.4", "552 message size exceeds size limit 5242880", Class.BLOCKED),
        ("4.4.1", "connect to mx.example[192.0.2.1]:25: Connection timed out", Class.TRANSIENT),
        ("4.4.3", "Host or domain name not found, try again", Class.TRANSIENT),
        ("5.0.0", "554 Too many hops", Class.TRANSIENT),
        ("5.0.0", "jeanne@people.example: Envelope expired", Class.TRANSIENT),
        ("5.0.0", "550 rejected", Class.UNKNOWN),
        ("5.1.1", "550 5.1.1 not allowed", Class.UNKNOWN),
    ],
)
def test_a_failure_is_judged_by_words_before_codes(status: str, said: str, expected: Class) -> None:
    report = read_report(bounce(fields=failed(status, said)))
    suppressed = expected is Class.DEAD
    action, scope = (Action.SUPPRESS, "all") if suppressed else (Action.COUNT, None)
    assert report.kind is Kind.DSN
    assert summary(report) == [(JEANNE, expected, action, scope)]


def test_a_bounce_inside_a_bounce_is_read() -> None:
    inner = bounce(fields=failed("5.1.1", "550 5.1.1 User unknown")).decode()
    outer = bounce(original=inner).replace(b"message/delivery-status", b"text/plain", 1)
    assert summary(read_report(outer)) == [(JEANNE, "dead", "suppress", "all")]


def test_a_status_no_server_gave_does_not_outweigh_the_text() -> None:
    said = "550 see the rules of this host"
    assert read_report(bounce(fields=failed("5.1.1", said))).events[0].event_class == "unknown"
    said = "550 5.1.1 see the rules of this host"
    assert read_report(bounce(fields=failed("5.1.1", said))).events[0].event_class == "dead"


def test_the_address_mailed_counts_and_not_where_it_was_forwarded() -> None:
    fields = "Original-Recipient: rfc822; Jeanne@People.example\n" + failed(
        "5.1.1", recipient="jeanne@elsewhere.example"
    )
    assert summary(read_report(bounce(fields=fields))) == [(JEANNE, "dead", "suppress", "all")]


BOUNCE = bounce(fields=failed("5.1.1", "550 5.1.1 User unknown")).decode()
RECEIPT = bounce(original=BOUNCE).replace(
    b"message/delivery-status", b"message/disposition-notification", 1
)
LETTER = f"""\
From: Jeanne <jeanne@people.example>
Subject: Fwd: Undelivered mail
Content-Type: multipart/mixed; boundary="=_l"

--=_l

Why do I get this?
--=_l
Content-Type: message/rfc822

{BOUNCE}
--=_l--
""".encode()


@pytest.mark.parametrize(
    ("mail", "expected"),
    [
        (complaint("Feedback-Type: abuse\nOriginal-Rcpt-To: a@b.example", BOUNCE), "complaint"),
        (RECEIPT, "auto_reply"),
        (LETTER, "other"),
    ],
)
def test_a_bounce_complained_about_read_or_forwarded_does_not_count(
    mail: bytes, expected: str
) -> None:
    report = read_report(mail)
    assert report.kind == expected
    assert JEANNE not in [event.address for event in report.events]


def test_a_recipient_named_by_a_gateway_is_found_in_the_message() -> None:
    fields = "Final-Recipient: x400; /G=Jeanne/\nAction: failed\nStatus: 5.1.1\n"
    assert summary(read_report(bounce(fields=fields))) == [(JEANNE, "dead", "suppress", "all")]


@pytest.mark.parametrize("action", ["delivered", "relayed", "expanded", "deliverable"])
def test_a_success_notice_has_no_effect(action: str) -> None:
    report = read_report(bounce(fields=failed("2.0.0", action=action)))
    assert (report.kind, report.events) == (Kind.DSN, ())


def test_a_delay_is_transient_whatever_its_reason() -> None:
    report = read_report(bounce(fields=failed("4.1.1", "450 4.1.1 User unknown", action="delayed")))
    assert summary(report) == [(JEANNE, "transient", "count", None)]


def test_each_recipient_of_a_report_is_judged_separately() -> None:
    fields = "\n".join(
        [
            failed("5.1.1"),
            failed("5.2.2", recipient="b@x.example"),
            failed("5.7.1", recipient="c@x.example"),
        ]
    )
    assert [(e.address, e.event_class) for e in read_report(bounce(fields=fields)).events] == [
        (JEANNE, "dead"),
        ("b@x.example", "full"),
        ("c@x.example", "blocked"),
    ]


ARF = "Feedback-Type: abuse\nUser-Agent: Provider/1\nVersion: 1\n"


@pytest.mark.parametrize(
    ("fields", "original", "who"),
    [
        (f"{ARF}Original-Rcpt-To: <Jeanne@People.example>", "", {JEANNE}),
        (
            f"{ARF}Original-Rcpt-To: a@x.example\nOriginal-Rcpt-To: b@x.example",
            ORIGINAL,
            {"a@x.example", "b@x.example"},
        ),
        (ARF, ORIGINAL, {JEANNE}),
        (f"{ARF}Original-Rcpt-To: redacted@people.example", ORIGINAL, {JEANNE}),
        (
            ARF,
            ORIGINAL.replace("To: Jeanne <jeanne@", "X-HmXmrOriginalRecipient: <jeanne@"),
            {JEANNE},
        ),
        (ARF.replace("abuse", "fraud"), ORIGINAL, {JEANNE}),
        (ARF.replace("abuse", "something-new"), ORIGINAL, {JEANNE}),
        (ARF, ORIGINAL.replace("jeanne@", "redacted@"), {None}),
        (ARF, ORIGINAL.replace("jeanne@", "postmaster@"), {None}),
        (
            ARF,
            "Received: from a by b for <Jeanne@People.example>; Sat, 28 Nov 2026 12:00:00 +0000",
            {JEANNE},
        ),
    ],
)
def test_complaints(fields: str, original: str, who: set[str | None]) -> None:
    report = read_report(complaint(fields, original))
    assert report.kind is Kind.COMPLAINT
    assert {event.address for event in report.events} == who
    for event in report.events:
        named = event.address is not None
        assert event.action == (Action.SUPPRESS if named else Action.COUNT)
        assert event.scope == ("marketing" if named else None)


def test_a_complaint_may_be_labelled_as_text() -> None:
    named = complaint(f"{ARF}Original-Rcpt-To: {JEANNE}", "")
    mail = named.replace(b"Content-Type: message/feedback-report", b"Content-Type: text/plain")
    assert summary(read_report(mail)) == [(JEANNE, "complaint", "suppress", "marketing")]
    other = mail.replace(b"report-type=feedback-report", b"report-type=other")
    assert read_report(other).kind is not Kind.COMPLAINT


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        (ARF.replace("abuse", "auth-failure"), Kind.OTHER),
        (f"{ARF}Auth-Failure: dmarc\n", Kind.OTHER),
        (ARF.replace("abuse", "not-spam"), Kind.COMPLAINT),
    ],
)
def test_a_report_without_a_complaint_has_no_effect(fields: str, kind: Kind) -> None:
    report = read_report(complaint(f"{fields}Original-Rcpt-To: {JEANNE}"))
    assert (report.kind, report.events) == (kind, ())


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("rfc822; Jeanne@People.example", JEANNE),
        ("rfc822; jeanne@people.example (paul@people.example)", JEANNE),
        ("rfc822; Jeanne <jeanne@people.example>", JEANNE),
        (r"utf-8; jean\x{6E}e@people.example", JEANNE),
        (r"utf-8; jeanne\x{D800}\x{DFFF}\x{110000}@people.example", JEANNE),
        ("x400; /G=Jeanne/", None),
    ],
)
def test_the_address_in_a_field(value: str, address: str | None) -> None:
    assert of_field(value) == address


def test_a_dead_mailbox_without_a_name_suppresses_nobody() -> None:
    fields = "Final-Recipient: x400; /G=Jeanne/\nAction: failed\nStatus: 5.1.1\n"
    report = read_report(bounce(fields=fields, original="Subject: x"))
    assert summary(report) == [(None, "dead", "count", None)]


@pytest.mark.parametrize(
    "sender", [f"{JEANNE}, paul@people.example", f"{JEANNE}\nFrom: b@x.example"]
)
def test_an_unsubscribe_mail_from_two_senders_has_no_effect(sender: str) -> None:
    report = read_report(plain("", subject="unsubscribe", sender=sender, more=""))
    assert (report.kind, report.events) == (Kind.UNSUBSCRIBE, ())


def test_a_long_subject_is_not_an_unsubscribe() -> None:
    subject = "Stop emailing me about " + "your other offers " * 5
    mail = plain("Hello", subject=subject, sender=JEANNE, more="")
    assert read_report(mail).kind is Kind.OTHER


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        ("unsubscribe", ""),
        ("Unsubscribe me please", "thanks"),
        ("Re: Our offers", "unsubscribe\n\n> Our offers"),
        ("Re: Vacation offers", "Please remove me from your list"),
        ("Re: Out of office: a novel", "unsubscribe"),
        ("Désabonnement", ""),
        ("Abmeldung", ""),
        ("退订", ""),
        ("メールマガ解除", ""),
        ("Our offers", 'Apple Mail sent this email to unsubscribe from the message "Our offers"'),
    ],
)
def test_unsubscribe_mails(subject: str, text: str) -> None:
    mail = plain(text, subject=subject, sender="Jeanne <Jeanne@people.example>", more="")
    report = read_report(mail)
    assert report.kind is Kind.UNSUBSCRIBE
    assert summary(report) == [(JEANNE, "unsubscribe", "suppress", "marketing")]


def test_apple_mail_unsubscribes_for_its_user_although_it_calls_that_an_automatic_reply() -> None:
    more = "Auto-Submitted: auto-replied\nX-Apple-Unsubscribe: true\n"
    mail = plain("Apple Mail sent this", subject="unsubscribe", sender=JEANNE, more=more)
    assert summary(read_report(mail)) == [(JEANNE, "unsubscribe", "suppress", "marketing")]


def test_a_program_may_unsubscribe_its_user_by_an_answer() -> None:
    more = "Auto-Submitted: auto-generated\nIn-Reply-To: <1@shop.example>\n"
    mail = plain("", subject="unsubscribe " + "AZ-m_2" * 33, sender=JEANNE, more=more)
    assert summary(read_report(mail)) == [(JEANNE, "unsubscribe", "suppress", "marketing")]


def test_a_read_receipt_is_not_a_bounce() -> None:
    fields = "Final-Recipient: rfc822; jeanne@people.example\nDisposition: x; failed"
    mail = bounce("The mailbox is disabled: user unknown", fields).replace(
        b"message/delivery-status", b"message/disposition-notification"
    )
    report = read_report(mail)
    assert (report.kind, report.events) == (Kind.AUTO_REPLY, ())


@pytest.mark.parametrize(
    ("subject", "more"),
    [
        ("Re: unsubscribe", "Auto-Submitted: auto-replied\n"),
        ("Re: Our offers", "X-Autoreply: yes\n"),
        ("Out of office: Our offers", ""),
        ("Réponse automatique : Our offers", ""),
        ("Re: Our offers", "Precedence: auto_reply\n"),
        ("Automatische Antwort: Our offers", ""),
        ("Automatic reply: Delivery report", "Return-Path: <>\nAuto-Submitted: auto-generated\n"),
        ("Re: Our offers", "Return-Path: <>\nAuto-Submitted: auto-replied (vacation)\n"),
        (
            "Automatisk svar",
            "Return-Path: <>\nAuto-Submitted: auto-generated\nIn-Reply-To: <1@x>\n",
        ),
    ],
)
def test_an_automatic_reply_has_no_effect(subject: str, more: str) -> None:
    text = (
        "I am away. My old address has moved, the user is unknown. unsubscribe\n"
        "> Our offers\n> To unsubscribe from the list, click here"
    )
    mail = plain(text, subject=subject, sender="Jeanne <jeanne@people.example>", more=more)
    report = read_report(mail)
    assert (report.kind, report.events) == (Kind.AUTO_REPLY, ())


def test_a_bounce_may_call_itself_an_automatic_reply() -> None:
    mail = plain(
        f"Your message could not be delivered.\n550 5.1.1 <{JEANNE}>: user unknown",
        subject="Undeliverable: Our offers",
        sender="noreply@people.example",
        more="Return-Path: <>\nAuto-Submitted: auto-replied\n",
    )
    assert summary(read_report(mail)) == [(JEANNE, "dead", "suppress", "all")]


def test_other_mail_has_no_effect() -> None:
    text = "Hello, I saw that the user is unknown and does not exist, 550 5.1.1 <x@y.example>."
    mail = plain(text, subject="A question", sender="Jeanne <jeanne@people.example>", more="")
    assert (read_report(mail).kind, read_report(mail).events) == (Kind.OTHER, ())


def test_a_person_asking_about_a_bounce_does_not_report_one() -> None:
    text = "Hello, I got: 550 5.1.1 <x@y.example> User unknown, mail could not be delivered. Why?"
    mail = plain(
        text, subject="Mail delivery failed?", sender="Jeanne <jeanne@people.example>", more=""
    )
    assert (read_report(mail).kind, read_report(mail).events) == (Kind.OTHER, ())


class Tokens:
    """Finds what the test says."""

    def __init__(self, sent: Sent | None) -> None:
        self.sent = sent
        self.clues = Clues()

    def __call__(self, clues: Clues) -> Sent | None:
        self.clues = clues
        return self.sent


def test_a_token_says_whom_a_report_is_about() -> None:
    tokens = Tokens(Sent("paul@people.example", stream="offers", brand="shop"))
    dead = read_report(bounce(fields=failed("5.1.1")), tokens=tokens, require_token=True)
    assert summary(dead) == [("paul@people.example", "dead", "suppress", "all")]
    angry = read_report(complaint(ARF), tokens=tokens, require_token=True)
    assert summary(angry) == [("paul@people.example", "complaint", "suppress", "brand:shop")]


def test_a_token_may_name_neither_brand_nor_scope() -> None:
    tokens = Tokens(Sent(JEANNE, stream="offers"))
    angry = read_report(complaint(ARF), tokens=tokens)
    assert summary(angry) == [(JEANNE, "complaint", "suppress", "marketing")]
    wish = read_report(
        plain("", subject="unsubscribe", sender="a@b.example", more=""), tokens=tokens
    )
    assert summary(wish) == [(JEANNE, "unsubscribe", "suppress", "marketing")]


def test_a_token_is_searched_wherever_it_may_be() -> None:
    tokens = Tokens(None)
    delivered = b"Delivered-To: b=Abc@bounces.shop.example\r\n"
    read_report(delivered + bounce(fields=failed("5.1.1")), tokens=tokens)
    assert tokens.clues == Clues(
        recipients=("b=Abc@bounces.shop.example", "bounces@shop.example"),
        message_ids=("<1@shop.example>",),
        unsubscribe_uris=("https://shop.example/u/abc", "mailto:leave@shop.example"),
        feedback_ids=("7:offers:shop",),
        reverse_paths=("bounces@shop.example",),
    )


@pytest.mark.parametrize(
    "mail",
    [
        bounce(fields=failed("5.1.1")),
        complaint(ARF),
        plain("", subject="unsubscribe", sender="a@b.example", more=""),
    ],
)
def test_nobody_is_suppressed_without_a_required_token(mail: bytes) -> None:
    (event,) = read_report(mail, tokens=Tokens(None), require_token=True).events
    assert (event.action, event.scope) == (Action.COUNT, None)
    assert "token" in event.why


LARGE = 1024 * 1024


@pytest.mark.parametrize(
    "mail",
    [
        b"",
        bytes(LARGE),
        plain("user " * (LARGE // 5)),
        plain("a@b.example\n" * (LARGE // 12)),
        plain("(expanded from: a@b.example)\n" * (LARGE // 30)),
        plain("mailbox " + "exceeds a " * (LARGE // 10)),
        plain("<a " * (LARGE // 3)).replace(b"text/plain", b"text/html"),
        bounce(
            "",
            "\n".join(failed(said="user " * 100, recipient=f"u{i}@b.example") for i in range(1000)),
        ),
        bounce("", "Final-Recipient: rfc822; a@b.example\n\n" * 10_000),
        bounce("", "\n".join(map(failed, ["5.0.0"] * 2000, ["user " * 100] * 2000))),
        b"".join(
            b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (i, i) for i in range(9000)
        ),
        b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\nx\n" * 100_000,
        b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--bx\n" * 200_000,
        b"Subject: " + b"=?utf-8?q?a?= " * 50_000 + b"\n\n",
        complaint("Original-Rcpt-To: a@b.example\n" * 20_000),
    ],
    ids=range(15),
)
@pytest.mark.timeout(20)  # takes a second on an idle machine
def test_no_mail_takes_too_long(mail: bytes) -> None:
    report = read_report(mail)
    assert len(report.events) <= 200


@pytest.mark.parametrize(
    "mail",
    [
        bounce(fields=failed("5.1.1", "550 no\0such user")),
        bounce("<jeanne@people.example>: 550 no\0such user"),
        complaint("Feedback-Type: ab\0use\nOriginal-Rcpt-To: jeanne@people.example\n"),
    ],
)
def test_the_stored_part_of_a_report_has_no_nul(mail: bytes) -> None:
    """Some databases reject NUL, and a report that cannot be stored would return for ever."""
    report = read_report(mail)
    assert "\0" not in report.why + "".join(one.why for one in report.events)
