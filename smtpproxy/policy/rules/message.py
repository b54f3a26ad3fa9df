"""How a message is judged (design.md section 6)."""

from smtpproxy.policy.model import Reason, Verdict
from smtpproxy.policy.rules.case import MessageCase, refuse

_MALFORMED = refuse("header", Reason.HEADER_MALFORMED)
_SENDER = refuse("sender", Reason.SENDER_NOT_PERMITTED)
_MISSING = refuse("unsubscribe_present", Reason.UNSUBSCRIBE_MISSING)
_UNUSABLE = refuse("unsubscribe_usable", Reason.UNSUBSCRIBE_MALFORMED)
_ONE_CLICK = refuse("one_click", Reason.ONE_CLICK_MISSING)


def header(case: MessageCase) -> Verdict | None:
    """Refuse a header that readers may read in different ways: nothing can be judged by it."""
    features = case.features
    return None if features.malformed is None and features.from_domains else _MALFORMED


def sender(case: MessageCase) -> Verdict | None:
    """Refuse a From address outside the stream's domains; a stream without any takes all."""
    domains = case.stream.from_domains
    return None if not domains or domains.issuperset(case.features.from_domains) else _SENDER


def unsubscribe_present(case: MessageCase) -> Verdict | None:
    return None if case.features.unsubscribe_fields else _MISSING


def unsubscribe_usable(case: MessageCase) -> Verdict | None:
    """Refuse several fields, or one without a usable https or mailto URI."""
    features = case.features
    usable = features.unsubscribe_https or features.unsubscribe_mailto
    return None if usable and features.unsubscribe_fields == 1 else _UNUSABLE


def one_click(case: MessageCase) -> Verdict | None:
    """Refuse what offers no way out by one POST (RFC 8058), where the stream asks for it."""
    features = case.features
    if not case.stream.one_click_required or (features.unsubscribe_https and features.one_click):
        return None
    return _ONE_CLICK
