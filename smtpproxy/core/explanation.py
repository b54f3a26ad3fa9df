"""Explains a transaction, through the same core that judges the mail."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.core.dry_run import NO_ID, Answers, Question
from smtpproxy.explain import Account, Tense, message_account, recipient_account
from smtpproxy.explain.trace import TraceStep, message_trace, stream_choice_trace, trace
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
from smtpproxy.sinks.audit.lines import is_erased
from smtpproxy.sinks.audit.reader import Outcome, Record
from smtpproxy.sinks.audit.verify import Seal

_NOT_JUDGED = Verdict(Action.ALLOW)


class ExplainedRecipient(Struct, frozen=True):
    """`reply` is None if the client gets the upstream's, or the message's, which differs.

    `account` has the verdict in words.
    """

    address: str
    verdict: Verdict
    reply: Reply | None
    trace: tuple[TraceStep, ...]
    account: Account


class Explanation(Struct, frozen=True):
    """`message` is None if no message was judged: a recorded refusal at RCPT. `message_reply` is
    None too if each recipient has their own, or if the client gets the upstream's.

    `at` is when it was, or would be, judged; `id` is that of a recorded decision. `observed`: in
    observe mode, so that the mail passed or would pass all the same. `relayed`: recorded as offered
    to the upstream, whose answer is `outcome`, None if unknown. `seal` says what proves a recorded
    decision. `source_announced` is what the message says about where the addresses come from.
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
        """Whether the message and every recipient are allowed."""
        verdicts = [recipient.verdict for recipient in self.recipients]
        if self.message is not None:
            verdicts.append(self.message)
        return all(verdict.action is Action.ALLOW for verdict in verdicts)


def explain(
    question: Question,
    answers: Answers,
    rulebooks: Mapping[str, Rulebook],
    lang: Lang = "en",
) -> Explanation:
    """Explain what would be decided, from the decisions of a dry run."""
    records = [Record(decided) for decided in answers.decided if decided.stage != "notice"]
    if records:
        explained = _explained(
            records, rulebooks, "would", lang, reply_for_each=question.protocol == "lmtp"
        )
        order = {path: place for place, path in reversed(list(enumerate(question.recipients)))}
        people = sorted(explained.recipients, key=lambda each: order.get(each.address, len(order)))
        explained = replace(
            explained, recipients=tuple(people), at=question.now, id=None, relayed=False
        )
    else:
        explained = _nothing_decided(question, lang)
    if any(record.decided.stage == "data" for record in records):
        return explained
    refusal = next((reply for reply in answers.replies if reply.code >= 300), None)
    return explained if refusal is None else _not_judged(explained, question, refusal)


def _nothing_decided(question: Question, lang: Lang) -> Explanation:
    """The explanation if nobody was refused at RCPT and nothing was judged after it."""
    stream = question.choice.default
    case = _Case({}, {}, question.now, NO_ID, "would", lang)
    explained = tuple(case.not_judged(path, stream) for path in question.recipients)
    observed = stream.mode is Mode.OBSERVE
    return Explanation(
        stream, stream.rulebook, None, None, (), explained, None, question.now, None, observed, lang
    )


def _not_judged(explained: Explanation, question: Question, refusal: Reply) -> Explanation:
    """The explanation of content refused before it is judged, on every stream, in every mode."""
    given = {recipient.address for recipient in explained.recipients}
    case = _Case({}, {}, question.now, NO_ID, "would", explained.lang)
    others = [case.not_judged(p, explained.stream) for p in question.recipients if p not in given]
    said = say(Phrase("note.unasked", {"reply": refusal.text}), explained.lang)
    return replace(
        explained,
        message=Verdict(Action.REFUSE),
        message_reply=refusal,
        message_account=Account(said),
        recipients=(*explained.recipients, *others),
        observed=False,
    )


def recall(
    records: Sequence[Record],
    rulebooks: Mapping[str, Rulebook],
    lang: Lang = "en",
    *,
    reply_for_each: bool = False,
) -> Explanation:
    """Explain a recorded decision: its refusals at RCPT, if any, then its message.

    `reply_for_each`: the client got a reply for each recipient (LMTP), which is not on record.
    The verdicts are those on record. How they came about is traced again from the recorded facts;
    if the rulebook is no longer configured, there is no trace.
    """
    return _explained(records, rulebooks, "was", lang, reply_for_each=reply_for_each)


