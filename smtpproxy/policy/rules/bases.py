"""The bases other than consent (design.md section 4, rules 8 to 11).

Each `…_failure` returns the first condition that is missing, `Reason.NONE` when the
basis holds, and `Reason.CONSENT_MISSING` when the basis is not there at all: then only
consent could have allowed the mail. Which conditions there are, and in which order, the
rulebook says.
"""

from collections.abc import Callable

from smtpproxy.policy.model import (
    Audience,
    Basis,
    Condition,
    Contact,
    Dealing,
    Nature,
    Reason,
    Source,
    Verdict,
)
from smtpproxy.policy.periods import within
from smtpproxy.policy.rules.case import RecipientCase, allow, refuse
from smtpproxy.policy.rules.clock import is_active
from smtpproxy.policy.rules.consent import consent_failure

_CUSTOMER = allow("existing_customer", Basis.EXISTING_CUSTOMER)
_CHARITY = allow("charity", Basis.CHARITY)
_PROFESSIONAL = allow("professional", Basis.PROFESSIONAL)
_OPT_OUT = allow("opt_out", Basis.OPT_OUT)
# Looking a member up in its enum costs more than the test that it is for.
_HOLDS, _NOT_THERE = Reason.NONE, Reason.CONSENT_MISSING
_INQUIRY, _SIMILAR_PRODUCT = Dealing.INQUIRY, Condition.SIMILAR_PRODUCT
_DIRECT, _AS_PROFESSIONAL, _OF_CHARITY = Source.DIRECT, Audience.PROFESSIONAL, Nature.CHARITY

_REFUSALS = {reason: refuse("nearest_basis", reason) for reason in Reason}


def existing_customer(case: RecipientCase) -> Verdict | None:
    return _CUSTOMER if customer_failure(case) is _HOLDS else None


def charity(case: RecipientCase) -> Verdict | None:
    return _CHARITY if charity_failure(case) is _HOLDS else None


def professional(case: RecipientCase) -> Verdict | None:
    return _PROFESSIONAL if professional_failure(case) is _HOLDS else None


def opt_out(case: RecipientCase) -> Verdict:
    """Allow what no rule before this one refused: mail is lawful until the person objects."""
    return _OPT_OUT


def nearest_refusal(case: RecipientCase) -> Verdict:
    """Refuse with what is missing from the basis that came nearest: the first that is there."""
    for basis in case.rulebook.bases:
        failure = _FAILURES.get(basis)
        reason = _NOT_THERE if failure is None else failure(case)
        if reason is not _NOT_THERE:
            return _REFUSALS[reason]
    return _REFUSALS[_NOT_THERE]


def customer_failure(case: RecipientCase) -> Reason:
    """A customer, told and free to refuse when collected (A6 to A9, A11)."""
    contact, rulebook = case.facts.contact, case.rulebook
    if contact is None or not contact.purchases:
        return _NOT_THERE
    now, stale, recent = case.now, False, set()
    for purchase in contact.purchases:
        if purchase.at <= now and purchase.kind in rulebook.dealings:
            inquiry = purchase.kind is _INQUIRY
            period = rulebook.inquiry_period if inquiry else rulebook.customer_period
            if within(purchase.at, period, now):
                recent.add(purchase.product)
            else:
                stale = True
    if not recent:
        return Reason.CUSTOMER_STALE if stale else _NOT_THERE
    for condition in rulebook.customer_requires:
        if condition is _SIMILAR_PRODUCT:
            if recent.isdisjoint(case.stream.products):
                return Reason.PRODUCT_NOT_SIMILAR
            continue
        holds, reason = _CONDITIONS[condition]
        if not holds(contact, case):
            return reason
    return _HOLDS


def charity_failure(case: RecipientCase) -> Reason:
    """A charity's stream to somebody told and free to refuse, and not silent (A10, A17).

    Where the law asks for support or interest, one must be on record.
    """
    contact = case.facts.contact
    if contact is None or case.stream.nature is not _OF_CHARITY:
        return _NOT_THERE
    since, collected = case.rulebook.charity_since, contact.collected_at
    if since is not None and (collected is None or not since <= collected <= case.now):
        return _NOT_THERE
    wanted = case.rulebook.charity_dealings
    if wanted and not any(p.kind in wanted and p.at <= case.now for p in contact.purchases):
        return _NOT_THERE
    return _first_missing(case.rulebook.charity_requires, contact, case)


def professional_failure(case: RecipientCase) -> Reason:
    """A professional, told, written to about what they do, and not silent (A13, A14)."""
    contact = case.facts.contact
    if contact is None or contact.audience is not _AS_PROFESSIONAL:
        return _NOT_THERE
    return _first_missing(case.rulebook.professional_requires, contact, case)


def is_informed(contact: Contact, case: RecipientCase) -> bool:
    """Whether the person was told at collection, not later (A11).

    Where the time of collection is unknown, a notice that has been given is enough; where
    it is one that has not come, nothing shows that the notice was not late.
    """
    informed, collected = contact.informed_at, contact.collected_at
    return (
        informed is not None
        and informed <= case.now
        and (collected is None or informed <= collected <= case.now)
    )


def _first_missing(
    conditions: tuple[Condition, ...], contact: Contact, case: RecipientCase
) -> Reason:
    for condition in conditions:
        holds, reason = _CONDITIONS[condition]
        if not holds(contact, case):
            return reason
    return _HOLDS


def _is_direct(contact: Contact, case: RecipientCase) -> bool:
    return contact.source is _DIRECT


def _could_refuse(contact: Contact, case: RecipientCase) -> bool:
    return contact.optout_offered is True  # not on record is not yes


def _concerns_them(contact: Contact, case: RecipientCase) -> bool:
    """Whether the topic is theirs. Who objected to profiling counts as what they said alone."""
    if contact.profiling_objected_at is not None and contact.source is not _DIRECT:
        return False
    return not contact.occupations.isdisjoint(case.stream.topics)


def _is_not_silent(contact: Contact, case: RecipientCase) -> bool:
    return is_active(contact, case.rulebook.activity_period, case.rulebook, case.now)


# Similar products are a customer's alone, and are compared where the purchases are.
_CONDITIONS: dict[Condition, tuple[Callable[[Contact, RecipientCase], bool], Reason]] = {
    Condition.DIRECT_SOURCE: (_is_direct, Reason.SOURCE_NOT_DIRECT),
    Condition.NOTICE: (is_informed, Reason.NOTICE_MISSING),
    Condition.OPTOUT_OFFERED: (_could_refuse, Reason.OPTOUT_NOT_OFFERED),
    Condition.TOPIC: (_concerns_them, Reason.TOPIC_UNRELATED),
    Condition.ACTIVE: (_is_not_silent, Reason.INACTIVE),
}
_FAILURES: dict[Basis, Callable[[RecipientCase], Reason]] = {
    Basis.CONSENT: consent_failure,
    Basis.EXISTING_CUSTOMER: customer_failure,
    Basis.CHARITY: charity_failure,
    Basis.PROFESSIONAL: professional_failure,
}
