"""What a recipient's domain says of itself."""

from smtpproxy.policy.model import Reason, Verdict
from smtpproxy.policy.rules.case import RecipientCase, refuse

_NULL_MX = refuse("null_mx", Reason.NULL_MX)


def null_mx(case: RecipientCase) -> Verdict | None:
    """Refuse mail to a domain that says it takes none (RFC 7505)."""
    return _NULL_MX if case.facts.null_mx else None
