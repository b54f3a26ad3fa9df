"""Standing orders not to mail (design.md section 4, rule 0; rules A31 to A36)."""

from collections.abc import Iterator
from datetime import datetime

from smtpproxy.policy.model import (
    Action,
    ConsentAct,
    Origin,
    Reason,
    Stream,
    StreamClass,
    Suppression,
    Verdict,
)
from smtpproxy.policy.rules.case import RecipientCase
from smtpproxy.policy.rules.consent import consent_failure, newest_act

# A bounce and a manual entry hold for the exact address alone.
_WIDENED_ORIGINS = frozenset(
    {Origin.UNSUBSCRIBE, Origin.COMPLAINT, Origin.OBJECTION, Origin.ERASURE, Origin.EXTERNAL}
)
_WIDTH = {"all": 0, "marketing": 1}  # a purpose is the narrowest: 2

_REASONS = {origin: Reason(f"suppressed_{origin}") for origin in Origin}


def suppressed(case: RecipientCase) -> Verdict | None:
    """Refuse by the widest of the suppressions that hold, of these by the oldest."""
    if not case.facts.suppressions:
        return None
    entry = decisive(case)
    if entry is None:
        return None
    detail = f"scope {entry.scope} since {day(entry.since)}"
    if entry.widened:
        detail += ", of another spelling of the address"
    if entry.domain:
        detail += f", of the whole domain {entry.domain}"
    if entry.read_as:
        detail += f", of {entry.read_as}, which an MTA may take the address for"
    return Verdict(Action.REFUSE, _REASONS[entry.origin], rule="suppression", detail=detail)


def decisive(case: RecipientCase) -> Suppression | None:
    """Return the suppression by which the mail is refused, None when none holds."""
    holding = [entry for entry in matching(case) if not _yields(entry, case)]
    return min(holding, key=lambda entry: (_WIDTH.get(entry.scope, 2), entry.since), default=None)


def yielded(case: RecipientCase) -> str | None:
    """Return what to record when suppressions gave way to newer consent, else None."""
    found = yielding(case)
    if found is None:
        return None
    entry, act = found
    return f"the {entry.origin} of {day(entry.since)} yields to the consent given on {day(act.at)}"


def yielding(case: RecipientCase) -> tuple[Suppression, ConsentAct] | None:
    """Return the newest suppression that gave way, and the consent it gave way to."""
    entries = [entry for entry in matching(case) if _yields(entry, case)]
    contact = case.facts.contact
    act = None if contact is None else newest_act(contact, case.stream.purpose, case.rulebook)
    if not entries or act is None:
        return None
    return max(entries, key=lambda entry: entry.since), act


def matching(case: RecipientCase) -> Iterator[Suppression]:
    """Yield the suppressions whose scope covers the stream and whose key may count."""
    for entry in case.facts.suppressions:
        if covers(entry.scope, case.stream) and not (
            entry.widened and entry.origin not in _WIDENED_ORIGINS
        ):
            yield entry


def covers(scope: str, stream: Stream) -> bool:
    """Whether a scope holds on a stream; `purpose:X` on either class of that purpose.

    A scope that is none of the three cannot be decided, so it holds everywhere.
    """
    if scope == "marketing":
        return stream.stream_class is StreamClass.MARKETING
    kind, colon, purpose = scope.partition(":")
    return purpose == stream.purpose if colon and kind == "purpose" else True


def day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d")


def _yields(entry: Suppression, case: RecipientCase) -> bool:
    """Whether an order gives way to valid consent for the purpose, given later than it.

    The rulebook says which origins ever do, and to consent by which methods. What holds for a
    whole domain is no order of the person's, and what holds for another reading of the address
    may be another person's.
    """
    contact, rulebook = case.facts.contact, case.rulebook
    if entry.domain is not None or entry.read_as is not None:
        return False
    if entry.origin not in rulebook.lifted_by_consent or contact is None:
        return False
    act = newest_act(contact, case.stream.purpose, case.rulebook)
    return (
        act is not None
        and act.at > entry.since
        and act.method in rulebook.lifting_methods
        and consent_failure(case) is Reason.NONE
    )
