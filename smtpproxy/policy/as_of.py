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
    snapshots_at = _known(facts.newest_snapshot_at or facts.snapshot_at, moment)
    return replace(
        facts,
        suppressions=suppressions,
        contact=contact,
        mailings=tuple(m for m in facts.mailings if m.at <= moment),
        first_mailed_at=_known(facts.first_mailed_at, moment),
        snapshot_at=facts.snapshot_at if snapshots_at else None,
        newest_snapshot_at=facts.newest_snapshot_at if snapshots_at else None,
        pauses=tuple(p for p in facts.pauses if p.at <= moment),
    )


def _contact_at(contact: Contact, moment: datetime) -> Contact | None:
    """The contact as it was known, or None if it was collected later."""
    ways = tuple(
        replace(
            each,
            informed_at=_known(each.informed_at, moment),
            last_activity_at=_known(each.last_activity_at, moment),
        )
        for each in collections(contact)
        if each.collected_at is None or each.collected_at <= moment
    )
    if not ways:
        return None
    return replace(
        collected(contact, ways),
        purchases=tuple(p for p in contact.purchases if p.at <= moment),
        acts=tuple(a for a in contact.acts if a.at <= moment),
        first_contacted_at=_known(contact.first_contacted_at, moment),
        profiling_objected_at=_known(contact.profiling_objected_at, moment),
        preferences=tuple(p for p in contact.preferences if p.at <= moment),
    )


def _known(at: datetime | None, moment: datetime) -> datetime | None:
    return None if at is None or at > moment else at
