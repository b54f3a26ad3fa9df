"""A transaction judged for somebody who asks why, through the core that judges the mail."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from smtpproxy.core.dry_run import NO_ID, Answers, Question
from smtpproxy.explain import Account, Tense, message_account, recipient_account
from smtpproxy.explain.trace import TraceStep, message_trace, trace
from smtpproxy.locale import Lang, Phrase, say
from smtpproxy.mail.reply import Reply
from smtpproxy.policy.decide import decisive
from smtpproxy.policy.model import (
    NO_FACTS,
    Action,
    Facts,
    MessageFeatures,
    Mode,
    Reason,
    Rulebook,
    Stream,
    Transaction,
    Verdict,
)
from smtpproxy.policy.replies import message_reply, recipient_reply, recipients_reply
from smtpproxy.policy.rules import RecipientCase
from smtpproxy.sinks.audit.reader import Outcome, Record
from smtpproxy.sinks.audit.verify import Seal

_NOT_ASKED = Verdict(Action.ALLOW)


@dataclass(frozen=True, slots=True)
class ExplainedRecipient:
    """`reply` is None where the upstream's own reply would be given.

    `account` tells the verdict in plain words.
    """

    address: str
    verdict: Verdict
    reply: Reply | None
    trace: tuple[TraceStep, ...]
    account: Account


@dataclass(frozen=True, slots=True)
class Explanation:
    """`message` is None when no message was judged: a recorded refusal at RCPT.

    `at` is when it was, or is to be, judged; `id` that of a decision on record. `observed`:
    in observe mode, so that the mail passed or passes all the same. `relayed`: on record as put
    to the upstream, and `outcome` what that answered, None where it is not known. `seal` says
    what proves a decision on record. `source_announced` is what the message says of where the
    addresses come from.
    """

    stream: Stream
    rulebook: str
    message: Verdict | None
    message_reply: Reply | None
    message_trace: tuple[TraceStep, ...]
    recipients: tuple[ExplainedRecipient, ...]
    message_account: Account | None
    at: datetime
    id: str | None
    observed: bool
    lang: Lang
    relayed: bool = False
    outcome: Outcome | None = None
    seal: Seal | None = None
    source_announced: str | None = None

    @property
    def allowed(self) -> bool:
        """Whether the message and every recipient are."""
        verdicts = [recipient.verdict for recipient in self.recipients]
        if self.message_reply is not None:
            return False
        if self.message is not None:
            verdicts.append(self.message)
        return all(verdict.action is Action.ALLOW for verdict in verdicts)


def explain(
    question: Question,
    answers: Answers,
    rulebooks: Mapping[str, Rulebook],
    lang: Lang = "en",
) -> Explanation:
    """Explain what would be decided, from the transaction's own decisions (core/dry_run.py)."""
    records = [Record(decided) for decided in answers.decided if decided.stage != "notice"]
    if records:
        told = _explained(records, rulebooks, "would", lang)
        order = {path: place for place, path in reversed(list(enumerate(question.recipients)))}
        people = sorted(told.recipients, key=lambda each: order.get(each.address, len(order)))
        told = dataclasses.replace(
            told, recipients=tuple(people), at=question.now, id=None, relayed=False
        )
    else:
        told = _nothing_decided(question, lang)
    if any(record.decided.stage == "data" for record in records):
        return told
    refusal = next((reply for reply in answers.replies if reply.code >= 300), None)
    return told if refusal is None else _not_judged(told, question, refusal, rulebooks)


def _nothing_decided(question: Question, lang: Lang) -> Explanation:
    """Nobody was refused at RCPT, and nothing was judged after it."""
    stream = question.choice.default
    case = _Case({}, {}, question.now, NO_ID, "would", lang)
    told = tuple(case.not_asked(path, stream) for path in question.recipients)
    observed = stream.mode is Mode.OBSERVE
    return Explanation(
        stream, stream.rulebook, None, None, (), told, None, question.now, None, observed, lang
    )


def _not_judged(
    told: Explanation, question: Question, refusal: Reply, rulebooks: Mapping[str, Rulebook]
) -> Explanation:
    """The content is refused before anything is judged by it, on every stream, in every mode."""
    verdict = Verdict(Action.REFUSE, Reason.HEADER_MALFORMED, rule="header")
    features = MessageFeatures(malformed=refusal.text)
    steps = message_trace(told.stream, features, rulebooks.get(told.rulebook), told.lang)
    given = {recipient.address for recipient in told.recipients}
    case = _Case({}, {}, question.now, NO_ID, "would", told.lang)
    others = [case.not_asked(p, told.stream) for p in question.recipients if p not in given]
    return dataclasses.replace(
        told,
        message=verdict,
        message_reply=refusal,
        message_trace=steps,
        message_account=message_account(verdict, told.stream, steps, "would", told.lang),
        recipients=(*told.recipients, *others),
        observed=False,
    )


def recall(
    records: Sequence[Record],
    rulebooks: Mapping[str, Rulebook],
    lang: Lang = "en",
) -> Explanation:
    """Explain a recorded decision: its refusals at RCPT, if any, then its message.

    The verdicts are those on record. How they came about is traced again from the
    recorded facts; a rulebook that is no longer configured leaves no trace.
    """
    return _explained(records, rulebooks, "was", lang)


