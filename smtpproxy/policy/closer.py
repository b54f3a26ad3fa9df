"""What is looked at in a message only since its stream asks for it: text, senders, subject."""

import re
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from msgspec.structs import replace

from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.shown import ShownText, folded
from smtpproxy.mail.text import decode_words
from smtpproxy.mail.unsubscribe import link_fault
from smtpproxy.policy.bulk_signs import bulk_markers
from smtpproxy.policy.model import (
    Alignment,
    CloserLook,
    MessageFeatures,
    Stream,
    StreamClass,
)
from smtpproxy.policy.ways_out import speaks_of_a_way_out

# Of replies and forwards, in English, German, French, Spanish, Italian, Dutch, Nordic languages.
_PREFIX = re.compile(
    r"\s*((?:re|aw|antw|sv|rif|fw|fwd|wg|tr|rv|doorst)(?:\s?[\[(]\d{1,3}[\])])?)\s?:",
    re.IGNORECASE,
)
_DOMAIN_TAG = re.compile(rb"(?:\A|;)\s*d\s*=\s*([A-Za-z0-9._-]{1,255})\s*(?:;|\Z)")
_MOST_SIGNATURES = 20
_LONGEST_FIELD = 4_096  # octets
_NOTHING = CloserLook()


def look_closer(
    stream: Stream,
    features: MessageFeatures,
    headers: HeaderBlock,
    reverse_path: str,
    shown: ShownText | None,
) -> MessageFeatures:
    """Return the features with what the rules of the stream want to know besides.

    `shown` is the text that readers see, None where `reads_text` says that nobody asks. How many
    people were sent the text alike is not found out here.
    """
    senders: tuple[str, ...] = ()
    if stream.alignment is not Alignment.OFF:
        senders = _senders(headers, reverse_path)
    if stream.stream_class is StreamClass.TRANSACTIONAL:
        look = CloserLook(senders=senders, bulk_markers=bulk_markers(headers))
        return features if look == _NOTHING else replace(features, closer=look)
    prefix = _fake_prefix(headers) if stream.honest_subject else None
    if shown is None:
        return replace(features, closer=CloserLook(senders=senders, fake_prefix=prefix))
    look = CloserLook(
        senders=senders,
        fake_prefix=prefix,
        shows_way_out=stream.body_optout and _shows_way_out(features, shown),
        shows_imprint=_held(shown, stream.imprint) is not None,
        text_cut=not shown.whole,
    )
    statement = features.source_statement or _held(shown, stream.source_statement)
    return replace(features, closer=look, source_statement=statement)


def _shows_way_out(features: MessageFeatures, shown: ShownText) -> bool:
    """Words for a way out, and a link to where List-Unsubscribe leads.

    A message without List-Unsubscribe (the relay adds it, or another rule refuses it) may lead
    anywhere that is there: a placeholder, or a host that cannot be, is nowhere.
    """
    if not speaks_of_a_way_out(shown.text):
        return False
    hosts = {_host(uri) for uri in features.unsubscribe_https} - {""}
    boxes = {_mailbox(uri) for uri in features.unsubscribe_mailto}
    for link in shown.links:
        if link_fault(link) is not None:
            continue
        is_mail = link[:7].lower() == "mailto:"
        if not (hosts or boxes) and (is_mail or _host(link)):
            return True
        if _mailbox(link) in boxes if is_mail else _host(link) in hosts:
            return True
    return False


def _host(uri: str) -> str:
    try:
        return (urlsplit(uri).hostname or "").lower().rstrip(".")
    except ValueError:
        return ""


def _mailbox(uri: str) -> str:
    return unquote(uri.partition(":")[2].partition("?")[0]).strip().lower()


def _held(shown: ShownText, texts: Sequence[str]) -> str | None:
    """Return the first of the texts that readers see, whatever its case, accents and spaces."""
    return next((text for text in texts if folded(text) in shown.text), None)


def _fake_prefix(headers: HeaderBlock) -> str | None:
    """Return the prefix of a reply or forward, on a message that answers nothing."""
    subjects = headers.values("Subject")
    if not subjects or headers.values("In-Reply-To") or headers.values("References"):
        return None
    subject = decode_words(subjects[0][:_LONGEST_FIELD].decode("utf-8", "replace"))
    found = _PREFIX.match(subject)
    return None if found is None else found[1]


def _senders(headers: HeaderBlock, reverse_path: str) -> tuple[str, ...]:
    """Domains that answer for the message: of the envelope sender, and of its signatures."""
    domains = [reverse_path.rpartition("@")[2].lower()] if reverse_path else []
    for value in headers.values("DKIM-Signature")[:_MOST_SIGNATURES]:
        found = _DOMAIN_TAG.search(value)
        if found is not None:
            domains.append(found[1].decode("ascii").lower())
    return tuple(dict.fromkeys(domains))
