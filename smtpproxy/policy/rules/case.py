"""What a rule looks at, and what a rule is."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from msgspec import Struct

from smtpproxy.policy.model import (
    Action,
    Basis,
    MessageFeatures,
    Reason,
    RecipientFacts,
    Rulebook,
    Stream,
    Verdict,
)


class RecipientCase(Struct, frozen=True):
    """One recipient on one stream, with all that is known, at one moment."""

    address: str  # canonical
    stream: Stream
    facts: RecipientFacts
    rulebook: Rulebook
    now: datetime


class DeliveryCase(Struct, frozen=True):
    """A recipient that may be mailed on `basis`, and the message it is to get."""

    recipient: RecipientCase
    basis: Basis | None
    features: MessageFeatures


class MessageCase(Struct, frozen=True):
    """One message on one stream."""

    stream: Stream
    features: MessageFeatures


Case = TypeVar("Case", RecipientCase, DeliveryCase, MessageCase)


@dataclass(frozen=True, slots=True)
class Rule(Generic[Case]):
    """One row of a table.

    `judge` returns a verdict when the rule decides and None when the next rule is to be
    asked; the verdict's `rule` is this `name`. `source` names the section of design.md and
    the rows of law.md that it carries out; the articles of law are the rulebook's.
    """

    name: str
    judge: Callable[[Case], Verdict | None]
    source: str


def allow(rule: str, basis: Basis) -> Verdict:
    return Verdict(Action.ALLOW, basis=basis, rule=rule)


def refuse(rule: str, reason: Reason, detail: str | None = None) -> Verdict:
    return Verdict(Action.REFUSE, reason, rule=rule, detail=detail)


def defer(rule: str, reason: Reason) -> Verdict:
    return Verdict(Action.DEFER, reason, rule=rule)
