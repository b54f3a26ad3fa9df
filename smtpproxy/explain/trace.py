"""How a verdict came about: every rule that was asked, in order, in plain words.

The mail path builds none of this. Rules are pure, so asking them again with the same facts gives
the same answers."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Generic

from msgspec import Struct

from smtpproxy.explain import wording
from smtpproxy.explain.wording import NOTHING, Words
from smtpproxy.locale import Lang, Phrase, recognised, say
from smtpproxy.policy import decide
from smtpproxy.policy.decide import judge_recipient
from smtpproxy.policy.model import (
    NO_FACTS,
    Action,
    Alignment,
    Basis,
    Facts,
    MessageFeatures,
    Reason,
    Rulebook,
    SignatureState,
    Stream,
    Transaction,
    Verdict,
)
from smtpproxy.policy.rules import Case, DeliveryCase, MessageCase, RecipientCase, Rule, tables
from smtpproxy.policy.rules.message import (
    adds_unsubscribe,
    is_undeclared_bulk,
    unwanted_unsubscribe,
)


def message_passed(rule: str, case: MessageCase) -> Phrase:
    """Return why a message rule did not refuse."""
    features, key = case.features, f"passed.{rule}"
    words: Words = {"stream": case.stream.name, "domains": ", ".join(features.from_domains)}
    asked = {
        "alignment": case.stream.alignment is not Alignment.OFF,
        "body_optout": case.stream.body_optout,
        "imprint": bool(case.stream.imprint),
        "subject": case.stream.honest_subject,
    }
    if not asked.get(rule, True):
        return Phrase(f"{key}.off", words)
    match rule:
        case "unsubscribe_present" | "unsubscribe_usable" | "one_click" if adds_unsubscribe(
            case.stream, features
        ):
            return Phrase("passed.unsubscribe_added", words)
        case "unsubscribe_usable":
            uris = len(features.unsubscribe_https) + len(features.unsubscribe_mailto)
            found = Phrase(key, {"count": uris})
            if not features.unsubscribe_encoded:
                return found
            return Phrase(f"{key}.decoded", {"found": found})
        case "alignment" if features.signed_by_relay:
            return Phrase(f"{key}.relay", words)
        case "bulk" if is_undeclared_bulk(case.stream, features):
            return Phrase(f"{key}.observed", words | _bulk_words(case))
        case "one_click" if not case.stream.one_click_required:
            return Phrase(f"{key}.optional", words)
        case "unsubscribe_signed" if not features.dkim_fields:
            return Phrase(f"{key}.none")
        case "unsubscribe_signed" if features.signed_by_relay:
            return Phrase(f"{key}.relay")
        case "unsubscribe_signed" if features.signatures is None or not case.stream.check_dkim:
            return Phrase(f"{key}.unchecked")
        case "unsubscribe_signed":
            valid = [s.domain for s in features.signatures or () if s.state is SignatureState.VALID]
            words["domains"] = ", ".join(valid)
    return Phrase(key, words)


def _strangers(stream: Stream, features: MessageFeatures) -> set[str]:
    """Return the From domains that the stream does not allow."""
    found = set(features.from_domains)
    return found - stream.from_domains if stream.from_domains else found & stream.foreign_domains


def message_decided(verdict: Verdict, case: MessageCase) -> Phrase:
    """Return why a message rule refused."""
    features, stream, key = case.features, case.stream, f"reason.{verdict.reason}"
    words: Words = {
        "stream": stream.name,
        "malformed": recognised("malformed", features.malformed)
        if features.malformed
        else Phrase("malformed.from_none"),
        "strangers": ", ".join(sorted(_strangers(stream, features))),
        "fields": features.unsubscribe_fields,
    }
    match verdict.reason:
        case Reason.UNSUBSCRIBE_MALFORMED if unwanted_unsubscribe(stream, features):
            key += ".unwanted"
        case Reason.UNSUBSCRIBE_UNSIGNED if adds_unsubscribe(stream, features):
            key += ".added"
        case Reason.UNSUBSCRIBE_MALFORMED if features.unsubscribe_fields > 1:
            key += ".several"
        case Reason.UNSUBSCRIBE_MALFORMED if features.unsubscribe_fault is not None:
            words["found"] = features.unsubscribe_fault.found
            key += f".{features.unsubscribe_fault.kind}"
        case Reason.FROM_MISALIGNED if features.content is not None and features.content.senders:
            words["domains"] = ", ".join(features.from_domains)
            words["senders"] = ", ".join(features.content.senders)
            key += ".of"
        case Reason.SUBJECT_MISLEADING if features.content is not None:
            words["prefix"] = features.content.fake_prefix or NOTHING
        case Reason.BULK_UNDECLARED:
            words |= _bulk_words(case)
        case Reason.CONFIRM_LINK_MISSING if features.content and features.content.confirm_link:
            key += f".{features.content.confirm_link}"
        case Reason.ONE_CLICK_MISSING if not features.unsubscribe_https:
            key += ".https"
        case Reason.UNSUBSCRIBE_UNSIGNED | Reason.TEMPORARY_FAILURE if features.signatures:
            words["findings"] = tuple(
                Phrase(f"part.signature.{each.state}", {"domain": each.domain or "?"})
                for each in features.signatures
            )
            key = "reason.signatures"
    return Phrase(key, words)


def _bulk_words(case: MessageCase) -> Words:
    """Return how undeclared bulk mail was recognised."""
    content, stream = case.features.content, case.stream
    if content is not None and content.bulk_text:
        said = tuple(Phrase(f"part.bulk.said.{each}") for each in content.bulk_text)
        fields = ", ".join(content.bulk_markers)
        key = "part.bulk.both" if fields else "part.bulk.text"
        found = Phrase(key, {"fields": fields, "said": said})
    elif content is not None and content.bulk_markers:
        found = Phrase("part.bulk.markers", {"fields": ", ".join(content.bulk_markers)})
    else:
        alike = 0 if content is None else content.alike
        words: Words = {"alike": alike, "most": stream.bulk_recipients or 0}
        found = Phrase("part.bulk.alike", words)
    return {"found": found}


_LONGEST_NAME = 64
_UNCERTAIN = ("stream_uncertain", "design 3, step 2")
_MESSAGE = ("message", "design 6")
_STREAM_CHOICE = ("stream_choice", "design 3, step 3")


class TraceStep(Struct, frozen=True):
    """One rule that was asked.

    `outcome` is `passed` if the rule did not decide, otherwise `allow`, `refuse` or `defer`, with
    its `reason` or `basis`; the last step that decided gives the verdict. `source` names the place
    in design.md, the rows of law.md and the articles of the rulebook's law; `rows` and `law` are
    its two halves. `question` is the rule in plain words.
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

    The arguments are those of `judge`; a message adds the steps that it decides. While the stream
    is uncertain the steps say what each candidate would do, and follow the first one's rules if
    all of them refuse.
    """
    address = transaction.recipients[index]
    known = facts.get(address, NO_FACTS)
    cases = [RecipientCase(address, stream, known, rulebook, now) for stream in transaction.streams]
    if len(cases) == 1:
        return tuple(_recipient_steps(cases[0], lang, transaction.message))
    verdicts = [judge_recipient(case) for case in cases]
    outcomes = [
        Phrase(
            "part.uncertain.would",
            {"stream": case.stream.name, "verdict": wording.summary(verdict)},
        )
        for case, verdict in zip(cases, verdicts, strict=True)
    ]
    steps = [_step(_UNCERTAIN, "passed", phrase, lang) for phrase in outcomes]
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
    law = {} if rulebook is None else rulebook.law
    phrases = _Wording(lang, law, message_passed, message_decided)
    steps, verdict = _ask(tables.message_rules(stream), case, phrases)
    if verdict is None:
        kept = Phrase("passed.message", {"stream": stream.name})
        steps.append(_step(_MESSAGE, "allow", kept, lang))
    return tuple(steps)


def stream_choice_trace(
    verdict: Verdict, features: MessageFeatures, lang: Lang = "en"
) -> tuple[TraceStep, ...]:
    """Return the one step to the verdict on a message that names no stream it may be on."""
    words: Words = {"named": ", ".join(value[:_LONGEST_NAME] for value in features.stream_header)}
    said = Phrase(f"reason.{verdict.reason}.named", words)
    return (_step(_STREAM_CHOICE, verdict.action.value, said, lang, verdict=verdict),)


def _recipient_steps(
    case: RecipientCase, lang: Lang, message: MessageFeatures | None = None
) -> list[TraceStep]:
    case, _ = decide.decisive(case, message)
    law = case.rulebook.law
    rules = tables.recipient_rules(case.rulebook.bases)
    if case.stream.permission:
        rules = tables.PERMISSION_RULES
    phrases = _Wording(lang, law, wording.recipient_passed, wording.recipient_decided)
    steps, verdict = _ask(rules, case, phrases)
    if verdict is None or verdict.action is not Action.ALLOW:
        return steps
    both = _Wording(lang, law, wording.delivery_passed, wording.delivery_decided)
    if message is not None:
        delivery = DeliveryCase(case, verdict.basis, message)
        asked = {"source_announced": case.stream.first_contact_notice}
        asked["tracking"] = message.content is not None and bool(message.content.pixels)
        rules_asked = [rule for rule in tables.DELIVERY_RULES if asked[rule.name]]
        more, refusal = _ask(rules_asked, delivery, both)
        steps += more
        if refusal is not None:
            return steps
    contact = case.facts.contact
    others = [
        *(tables.DOMAIN_RULES if case.facts.null_mx is not None else ()),
        *(tables.WISHES if contact is not None and contact.preferences else ()),
        *tables.DEFERRALS,
    ]
    more, held = _ask(others, case, phrases)
    steps += more
    if held is None and message is not None and case.stream.trial is not None:
        steps += _ask(tables.TRIALS, DeliveryCase(case, verdict.basis, message), both)[0]
    return steps


class _Wording(Struct, Generic[Case], frozen=True):
    """How the rules of one table are put into words."""

    lang: Lang
    law: Mapping[str, str]
    passed: Callable[[str, Case], Phrase]
    decided: Callable[[Verdict, Case], Phrase]


def _ask(
    rules: Sequence[Rule[Case]], case: Case, phrases: _Wording[Case]
) -> tuple[list[TraceStep], Verdict | None]:
    steps: list[TraceStep] = []
    for rule in rules:
        asked, law = (rule.name, rule.source), phrases.law.get(rule.name, "")
        verdict = rule.judge(case)
        if verdict is not None:
            phrase = phrases.decided(verdict, case)
            law = phrases.law.get(verdict.reason, law)
            if verdict.reason in (Reason.SUPPRESSED_BOUNCE, Reason.SUPPRESSED_MANUAL):
                law = ""  # hygiene, or an order: the person did not object
            steps.append(_step(asked, verdict.action.value, phrase, phrases.lang, law, verdict))
            return steps, verdict
        steps.append(_step(asked, "passed", phrases.passed(rule.name, case), phrases.lang, law))
    return steps, None


def _step(
    asked: tuple[str, str],
    outcome: str,
    phrase: Phrase,
    lang: Lang,
    law: str = "",
    verdict: Verdict | None = None,
) -> TraceStep:
    rule, rows = asked
    return TraceStep(
        rule,
        outcome,
        say(phrase, lang),
        f"{rows}; {law}" if law else rows,
        say(Phrase(f"rule.{rule}"), lang),
        law,
        rows,
        Reason.NONE if verdict is None else verdict.reason,
        None if verdict is None else verdict.basis,
    )
