"""Gathering facts and asking the decision core, for one transaction."""

from collections.abc import Sequence

from smtpproxy.events import Stage
from smtpproxy.pipeline.parts import Parts, spend
from smtpproxy.pipeline.streams import StreamChoice
from smtpproxy.policy.decide import choose_stream, judge, judge_again, judge_message, needs
from smtpproxy.policy.model import (
    NO_FACTS,
    Action,
    Decision,
    MessageFeatures,
    Mode,
    Reason,
    RecipientFacts,
    Stream,
    Transaction,
    Verdict,
)

_ALLOWED = Verdict(Action.ALLOW)
_UNDECIDED = Verdict(Action.DEFER, Reason.TEMPORARY_FAILURE, rule="store")


class Judgement:
    """What is known about the recipients so far, and what follows from it."""

    def __init__(self, parts: Parts, choice: StreamChoice, seconds: dict[Stage, float]) -> None:
        self.facts: dict[str, RecipientFacts] = {}
        self._verdicts: dict[str, Verdict] = {}
        self._seconds = seconds
        self._parts = parts
        self._choice = choice

    @property
    def enforcing(self) -> bool:
        """Observe mode on any stream that it may still be lets recipients through for now."""
        return all(stream.mode is Mode.ENFORCE for stream in self._choice.candidates)

    async def of_recipients(self, keys: Sequence[str]) -> Sequence[Verdict]:
        """Read the facts of canonical addresses and judge them as far as RCPT allows.

        Candidate streams under different rulebooks are left to the end of the message.
        Raises StoreUnavailable.
        """
        parts = self._parts
        candidates = self._choice.candidates
        rulebook = parts.rulebooks[candidates[0].rulebook]
        question = Transaction(candidates, tuple(keys))
        start = parts.ticks()
        facts = await parts.store.facts(needs(question, rulebook))
        read = parts.ticks()
        spend(self._seconds, "store", read - start)
        self.facts.update((key, facts.get(key, NO_FACTS)) for key in keys)
        if any(stream.rulebook != candidates[0].rulebook for stream in candidates):
            return [_ALLOWED] * len(keys)
        verdicts = judge(question, facts, rulebook, parts.now()).recipients
        self._verdicts.update(zip(keys, verdicts, strict=True))
        spend(self._seconds, "policy", parts.ticks() - read)
        return verdicts

    def of_message(self, keys: Sequence[str], features: MessageFeatures) -> Decision:
        """Choose the stream and judge the message with its recipients.

        A recipient whose facts could not be read gets `temporary_failure`.
        """
        parts, choice = self._parts, self._choice
        start = parts.ticks()
        stream = choose_stream(choice.permitted, choice.default, features.stream_header)
        if isinstance(stream, Verdict):
            refused = stream  # on no stream, so nobody can be allowed either
            return Decision(
                choice.default, choice.default.rulebook, (refused,) * len(keys), message=refused
            )
        if choice.certain:  # then the recipients were judged for good, but for the message
            verdicts: Sequence[Verdict] = [self._verdicts.get(key, _UNDECIDED) for key in keys]
            if stream.first_contact_notice:
                question = Transaction((stream,), tuple(keys), features)
                rulebook = parts.rulebooks[stream.rulebook]
                verdicts = judge_again(question, verdicts, self.facts, rulebook, parts.now())
        else:
            verdicts = self._judged(stream, keys, features)
        decision = Decision(
            stream, stream.rulebook, tuple(verdicts), judge_message(stream, features)
        )
        spend(self._seconds, "policy", parts.ticks() - start)
        return decision

    def _judged(
        self, stream: Stream, keys: Sequence[str], features: MessageFeatures
    ) -> Sequence[Verdict]:
        parts = self._parts
        known = tuple(key for key in keys if key in self.facts)
        question = Transaction((stream,), known, features)
        rulebook = parts.rulebooks[stream.rulebook]
        verdicts = judge(question, self.facts, rulebook, parts.now()).recipients
        found = dict(zip(known, verdicts, strict=True))
        return [found.get(key, _UNDECIDED) for key in keys]
