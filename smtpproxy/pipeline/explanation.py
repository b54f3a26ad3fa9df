"""A transaction judged for somebody who asks why, through the core that judges the mail."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from smtpproxy.mail.reply import Reply
from smtpproxy.pipeline.streams import StreamChoice
from smtpproxy.policy.decide import choose_stream, judge
from smtpproxy.policy.model import (
    Action,
    Facts,
    MessageFeatures,
    Reason,
    Rulebook,
    Stream,
    Transaction,
    Verdict,
)
from smtpproxy.policy.replies import message_reply, recipient_reply, recipients_reply
from smtpproxy.policy.trace import TraceStep, message_trace, trace
from smtpproxy.sinks.journal_reader import Record

NO_ID = "explain"
"""Stands where the id of a decision stands in the reply to real mail."""


@dataclass(frozen=True, slots=True)
class ExplainedRecipient:
    """`reply` is None where the upstream's own reply would be given."""

    address: str
    verdict: Verdict
    reply: Reply | None
    trace: tuple[TraceStep, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """`message` is None when no message was judged: a recorded refusal at RCPT."""

    stream: Stream
    rulebook: str
    message: Verdict | None
    message_reply: Reply | None
    message_trace: tuple[TraceStep, ...]
    recipients: tuple[ExplainedRecipient, ...]

    @property
    def allowed(self) -> bool:
        """Whether the message and every recipient are."""
        verdicts = [recipient.verdict for recipient in self.recipients]
        if self.message is not None:
            verdicts.append(self.message)
        return all(verdict.action is Action.ALLOW for verdict in verdicts)


@dataclass(frozen=True, slots=True)
class Question:
    """What would become of a message. `recipients` are (as given, canonical)."""

    choice: StreamChoice
    recipients: tuple[tuple[str, str], ...]
    reverse_path: str
    features: MessageFeatures
    on_mixed: Literal["refuse", "split"] = "refuse"


def explain(
    question: Question, facts: Facts, rulebooks: Mapping[str, Rulebook], now: datetime
) -> Explanation:
    """Judge at RCPT what is certain there, then the message with the rest, as the relay does."""
    candidates = question.choice.candidates
    early = _refused_at_rcpt(question, facts, rulebooks, now)
    late = tuple(entry for entry in question.recipients if entry not in early)
    chosen = choose_stream(
        question.choice.permitted, question.choice.default, question.features.stream_header
    )
    if isinstance(chosen, Verdict):
        stream, message = question.choice.default, chosen
        verdicts = {entry: Verdict(Action.ALLOW) for entry in late}  # nobody asked about them
        traced: Sequence[tuple[str, str]] = list(early)
    else:
        stream = chosen
        transaction = Transaction((stream,), tuple(key for _, key in late), question.features)
        decision = judge(transaction, facts, rulebooks[stream.rulebook], now)
        assert decision.message is not None
        message = decision.message
        verdicts = dict(zip(late, decision.recipients, strict=True))
        traced = question.recipients
    refused = [(given, v) for (given, _), v in verdicts.items() if v.action is not Action.ALLOW]
    mixed = _mixed(question, refused, len(late)) if message.action is Action.ALLOW else None
    return Explanation(
        stream,
        stream.rulebook,
        mixed or message,
        _message_reply(mixed or message, refused, stream.name, NO_ID),
        message_trace(stream, question.features) if stream is chosen else (),
        tuple(
            _recipient(
                entry,
                early.get(entry) or verdicts[entry],
                candidates[0] if entry in early else stream,
                facts,
                rulebooks if entry in traced else {},
                now,
                NO_ID,
            )
            for entry in question.recipients
        ),
    )


def recall(records: Sequence[Record], rulebooks: Mapping[str, Rulebook]) -> Explanation:
    """Explain a recorded decision: its refusals at RCPT, if any, then its message.

    The verdicts are those on record. How they came about is traced again from the
    recorded facts; a rulebook that is not configured any more leaves no trace.
    """
    recipients: list[ExplainedRecipient] = []
    for record in records:
        decided = record.decided
        stream = decided.decision.stream
        recipients += [
            _recipient(
                (entry.address, entry.canonical),
                entry.verdict,
                stream,
                decided.facts,
                rulebooks,
                decided.at,
                decided.id,
            )
            for entry in decided.recipients
        ]
    last = records[-1].decided
    refused = [
        (r.address, r.verdict) for r in last.recipients if r.verdict.action is not Action.ALLOW
    ]
    stream, message = last.decision.stream, last.decision.message
    return Explanation(
        stream,
        last.decision.rulebook,
        message,
        _message_reply(message, refused, stream.name, last.id),
        message_trace(stream, last.features) if last.features else (),
        tuple(recipients),
    )


def _refused_at_rcpt(
    question: Question, facts: Facts, rulebooks: Mapping[str, Rulebook], now: datetime
) -> dict[tuple[str, str], Verdict]:
    candidates = question.choice.candidates
    if any(stream.rulebook != candidates[0].rulebook for stream in candidates):
        return {}
    keys = tuple(key for _, key in question.recipients)
    asked = Transaction(candidates, keys)
    verdicts = judge(asked, facts, rulebooks[candidates[0].rulebook], now).recipients
    return {
        entry: verdict
        for entry, verdict in zip(question.recipients, verdicts, strict=True)
        if verdict.action is not Action.ALLOW
    }


def _mixed(
    question: Question, refused: Sequence[tuple[str, Verdict]], asked: int
) -> Verdict | None:
    """The refusal of a whole message for some recipients' sake, where one reply serves all."""
    if not refused:
        return None
    permanent = [verdict for _, verdict in refused if verdict.action is Action.REFUSE]
    if (
        question.on_mixed == "split"
        and len(refused) < asked
        and question.reverse_path
        and len(permanent) == len(refused)
    ):
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


def _recipient(
    entry: tuple[str, str],
    verdict: Verdict,
    stream: Stream,
    facts: Facts,
    rulebooks: Mapping[str, Rulebook],
    now: datetime,
    id: str,
) -> ExplainedRecipient:
    given, key = entry
    reply = None
    if verdict.action is not Action.ALLOW:
        reply = recipient_reply(given, verdict, stream.name, id)
    steps: tuple[TraceStep, ...] = ()
    if stream.rulebook in rulebooks:
        asked = Transaction((stream,), (key,))
        steps = trace(asked, 0, facts, rulebooks[stream.rulebook], now)
    return ExplainedRecipient(given, verdict, reply, steps)
