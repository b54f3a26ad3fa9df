"""Mail that is allowed, but not now (design.md section 4, rule 12)."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from smtpproxy.policy.breaker import BRAND, MARKETING, STREAM
from smtpproxy.policy.campaign import held_until
from smtpproxy.policy.model import Pause, Reason, StreamClass, Verdict
from smtpproxy.policy.periods import Cap
from smtpproxy.policy.rules import (
    DeliveryCase,
    RecipientCase,
    defer,
    last_activity,
    was_mailed_before,
)

SNAPSHOT_AHEAD = timedelta(minutes=5)
"""How far a partner's clock may be ahead of ours."""

_NEVER = datetime.max.replace(tzinfo=UTC)
_PAUSED = defer("paused", Reason.STREAM_PAUSED)
_MISSING = defer("list_stale", Reason.LIST_STALE, "a snapshot is missing")


def restored(case: RecipientCase) -> Verdict | None:
    """Defer while it is unknown who objected since the backup that the store was restored from."""
    if not case.facts.pauses or not case.stream.may_be_held_back:
        return None
    pause = restore_in_force(case.facts.pauses)
    if pause is None:
        return None
    detail = f"restored {pause.at:%Y-%m-%dT%H:%M:%SZ}; what came after the backup is not replayed"
    return defer("restored", Reason.RESTORE_PENDING, detail)


def restore_in_force(pauses: Iterable[Pause]) -> Pause | None:
    """Return the pause of all marketing, if there is one."""
    return next((pause for pause in pauses if pause.subject == MARKETING), None)


def paused(case: RecipientCase) -> Verdict | None:
    """Defer while the configuration, a person or the breaker pauses the stream."""
    stream = case.stream
    if not (stream.paused or case.facts.pauses) or stream.stream_class is not StreamClass.MARKETING:
        return None
    if stream.paused:
        return _PAUSED
    pause = pause_in_force(stream.name, stream.brand, case.facts.pauses, case.now)
    if pause is None:
        return None
    until = "" if pause.until is None else f"; until {pause.until:%Y-%m-%dT%H:%M:%SZ}"
    detail = f"{pause.subject}, {pause.cause}, since {pause.at:%Y-%m-%dT%H:%M:%SZ}{until}"
    return defer("paused", Reason.STREAM_PAUSED, detail)


def pause_in_force(stream: str, brand: str, pauses: Iterable[Pause], now: datetime) -> Pause | None:
    """Return the longest pause of a stream, of its brand or of all marketing."""
    subjects = (STREAM + stream, BRAND + brand, MARKETING)
    holding = [pause for pause in pauses if pause.subject in subjects and pause.holds(now)]
    return max(holding, key=lambda pause: pause.until or _NEVER, default=None)


def frequency(case: RecipientCase) -> Verdict | None:
    """Defer while the person has had as many messages as the stream, or all marketing, may send."""
    stream = case.stream
    if stream.frequency_cap is None and stream.marketing_cap is None:
        return None
    if stream.stream_class is not StreamClass.MARKETING:
        return None
    reached = reached_cap(case)
    if reached is None:
        return None
    cap, free_at = reached
    detail = f"{cap}; again after {free_at:%Y-%m-%dT%H:%M:%SZ}"
    return defer("frequency", Reason.FREQUENCY_CAP, detail)


def list_stale(case: RecipientCase) -> Verdict | None:
    """Defer while a partner's snapshot is older than the stream allows, missing, or dated in the
    future: then a clock was wrong, and nobody knows how old it is."""
    stream = case.stream
    if stream.max_snapshot_age is None or stream.stream_class is not StreamClass.MARKETING:
        return None
    taken_at = case.facts.snapshot_at
    if taken_at is None:
        return _MISSING
    newest = case.facts.newest_snapshot_at or taken_at
    if newest > case.now + SNAPSHOT_AHEAD:
        detail = f"a snapshot is dated in the future, {newest:%Y-%m-%dT%H:%M:%SZ}"
    elif (case.now - taken_at).total_seconds() > stream.max_snapshot_age:
        detail = f"the oldest snapshot is from {taken_at:%Y-%m-%dT%H:%M:%SZ}"
    else:
        return None
    return defer("list_stale", Reason.LIST_STALE, detail)


def reached_cap(case: RecipientCase) -> tuple[Cap, datetime] | None:
    """Return the cap that stays reached the longest, and when it will no longer be reached."""
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


def campaign(case: DeliveryCase) -> Verdict | None:
    """Defer a new campaign if too many of its first recipients are strangers or do not exist."""
    stream, content = case.recipient.stream, case.features.content
    trial = stream.trial if stream.stream_class is StreamClass.MARKETING else None
    if trial is None or content is None or content.campaign is None:
        return None
    until = held_until(content.campaign, trial)
    if until is None or until <= case.recipient.now:
        return None
    first = content.campaign
    detail = (
        f"of the first {first.people} recipients {first.strangers} strangers, {first.dead} dead"
        f"; until {until:%Y-%m-%dT%H:%M:%SZ}"
    )
    return defer("campaign", Reason.CAMPAIGN_ON_TRIAL, detail)


def is_stranger(case: RecipientCase) -> bool:
    """Whether somebody was never mailed, or has been inactive for longer than a trial allows."""
    trial, contact, now = case.stream.trial, case.facts.contact, case.now
    if not was_mailed_before(case):
        return True
    if contact is None or trial is None:
        return False
    last = last_activity(contact, case.rulebook, now)
    return last is None or last < now - timedelta(seconds=trial.silent_after)
