"""Bounces without machine-readable fields: recipient and cause, read from the text."""

import pytest

from smtpproxy.feedback import read_report
from smtpproxy.feedback.classes import classify
from smtpproxy.feedback.records import Kind
from tests.feedback.samples import plain

JEANNE = "jeanne@people.example"

# Refusals that do not say whether the address exists.
REFUSALS = {
    "blocked": [
        "554 Message refused",
        "550 Requested action not taken: mail IsCNAPF76kMDARUY.56621S2 is rejected,mx3,BM",
        "553 Mail data refused by AISP, rule [169648].",
        "550 Access denied",
        "550 5.1.1 mail rejected",
        "554 5.6.0 rejected, id=1",
        "550 5.0.0 <x@y.example>... No permit",
        "554 (DNS:NR) no name",
        "550 AUP#1260",
        "550 SC-001 (X) see the link",
        "553 Possible forgery or deactivated due to abuse (#5.1.1)",
        "553 User refused to receive this mail.",
        "501 x@y.example Sender email is not in my domain",
        "550 Verify mailfrom failed,blocked",
        "550 Votre message a été refusé",
        "550 5.5.0 Les mails envoyes vers cette messagerie ont ete bloques",
        "550 5.7.1 You are not a member of this group",
        "550 x@y.example: sorry, you are not a subscriber",
        "554 Only list members may post",
        "550 5.7.322 the certificate of the destination server has expired",
        "550 5.7.324 destination domain: invalid DNSSEC records",
        "550 5.2.2 Submission quota exceeded",
        "550 You have exceeded your quota",
        "550 You've reached the maximum number of messages",
        "550 DANE validation failed",
        "421 4.7.28 this message exceeded its quota for sending the same text",
        "550 5.7.1 The sender's account is disabled",
        "550 Your account has been closed",
        "550 sender account unknown",
        "グループが存在しないか、投稿する権限がない可能性があります。",
        "550 the account of the sender was deleted",
        "550 Your mail domain does not exist",
        "550 refuses mail from unknown hosts",
        "550 Requested action not taken: mailbox unavailable invalid DNS MX resource record",
        "553 your email address has been blocked",
        "550 Mailbox unavailable or access denied",
        "553 Message filtered",
        "550 Envelope blocked",
        "554 no rDNS",
        "550 Nachricht abgelehnt",
    ],
    "spam": ["554- (RTR:BL)", "554 5.7.1 (HVU:B1) see the link", "554 in CBL", "554 on two RBLs"],
    "full": [
        "552 space not enough",
        "422 User has exhausted allowed storage space",
        "550 mailbox at capacity",
        "552 5.2.2 rejected",
        "550 boite saturée",
        "550 Speicherplatz überschritten",
    ],
    "transient": [
        "421 (DYN:T1) try again later",
        "554 5.3.1",
        "550 no space left on device",
        "450 message refused, try later",
        "450 4.1.1 user unknown",
        "451 account disabled",
        "452 4.3.1 the server is out of disk space",
        "550 5.4.318 message expired, connection reset (SuspiciousRemoteServerError)",
    ],
    "unknown": ["550 <x@y.example> recipient rejected", "550 mail to x@y.example refused"],
    "dead": [
        "550 message rejected: user unknown",
        "550 Mail refused: no such user here",
        "550 user dane unknown",
        "550 the address you have reached does not exist",
        "a message of 432 KB: 550 5.1.1 user unknown",
        "message 412 of 430 failed: 550 user unknown",
    ],
}

