"""A transaction judged for somebody who asks why, through the core that judges the mail."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import msgspec

from smtpproxy.explain.account import Account, Tense, message_account, recipient_account
from smtpproxy.explain.trace import TraceStep, message_trace, trace
from smtpproxy.locale.phrase import Phrase, say
from smtpproxy.locale.texts import Lang
from smtpproxy.mail.reply import Reply
from smtpproxy.pipeline.streams import StreamChoice
from smtpproxy.policy.decide import choose_stream, judge
from smtpproxy.policy.model import (
    DEFAULT_STREAM,
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
from smtpproxy.policy.rules.case import RecipientCase
from smtpproxy.sinks.audit.reader import Outcome, Record
from smtpproxy.sinks.audit.seal import Seal

NO_ID = "explain"
"""Stands where the id of a decision stands in the reply to real mail."""

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
    what proves a decision on record.
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

    @property
    def allowed(self) -> bool:
        """Whether the message and every recipient are."""
        verdicts = [recipient.verdict for recipient in self.recipients]
        if self.message is not None:
            verdicts.append(self.message)
        return all(verdict.action is Action.ALLOW for verdict in verdicts)


@dataclass(frozen=True, slots=True)
class Question:
    """What would become of a message. `recipients` are (as given, canonical).

    `refusal` is the answer to content that is refused before anything is judged by it, on
    every stream and in every mode; then `features` say no more than why.
    """

    choice: StreamChoice
    recipients: tuple[tuple[str, str], ...]
    reverse_path: str
    features: MessageFeatures
    on_mixed: Literal["refuse", "split"] = "refuse"
    undeclared: Stream = DEFAULT_STREAM
    refusal: Reply | None = None


def explain(
    question: Question,
    facts: Facts,
    rulebooks: Mapping[str, Rulebook],
    now: datetime,
    lang: Lang = "en",
) -> Explanation:
    """Judge at RCPT what is certain there, then the message with the rest, as the relay does."""
    choice, features = question.choice, question.features
    case = _Case(facts, rulebooks, now, NO_ID, "would", lang)
    early = _refused_at_rcpt(question, case)
    told = {e: case.told(e, verdict, choice.candidates[0]) for e, verdict in early.items()}
    late = [entry for entry in question.recipients if entry not in early]
    chosen = choose_stream(choice.permitted, choice.default, features.stream_header)
    refused: list[tuple[str, Verdict]] = []
    steps: tuple[TraceStep, ...] = ()
    if isinstance(chosen, Verdict):
        stream, message = choice.default, chosen
        told |= {e: case.not_asked(e[0], stream) for e in late}
    else:
        stream = chosen
        if features.closer is not None and features.closer.came_on is not None:
            stream = question.undeclared
        asked = Transaction((stream,), tuple(key for _, key in late), features)
        decision = judge(asked, facts, rulebooks[stream.rulebook], now)
        verdicts = dict(zip(late, decision.recipients, strict=True))
        told |= {e: case.told(e, verdict, stream, features) for e, verdict in verdicts.items()}
        refused = [(given, v) for (given, _), v in verdicts.items() if v.action is not Action.ALLOW]
        message = decision.message or _NOT_ASKED
        steps = message_trace(stream, features, rulebooks[stream.rulebook], lang)
        if message.action is Action.ALLOW and refused:
            message = _mixed(question, [v for _, v in refused], len(late)) or message
    return Explanation(
        stream,
        stream.rulebook,
        message,
        question.refusal or _message_reply(message, refused, stream.name, NO_ID),
        steps,
        tuple(_with_message(told[entry], message, case) for entry in question.recipients),
        message_account(message, stream, steps, "would", lang),
        now,
        None,
        stream.mode is Mode.OBSERVE and question.refusal is None,
        lang,
    )


def recall(
    records: Sequence[Record], rulebooks: Mapping[str, Rulebook], lang: Lang = "en"
) -> Explanation:
    """Explain a recorded decision: its refusals at RCPT, if any, then its message.

    The verdicts are those on record. How they came about is traced again from the
    recorded facts; a rulebook that is not configured any more leaves no trace.
    """
    recipients: list[ExplainedRecipient] = []
    for record in records:
        decided = record.decided
        case = _Case(decided.facts, rulebooks, decided.at, decided.id, "was", lang)
        for index, entry in enumerate(decided.recipients):
            key, stream = (entry.address, entry.canonical), decided.decision.stream
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
        _message_reply(message, refused, stream.name, last.id),
        steps,
        tuple(recipients),
        None if message is None else message_account(message, stream, steps, "was", lang),
        last.at,
        last.id,
        last.observed,
        lang,
        last.relayed,
        records[-1].outcome,
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
            reply = recipient_reply(given, verdict, stream.name, self.id)
        steps: tuple[TraceStep, ...] = ()
        case = None
        if stream.rulebook in self.rulebooks:
            rulebook = self.rulebooks[stream.rulebook]
            asked = Transaction((stream,), (key,), message)
            steps = trace(asked, 0, self.facts, rulebook, self.now, self.lang)
            case = RecipientCase(key, stream, self.facts.get(key, NO_FACTS), rulebook, self.now)
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
    """Add the upstream's answer where each recipient had a message of his own."""
    if record.outcome is None or not record.outcome.each:
        return told
    own = record.outcome_of(index)
    if own is None:
        return told
    return _with_note(told, Phrase("note.own_answer", {"reply": own.reply}), lang)


def _with_note(told: ExplainedRecipient, phrase: Phrase, lang: Lang) -> ExplainedRecipient:
    notes = (*told.account.notes, say(phrase, lang))
    return dataclasses.replace(told, account=msgspec.structs.replace(told.account, notes=notes))


def _refused_at_rcpt(question: Question, case: _Case) -> dict[tuple[str, str], Verdict]:
    candidates = question.choice.candidates
    first = candidates[0].rulebook
    if any(stream.rulebook != first for stream in candidates):
        return {}
    asked = Transaction(candidates, tuple(key for _, key in question.recipients))
    verdicts = judge(asked, case.facts, case.rulebooks[first], case.now).recipients
    return {
        entry: verdict
        for entry, verdict in zip(question.recipients, verdicts, strict=True)
        if verdict.action is not Action.ALLOW
    }


def _mixed(question: Question, refused: Sequence[Verdict], asked: int) -> Verdict | None:
    """The refusal of a whole message for some recipients' sake, where one reply serves all."""
    permanent = [verdict for verdict in refused if verdict.action is Action.REFUSE]
    splits = (
        question.on_mixed == "split"
        and question.reverse_path != ""
        and len(permanent) == len(refused) < asked
    )
    if splits:
        return None
    action = Action.REFUSE if permanent else Action.DEFER
    return Verdict(action, Reason.RECIPIENTS_REFUSED, rule="on_mixed")


def _message_reply(
    verdict: Verdict | None, refused: Sequence[tuple[str, Verdict]], stream: str, id: str
) -> Reply | None:
    if verdict is None or verdict.action is Action.ALLOW:
        return None
    if verdict.reason is not Reason.RECIPIENTS_REFUSED or not refused:
        return message_reply(verdict, stream, id)
    if len(refused) == 1:
        return recipient_reply(*refused[0], stream, id)
    return recipients_reply(refused, stream, id)
