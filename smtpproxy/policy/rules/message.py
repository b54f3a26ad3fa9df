"""How a message is judged: its header, its visible text and its sender (design.md section 6).

The rules judge what will leave, including the fields that the relay adds (`unsubscribe = "add"`).
Those about visible text apply only if the stream asks for them; then `features.content` is set.
"""

from functools import lru_cache

from msgspec.structs import replace

from smtpproxy.mail.dmarc import all_aligned
from smtpproxy.policy.model import (
    Alignment,
    ConfirmLink,
    ContentFeatures,
    MessageFeatures,
    Mode,
    Reason,
    SignatureState,
    Stream,
    StreamClass,
    TrackingPixels,
    UndeclaredBulk,
    Verdict,
)
from smtpproxy.policy.rulebook import ExistingUnsubscribe
from smtpproxy.policy.rules import MessageCase, defer, refuse

_REPLACE, _REFUSE = ExistingUnsubscribe.REPLACE, ExistingUnsubscribe.REFUSE


def adds_unsubscribe(stream: Stream, features: MessageFeatures) -> bool:
    """Whether the relay puts List-Unsubscribe and List-Unsubscribe-Post into the message.

    It does not if the header cannot be read; such a message passes only in observe mode.
    """
    return (
        stream.unsubscribe_scope is not None
        and features.malformed is None
        and (not features.unsubscribe_fields or stream.existing_unsubscribe is _REPLACE)
    )


def unwanted_unsubscribe(stream: Stream, features: MessageFeatures) -> bool:
    """Whether the message has its own List-Unsubscribe where only the relay's is allowed."""
    return (
        stream.unsubscribe_scope is not None
        and features.unsubscribe_fields > 0
        and stream.existing_unsubscribe is _REFUSE
    )


_MALFORMED = refuse("header", Reason.HEADER_MALFORMED)
_SENDER = refuse("sender", Reason.SENDER_NOT_PERMITTED)
_RECIPIENTS = refuse("recipient_limit", Reason.RECIPIENT_LIMIT)
_MISSING = refuse("unsubscribe_present", Reason.UNSUBSCRIBE_MISSING)
_UNUSABLE = refuse("unsubscribe_usable", Reason.UNSUBSCRIBE_MALFORMED)
_ONE_CLICK = refuse("one_click", Reason.ONE_CLICK_MISSING)
_UNSIGNED = refuse("unsubscribe_signed", Reason.UNSUBSCRIBE_UNSIGNED)
_UNCHECKED = defer("unsubscribe_signed", Reason.TEMPORARY_FAILURE)


def header(case: MessageCase) -> Verdict | None:
    """Refuse a header that can be read in different ways, so that nothing can be judged by it."""
    features = case.features
    return None if features.malformed is None and features.from_domains else _MALFORMED


def sender(case: MessageCase) -> Verdict | None:
    """Refuse a From address outside the stream's domains or, if it has none, of another brand."""
    domains, found = case.stream.from_domains, case.features.from_domains
    own = domains.issuperset(found) if domains else case.stream.foreign_domains.isdisjoint(found)
    return None if own else _SENDER


def recipient_limit(case: MessageCase) -> Verdict | None:
    """Refuse a message to more recipients than the stream allows."""
    most = case.stream.max_recipients
    return None if most is None or case.features.recipients <= most else _RECIPIENTS


def unsubscribe_present(case: MessageCase) -> Verdict | None:
    if case.features.unsubscribe_fields or adds_unsubscribe(case.stream, case.features):
        return None
    return _MISSING


def unsubscribe_usable(case: MessageCase) -> Verdict | None:
    """Refuse several fields, one without a usable https or mailto URI, or one with any unusable
    URI: the mailbox provider chooses which one the reader gets.

    If the relay adds the field and wants no other, the app's own field is refused.
    """
    features = case.features
    if case.stream.unsubscribe_scope is not None:
        if adds_unsubscribe(case.stream, features):
            return None
        if unwanted_unsubscribe(case.stream, features):
            return _UNUSABLE
    if features.unsubscribe_fields != 1 or features.unsubscribe_fault is not None:
        return _UNUSABLE
    return None if features.unsubscribe_https or features.unsubscribe_mailto else _UNUSABLE


def one_click(case: MessageCase) -> Verdict | None:
    """Refuse mail that one POST cannot unsubscribe from (RFC 8058), if the stream requires that."""
    features = case.features
    if not case.stream.one_click_required or (features.unsubscribe_https and features.one_click):
        return None
    return None if adds_unsubscribe(case.stream, features) else _ONE_CLICK


def unsubscribe_signed(case: MessageCase) -> Verdict | None:
    """Refuse a signed message if no valid signature covers its unsubscribe fields (RFC 8058 section
    4).

    VALID is only a signature that covers them. Signatures are not checked if the relay signs the
    message itself or no stream asks. No signature that a message came with covers what the relay
    adds.
    """
    found = case.features.signatures
    if found is None or not case.stream.check_dkim or case.features.signed_by_relay:
        return None
    states = {each.state for each in found}
    if adds_unsubscribe(case.stream, case.features):
        return _UNSIGNED
    if SignatureState.VALID in states:
        return None
    return _UNCHECKED if SignatureState.UNKNOWN in states else _UNSIGNED