def _explained(
    records: Sequence[Record],
    rulebooks: Mapping[str, Rulebook],
    tense: Tense,
    lang: Lang,
    *,
    reply_for_each: bool,
) -> Explanation:
    recipients: list[ExplainedRecipient] = []
    last_of = {  # a later decision about somebody replaces an earlier one
        entry.canonical: record for record in records for entry in record.decided.recipients
    }
    sent = [one for one in last_of.values() if one.decided.stage == "data" and one.decided.relayed]
    about_all = sent[-1] if sent else records[-1]  # others may be about one refused copy
    whole = _message_reply(about_all, reply_for_each=reply_for_each)
    for record in records:
        decided = record.decided
        case = _Case(
            decided.facts, rulebooks, decided.at, decided.id, tense, lang, decided.help_url
        )
        for index, entry in enumerate(decided.recipients):
            if last_of[entry.canonical] is not record and not is_erased(entry):
                continue
            key, stream = (entry.address, entry.canonical), decided.decision.stream
            if entry.verdict.reason is Reason.STREAM_NOT_PERMITTED:
                recipients.append(case.not_judged(entry.address, stream))
                continue
            explained = case.judged(key, entry.verdict, stream, decided.features)
            explained = _with_message(explained, decided.decision.message, case)
            explained = _as_heard(explained, record, whole, case, reply_for_each=reply_for_each)
            recipients.append(_with_own_answer(explained, record, index, lang))
    last, alone = about_all.decided, len(recipients) == 1
    stream, message = last.decision.stream, last.decision.message
    steps: tuple[TraceStep, ...] = ()
    if message is not None and message.reason is Reason.STREAM_NOT_PERMITTED:
        steps = () if last.features is None else stream_choice_trace(message, last.features, lang)
    elif last.features is not None:
        rulebook = rulebooks.get(last.decision.rulebook)
        steps = message_trace(stream, last.features, rulebook, lang)
    return Explanation(
        stream,
        last.decision.rulebook,
        message,
        whole,
        steps,
        tuple(recipients),
        None
        if message is None
        else message_account(message, stream, steps, tense, lang, alone=alone),
        last.at,
        last.id,
        last.observed,
        lang,
        last.relayed,
        about_all.outcome,
        source_announced=None if last.features is None else last.features.source_statement,
    )


class _Case(Struct, frozen=True):
    """What the verdicts were, or would be, based on."""

    facts: Facts
    rulebooks: Mapping[str, Rulebook]
    now: datetime
    id: str
    tense: Tense
    lang: Lang
    help_url: str = ""

    def not_judged(self, given: str, stream: Stream) -> ExplainedRecipient:
        """A recipient who was not judged."""
        account = recipient_account(given, _NOT_JUDGED, stream, (), None, self.tense, self.lang)
        return ExplainedRecipient(given, _NOT_JUDGED, None, (), account)

    def judged(
        self,
        entry: tuple[str, str],
        verdict: Verdict,
        stream: Stream,
        message: MessageFeatures | None = None,
    ) -> ExplainedRecipient:
        """`message` is None if the verdict was given at RCPT."""
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
    explained: ExplainedRecipient, message: Verdict | None, case: _Case
) -> ExplainedRecipient:
    """Add that somebody who may be mailed gets nothing because the message does not pass."""
    stopped = message is not None and message.action is not Action.ALLOW
    if (
        not stopped
        or explained.verdict.action is not Action.ALLOW
        or not explained.account.happened
    ):
        return explained
    return _with_note(explained, Phrase(f"note.whole.{case.tense}"), case.lang)


def _as_heard(
    explained: ExplainedRecipient,
    record: Record,
    whole: Reply | None,
    case: _Case,
    *,
    reply_for_each: bool,
) -> ExplainedRecipient:
    """Leave out a reply that the client does not get; the sender may get it in a notification."""
    decided = record.decided
    if explained.reply is None:
        return explained
    if decided.observed:
        return replace(explained, reply=None)
    if _has_one_reply(record, reply_for_each=reply_for_each):
        return explained if explained.reply == whole else replace(explained, reply=None)
    if decided.stage != "data" or reply_for_each:
        return explained
    told = Phrase(f"note.notified.{case.tense}", {"reply": str(explained.reply)})
    return replace(_with_note(explained, told, case.lang), reply=None)


def _with_own_answer(
    explained: ExplainedRecipient, record: Record, index: int, lang: Lang
) -> ExplainedRecipient:
    """Add the upstream's answer if each recipient had their own copy.

    Several may share one refusal, of an earlier copy, after which theirs were not tried.
    """
    if record.outcome is None or not record.outcome.each:
        return explained
    own = record.outcome_of(index)
    if own is None:
        return explained
    shared = own.code >= 400 and record.outcome.each.count(own.reply) > 1
    name = "note.own_answer.shared" if shared else "note.own_answer"
    return _with_note(explained, Phrase(name, {"reply": own.reply}), lang)


def _with_note(explained: ExplainedRecipient, phrase: Phrase, lang: Lang) -> ExplainedRecipient:
    notes = (*explained.account.notes, say(phrase, lang))
    return replace(explained, account=replace(explained.account, notes=notes))


def _has_one_reply(record: Record, *, reply_for_each: bool) -> bool:
    """Whether the message was refused as a whole, with a reply of its own.

    Where each recipient has a reply, it has none if that is only because all are refused.
    """
    message = record.decided.decision.message
    if message is None or message.action is Action.ALLOW:
        return False
    everybody = all(one.verdict.action is not Action.ALLOW for one in record.decided.recipients)
    return not (reply_for_each and everybody and message.reason is Reason.RECIPIENTS_REFUSED)


def _message_reply(record: Record, *, reply_for_each: bool) -> Reply | None:
    decided = record.decided
    verdict, stream = decided.decision.message, decided.decision.stream.name
    if verdict is None or decided.observed or not decided.recipients:
        return None  # with all refused at RCPT there is no DATA
    if not _has_one_reply(record, reply_for_each=reply_for_each):
        return None
    refused = [
        (r.address, r.verdict) for r in decided.recipients if r.verdict.action is not Action.ALLOW
    ]
    if verdict.reason is not Reason.RECIPIENTS_REFUSED or not refused:
        return message_reply(verdict, stream, decided.id, decided.help_url)
    if len(refused) == 1:
        return recipient_reply(*refused[0], stream, decided.id, decided.help_url)
    return recipients_reply(refused, stream, decided.id, decided.help_url)
