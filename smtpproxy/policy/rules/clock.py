"""A contact's last activity (design.md section 4, rules A9 and A17)."""

from datetime import datetime

from smtpproxy.policy.model import Contact, Rulebook, Sign
from smtpproxy.policy.periods import Period, within

# Looking a member up in its enum costs more than the test that it is for.
_COLLECTED, _CONSENT = Sign.COLLECTED, Sign.CONSENT
_PURCHASE, _POSITIVE_ACT = Sign.PURCHASE, Sign.POSITIVE_ACT


def last_activity(contact: Contact, rulebook: Rulebook, now: datetime) -> datetime | None:
    """Return the newest of the rulebook's signs of life, such as a purchase or a click.

    Consent counts when it was given by an active method: silence is no activity (A44),
    and what was not confirmed may be somebody else's. A purchase counts when it is of a
    kind that the rulebook knows. What is dated after `now` has not happened.
    """
    signs = rulebook.signs_of_life
    moments = [
        contact.collected_at if _COLLECTED in signs else None,
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


def is_active(contact: Contact, period: Period | None, rulebook: Rulebook, now: datetime) -> bool:
    """Whether the last activity is no older than `period`; none at all is too old."""
    if period is None:
        return True
    last = last_activity(contact, rulebook, now)
    return last is not None and within(last, period, now)
