"""How a message is judged (design.md section 6)."""

from smtpproxy.policy.model import Reason, SignatureState, Verdict
from smtpproxy.policy.rules.case import MessageCase, defer, refuse
from smtpproxy.policy.way_out import added, unwanted

_MALFORMED = refuse("header", Reason.HEADER_MALFORMED)
_SENDER = refuse("sender", Reason.SENDER_NOT_PERMITTED)
_RECIPIENTS = refuse("recipient_limit", Reason.RECIPIENT_LIMIT)
_MISSING = refuse("unsubscribe_present", Reason.UNSUBSCRIBE_MISSING)
_UNUSABLE = refuse("unsubscribe_usable", Reason.UNSUBSCRIBE_MALFORMED)
_ONE_CLICK = refuse("one_click", Reason.ONE_CLICK_MISSING)
_UNSIGNED = refuse("unsubscribe_signed", Reason.UNSUBSCRIBE_UNSIGNED)
_UNCHECKED = defer("unsubscribe_signed", Reason.TEMPORARY_FAILURE)


def header(case: MessageCase) -> Verdict | None:
    """Refuse a header that readers may read in different ways: nothing can be judged by it."""
    features = case.features
    return None if features.malformed is None and features.from_domains else _MALFORMED


def sender(case: MessageCase) -> Verdict | None:
    """Refuse a From address outside the stream's domains; a stream without any takes all."""
    domains = case.stream.from_domains
    return None if not domains or domains.issuperset(case.features.from_domains) else _SENDER


def recipient_limit(case: MessageCase) -> Verdict | None:
    """Refuse a message to more recipients than the stream takes in one."""
    most = case.stream.max_recipients
    return None if most is None or case.features.recipients <= most else _RECIPIENTS


def unsubscribe_present(case: MessageCase) -> Verdict | None:
    if case.features.unsubscribe_fields or added(case.stream, case.features):
        return None
    return _MISSING


def unsubscribe_usable(case: MessageCase) -> Verdict | None:
    """Refuse several fields, or one without a usable https or mailto URI, or with one that is
    of no use: which of them its reader gets is the mailbox provider's choice.

    Where the relay adds the field and no other is wanted, one of the app's is one too many.
    """
    features = case.features
    if case.stream.unsubscribe_scope is not None:
        if added(case.stream, features):
            return None
        if unwanted(case.stream, features):
            return _UNUSABLE
    usable = (features.unsubscribe_https or features.unsubscribe_mailto) and (
        features.unsubscribe_fault is None
    )
    return None if usable and features.unsubscribe_fields == 1 else _UNUSABLE


def one_click(case: MessageCase) -> Verdict | None:
    """Refuse what offers no way out by one POST (RFC 8058), where the stream asks for it."""
    features = case.features
    if not case.stream.one_click_required or (features.unsubscribe_https and features.one_click):
        return None
    return None if added(case.stream, features) else _ONE_CLICK


def unsubscribe_signed(case: MessageCase) -> Verdict | None:
    """Refuse a signed message whose ways out no valid signature covers (RFC 8058 section 4).

    Valid is only said of a signature that covers them. None were looked at where the relay
    signs the message itself, or nobody asked. No signature that a message came with covers
    what the relay adds to it.
    """
    found = case.features.signatures
    if found is None or not case.stream.check_dkim or case.features.signed_by_relay:
        return None
    states = {each.state for each in found}
    if added(case.stream, case.features):
        return _UNSIGNED
    if SignatureState.VALID in states:
        return None
    return _UNCHECKED if SignatureState.UNKNOWN in states else _UNSIGNED
