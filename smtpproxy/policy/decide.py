"""The decision core: `needs` and `judge`, pure, with one store read between them."""

from datetime import datetime

from smtpproxy.policy.model import Decision, Facts, Lookups, Rulebook, Transaction


def needs(transaction: Transaction, rulebook: Rulebook) -> Lookups:
    """Return what `judge` will want to know about this transaction."""
    raise NotImplementedError


def judge(transaction: Transaction, facts: Facts, rulebook: Rulebook, now: datetime) -> Decision:
    """Return the verdicts (design.md sections 4 to 6)."""
    raise NotImplementedError
