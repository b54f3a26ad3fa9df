"""Recorded decisions, judged again under another rulebook, as of the time they were made."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from smtpproxy.events import Decided, Recipient
from smtpproxy.policy.decide import judge
from smtpproxy.policy.model import Action, Reason, Rulebook, Transaction, Verdict
from smtpproxy.sinks.audit.lines import is_erased
from smtpproxy.ulid import time_of

_NOT_JUDGED = frozenset({Reason.TEMPORARY_FAILURE, Reason.STREAM_NOT_PERMITTED})
"""Verdicts that no rulebook gave."""


@dataclass(frozen=True, slots=True)
class Change:
    """A verdict that would be another. `recipient` is None for the message itself."""

    recipient: Recipient | None
    before: Verdict
    after: Verdict


@dataclass(frozen=True, slots=True)
class Replayed:
    """One decision, judged again. `erased` recipients cannot be."""

    judged: int
    erased: int
    changes: tuple[Change, ...]


def replay(decided: Decided, rulebook: Rulebook) -> Replayed:
    """Judge a recorded decision again, from the facts and features on record.

    Under the rulebook of the record nothing changes. That a message is refused for some
    recipients' sake follows from theirs and is no change of its own.
    """
    message = decided.decision.message
    recipients = [r for r in decided.recipients if r.verdict.reason not in _NOT_JUDGED]
    if message is not None and message.reason is Reason.STREAM_NOT_PERMITTED:
        recipients = []
    known = [recipient for recipient in recipients if not is_erased(recipient)]
    changes = [] if not known else list(_changes(decided, known, rulebook))
    return Replayed(len(known), len(recipients) - len(known), tuple(changes))


def _changes(decided: Decided, known: list[Recipient], rulebook: Rulebook) -> Iterator[Change]:
    keys = tuple(recipient.canonical for recipient in known)
    question = Transaction((decided.decision.stream,), keys, decided.features)
    late = judge(question, decided.facts, rulebook, decided.at)
    early = late
    if any(_differ(r.verdict, v) for r, v in zip(known, late.recipients, strict=True)):
        # Recipients are judged at RCPT, between the beginning of the transaction and its
        # record: a period that ended in these seconds makes no difference.
        early = judge(question, decided.facts, rulebook, _begun(decided))
    for recipient, first, last in zip(known, early.recipients, late.recipients, strict=True):
        if _differ(recipient.verdict, first) and _differ(recipient.verdict, last):
            yield Change(recipient, recipient.verdict, last)
    before, after = decided.decision.message, late.message
    if before is None or after is None or before.reason is Reason.RECIPIENTS_REFUSED:
        return
    if _differ(before, after):
        yield Change(None, before, after)


def _differ(before: Verdict, after: Verdict) -> bool:
    return (before.action, before.reason, before.basis) != (
        after.action,
        after.reason,
        after.basis,
    )


def _begun(decided: Decided) -> datetime:
    """The beginning of the transaction, which its id tells; never after the record."""
    try:
        begun = datetime.fromtimestamp(time_of(decided.id) / 1000, UTC)
    except ValueError:
        return decided.at
    return min(begun, decided.at)


def words(verdict: Verdict) -> str:
    """What is counted: the reason, or the basis of what is allowed."""
    if verdict.action is Action.ALLOW:
        return f"allow, {verdict.basis}" if verdict.basis else "allow"
    return f"{verdict.action}, {verdict.reason}"