# Formats without fields, as written by each MTA: the text and its meaning.
SHAPES = {
    "qmail": (
        """Hi. This is the qmail-send program at mx.example.
I'm afraid I wasn't able to deliver your message to the following addresses.
This is a permanent error; I've given up. Sorry it didn't work out.

<jeanne@people.example>:
192.0.2.1 does not like recipient.
Remote host said: 550 no mailbox here by that name
Giving up on 192.0.2.1.

--- Below this line is a copy of the message.

Received: by shop.example; From: someone@else.example
""",
        [(JEANNE, "dead")],
    ),
    "exim": (
        """This message was created automatically by mail delivery software.

A message that you sent could not be delivered to one or more of its
recipients. This is a permanent error. The following address(es) failed:

  forwarded@elsewhere.example
    (generated from jeanne@people.example)
    SMTP error from remote mail server after RCPT TO:<forwarded@elsewhere.example>:
    host mx.elsewhere.example [192.0.2.1]: 550 unrouteable address

------ This is a copy of the message, including all the headers. ------

To: other@people.example
""",
        [(JEANNE, "dead")],
    ),
    "sendmail": (
        """   ----- The following addresses had permanent fatal errors -----
<jeanne@people.example>
    (reason: 553 Sender Policy Framework (SPF) fail)

   ----- Transcript of session follows -----
... while talking to mx.people.example.:
>>> DATA
<<< 553 Sender Policy Framework (SPF) fail
550 5.1.1 <jeanne@people.example>... User unknown
""",
        [(JEANNE, "blocked")],
    ),
    "yahoo, several": (
        """Message from yahoo.com.
Unable to deliver message to the following address(es).

<jeanne@people.example>:
This user doesn't have a yahoo.com account (jeanne@people.example) [0]

<paul@people.example>:
Sorry, your message to paul@people.example cannot be delivered. This account is over quota.

--- Original message follows.
""",
        [(JEANNE, "dead"), ("paul@people.example", "full")],
    ),
    "exchange 5.5": (
        """Your message

  To:      Jeanne
  Subject: Our offers
  Sent:    Fri, 4 Oct 2002 17:10:56 -0400

did not reach the following recipient(s):

jeanne@people.example on Fri, 4 Oct 2002 17:12:28 -0400
    The recipient name is not recognized
	The MTS-ID of the original message is: c=us;a= ;p=x;l=Y
    MSEXCH:IMS:X:Y:Z 0 (000C05A6) Unknown Recipient
""",
        [(JEANNE, "dead")],
    ),
    "gmail, late": (
        """This is an automatically generated Delivery Status Notification

THIS IS A WARNING MESSAGE ONLY.

Delivery to the following recipient has been delayed:

     jeanne@people.example

Message will be retried for 2 more day(s)

The error that the other server returned was: 450 User unknown
""",
        [(JEANNE, "transient")],
    ),
    "sendmail 5, several": (
        """   ----- Transcript of session follows -----
While talking to mx.people.example:
>>> MAIL From:<bounces@shop.example>
<<< 501 <bounces@shop.example>... no access from mail server 192.0.2.1
554 <ann@people.example>... Remote protocol error
550 nowhere.example (smtp)... 550 Host unknown
554 <bob@nowhere.example>... 550 Host unknown (Authoritative answer from name server)

   ----- Unsent message follows -----
""",
        [("ann@people.example", "unknown"), ("bob@nowhere.example", "dead")],
    ),
    "the reason before the recipients": (
        """Your message:
   From:    news@shop.example
   Subject: Our offers

Could not be delivered because of

550 5.1.1 User unknown

The following recipients were affected:
    jeanne@people.example




Additional Information
======================
Original Sender:    <news@shop.example>
Sender-MTA:         <192.0.2.1>
""",
        [(JEANNE, "dead")],
    ),
    "notes": (
        """------- Failure Reasons  --------

User not listed in public Name & Address Book
jeanne@people.example

------- Returned Message --------
Received: from mx.example by smtp.example
""",
        [(JEANNE, "dead")],
    ),
    "a footer that speaks of viruses": (
        """Delivery to the following recipient failed: no such user

jeanne@people.example

________________________________________________________________________
This mail was scanned for viruses by our policy.
""",
        [(JEANNE, "dead")],
    ),
    "japanese": (
        "送信できませんでした。\n\n<jeanne@people.example>: 宛先は存在しません\n",
        [(JEANNE, "dead")],
    ),
    "several that are only spoken of": (
        """Your message was not delivered: jeanne5 matches nobody here, no such user.
To reach others try firstname.lastname@people.example or write to j.doe@people.example
""",
        [(None, "dead")],
    ),
    "one line": (
        "User's mailbox is full: <jeanne@people.example>\nUnable to deliver mail.",
        [(JEANNE, "full")],
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_bounce_without_fields_is_read_by_its_text(name: str) -> None:
    text, expected = SHAPES[name]
    report = read_report(plain(text))
    assert report.kind is Kind.DSN
    assert [(event.address, event.event_class) for event in report.events] == expected


@pytest.mark.parametrize(
    ("expected", "said"), [(kind, said) for kind, texts in REFUSALS.items() for said in texts]
)
def test_a_refusal_of_the_message_does_not_count_against_the_recipient(
    expected: str, said: str
) -> None:
    assert classify("5.0.0", said) == expected


def test_the_sender_in_a_quoted_command_is_not_a_recipient() -> None:
    text = """This message was created automatically by mail delivery software.
A message that you sent could not be delivered. The following address(es) failed:

  jeanne
    SMTP error from remote mail server after MAIL FROM:<list@news.example> SIZE=1543:
    host mx.example [192.0.2.20]: 550 5.1.1 <list@news.example>... User unknown
"""
    report = read_report(plain(text, more=f"X-Failed-Recipients: {JEANNE}\n"))
    assert [event.address for event in report.events] == [JEANNE]
