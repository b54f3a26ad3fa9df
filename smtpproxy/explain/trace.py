"""Why a verdict is what it is: every rule that was asked, in order, in plain words.

The mail path builds none of this. A verdict names the rule that decided, and as rules
are pure, asking them again with the same facts tells the same story.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic

from smtpproxy.explain import wording
from smtpproxy.explain.message_wording import message_decided, message_passed
from smtpproxy.locale.texts import Lang, Phrase, say
from smtpproxy.policy.decide import judge_recipient
from smtpproxy.policy.model import (
    NO_FACTS,
    Action,
    Basis,
    Facts,
    MessageFeatures,
    Reason,
    Rulebook,
    Stream,
    StreamClass,
    Transaction,
    Verdict,
)
from smtpproxy.policy.rules import table
from smtpproxy.policy.rules.case import Case, DeliveryCase, MessageCase, RecipientCase, Rule

_UNCERTAIN = ("stream_uncertain", "design 3, step 2")
_MESSAGE = ("message", "design 6")


@dataclass(frozen=True, slots=True)
class TraceStep:
    """One rule that was asked.

    `outcome` is `passed` where the rule did not decide, else `allow`, `refuse` or `defer`;
    the verdict is that of the last step that decided, `reason` or `basis` its own. `source`
    names the place in design.md, the rows of law.md and the articles of the rulebook's
    law; `rows` and `law` are its two halves. `question` is the rule in plain words.
    """

    rule: str
    outcome: str
    text: str
    source: str
    question: str = ""
    law: str = ""
    rows: str = ""
    reason: Reason = Reason.NONE
    basis: Basis | None = None


def trace(
    transaction: Transaction,
    index: int,
    facts: Facts,
    rulebook: Rulebook,
    now: datetime,
    lang: Lang = "en",
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
        return tuple(_recipient_steps(cases[0], lang, transaction.message))
    verdicts = [judge_recipient(case) for case in cases]
    said = [
        Phrase(
            "part.uncertain.would",
            {"stream": case.stream.name, "verdict": wording.summary(verdict)},
        )
        for case, verdict in zip(cases, verdicts, strict=True)
    ]
    steps = [_step(_UNCERTAIN, "passed", phrase, lang) for phrase in said]
    if all(verdict.action is Action.REFUSE for verdict in verdicts):
        return (*steps, *_recipient_steps(cases[0], lang))
    return (*steps, _step(_UNCERTAIN, "allow", Phrase("part.uncertain.allow"), lang))


def message_trace(
    stream: Stream,
    features: MessageFeatures,
    rulebook: Rulebook | None = None,
    lang: Lang = "en",
) -> tuple[TraceStep, ...]:
    """Return the steps to the verdict on the message itself; `rulebook` names the law."""
    case = MessageCase(stream, features)
    rules = table.MESSAGE_RULES
    if stream.stream_class is StreamClass.TRANSACTIONAL:
        rules = table.TRANSACTIONAL_MESSAGE_RULES
    law = {} if rulebook is None else rulebook.law
    told = _Telling(lang, law, message_passed, message_decided)
    steps, verdict = _ask(rules, case, told)
    if verdict is None:
        kept = Phrase("passed.message", {"stream": stream.name})
        steps.append(_step(_MESSAGE, "allow", kept, lang))
    return tuple(steps)


def _recipient_steps(
    case: RecipientCase, lang: Lang, message: MessageFeatures | None = None
) -> list[TraceStep]:
    law = case.rulebook.law
    rules = table.recipient_rules(case.rulebook.bases)
    told = _Telling(lang, law, wording.recipient_passed, wording.recipient_decided)
    steps, verdict = _ask(rules, case, told)
    if verdict is None or verdict.action is not Action.ALLOW:
        return steps
    if message is not None and case.stream.first_contact_notice:
        delivery = DeliveryCase(case, verdict.basis, message)
        both = _Telling(lang, law, wording.delivery_passed, wording.delivery_decided)
        more, refusal = _ask(table.DELIVERY_RULES, delivery, both)
        steps += more
        if refusal is not None:
            return steps
    if case.facts.null_mx is not None:
        more, refusal = _ask(table.DOMAIN_RULES, case, told)
        steps += more
        if refusal is not None:
            return steps
    return steps + _ask(table.DEFERRALS, case, told)[0]


@dataclass(frozen=True, slots=True)
class _Telling(Generic[Case]):
    """How the rules of one table are told."""

    lang: Lang
    law: Mapping[str, str]
    passed: Callable[[str, Case], Phrase]
    decided: Callable[[Verdict, Case], Phrase]


def _ask(
    rules: Sequence[Rule[Case]], case: Case, told: _Telling[Case]
) -> tuple[list[TraceStep], Verdict | None]:
    steps: list[TraceStep] = []
    for rule in rules:
        asked, law = (rule.name, rule.source), told.law.get(rule.name, "")
        verdict = rule.judge(case)
        if verdict is not None:
            said = told.decided(verdict, case)
            steps.append(_step(asked, verdict.action.value, said, told.lang, law, verdict))
            return steps, verdict
        steps.append(_step(asked, "passed", told.passed(rule.name, case), told.lang, law))
    return steps, None


def _step(
    asked: tuple[str, str],
    outcome: str,
    said: Phrase,
    lang: Lang,
    law: str = "",
    verdict: Verdict | None = None,
) -> TraceStep:
    rule, rows = asked
    return TraceStep(
        rule,
        outcome,
        say(said, lang),
        f"{rows}; {law}" if law else rows,
        say(Phrase(f"rule.{rule}"), lang),
        law,
        rows,
        Reason.NONE if verdict is None else verdict.reason,
        None if verdict is None else verdict.basis,
    )
