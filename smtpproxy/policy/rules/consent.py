"""Consent and its withdrawal (design.md section 5; rules A2 to A5; RGPD art. 7)."""

from smtpproxy.policy.model import Basis, ConsentAct, Contact, Reason, Verdict
from smtpproxy.policy.rules.case import RecipientCase, allow, refuse
from smtpproxy.policy.rules.clock import is_active

WITHDRAWN = refuse("withdrawn", Reason.CONSENT_WITHDRAWN)
CONSENT = allow("consent", Basis.CONSENT)


def withdrawn(case: RecipientCase) -> Verdict | None:
    """Refuse when the newest act for the purpose is a withdrawal, whatever other basis."""
    contact = case.facts.contact
    if contact is None or not contact.acts:
        return None
    return WITHDRAWN if _is_withdrawn(case, contact) else None


def valid_consent(case: RecipientCase) -> Verdict | None:
    return CONSENT if consent_failure(case) is Reason.NONE else None


def consent_failure(case: RecipientCase) -> Reason:
    """Return the first failure of the consent for the purpose, NONE when it is valid.

    CONSENT_MISSING when there is no act for the purpose at all.
    """
    contact, rulebook = case.facts.contact, case.rulebook
    act = None if contact is None else newest_act(contact, case.stream.purpose)
    if contact is None or act is None:
        return Reason.CONSENT_MISSING
    if _is_withdrawn(case, contact):
        return Reason.CONSENT_WITHDRAWN
    if act.method in rulebook.preticked_methods:
        return Reason.CONSENT_PRETICKED
    if act.conditional:
        return Reason.CONSENT_CONDITIONAL
    if not _is_proven(act, case):
        return Reason.CONSENT_UNPROVEN
    if "email" not in act.channels:
        return Reason.CONSENT_CHANNEL
    if not is_active(contact, rulebook.consent_years, rulebook, case.now):
        return Reason.CONSENT_EXPIRED
    return Reason.NONE


def newest_act(contact: Contact, purpose: str | None) -> ConsentAct | None:
    """Return the newest act for the purpose; of two at one time, the one recorded last."""
    newest = None
    for act in contact.acts:
        if act.purpose == purpose and (newest is None or act.at >= newest.at):
            newest = act
    return newest


def _is_withdrawn(case: RecipientCase, contact: Contact) -> bool:
    """Whether a withdrawal is the newest act that may count; it wins a tie in time.

    Agreement dated after now must not hide a withdrawal from before.
    """
    purpose, now = case.stream.purpose, case.now
    withdrawals = [a.at for a in contact.acts if a.withdrawal and a.purpose == purpose]
    if not withdrawals:
        return False
    newest = max(withdrawals)
    return not any(
        newest < act.at <= now
        for act in contact.acts
        if act.purpose == purpose and not act.withdrawal
    )


def _is_proven(act: ConsentAct, case: RecipientCase) -> bool:
    """Whether an active method, a wording and a time that has come are on record."""
    wording = act.evidence.wording
    return (
        act.method in case.rulebook.valid_methods
        and wording is not None
        and not wording.isspace()
        and wording != ""
        and act.at <= case.now
    )
