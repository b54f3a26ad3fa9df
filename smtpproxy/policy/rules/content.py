"""How a message is judged by what it shows and whom it is from (design.md section 6).

Each rule holds only where the stream asks for it: then `features.closer` is there.
"""

from smtpproxy.mail.dmarc import all_aligned
from smtpproxy.policy.model import (
    Alignment,
    CloserLook,
    MessageFeatures,
    Reason,
    Stream,
    StreamClass,
    UndeclaredBulk,
    Verdict,
)
from smtpproxy.policy.rules.case import MessageCase, defer, refuse

_MISALIGNED = refuse("alignment", Reason.FROM_MISALIGNED)
_UNANSWERED = defer("alignment", Reason.TEMPORARY_FAILURE)
_NO_WAY_OUT = refuse("body_optout", Reason.BODY_OPTOUT_MISSING)
_NO_IMPRINT = refuse("imprint", Reason.SENDER_UNIDENTIFIED)
_FAKE_PREFIX = refuse("subject", Reason.SUBJECT_MISLEADING)
_UNDECLARED = refuse("bulk", Reason.BULK_UNDECLARED)


def alignment(case: MessageCase) -> Verdict | None:
    """Refuse a From domain that neither the envelope sender nor a signature answers for.

    Where the relay itself signs, it does so for the From domain.
    """
    mode, features = case.stream.alignment, case.features
    if mode is Alignment.OFF or features.signed_by_relay:
        return None
    closer = features.closer or CloserLook()
    strict = mode is Alignment.STRICT
    if strict or not closer.organisations:  # the DNS was not asked: it had nothing to add
        aligned = all_aligned(features.from_domains, closer.senders, strict=strict)
        return None if aligned else _MISALIGNED
    known = dict(closer.organisations)
    for domain in dict.fromkeys(features.from_domains):
        if domain in closer.senders:
            continue
        own = known.get(domain)
        theirs = [known.get(each) for each in closer.senders if own and _within(each, own)]
        if own == "" or (own not in theirs and "" in theirs):
            return _UNANSWERED
        if own is None or own not in theirs:
            return _MISALIGNED
    return None


def _within(domain: str, organisation: str) -> bool:
    return f".{domain}".endswith(f".{organisation}")


def body_optout(case: MessageCase) -> Verdict | None:
    """Refuse a text without a visible way out."""
    if not case.stream.body_optout:
        return None
    closer = case.features.closer
    return None if closer is not None and closer.shows_way_out else _NO_WAY_OUT


def imprint(case: MessageCase) -> Verdict | None:
    """Refuse a text that does not hold the stream's imprint."""
    if not case.stream.imprint:
        return None
    closer = case.features.closer
    return None if closer is not None and closer.shows_imprint else _NO_IMPRINT


def subject(case: MessageCase) -> Verdict | None:
    """Refuse the subject of an answer on a message that answers nothing."""
    if not case.stream.honest_subject:
        return None
    closer = case.features.closer
    return _FAKE_PREFIX if closer is not None and closer.fake_prefix else None


def bulk(case: MessageCase) -> Verdict | None:
    """Refuse bulk mail on a transactional stream, where the stream says so."""
    if case.stream.undeclared_bulk is not UndeclaredBulk.REFUSE:
        return None
    return _UNDECLARED if is_undeclared_bulk(case.stream, case.features) else None


def is_undeclared_bulk(stream: Stream, features: MessageFeatures) -> bool:
    """Whether a message on a stream that claims not to be bulk has the marks of it, or was
    sent to more people than the stream's `bulk_recipients` within its `bulk_window`."""
    closer = features.closer
    if closer is None or stream.stream_class is not StreamClass.TRANSACTIONAL:
        return False
    most = stream.bulk_recipients
    return bool(closer.bulk_markers) or (most is not None and closer.alike > most)


def stream_in_force(stream: Stream, features: MessageFeatures, undeclared: Stream) -> Stream:
    """Return `undeclared` for undeclared bulk that is to be judged as marketing."""
    if stream.undeclared_bulk is not UndeclaredBulk.MARKETING:
        return stream
    return undeclared if is_undeclared_bulk(stream, features) else stream
