"""What has outlived its period, and what of it is kept: the same on every backend.

A contact goes when the person has been silent for the period (rules A9 and A17). What the
person asked for does not go with it: it becomes a suppression, which names nobody (A35).
"""

from collections.abc import Iterator
from datetime import datetime

from smtpproxy.policy.model import Contact, Origin
from smtpproxy.policy.rules.recipient import restricting
from smtpproxy.store.protocols import SuppressionEntry
from smtpproxy.store.retention import Limits, Removed


def removed(dates: list[datetime]) -> Removed:
    return Removed(len(dates), min(dates, default=None), max(dates, default=None))


def last_sign(contact: Contact, now: datetime) -> datetime | None:
    """Return when the person was collected, or last did anything but deal with us.

    Any consent act is one, a withdrawal too: whoever speaks to us is not silent.
    """
    return _newest(
        [
            contact.collected_at or contact.informed_at,
            contact.last_activity_at,
            *(act.at for act in contact.acts),
        ],
        now,
    )


def last_dealing(contact: Contact, now: datetime) -> datetime | None:
    return _newest([purchase.at for purchase in contact.purchases], now)


def _newest(moments: list[datetime | None], now: datetime) -> datetime | None:
    return max((at for at in moments if at is not None and at <= now), default=None)


def is_undated(contact: Contact, now: datetime) -> bool:
    return last_sign(contact, now) is None and last_dealing(contact, now) is None


def outlived(
    contact: Contact, undated_since: datetime | None, limits: Limits, now: datetime
) -> datetime | None:
    """Return the date of a contact whose time is over: its last sign or dealing, else None."""
    sign, dealing = last_sign(contact, now), last_dealing(contact, now)
    if sign is None and dealing is None:
        sign = undated_since
        if sign is None:  # from now on its time is counted
            return None
    if sign is not None and sign >= limits.prospects:
        return None
    if dealing is not None and dealing >= limits.customers:
        return None
    return _newest([sign, dealing], now)


def orders(contact: Contact, limits: Limits, now: datetime) -> Iterator[SuppressionEntry]:
    """Yield what the person asked for, and must not be forgotten with the contact.

    A withdrawal becomes an `unsubscribe` of its purpose: like it, it yields to consent that
    is given later, and to no older one.
    """
    withdrawn: dict[str, datetime] = {}
    for act in contact.acts:
        if act.withdrawal and act.purpose:
            withdrawn[act.purpose] = max(act.at, withdrawn.get(act.purpose, act.at))
    for purpose, at in withdrawn.items():
        yield SuppressionEntry(
            contact.address, f"purpose:{purpose}", Origin.UNSUBSCRIBE, at, "consent was withdrawn"
        )
    if contact.profiling_objected_at is not None:
        yield SuppressionEntry(
            contact.address,
            "marketing",
            Origin.OBJECTION,
            contact.profiling_objected_at,
            "objected to profiling",
        )
    if restricting(contact.tags, limits.restricted):
        yield SuppressionEntry(
            contact.address, "marketing", Origin.MANUAL, now, "the contact was restricted"
        )
