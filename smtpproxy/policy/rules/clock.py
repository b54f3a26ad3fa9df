"""Calendar years and a contact's last activity (design.md section 4, rules A9 and A17)."""

from datetime import datetime

from smtpproxy.policy.model import Contact, Rulebook


def within_years(moment: datetime, years: int, now: datetime) -> bool:
    """Whether `now` is no later than `years` calendar years after `moment`.

    The moment exactly so many years later still counts. From 29 February the years end
    on 28 February where there is no 29th. Both times are UTC.
    """
    passed = now.year - moment.year
    if passed != years:
        return passed < years
    try:
        end = moment.replace(year=now.year)
    except ValueError:
        end = moment.replace(year=now.year, day=28)
    return now <= end


def last_activity(contact: Contact, rulebook: Rulebook, now: datetime) -> datetime | None:
    """Return the newest of: collected, consent given, purchase, positive act.

    Consent counts when it was given by an active method: silence is no activity (A44).
    What is dated after `now` has not happened.
    """
    newest: datetime | None = None
    moments = [contact.collected_at, contact.last_activity_at]
    moments += [purchase.at for purchase in contact.purchases]
    moments += [
        act.at
        for act in contact.acts
        if not act.withdrawal and act.method in rulebook.valid_methods
    ]
    for moment in moments:
        if moment is not None and moment <= now and (newest is None or moment > newest):
            newest = moment
    return newest


def is_active(contact: Contact, years: int, rulebook: Rulebook, now: datetime) -> bool:
    """Whether the last activity is no older than `years`; none at all is too old."""
    last = last_activity(contact, rulebook, now)
    return last is not None and within_years(last, years, now)
