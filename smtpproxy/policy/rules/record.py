"""What the record must be before any basis is looked at (design.md section 4, rules 3 to 6)."""

from collections.abc import Collection, Iterable
from datetime import datetime

from smtpproxy.policy.model import (
    Audience,
    Basis,
    Link,
    Provenance,
    Reason,
    Rulebook,
    Source,
    Verdict,
)
from smtpproxy.policy.rules.case import RecipientCase, allow, refuse

_UNKNOWN = Source.UNKNOWN
_GENERIC = allow("generic_address", Basis.GENERIC_ADDRESS)
_NO_RECORD = refuse("no_record", Reason.NO_RECORD)
_RESTRICTED = refuse("restricted", Reason.CONTACT_RESTRICTED)
_FORBIDDEN = refuse("source", Reason.SOURCE_FORBIDDEN)
_UNDISCLOSED = refuse("source", Reason.SOURCE_UNDISCLOSED)
_UNPROVEN = refuse("source", Reason.SOURCE_UNPROVEN)


def generic_address(case: RecipientCase) -> Verdict | None:
    """Allow an address that belongs to an organisation and not to a person (A15).

    One that is on record needs what every record needs: no tag that protects it, and a
    source. At a provider of private mailboxes it is somebody's, whatever the record says.
    """
    contact = case.facts.contact
    local, _, domain = case.address.rpartition("@")
    if contact is not None:
        barred = (
            contact.audience is not Audience.GENERIC
            or is_consumer(domain, case.rulebook)
            or restricted(case)
            or source(case)
        )
        return None if barred else _GENERIC
    if local in case.rulebook.role_local_parts and not is_consumer(domain, case.rulebook):
        return _GENERIC
    return None


def is_consumer(domain: str, rulebook: Rulebook) -> bool:
    """Whether a domain, or one above it, is a consumer mailbox provider's."""
    return is_within(domain, rulebook.consumer_domains)


def is_within(domain: str, domains: Collection[str]) -> bool:
    """Whether a domain, or one above it, is among `domains`."""
    while domain not in domains:
        _, dot, domain = domain.partition(".")
        if not dot:
            return False
    return True


def no_record(case: RecipientCase) -> Verdict | None:
    missing = case.facts.contact is None and case.rulebook.record_required
    return _NO_RECORD if missing else None


def restricted(case: RecipientCase) -> Verdict | None:
    """Refuse private direct addresses that were not given for bulk mail (A26)."""
    contact = case.facts.contact
    if contact is None or not contact.tags:
        return None
    return _RESTRICTED if restricting(contact.tags, case.rulebook.restricted_tags) else None


def restricting(tags: Collection[str], restricted_tags: Iterable[str]) -> frozenset[str]:
    """Return those of a contact's tags that protect it, whatever their case and margins."""
    wanted = {tag.strip().casefold() for tag in restricted_tags} if tags else ()
    return frozenset(tag for tag in tags if tag.strip().casefold() in wanted)


def source(case: RecipientCase) -> Verdict | None:
    """Refuse what was not obtained from the person or by a chain that named us."""
    contact, rulebook = case.facts.contact, case.rulebook
    known = known_source(case)
    if known in rulebook.accepted_sources:
        return None
    if known in rulebook.forbidden_sources:
        return _FORBIDDEN
    if known not in rulebook.disclosed_sources or contact is None:
        return _UNPROVEN
    return None if is_disclosed(contact.provenance, rulebook, case.now) else _UNDISCLOSED


def known_source(case: RecipientCase) -> Source:
    contact = case.facts.contact
    return (None if contact is None else contact.source) or _UNKNOWN


def is_disclosed(provenance: Provenance | None, rulebook: Rulebook, now: datetime) -> bool:
    """Whether every hand is named and disclosed this sender at collection (A22)."""
    if provenance is None:
        return False
    hands = links(provenance)
    if rulebook.longest_chain is not None and len(hands) > rulebook.longest_chain:
        return False
    return all(discloses(hand, now) for hand in hands)


def links(provenance: Provenance) -> tuple[Link, ...]:
    """Return the chain, the collector first; a supplier beside it is its last link."""
    last = Link(provenance.supplier, provenance.sender_disclosed)
    if not provenance.chain:
        return (last,)
    return (*provenance.chain, last) if provenance.supplier else provenance.chain


def discloses(link: Link, now: datetime) -> bool:
    return (
        bool(link.supplier)
        and link.sender_disclosed is True
        and (link.at is None or link.at <= now)
    )
