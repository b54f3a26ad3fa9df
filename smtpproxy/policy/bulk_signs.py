"""By which bulk mail is told that does not say so (docs/bulk.md).

A field that only programs for lists and campaigns write decides alone. Fields that bulk mail
usually has, and that receipts get from the same senders, weigh: with little weight a subject or
a sender of offers and news has to say the same, with much of it none of the reader's own matter
may say otherwise.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby

from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.mailboxes import MailboxError, addresses
from smtpproxy.mail.shown import folded
from smtpproxy.mail.text import decode_words
from smtpproxy.policy.bulk_words import NEWS_SENDERS, OFFER, OWN, OWN_SENDERS

# Lower-case names. What only list servers and programs for campaigns write.
_DECISIVE = frozenset(
    (
        *(b"list-post", b"list-subscribe", b"list-archive", b"list-owner", b"x-mailing-list"),
        *(b"mailing-list", b"x-beenthere", b"x-mailman-version", b"x-listmember", b"x-list-id"),
        *(b"x-campaign", b"x-campaign-id", b"x-campaignid", b"x-campaign-name", b"campaign-id"),
        *(b"x-mc-user", b"x-mailchimp-campaign", b"x-mailin-campaign", b"x-roving-id"),
        *(b"x-campaign-activity-id", b"x-kmail-account", b"x-kmail-message", b"x-hs-cid"),
        b"x-marketoid",
        *(b"x-mailer-lid", b"x-mailer-sid", b"x-mailerlite-campaign", b"x-acymailing"),
        *(b"x-mailpoet", b"x-phplist-version", b"x-listmonk-campaign", b"x-mautic-campaign"),
        *(b"x-sendy", b"x-newsletter", b"x-newsletter-id", b"x-bulkmail", b"x-bulk-mail"),
        *(b"x-subscriber-id", b"x-subscriberid", b"x-ac-campaign", b"x-mailing-id"),
    )
)
# What senders of all mail put on receipts too, with its weight. What senders of receipts have by
# default is one sign together (RFC 2369, RFC 8058, Feedback-ID); then RFC 2919, Precedence, which
# says bulk itself, and the marks of large senders.
_USUAL: tuple[tuple[int, tuple[bytes, ...]], ...] = (
    (
        1,
        (
            *(b"list-unsubscribe", b"list-unsubscribe-post", b"list-help"),
            *(b"feedback-id", b"x-feedback-id"),
        ),
    ),
    (1, (b"list-id",)),
    (2, (b"precedence",)),
    (
        1,
        (
            *(b"x-job", b"x-sfmc-stack", b"x-rpcampaign", b"x-emarsys-id", b"x-cm-message-id"),
            *(b"x-mailgun-campaign-id", b"x-mj-campaign", b"x-mailjet-campaign"),
            b"x-sib-campaign",
        ),
    ),
)
_MUCH = 3
_BULK = re.compile(rb"\s*(?:bulk|list|junk)\s*", re.IGNORECASE)
_MAILER = re.compile(
    rb".*\b(mailchimp|mailpoet|phplist|sendy|acymailing|listmonk|mautic|campaign ?monitor"
    rb"|active ?campaign|emarsys|mailerlite|sendinblue|brevo|newsletter|acelle|interspire"
    rb"|salesforce marketing|dotdigital|hubspot|klaviyo|getresponse|group ?mail|bulk)\b.*",
    re.IGNORECASE | re.DOTALL,
)
_NAMES = _DECISIVE | {name for _, sign in _USUAL for name in sign} | {b"x-mailer"}
_LONGEST = 500  # octets of a field that are looked at


def _any_of(languages: Mapping[str, Sequence[str]]) -> re.Pattern[str]:
    """Parted by first character, so that a subject is not held against every word."""
    words = sorted({folded(word) for words in languages.values() for word in words})
    starts = [
        re.escape(first) + "(?:" + "|".join(_rest(word) for word in group) + ")"
        for first, group in groupby(words, key=lambda word: word[0])
    ]
    return re.compile(f"(?<![a-z])(?:{'|'.join(starts)})")


def _rest(word: str) -> str:
    short = len(word) <= 5 and word.isalpha()
    return re.escape(word[1:]) + ("(?![a-z])" if short else "")


_OFFER, _OWN = _any_of(OFFER), _any_of(OWN)
_WORD = re.compile(r"[a-z]+")
# What an order, an invoice or a case is called: `#1234`, `100200300`, `F3K9P`.
_NUMBER = re.compile(
    r"#\s?\d{3}|(?<!\w)\d{6,}|(?<!\w)(?=[A-Z-]*\d)(?=[\d-]*[A-Z])[A-Z\d-]{5,}(?!\w)"
)


def bulk_markers(headers: HeaderBlock) -> tuple[str, ...]:
    """Return the lower-case names of the fields that tell bulk mail; none where nothing does."""
    found = headers.values_by_name(_NAMES)
    decisive = [name for name in found if name in _DECISIVE]
    if any(_MAILER.fullmatch(value[:_LONGEST]) for value in found.get(b"x-mailer", ())):
        decisive.append(b"x-mailer")
    if not any(_BULK.fullmatch(value[:_LONGEST]) for value in found.get(b"precedence", ())):
        found.pop(b"precedence", None)
    weight, usual = 0, []
    for each, names in _USUAL:
        present = [name for name in names if name in found]
        weight += each if present else 0
        usual += present
    told = [*decisive, *usual]
    if not decisive:
        if not usual:
            return ()
        offers, own = _offers(headers), _is_own(headers)
        much = weight >= _MUCH
        if (own and not (much and b"subject" in offers)) or not (much or offers):
            return ()
        told += offers
    return tuple(name.decode("ascii") for name in told)


def _offers(headers: HeaderBlock) -> list[bytes]:
    """Which of Subject and From speak of offers or news."""
    found = [b"subject"] if _OFFER.search(folded(_subject(headers))) else []
    return found if _sender(headers).isdisjoint(NEWS_SENDERS) else [*found, b"from"]


def _is_own(headers: HeaderBlock) -> bool:
    """Whether Subject or From speak of one person's own matter."""
    subject = _subject(headers)
    own = _OWN.search(folded(subject)) or _NUMBER.search(subject)
    return own is not None or not _sender(headers).isdisjoint(OWN_SENDERS)


def _subject(headers: HeaderBlock) -> str:
    values = headers.values("Subject")
    return decode_words(values[0][:_LONGEST].decode("utf-8", "replace")) if values else ""


def _sender(headers: HeaderBlock) -> frozenset[str]:
    """Words of the local part and of the first label of the domain of From."""
    values = headers.values("From")
    try:
        found = addresses(values[0][: 4 * _LONGEST]) if values else []
    except MailboxError:
        return frozenset()
    words: set[str] = set()
    for address in found[:1]:
        local, _, domain = address.lower().rpartition("@")
        words.update(_WORD.findall(local), _WORD.findall(domain.partition(".")[0]))
    return frozenset(words)
