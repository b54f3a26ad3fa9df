"""By which bulk mail is told that does not say so: header fields of lists and campaigns.

Mail of these kinds is written by programs for many. A field that mail for one person has as
well (`Auto-Submitted`, `X-Mailer: PHPMailer`) is not here.
"""

import re

from smtpproxy.mail.headers import HeaderBlock

# Lower-case names. RFC 2369, RFC 2919, RFC 8058; then what senders of campaigns add.
_LIST_FIELDS = (
    *("list-id", "list-post", "list-subscribe", "list-unsubscribe", "list-unsubscribe-post"),
    *("list-help", "list-owner", "list-archive", "feedback-id", "x-feedback-id"),
)
_CAMPAIGN_FIELDS = (
    *("x-campaign", "x-campaign-id", "x-campaignid", "x-campaign-name", "campaign-id"),
    *("x-mc-user", "x-mailchimp-campaign", "x-mailgun-campaign-id", "x-mj-campaign"),
    *("x-mailjet-campaign", "x-mailin-campaign", "x-sib-campaign", "x-sfmc-stack", "x-emarsys-id"),
    *("x-mailing-id", "x-mailer-lid", "x-mailer-sid", "x-mailerlite-campaign", "x-acymailing"),
    *(
        "x-mailpoet",
        "x-listmember",
        "x-phplist-version",
        "x-listmonk-campaign",
        "x-mautic-campaign",
    ),
    *("x-sendy", "x-newsletter", "x-newsletter-id", "x-bulkmail", "x-bulk-mail", "x-mailing-list"),
    *(
        "x-subscriber-id",
        "x-subscriberid",
        "x-list-id",
        "x-job",
        "x-cm-message-id",
        "x-ac-campaign",
    ),
)
_VALUES: dict[bytes, re.Pattern[bytes]] = {
    b"precedence": re.compile(rb"\s*(bulk|list|junk)\s*", re.IGNORECASE),
    b"x-mailer": re.compile(
        rb".*\b(mailchimp|mailpoet|phplist|sendy|acymailing|listmonk|mautic|campaign ?monitor"
        rb"|active ?campaign|emarsys|mailerlite|sendinblue|brevo|newsletter|acelle|interspire"
        rb"|salesforce marketing|dotdigital|hubspot|klaviyo|getresponse|group ?mail|bulk)\b.*",
        re.IGNORECASE | re.DOTALL,
    ),
}
_NAMES = frozenset(name.encode() for name in (*_LIST_FIELDS, *_CAMPAIGN_FIELDS)) | set(_VALUES)
_LONGEST = 500  # octets of a field that are looked at


def bulk_markers(headers: HeaderBlock) -> tuple[str, ...]:
    """Return the lower-case names of the fields that tell bulk mail, in their order."""
    found = []
    for name, fields in headers.raw_fields(_NAMES).items():
        value = _VALUES.get(name)
        if value is None or any(value.fullmatch(_value(field)) for field in fields):
            found.append(name.decode("ascii"))
    return tuple(found)


def _value(field: bytes) -> bytes:
    return field.partition(b":")[2][:_LONGEST]
