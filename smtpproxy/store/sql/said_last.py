"""A refusal outweighs everything that is on record before it, whatever its date.

What is dated in the future was recorded while a clock was ahead, or the clock is behind now.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from msgspec.structs import replace

from smtpproxy.mail.address import widened
from smtpproxy.policy.model import EVERY_PURPOSE, Contact, Origin, Preference
from smtpproxy.store.keys import is_key_text, suppressed_name
from smtpproxy.store.merge import STRICTNESS, Known
from smtpproxy.store.records import ContactUpdate, SuppressionEntry
from smtpproxy.store.sql.rows import from_micros, to_micros
from smtpproxy.store.sql.session import Session, listed, looked_up

_YIELDING = frozenset({Origin.UNSUBSCRIBE, Origin.COMPLAINT, Origin.OBJECTION, Origin.ERASURE})
_AHEAD = f"""
SELECT address, CAST(max(at) AS BIGINT) FROM json_each(?1) AS asked
{looked_up("contact", "address = asked.value")}
{looked_up("consent_act", "consent_act.contact = contact.id")}
WHERE address = asked.value AND consent_act.contact = contact.id AND at > ?2 AND withdrawal = 0
GROUP BY address
"""


def said_last(update: ContactUpdate, known: Known, now: datetime) -> ContactUpdate:
    """Return the update with new refusals dated no earlier than what is on record.

    A repeated refusal is not new.
    """
    if not _is_ahead(known.contact, now):
        return update
    before, told = known.contact, update.contact
    agreed: dict[str, datetime] = {}
    for act in before.acts:
        if act.at > now and not act.withdrawal:
            agreed[act.purpose] = agreed[EVERY_PURPOSE] = act.at  # the newest is last
    refused = {(act.purpose, act.brand, act.at) for act in before.acts if act.withdrawal}
    acts = [
        replace(act, at=max(act.at, agreed.get(act.purpose, act.at)))
        if act.withdrawal and (act.purpose, act.brand, act.at) not in refused
        else act
        for act in told.acts
    ]
    wished = {(one.brand, one.purpose): one for one in before.preferences if one.at > now}
    wishes = [_no_earlier(one, wished.get((one.brand, one.purpose))) for one in told.preferences]
    contact = replace(told, acts=tuple(acts), preferences=tuple(wishes))
    return replace(update, contact=contact)


def as_known(known: Known, now: datetime) -> Known:
    """Return what is on record, without the dates of profiles that are in the future.

    Until then a newer profile, and all that it refuses, would otherwise be taken for an older one.
    """
    if known.as_of is not None and known.as_of > now:
        known = replace(known, as_of=None)
    others = tuple(
        replace(way, as_of=None) if way.as_of is not None and way.as_of > now else way
        for way in known.contact.others
    )
    if others != known.contact.others:
        known = replace(known, contact=replace(known.contact, others=others))
    return known


def _is_ahead(contact: Contact, now: datetime) -> bool:
    newest = contact.acts[-1].at if contact.acts else now  # the newest is last
    return newest > now or any(one.at > now for one in contact.preferences)


def _no_earlier(wish: Preference, before: Preference | None) -> Preference:
    """Return a wish for less mail dated no earlier than the one before."""
    if before is None or STRICTNESS.index(wish.frequency) <= STRICTNESS.index(before.frequency):
        return wish
    return replace(wish, at=max(wish.at, before.at))


async def agreed_ahead(
    session: Session, entries: Sequence[SuppressionEntry], now: datetime
) -> Mapping[int, datetime]:
    """Return the date of the person's last agreement, for entries that it would outweigh.

    Keys are the positions of entries. Raises `AddressError`.
    """
    names: dict[str, list[int]] = {}
    for place, one in enumerate(entries):
        if one.origin in _YIELDING and not is_key_text(one.address):
            name = suppressed_name(one.address)
            for each in {name, widened(name)}:
                names.setdefault(each, []).append(place)
    if not names:
        return {}
    found: dict[int, datetime] = {}
    for name, micros in await session.fetch_all(_AHEAD, listed(names), to_micros(now)):
        at = from_micros(micros)
        for place in names[name]:
            if entries[place].since < at:
                found[place] = max(at, found.get(place, at))
    return found


def dated(
    entries: Sequence[SuppressionEntry],
    ahead: Mapping[int, datetime],
    known: Sequence[datetime | None],
) -> Sequence[SuppressionEntry]:
    """Return the entries with the dates of `ahead`, by position, except repeated ones.

    `known` says since when the same suppression exists.
    """
    return [
        one
        if place not in ahead or ((at := known[place]) is not None and at >= one.since)
        else replace(one, since=ahead[place])
        for place, one in enumerate(entries)
    ]
