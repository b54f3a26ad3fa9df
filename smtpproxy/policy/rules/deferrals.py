"""What is allowed, and not now (design.md section 4, rule 12)."""

from smtpproxy.policy.model import Reason, StreamClass, Verdict
from smtpproxy.policy.rules.case import RecipientCase, defer

_PAUSED = defer("paused", Reason.STREAM_PAUSED)


def paused(case: RecipientCase) -> Verdict | None:
    stream = case.stream
    return _PAUSED if stream.paused and stream.stream_class is StreamClass.MARKETING else None