_MISALIGNED = refuse("alignment", Reason.FROM_MISALIGNED)
_UNANSWERED = defer("alignment", Reason.TEMPORARY_FAILURE)
_NO_OPTOUT = refuse("body_optout", Reason.BODY_OPTOUT_MISSING)
_NO_IMPRINT = refuse("imprint", Reason.SENDER_UNIDENTIFIED)
_FAKE_PREFIX = refuse("subject", Reason.SUBJECT_MISLEADING)
_CONFIRM_LINK = refuse("confirm_link", Reason.CONFIRM_LINK_MISSING)
_UNDECLARED = refuse("bulk", Reason.BULK_UNDECLARED)


def alignment(case: MessageCase) -> Verdict | None:
    """Refuse a From domain that matches neither the envelope sender nor a signature.

    If the relay itself signs, it does so for the From domain.
    """
    mode, features = case.stream.alignment, case.features
    if mode is Alignment.OFF or features.signed_by_relay:
        return None
    content = features.content or ContentFeatures()
    strict = mode is Alignment.STRICT
    if strict or not content.organisations:  # the DNS was not asked, because it could add nothing
        aligned = all_aligned(features.from_domains, content.senders, strict=strict)
        return None if aligned else _MISALIGNED
    known = dict(content.organisations)
    for domain in dict.fromkeys(features.from_domains):
        if domain in content.senders:
            continue
        own = known.get(domain)
        theirs = [known.get(each) for each in content.senders if own and _within(each, own)]
        if own == "" or (own not in theirs and "" in theirs):
            return _UNANSWERED
        if own is None or own not in theirs:
            return _MISALIGNED
    return None


def _within(domain: str, organisation: str) -> bool:
    return f".{domain}".endswith(f".{organisation}")


def body_optout(case: MessageCase) -> Verdict | None:
    """Refuse a text without a visible unsubscribe link."""
    if not case.stream.body_optout:
        return None
    content = case.features.content
    return None if content is not None and content.shows_unsubscribe else _NO_OPTOUT


def imprint(case: MessageCase) -> Verdict | None:
    """Refuse a text without the stream's imprint."""
    if not case.stream.imprint:
        return None
    content = case.features.content
    return None if content is not None and content.shows_imprint else _NO_IMPRINT


def subject(case: MessageCase) -> Verdict | None:
    """Refuse the subject of a reply or forward on a message that is neither."""
    if not case.stream.honest_subject:
        return None
    content = case.features.content
    return _FAKE_PREFIX if content is not None and content.fake_prefix else None


def confirm_link(case: MessageCase) -> Verdict | None:
    """Refuse a permission message without a link by which its reader can consent."""
    content = case.features.content
    valid = content is not None and content.confirm_link is ConfirmLink.VALID
    return None if valid else _CONFIRM_LINK


def bulk(case: MessageCase) -> Verdict | None:
    """Refuse bulk mail on a transactional stream, if the stream says so."""
    if case.stream.undeclared_bulk is not UndeclaredBulk.REFUSE:
        return None
    return _UNDECLARED if is_undeclared_bulk(case.stream, case.features) else None


def is_undeclared_bulk(stream: Stream, features: MessageFeatures) -> bool:
    """Whether a message on a transactional stream has the signs of bulk mail, or was sent to more
    people than the stream's `bulk_recipients` within its `bulk_window`."""
    content = features.content
    if content is None or stream.stream_class is not StreamClass.TRANSACTIONAL:
        return False
    most = stream.bulk_recipients
    signs = content.bulk_markers or content.bulk_text
    return bool(signs) or (most is not None and content.alike > most)


def stream_in_force(stream: Stream, features: MessageFeatures, undeclared: Stream) -> Stream:
    """Return the stream that a message is judged on: for undeclared bulk that is to be judged as
    marketing, `undeclared` with the limits of the declared stream.

    Signs of bulk do not release a message from these: what its own stream would refuse for its
    sender or its number of recipients is refused there.
    """
    if stream.undeclared_bulk is not UndeclaredBulk.MARKETING:
        return stream
    if not is_undeclared_bulk(stream, features):
        return stream
    if stream.mode is not Mode.ENFORCE:
        return undeclared
    case = MessageCase(stream, features)
    return stream if sender(case) or recipient_limit(case) else _limited(undeclared, stream)


_ALIGNMENTS = (Alignment.OFF, Alignment.RELAXED, Alignment.STRICT)
_PIXELS = (
    TrackingPixels.ALLOW,
    TrackingPixels.OBSERVE,
    TrackingPixels.STRIP,
    TrackingPixels.REFUSE,
)


@lru_cache(maxsize=256)
def _limited(undeclared: Stream, own: Stream) -> Stream:
    """The undeclared stream, with the stricter of both streams' checks of content."""
    alignment = max(undeclared.alignment, own.alignment, key=_ALIGNMENTS.index)
    pixels = max(undeclared.tracking_pixels, own.tracking_pixels, key=_PIXELS.index)
    return replace(undeclared, alignment=alignment, tracking_pixels=pixels)
