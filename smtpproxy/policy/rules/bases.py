"""Consent (design.md section 5; rules A2 to A5; RGPD art. 7) and the other bases (section 4).

Each `…_failure` returns the first condition that is not met, `Reason.NONE` if the basis holds, and
`Reason.CONSENT_MISSING` if there is nothing of that basis: then only consent could have allowed the
mail. The rulebook lists the conditions and their order.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

from smtpproxy.mail.visible_text import folded
from smtpproxy.policy.model import (
    Audience,
    Basis,
    Condition,
    ConsentAct,
    Contact,
    Dealing,
    Evidence,
    Nature,
    Reading,
    Reason,
    Rulebook,
    Sign,
    Source,
    Verdict,
)
from smtpproxy.policy.periods import within
from smtpproxy.policy.rulebook import DOUBLE_OPT_IN
from smtpproxy.policy.rules import RecipientCase, allow, is_active, refuse

WITHDRAWN = refuse("withdrawn", Reason.CONSENT_WITHDRAWN)
CONSENT = allow("consent", Basis.CONSENT)

_DEFAULT = Rulebook("")
_VALID, _MISSING = Reason.NONE, Reason.CONSENT_MISSING
_CONSENT_SIGN = Sign.CONSENT


def withdrawn(case: RecipientCase) -> Verdict | None:
    """Refuse while a withdrawal for the purpose is in force, whatever other basis there is."""
    contact = case.facts.contact
    if contact is not None and contact.acts and _is_withdrawn(case, contact.acts):
        return WITHDRAWN
    if case.facts.readings and (elsewhere := withdrawn_reading(case)) is not None:
        return refuse("withdrawn", Reason.CONSENT_WITHDRAWN, f"by {elsewhere.address}")
    return None


def withdrawn_reading(case: RecipientCase) -> Reading | None:
    """Return another reading of the address for which consent is withdrawn."""
    return next((one for one in case.facts.readings if _is_withdrawn(case, one.acts)), None)


def valid_consent(case: RecipientCase) -> Verdict | None:
    """Allow by consent. The earlier rule `withdrawn` has checked that it is not withdrawn."""
    contact = case.facts.contact
    act = None if contact is None else newest_act(contact, case.stream.purpose, case.rulebook)
    if contact is None or act is None:
        return None
    return CONSENT if _standing_failure(act, contact, case) is _VALID else None


def consent_failure(case: RecipientCase) -> Reason:
    """Return what is wrong with the consent for the purpose, NONE if it is valid.

    CONSENT_MISSING if there is no act for the purpose.
    """
    contact, rulebook = case.facts.contact, case.rulebook
    act = None if contact is None else newest_act(contact, case.stream.purpose, rulebook)
    if contact is None or act is None:
        return _MISSING
    if _is_withdrawn(case, contact.acts):
        return Reason.CONSENT_WITHDRAWN
    return _standing_failure(act, contact, case)


def _standing_failure(act: ConsentAct, contact: Contact, case: RecipientCase) -> Reason:
    """Return what is wrong with an agreement that is not withdrawn, NONE if nothing is."""
    failure = _act_failure(act, contact.acts, case)
    if failure is not _VALID:
        return failure
    rulebook, period = case.rulebook, case.rulebook.consent_period
    if _CONSENT_SIGN in rulebook.signs_of_life and within(act.at, period, case.now):
        return _VALID  # a sign of life itself, so the last activity is no older
    # An address passed on by somebody else says nothing about the person who agreed.
    active = is_active(contact, period, rulebook, case.now, passed_on=False)
    return _VALID if active else Reason.CONSENT_EXPIRED


def _act_failure(act: ConsentAct, acts: Sequence[ConsentAct], case: RecipientCase) -> Reason:
    """Return what was wrong with an agreement when it was given, NONE if nothing was."""
    rulebook = case.rulebook
    request = confirmed_request(acts, act) if act.method == DOUBLE_OPT_IN else None
    if act.method in rulebook.preticked_methods:
        return Reason.CONSENT_PRETICKED
    conditional = act.conditional or (request is not None and request.conditional)
    if conditional and not rulebook.conditional_allowed:
        return Reason.CONSENT_CONDITIONAL
    if not _is_proven(act, request, case):
        return Reason.CONSENT_UNPROVEN
    if "email" not in act.channels:
        return Reason.CONSENT_CHANNEL
    return _VALID


def newest_act(
    contact: Contact, purpose: str | None, rulebook: Rulebook = _DEFAULT
) -> ConsentAct | None:
    """Return the newest act for the purpose; of several at the same time, the strictest.

    An unconfirmed double opt-in counts only if there is nothing else: anybody could have typed the
    address, and that must not undo what the person said before.
    """
    newest = None
    for act in contact.acts:
        if act.purpose != purpose and not act.is_about(purpose):
            continue
        if newest is None:
            newest = act
            continue
        rank, other = (not act.pending, act.at), (not newest.pending, newest.at)
        if rank > other or (
            rank == other and _strictness(act, rulebook) >= _strictness(newest, rulebook)
        ):
            newest = act
    return newest


def _strictness(act: ConsentAct, rulebook: Rulebook) -> tuple[bool, ...]:
    """Rank acts of the same moment. Of two otherwise equal ones the proven one counts, because
    evidence found later does not make a new act."""
    return (
        act.withdrawal,
        bool(act.conditional) and not rulebook.conditional_allowed,
        act.method not in rulebook.valid_methods,
        "email" not in act.channels,
        all(states(act.evidence, name) for name in rulebook.required_evidence),
    )


def confirmed_request(acts: Sequence[ConsentAct], act: ConsentAct) -> ConsentAct | None:
    """Return the newest request that `act` may confirm, or None."""
    requests = [
        each
        for each in acts
        if each.pending
        and each.purpose == act.purpose
        and each.at <= act.at
        and each.brand in (None, act.brand)
    ]
    return max(requests, key=lambda each: each.at, default=None)


def withdrawn_at(case: RecipientCase) -> datetime | None:
    """Return when consent for the purpose was last withdrawn, None if it never was.

    If another reading of the address withdrew it, only that withdrawal is in force.
    """
    contact, purpose = case.facts.contact, case.stream.purpose
    acts = () if contact is None else contact.acts
    if not _is_withdrawn(case, acts) and (elsewhere := withdrawn_reading(case)) is not None:
        acts = elsewhere.acts
    return newest_withdrawal(acts, purpose)


def newest_withdrawal(acts: Sequence[ConsentAct], purpose: str | None) -> datetime | None:
    newest = None
    for act in acts:
        if act.withdrawal and act.is_about(purpose) and (newest is None or act.at > newest):
            newest = act.at
    return newest


def _is_withdrawn(case: RecipientCase, acts: Sequence[ConsentAct]) -> bool:
    """Whether a withdrawal is in force: only consent that was valid when given ends one.

    It must be later than the withdrawal and no later than now, and nothing stricter may have been
    said at the same moment. Silence, a pre-ticked box and an unconfirmed request do not end a
    withdrawal.
    """
    purpose = case.stream.purpose
    newest = newest_withdrawal(acts, purpose)
    if newest is None:
        return False
    now = case.now
    later = [
        act for act in acts if newest < act.at <= now and act.purpose == purpose and not act.pending
    ]
    void = {act.at for act in later if not _was_agreement(act, case)}
    return not any(act.at not in void and _act_failure(act, acts, case) is _VALID for act in later)


def _was_agreement(act: ConsentAct, case: RecipientCase) -> bool:
    """Whether an act was an agreement in itself, regardless of its proof."""
    return not any(_strictness(act, case.rulebook)[:-1])


def _is_proven(act: ConsentAct, request: ConsentAct | None, case: RecipientCase) -> bool:
    """Whether the act has an active method, the evidence, and a time not in the future.

    The evidence of a confirmation may be that of the request that it confirms.
    """
    rulebook = case.rulebook
    if act.pending or act.method not in rulebook.valid_methods or act.at > case.now:
        return False
    for name in rulebook.required_evidence:
        if states(act.evidence, name):
            continue
        if request is None or not states(request.evidence, name):
            return False
    return True


def states(evidence: Evidence, name: str) -> bool:
    """Whether the evidence has a field; white space states nothing."""
    value: str | None = getattr(evidence, name)
    if value is None or not value.strip():
        return False
    return value.isascii() or folded(value) != ""  # invisible characters state nothing


_CUSTOMER = allow("existing_customer", Basis.EXISTING_CUSTOMER)
_CHARITY = allow("charity", Basis.CHARITY)
_PROFESSIONAL = allow("professional", Basis.PROFESSIONAL)
_OPT_OUT = allow("opt_out", Basis.OPT_OUT)
# Looking up an enum member costs more than comparing with it.
_INQUIRY, _SIMILAR_PRODUCT = Dealing.INQUIRY, Condition.SIMILAR_PRODUCT
_DIRECT, _AS_PROFESSIONAL, _OF_CHARITY = Source.DIRECT, Audience.PROFESSIONAL, Nature.CHARITY

_REFUSALS = {reason: refuse("nearest_basis", reason) for reason in Reason}


def existing_customer(case: RecipientCase) -> Verdict | None:
    return _CUSTOMER if customer_failure(case) is _VALID else None


def charity(case: RecipientCase) -> Verdict | None:
    return _CHARITY if charity_failure(case) is _VALID else None


def professional(case: RecipientCase) -> Verdict | None:
    return _PROFESSIONAL if professional_failure(case) is _VALID else None


def opt_out(case: RecipientCase) -> Verdict:
    """Allow whatever no earlier rule refused: mail is lawful until the person objects."""
    return _OPT_OUT


def nearest_refusal(case: RecipientCase) -> Verdict:
    """Refuse with what is missing from the nearest basis: the first with anything on record."""
    for basis in case.rulebook.bases:
        failure = FAILURES.get(basis)
        reason = _MISSING if failure is None else failure(case)
        if reason is not _MISSING:
            return _REFUSALS[reason]
    return _REFUSALS[_MISSING]


def customer_failure(case: RecipientCase) -> Reason:
    """A customer, informed and able to refuse at collection (A6 to A9, A11)."""
    contact, rulebook = case.facts.contact, case.rulebook
    if contact is None or not contact.purchases:
        return _MISSING
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
        return Reason.CUSTOMER_STALE if stale else _MISSING
    for condition in rulebook.customer_requires:
        if condition is _SIMILAR_PRODUCT:
            if recent.isdisjoint(case.stream.products):
                return Reason.PRODUCT_NOT_SIMILAR
            continue
        holds, reason = _CONDITIONS[condition]
        if not holds(contact, case):
            return reason
    return _VALID


def charity_failure(case: RecipientCase) -> Reason:
    """A charity's stream, to somebody informed, able to refuse and not inactive (A10, A17).

    If the law requires support or interest, one of them must be on record.
    """
    contact = case.facts.contact
    if contact is None or case.stream.nature is not _OF_CHARITY:
        return _MISSING
    since, collected = case.rulebook.charity_since, contact.collected_at
    if since is not None and (collected is None or not since <= collected <= case.now):
        return _MISSING
    wanted = case.rulebook.charity_dealings
    if wanted and not any(p.kind in wanted and p.at <= case.now for p in contact.purchases):
        return _MISSING
    return _first_missing(case.rulebook.charity_requires, contact, case)


def professional_failure(case: RecipientCase) -> Reason:
    """A professional, informed, mailed about their occupation, and not inactive (A13, A14)."""
    contact = case.facts.contact
    if contact is None or contact.audience is not _AS_PROFESSIONAL:
        return _MISSING
    return _first_missing(case.rulebook.professional_requires, contact, case)


def is_informed(contact: Contact, case: RecipientCase) -> bool:
    """Whether the person was informed at collection, not later (A11).

    If the time of collection is unknown or to come, nothing shows that the notice was in time.
    """
    informed, collected = contact.informed_at, contact.collected_at
    return informed is not None and collected is not None and informed <= collected <= case.now


def _first_missing(
    conditions: tuple[Condition, ...], contact: Contact, case: RecipientCase
) -> Reason:
    for condition in conditions:
        holds, reason = _CONDITIONS[condition]
        if not holds(contact, case):
            return reason
    return _VALID


def _is_direct(contact: Contact, case: RecipientCase) -> bool:
    return contact.source is _DIRECT


def _could_refuse(contact: Contact, case: RecipientCase) -> bool:
    return contact.optout_offered is True  # None, not on record, is not enough


def _concerns_them(contact: Contact, case: RecipientCase) -> bool:
    """Whether the topic is one of their occupations. After an objection to profiling, only
    occupations that they stated themselves count."""
    if contact.profiling_objected_at is not None and contact.source is not _DIRECT:
        return False
    return not contact.occupations.isdisjoint(case.stream.topics)


def _is_not_silent(contact: Contact, case: RecipientCase) -> bool:
    return is_active(contact, case.rulebook.activity_period, case.rulebook, case.now)


# SIMILAR_PRODUCT applies only to customers: `customer_failure` checks it.
_CONDITIONS: dict[Condition, tuple[Callable[[Contact, RecipientCase], bool], Reason]] = {
    Condition.DIRECT_SOURCE: (_is_direct, Reason.SOURCE_NOT_DIRECT),
    Condition.NOTICE: (is_informed, Reason.NOTICE_MISSING),
    Condition.OPTOUT_OFFERED: (_could_refuse, Reason.OPTOUT_NOT_OFFERED),
    Condition.TOPIC: (_concerns_them, Reason.TOPIC_UNRELATED),
    Condition.ACTIVE: (_is_not_silent, Reason.INACTIVE),
}
FAILURES: dict[Basis, Callable[[RecipientCase], Reason]] = {
    Basis.CONSENT: consent_failure,
    Basis.EXISTING_CUSTOMER: customer_failure,
    Basis.CHARITY: charity_failure,
    Basis.PROFESSIONAL: professional_failure,
}