def _explained(
    records: Sequence[Record],
    rulebooks: Mapping[str, Rulebook],
    tense: Tense,
    lang: Lang,
) -> Explanation:
    recipients: list[ExplainedRecipient] = []
    for record in records:
        decided = record.decided
        case = _Case(
            decided.facts, rulebooks, decided.at, decided.id, tense, lang, decided.help_url
        )
        for index, entry in enumerate(decided.recipients):
            key, stream = (entry.address, entry.canonical), decided.decision.stream
            if entry.verdict.reason is Reason.STREAM_NOT_PERMITTED:
                recipients.append(case.not_asked(entry.address, stream))
                continue
            told = case.told(key, entry.verdict, stream, decided.features)
            told = _with_message(told, decided.decision.message, case)
            recipients.append(_with_own_answer(told, record, index, lang))
    last = records[-1].decided
    stream, message = last.decision.stream, last.decision.message
    refused = [
        (r.address, r.verdict) for r in last.recipients if r.verdict.action is not Action.ALLOW
    ]
    steps: tuple[TraceStep, ...] = ()
    if last.features is not None:
        rulebook = rulebooks.get(last.decision.rulebook)
        steps = message_trace(stream, last.features, rulebook, lang)
    return Explanation(
        stream,
        last.decision.rulebook,
        message,
        _message_reply(message, refused, stream.name, last.id, last.help_url),
        steps,
        tuple(recipients),
        None if message is None else message_account(message, stream, steps, tense, lang),
        last.at,
        last.id,
        last.observed,
        lang,
        last.relayed,
        records[-1].outcome,
        source_announced=None if last.features is None else last.features.source_statement,
    )


@dataclass(frozen=True, slots=True)
class _Case:
    """What the verdicts were, or are to be, based on."""

    facts: Facts
    rulebooks: Mapping[str, Rulebook]
    now: datetime
    id: str
    tense: Tense
    lang: Lang
    help_url: str = ""

    def not_asked(self, given: str, stream: Stream) -> ExplainedRecipient:
        """A recipient of a message that is on no stream: nothing is judged of it."""
        account = recipient_account(given, _NOT_ASKED, stream, (), None, self.tense, self.lang)
        return ExplainedRecipient(given, _NOT_ASKED, None, (), account)

    def told(
        self,
        entry: tuple[str, str],
        verdict: Verdict,
        stream: Stream,
        message: MessageFeatures | None = None,
    ) -> ExplainedRecipient:
        """`message` is None where the verdict was that of RCPT."""
        given, key = entry
        reply = None
        if verdict.action is not Action.ALLOW:
            reply = recipient_reply(given, verdict, stream.name, self.id, self.help_url)
        steps: tuple[TraceStep, ...] = ()
        case = None
        if stream.rulebook in self.rulebooks:
            rulebook = self.rulebooks[stream.rulebook]
            asked = Transaction((stream,), (key,), message)
            steps = trace(asked, 0, self.facts, rulebook, self.now, self.lang)
            whole = RecipientCase(key, stream, self.facts.get(key, NO_FACTS), rulebook, self.now)
            case, _ = decisive(whole, message)
        account = recipient_account(given, verdict, stream, steps, case, self.tense, self.lang)
        return ExplainedRecipient(given, verdict, reply, steps, account)


def _with_message(
    told: ExplainedRecipient, message: Verdict | None, case: _Case
) -> ExplainedRecipient:
    """Add that somebody who may be mailed gets nothing, where the message does not pass."""
    stopped = message is not None and message.action is not Action.ALLOW
    if not stopped or told.verdict.action is not Action.ALLOW or not told.account.happened:
        return told
    return _with_note(told, Phrase(f"note.whole.{case.tense}"), case.lang)


def _with_own_answer(
    told: ExplainedRecipient, record: Record, index: int, lang: Lang
) -> ExplainedRecipient:
    """Add the upstream's answer where each recipient had a message of their own."""
    if record.outcome is None or not record.outcome.each:
        return told
    own = record.outcome_of(index)
    if own is None:
        return told
    return _with_note(told, Phrase("note.own_answer", {"reply": own.reply}), lang)


def _with_note(told: ExplainedRecipient, phrase: Phrase, lang: Lang) -> ExplainedRecipient:
    notes = (*told.account.notes, say(phrase, lang))
    return dataclasses.replace(told, account=msgspec.structs.replace(told.account, notes=notes))


def _message_reply(
    verdict: Verdict | None,
    refused: Sequence[tuple[str, Verdict]],
    stream: str,
    id: str,
    help_url: str,
) -> Reply | None:
    if verdict is None or verdict.action is Action.ALLOW:
        return None
    if verdict.reason is not Reason.RECIPIENTS_REFUSED or not refused:
        return message_reply(verdict, stream, id, help_url)
    if len(refused) == 1:
        return recipient_reply(*refused[0], stream, id, help_url)
    return recipients_reply(refused, stream, id, help_url)
