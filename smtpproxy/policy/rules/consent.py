"""Consent and its withdrawal (design.md section 5; rules A2 to A5; RGPD art. 7)."""

from collections.abc import Sequence
from datetime import datetime

from smtpproxy.policy.model import (
    Basis,
    ConsentAct,
    Contact,
    Evidence,
    Reading,
    Reason,
    Rulebook,
    Verdict,
)
from smtpproxy.policy.rules.case import RecipientCase, allow, refuse
from smtpproxy.policy.rules.clock import is_active

WITHDRAWN = refuse("withdrawn", Reason.CONSENT_WITHDRAWN)
CONSENT = allow("consent", Basis.CONSENT)

_CONFIRMED = "double_opt_in"
_DEFAULT = Rulebook("")
_VALID, _MISSING = Reason.NONE, Reason.CONSENT_MISSING


def withdrawn(case: RecipientCase) -> Verdict | None:
    """Refuse while a withdrawal for the purpose stands, whatever other basis there is."""
    contact = case.facts.contact
    if contact is not None and contact.acts and _is_withdrawn(case, contact.acts):
        return WITHDRAWN
    if case.facts.readings and (elsewhere := withdrawn_reading(case)) is not None:
        return refuse("withdrawn", Reason.CONSENT_WITHDRAWN, f"by {elsewhere.address}")
    return None


def withdrawn_reading(case: RecipientCase) -> Reading | None:
    """Return another reading of the address where consent is withdrawn."""
    return next((one for one in case.facts.readings if _is_withdrawn(case, one.acts)), None)


def valid_consent(case: RecipientCase) -> Verdict | None:
    return CONSENT if consent_failure(case) is _VALID else None


def consent_failure(case: RecipientCase) -> Reason:
    """Return the first failure of the consent for the purpose, NONE when it is valid.

    CONSENT_MISSING when there is no act for the purpose at all.
    """
    contact, rulebook = case.facts.contact, case.rulebook
    act = None if contact is None else newest_act(contact, case.stream.purpose, rulebook)
    if contact is None or act is None:
        return _MISSING
    if _is_withdrawn(case, contact.acts):
        return Reason.CONSENT_WITHDRAWN
    failure = _act_failure(act, contact.acts, case)
    if failure is not _VALID:
        return failure
    if not is_active(contact, rulebook.consent_period, rulebook, case.now):
        return Reason.CONSENT_EXPIRED
    return _VALID


def _act_failure(act: ConsentAct, acts: Sequence[ConsentAct], case: RecipientCase) -> Reason:
    """Return what was wrong with an agreement when it was given, NONE when nothing was."""
    rulebook = case.rulebook
    request = confirmed_request(acts, act) if act.method == _CONFIRMED else None
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
    """Return the newest act for the purpose; of several at one time, the strictest.

    A double opt-in that waits for its confirmation counts only where there is nothing
    else: anybody could have typed the address, and that must not undo what the person
    said before.
    """
    newest = None
    for act in contact.acts:
        if act.purpose != purpose:
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
    """Rank acts of one moment. Of two that are otherwise alike, the one that is proven counts:
    evidence that is found later does not make another act."""
    return (
        act.withdrawal,
        act.method in rulebook.preticked_methods,
        act.conditional and not rulebook.conditional_allowed,
        act.method not in rulebook.valid_methods,
        "email" not in act.channels,
        all(_states(act.evidence, name) for name in rulebook.required_evidence),
    )


def confirmed_request(acts: Sequence[ConsentAct], act: ConsentAct) -> ConsentAct | None:
    """Return the newest request that `act` may be the confirmation of, None without one."""
    requests = [
        each for each in acts if each.pending and each.purpose == act.purpose and each.at <= act.at
    ]
    return max(requests, key=lambda each: each.at, default=None)


def withdrawn_at(case: RecipientCase) -> datetime | None:
    """Return when consent for the purpose was last withdrawn, None when it never was."""
    contact, purpose = case.facts.contact, case.stream.purpose
    newest = None if contact is None else newest_withdrawal(contact.acts, purpose)
    elsewhere = [newest_withdrawal(one.acts, purpose) for one in case.facts.readings]
    return newest or max(filter(None, elsewhere), default=None)


def newest_withdrawal(acts: Sequence[ConsentAct], purpose: str | None) -> datetime | None:
    newest = None
    for act in acts:
        if act.withdrawal and act.purpose == purpose and (newest is None or act.at > newest):
            newest = act.at
    return newest


def _is_withdrawn(case: RecipientCase, acts: Sequence[ConsentAct]) -> bool:
    """Whether a withdrawal stands: only consent that was valid when it was given undoes one.

    It must be later than the withdrawal and not later than now, and nothing stricter may
    have been said at its moment: silence, a box ticked in advance and what was not
    confirmed undo nothing.
    """
    purpose, now = case.stream.purpose, case.now
    newest = newest_withdrawal(acts, purpose)
    if newest is None:
        return False
    later = [
        act
        for act in acts
        if newest < act.at <= now
        and act.purpose == purpose
        and not act.withdrawal
        and not act.pending
    ]
    void = {act.at for act in later if not _was_agreement(act, case)}
    return not any(act.at not in void and _act_failure(act, acts, case) is _VALID for act in later)


def _was_agreement(act: ConsentAct, case: RecipientCase) -> bool:
    """Whether an act was one of agreement by what it was, whatever proves it."""
    return not any(_strictness(act, case.rulebook)[:-1])


def _is_proven(act: ConsentAct, request: ConsentAct | None, case: RecipientCase) -> bool:
    """Whether an active method, the evidence and a time that has come are on record.

    What proves a confirmation may stand in the request that it confirms.
    """
    rulebook = case.rulebook
    if act.pending or act.method not in rulebook.valid_methods or act.at > case.now:
        return False
    for name in rulebook.required_evidence:
        if not (
            _states(act.evidence, name) or (request is not None and _states(request.evidence, name))
        ):
            return False
    return True


def _states(evidence: Evidence, name: str) -> bool:
    value = getattr(evidence, name)
    return value is not None and value != "" and not value.isspace()
