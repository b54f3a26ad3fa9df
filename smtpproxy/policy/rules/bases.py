"""The bases other than consent (design.md section 4, rules 8 to 11).

Each `…_failure` returns the first condition that is missing, `Reason.NONE` when the
basis holds, and `Reason.CONSENT_MISSING` when the basis is not there at all: then only
consent could have allowed the mail.
"""

from smtpproxy.policy.model import Audience, Basis, Contact, Nature, Reason, Source, Verdict
from smtpproxy.policy.rules.case import RecipientCase, allow, refuse
from smtpproxy.policy.rules.clock import is_active, within_years
from smtpproxy.policy.rules.consent import consent_failure

_CUSTOMER = allow("existing_customer", Basis.EXISTING_CUSTOMER)
_CHARITY = allow("charity", Basis.CHARITY)
_PROFESSIONAL = allow("professional", Basis.PROFESSIONAL)
_REFUSALS = {reason: refuse("nearest_basis", reason) for reason in Reason}


def existing_customer(case: RecipientCase) -> Verdict | None:
    return _CUSTOMER if customer_failure(case) is Reason.NONE else None


def charity(case: RecipientCase) -> Verdict | None:
    return _CHARITY if charity_failure(case) is Reason.NONE else None


def professional(case: RecipientCase) -> Verdict | None:
    return _PROFESSIONAL if professional_failure(case) is Reason.NONE else None


def nearest_refusal(case: RecipientCase) -> Verdict:
    """Refuse with what is missing from the basis that came nearest."""
    for failure in (consent_failure, customer_failure, charity_failure, professional_failure):
        reason = failure(case)
        if reason is not Reason.CONSENT_MISSING:
            return _REFUSALS[reason]
    return _REFUSALS[Reason.CONSENT_MISSING]


def customer_failure(case: RecipientCase) -> Reason:
    """A customer of similar products, told and free to refuse when collected (A6 to A9, A11)."""
    contact, now = case.facts.contact, case.now
    if contact is None or not contact.purchases:
        return Reason.CONSENT_MISSING
    purchases = [purchase for purchase in contact.purchases if purchase.at <= now]
    if not purchases:
        return Reason.CONSENT_MISSING
    years = case.rulebook.customer_years
    recent = {p.product for p in purchases if within_years(p.at, years, now)}
    if not recent:
        return Reason.CUSTOMER_STALE
    if recent.isdisjoint(case.stream.products):
        return Reason.PRODUCT_NOT_SIMILAR
    if contact.source is not Source.DIRECT:
        return Reason.SOURCE_NOT_DIRECT
    return _notice_failure(contact, case)


def charity_failure(case: RecipientCase) -> Reason:
    """A charity's stream to somebody told and free to refuse, and not silent (A10, A17)."""
    contact = case.facts.contact
    if contact is None or case.stream.nature is not Nature.CHARITY:
        return Reason.CONSENT_MISSING
    failure = _notice_failure(contact, case)
    return _silence(contact, case) if failure is Reason.NONE else failure


def professional_failure(case: RecipientCase) -> Reason:
    """A professional, told, written to about what they do, and not silent (A13, A14)."""
    contact = case.facts.contact
    if contact is None or contact.audience is not Audience.PROFESSIONAL:
        return Reason.CONSENT_MISSING
    if not is_informed(contact, case):
        return Reason.NOTICE_MISSING
    if contact.occupations.isdisjoint(case.stream.topics):
        return Reason.TOPIC_UNRELATED
    return _silence(contact, case)


def is_informed(contact: Contact, case: RecipientCase) -> bool:
    """Whether the person was told at collection, not later (A11).

    Where the time of collection is unknown, a notice that has been given is enough.
    """
    informed, collected = contact.informed_at, contact.collected_at
    return (
        informed is not None
        and informed <= case.now
        and (collected is None or informed <= collected)
    )


def _notice_failure(contact: Contact, case: RecipientCase) -> Reason:
    if not is_informed(contact, case):
        return Reason.NOTICE_MISSING
    return Reason.NONE if contact.optout_offered else Reason.OPTOUT_NOT_OFFERED


def _silence(contact: Contact, case: RecipientCase) -> Reason:
    active = is_active(contact, case.rulebook.activity_years, case.rulebook, case.now)
    return Reason.NONE if active else Reason.INACTIVE
