"""What is allowed, and not now (design.md section 4, rule 12)."""

from datetime import datetime

from smtpproxy.policy.frequency import Cap
from smtpproxy.policy.model import Action, Reason, StreamClass, Verdict
from smtpproxy.policy.rules.case import RecipientCase, defer

_PAUSED = defer("paused", Reason.STREAM_PAUSED)
_MISSING = Verdict(
    Action.DEFER, Reason.LIST_STALE, rule="list_stale", detail="a snapshot is missing"
)


def paused(case: RecipientCase) -> Verdict | None:
    stream = case.stream
    return _PAUSED if stream.paused and stream.stream_class is StreamClass.MARKETING else None


def frequency(case: RecipientCase) -> Verdict | None:
    """Defer while as many messages went to the person as the stream, or all marketing, may send."""
    stream = case.stream
    if stream.frequency_cap is None and stream.marketing_cap is None:
        return None
    if stream.stream_class is not StreamClass.MARKETING:
        return None
    reached = reached_cap(case)
    if reached is None:
        return None
    cap, free_at = reached
    return Verdict(
        Action.DEFER,
        Reason.FREQUENCY_CAP,
        rule="frequency",
        detail=f"{cap}; again after {free_at:%Y-%m-%dT%H:%M:%SZ}",
    )


def list_stale(case: RecipientCase) -> Verdict | None:
    """Defer while a partner's snapshot is older than the stream allows, or missing."""
    stream = case.stream
    if stream.max_snapshot_age is None or stream.stream_class is not StreamClass.MARKETING:
        return None
    taken_at = case.facts.snapshot_at
    if taken_at is None:
        return _MISSING
    if (case.now - taken_at).total_seconds() <= stream.max_snapshot_age:
        return None
    return Verdict(
        Action.DEFER,
        Reason.LIST_STALE,
        rule="list_stale",
        detail=f"the oldest snapshot is of {taken_at:%Y-%m-%dT%H:%M:%SZ}",
    )


def reached_cap(case: RecipientCase) -> tuple[Cap, datetime] | None:
    """Return the cap that is reached for longest, and when it no longer will be."""
    stream, mailings = case.stream, case.facts.mailings
    counted = (
        (stream.frequency_cap, [m.at for m in mailings if m.stream == stream.name]),
        (stream.marketing_cap, [m.at for m in mailings]),
    )
    reached = [
        (free_at, cap)
        for cap, mailed in counted
        if cap is not None and (free_at := cap.free_at(mailed, case.now)) is not None
    ]
    if not reached:
        return None
    free_at, cap = max(reached, key=lambda one: one[0])
    return cap, free_at
