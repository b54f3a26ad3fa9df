"""What a rule sees, what a rule is, and when a person was last active."""

from collections.abc import Callable
from datetime import datetime
from typing import Generic, TypeVar

from msgspec import Struct

from smtpproxy.policy.model import (
    Action,
    Basis,
    Contact,
    MessageFeatures,
    Reason,
    RecipientFacts,
    Rulebook,
    Sign,
    Source,
    Stream,
    Verdict,
)
from smtpproxy.policy.periods import Period, within


class RecipientCase(Struct, frozen=True):
    """One recipient on one stream, with all that is known, at one moment."""

    address: str  # canonical
    stream: Stream
    facts: RecipientFacts
    rulebook: Rulebook
    now: datetime


class DeliveryCase(Struct, frozen=True):
    """A recipient that may be mailed on `basis`, and the message it is to get."""

    recipient: RecipientCase
    basis: Basis | None
    features: MessageFeatures


class MessageCase(Struct, frozen=True):
    """One message on one stream."""

    stream: Stream
    features: MessageFeatures


Case = TypeVar("Case", RecipientCase, DeliveryCase, MessageCase)


def on_every_stream(stream: Stream) -> bool:
    return True


class Rule(Struct, Generic[Case], frozen=True):
    """One row of a table.

    `judge` returns a verdict if the rule decides, or None to ask the next rule; the verdict's
    `rule` is this `name`. `source` names the section of design.md and the rows of law.md that it
    carries out; the articles of law are in the rulebook. If `applies` is false for a stream, the
    rule never decides and is not asked (tests/policy/test_tables.py).
    """

    name: str
    judge: Callable[[Case], Verdict | None]
    source: str
    applies: Callable[[Stream], bool] = on_every_stream


def allow(rule: str, basis: Basis) -> Verdict:
    return Verdict(Action.ALLOW, basis=basis, rule=rule)


def refuse(rule: str, reason: Reason, detail: str | None = None) -> Verdict:
    return Verdict(Action.REFUSE, reason, rule=rule, detail=detail)


def defer(rule: str, reason: Reason, detail: str | None = None) -> Verdict:
    return Verdict(Action.DEFER, reason, rule=rule, detail=detail)


def was_mailed_before(case: RecipientCase) -> bool:
    """Whether a first mail on any marketing stream is on record, here or with the contact."""
    contact, first_mailed_at = case.facts.contact, case.facts.first_mailed_at
    contacted_at = None if contact is None else contact.first_contacted_at
    return any(at is not None and at <= case.now for at in (contacted_at, first_mailed_at))


# Looking up an enum member costs more than comparing with it.
_COLLECTED, _CONSENT = Sign.COLLECTED, Sign.CONSENT
_PURCHASE, _POSITIVE_ACT = Sign.PURCHASE, Sign.POSITIVE_ACT
_DIRECT = Source.DIRECT


def last_activity(
    contact: Contact, rulebook: Rulebook, now: datetime, *, passed_on: bool = True
) -> datetime | None:
    """Return the newest of the rulebook's signs of life, such as a purchase or a click.

    Consent counts if it was given by an active method: silence is not activity (A44), and an
    unconfirmed request may be somebody else's. A purchase counts if the rulebook knows its kind.
    Anything dated after `now` does not count. Without `passed_on`, a collection counts only if the
    person gave the address.
    """
    signs = rulebook.signs_of_life
    theirs = passed_on or contact.source in (None, _DIRECT)
    moments = [
        contact.collected_at if theirs and _COLLECTED in signs else None,
        contact.last_activity_at if _POSITIVE_ACT in signs else None,
    ]
    if contact.purchases and _PURCHASE in signs:
        counted = rulebook.dealings | rulebook.charity_dealings
        moments += [p.at for p in contact.purchases if p.kind in counted]
    if contact.acts and _CONSENT in signs:
        methods = rulebook.valid_methods
        moments += [
            act.at
            for act in contact.acts
            if not act.withdrawal and not act.pending and act.method in methods
        ]
    newest: datetime | None = None
    for moment in moments:
        if moment is not None and moment <= now and (newest is None or moment > newest):
            newest = moment
    return newest


def is_active(
    contact: Contact,
    period: Period | None,
    rulebook: Rulebook,
    now: datetime,
    *,
    passed_on: bool = True,
) -> bool:
    """Whether there was any activity, the last of it no longer ago than `period`."""
    if period is None:
        return True
    last = last_activity(contact, rulebook, now, passed_on=passed_on)
    return last is not None and within(last, period, now)
