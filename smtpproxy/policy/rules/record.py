"""What the record must be before any basis is looked at (design.md section 4, rules 3 to 6)."""

from smtpproxy.policy.model import Audience, Basis, Provenance, Reason, Rulebook, Source, Verdict
from smtpproxy.policy.rules.case import RecipientCase, allow, refuse

_GENERIC = allow("generic_address", Basis.GENERIC_ADDRESS)
_NO_RECORD = refuse("no_record", Reason.NO_RECORD)
_RESTRICTED = refuse("restricted", Reason.CONTACT_RESTRICTED)
_FORBIDDEN = refuse("source", Reason.SOURCE_FORBIDDEN)
_UNDISCLOSED = refuse("source", Reason.SOURCE_UNDISCLOSED)
_UNPROVEN = refuse("source", Reason.SOURCE_UNPROVEN)

_FORBIDDEN_SOURCES = frozenset({Source.WEB, Source.HARVESTED, Source.GUESSED})
_HANDED_ON = frozenset({Source.PURCHASED, Source.RENTED, Source.EXCHANGED, Source.PARTNER})


def generic_address(case: RecipientCase) -> Verdict | None:
    """Allow an address that belongs to an organisation and not to a person (A15)."""
    contact = case.facts.contact
    if contact is not None:
        return _GENERIC if contact.audience is Audience.GENERIC else None
    local, _, domain = case.address.rpartition("@")
    if local in case.rulebook.role_local_parts and not is_consumer(domain, case.rulebook):
        return _GENERIC
    return None


def is_consumer(domain: str, rulebook: Rulebook) -> bool:
    """Whether a domain, or one above it, is a consumer mailbox provider's."""
    while domain not in rulebook.consumer_domains:
        _, dot, domain = domain.partition(".")
        if not dot:
            return False
    return True


def no_record(case: RecipientCase) -> Verdict | None:
    return _NO_RECORD if case.facts.contact is None else None


def restricted(case: RecipientCase) -> Verdict | None:
    """Refuse private direct addresses that were not given for bulk mail (A26)."""
    contact = case.facts.contact
    return _RESTRICTED if contact is not None and "restricted" in contact.tags else None


def source(case: RecipientCase) -> Verdict | None:
    """Refuse what was not obtained from the person or by a chain that named us."""
    contact = case.facts.contact
    known = None if contact is None else contact.source
    if known is Source.DIRECT:
        return None
    if known in _FORBIDDEN_SOURCES:
        return _FORBIDDEN
    if known not in _HANDED_ON or contact is None:
        return _UNPROVEN
    return None if is_disclosed(contact.provenance) else _UNDISCLOSED


def is_disclosed(provenance: Provenance | None) -> bool:
    """Whether the supplier is named and this sender was disclosed at collection (A22)."""
    return provenance is not None and bool(provenance.supplier) and provenance.sender_disclosed
