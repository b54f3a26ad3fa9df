"""What was known at a past moment, for decisions as of then (`--at`)."""

from datetime import datetime

from msgspec.structs import replace

from smtpproxy.policy.contact import collected, collections
from smtpproxy.policy.model import Contact, RecipientFacts


def known_at(facts: RecipientFacts, moment: datetime) -> RecipientFacts:
    """Return `facts` without everything that happened after `moment`.

    If the store keeps only the newest of several times (the last activity) and that is later, it is
    left out: the earlier ones are no longer known, and the strict reading is that there were none.
    Suppressions lifted since and data erased since cannot be restored either; the audit log, not
    this, is the record of what was decided.
    """
    suppressions = tuple(s for s in facts.suppressions if s.since <= moment)
    contact = None if facts.contact is None else _contact_at(facts.contact, moment)
    one_is_later = _later(facts.newest_snapshot_at or facts.snapshot_at, moment)
    return replace(
        facts,
        suppressions=suppressions,
        contact=contact,
        mailings=tuple(m for m in facts.mailings if m.at <= moment),
        first_mailed_at=None if _later(facts.first_mailed_at, moment) else facts.first_mailed_at,
        snapshot_at=None if one_is_later else facts.snapshot_at,
        newest_snapshot_at=None if one_is_later else facts.newest_snapshot_at,
        pauses=tuple(p for p in facts.pauses if p.at <= moment),
    )


def _contact_at(contact: Contact, moment: datetime) -> Contact | None:
    """The contact as it was known, or None if it was collected later."""
    ways = tuple(
        replace(
            each,
            informed_at=None if _later(each.informed_at, moment) else each.informed_at,
            last_activity_at=(
                None if _later(each.last_activity_at, moment) else each.last_activity_at
            ),
        )
        for each in collections(contact)
        if not _later(each.collected_at, moment)
    )
    if not ways:
        return None
    return replace(
        collected(contact, ways),
        purchases=tuple(p for p in contact.purchases if p.at <= moment),
        acts=tuple(a for a in contact.acts if a.at <= moment),
        first_contacted_at=(
            None if _later(contact.first_contacted_at, moment) else contact.first_contacted_at
        ),
        profiling_objected_at=(
            None if _later(contact.profiling_objected_at, moment) else contact.profiling_objected_at
        ),
        preferences=tuple(p for p in contact.preferences if p.at <= moment),
    )


def _later(at: datetime | None, moment: datetime) -> bool:
    return at is not None and at > moment
