"""What no record of the past can say."""

import dataclasses
from collections.abc import Iterator
from datetime import datetime, timedelta

from smtpproxy.policy.model import Contact
from smtpproxy.store.exchange.lines import Contents, Passed, Read, Rejected
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.protocols import ContactUpdate

GRACE = timedelta(days=1)
"""Between two clocks, or between time zones, a fact may be dated this much later than now."""

_SKEW = timedelta(minutes=5)
_PROFILE = ("collected_at", "informed_at", "last_activity_at", "first_contacted_at")

Item = Read[ContactUpdate] | Rejected | Passed


def without_the_future(contents: Contents[ContactUpdate], now: datetime) -> Contents[ContactUpdate]:
    """Put contacts aside that say what is yet to come, and could let mail through.

    Facts have a day's grace. An agreement has five minutes: once its time came, it would
    outweigh every withdrawal that was made until then. A withdrawal, an objection or a
    suppression of the future errs on the strict side and is taken.
    """
    return dataclasses.replace(contents, items=_checked(contents, now))


def _checked(contents: Contents[ContactUpdate], now: datetime) -> Iterator[Item]:
    for item in contents.items:
        reason = yet_to_come(item.value.contact, now) if isinstance(item, Read) else None
        if isinstance(item, Read) and reason is not None:
            yield Rejected(item.number, contents.worded(reason), (item.content,))
        else:
            yield item


def yet_to_come(contact: Contact, now: datetime) -> str | None:
    """Return what of a contact is in the future, in words; None when nothing is."""
    for act in contact.acts:
        if act.at > now + _SKEW and not act.withdrawal:
            return (
                f"consents: given_at {written_time(act.at)} is in the future: nobody has agreed "
                "to anything then"
            )
    facts = [(name, getattr(contact, name)) for name in _PROFILE]
    facts += [("purchases: at", purchase.at) for purchase in contact.purchases]
    if contact.provenance is not None:
        facts += [("provenance: chain: at", link.at) for link in contact.provenance.chain]
    for name, at in facts:
        if at is not None and at > now + GRACE:
            return f"{name} {written_time(at)} is in the future; right would be when it happened"
    return None
