"""Why a verdict is what it is: every rule that was asked, in order, in plain words.

The mail path builds none of this. A verdict names the rule that decided, and as rules
are pure, asking them again with the same facts tells the same story.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from smtpproxy.policy import wording
from smtpproxy.policy.decide import judge_recipient
from smtpproxy.policy.model import (
    NO_FACTS,
    Action,
    Facts,
    MessageFeatures,
    Rulebook,
    Stream,
    StreamClass,
    Transaction,
    Verdict,
)
from smtpproxy.policy.rules import table
from smtpproxy.policy.rules.case import Case, DeliveryCase, MessageCase, RecipientCase, Rule

_UNCERTAIN_SOURCE = "design 3, step 2"
_MESSAGE_SOURCE = "design 6"


@dataclass(frozen=True, slots=True)
class TraceStep:
    """One rule that was asked.

    `outcome` is `passed` where the rule did not decide, else `allow`, `refuse` or `defer`;
    the verdict is that of the last step that decided. `source` names the place in
    design.md, the rows of rules.md and the articles of the rulebook's law.
    """

    rule: str
    outcome: str
    text: str
    source: str


def trace(
    transaction: Transaction, index: int, facts: Facts, rulebook: Rulebook, now: datetime
) -> tuple[TraceStep, ...]:
    """Return the steps to the verdict on `transaction.recipients[index]`.

    The arguments are those of `judge`: with a message, what it decides is told too. While
    the stream is uncertain the steps say what each candidate would do, and follow the
    first one's rules if all of them refuse.
    """
    address = transaction.recipients[index]
    known = facts.get(address, NO_FACTS)
    cases = [RecipientCase(address, stream, known, rulebook, now) for stream in transaction.streams]
    if len(cases) == 1:
        return tuple(_recipient_steps(cases[0], transaction.message))
    verdicts = [judge_recipient(case) for case in cases]
    steps = [
        TraceStep(
            "stream_uncertain",
            "passed",
            f"on stream {case.stream.name} it would be: {wording.summary(verdict)}",
            _UNCERTAIN_SOURCE,
        )
        for case, verdict in zip(cases, verdicts, strict=True)
    ]
    if all(verdict.action is Action.REFUSE for verdict in verdicts):
        return (*steps, *_recipient_steps(cases[0]))
    text = "a stream that it may still be on does not refuse it: not refused yet"
    return (*steps, TraceStep("stream_uncertain", "allow", text, _UNCERTAIN_SOURCE))


def message_trace(
    stream: Stream, features: MessageFeatures, rulebook: Rulebook | None = None
) -> tuple[TraceStep, ...]:
    """Return the steps to the verdict on the message itself; `rulebook` names the law."""
    case = MessageCase(stream, features)
    rules = table.MESSAGE_RULES
    if stream.stream_class is StreamClass.TRANSACTIONAL:
        rules = table.TRANSACTIONAL_MESSAGE_RULES
    law = {} if rulebook is None else rulebook.law
    steps, verdict = _ask(rules, case, law, wording.message_passed, wording.message_decided)
    if verdict is None:
        text = f"every rule for messages of stream {stream.name} is kept"
        steps.append(TraceStep("message", "allow", text, _MESSAGE_SOURCE))
    return tuple(steps)


def _recipient_steps(
    case: RecipientCase, message: MessageFeatures | None = None
) -> list[TraceStep]:
    law = case.rulebook.law
    rules = table.recipient_rules(case.rulebook.bases)
    said = wording.recipient_passed, wording.recipient_decided
    steps, verdict = _ask(rules, case, law, *said)
    if verdict is None or verdict.action is not Action.ALLOW:
        return steps
    if message is not None and case.stream.first_contact_notice:
        delivery = DeliveryCase(case, verdict.basis, message)
        told = wording.delivery_passed, wording.delivery_decided
        more, refusal = _ask(table.DELIVERY_RULES, delivery, law, *told)
        steps += more
        if refusal is not None:
            return steps
    return steps + _ask(table.DEFERRALS, case, law, *said)[0]


def _ask(
    rules: Sequence[Rule[Case]],
    case: Case,
    law: Mapping[str, str],
    passed: Callable[[str, Case], str],
    decided: Callable[[Verdict, Case], str],
) -> tuple[list[TraceStep], Verdict | None]:
    steps: list[TraceStep] = []
    for rule in rules:
        source = f"{rule.source}; {law[rule.name]}" if rule.name in law else rule.source
        verdict = rule.judge(case)
        if verdict is not None:
            outcome = verdict.action.value
            steps.append(TraceStep(rule.name, outcome, decided(verdict, case), source))
            return steps, verdict
        steps.append(TraceStep(rule.name, "passed", passed(rule.name, case), source))
    return steps, None
