"""Gathering facts and asking the decision core, for one transaction."""

from collections.abc import Sequence

from msgspec.structs import replace

from smtpproxy.events import Stage
from smtpproxy.pipeline.parts import Parts, spend
from smtpproxy.pipeline.streams import StreamChoice
from smtpproxy.policy.decide import choose_stream, judge, judge_message, needs
from smtpproxy.policy.model import (
    NO_FACTS,
    Action,
    Decision,
    MessageFeatures,
    Mode,
    Reason,
    RecipientFacts,
    Stream,
    StreamClass,
    Transaction,
    Verdict,
)
from smtpproxy.store.mailings import with_mailings
from smtpproxy.store.protocols import StoreUnavailable

_ALLOWED = Verdict(Action.ALLOW)
_UNDECIDED = Verdict(Action.DEFER, Reason.TEMPORARY_FAILURE, rule="store")


class Judgement:
    """What is known about the recipients so far, and what follows from it."""

    def __init__(self, parts: Parts, choice: StreamChoice, seconds: dict[Stage, float]) -> None:
        self.facts: dict[str, RecipientFacts] = {}
        self.counted: set[str] = set()  # for whom the message was counted
        self.uncounted: StoreUnavailable | None = None  # observed mail that could not be
        self._verdicts: dict[str, Verdict] = {}
        self._seconds = seconds
        self._parts = parts
        self._choice = choice

    @property
    def refuses_at_rcpt(self) -> bool:
        """Whether recipients are refused at RCPT on every stream that it may still be."""
        return all(
            stream.mode is Mode.ENFORCE and not stream.refuse_at_data
            for stream in self._choice.candidates
        )

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
            await self._ask_domains(keys)
            return [_ALLOWED] * len(keys)
        verdicts = judge(question, facts, rulebook, parts.now()).recipients
        spend(self._seconds, "policy", parts.ticks() - read)
        if parts.domains is not None:
            pairs = zip(keys, verdicts, strict=True)
            if await self._ask_domains([k for k, v in pairs if v.action is not Action.REFUSE]):
                verdicts = judge(question, self.facts, rulebook, parts.now()).recipients
        self._verdicts.update(zip(keys, verdicts, strict=True))
        return verdicts

    async def _ask_domains(self, keys: Sequence[str]) -> bool:
        """Find out which domains take no mail; tell whether any of them says so.

        Nobody's domain is asked who is refused anyway.
        """
        domains = self._parts.domains
        if domains is None or not keys:
            return False
        start = self._parts.ticks()
        known = await domains.null_mx(keys)
        spend(self._seconds, "dns", self._parts.ticks() - start)
        for key, null_mx in known.items():
            self.facts[key] = replace(self.facts[key], null_mx=null_mx)
        return any(known.values())

    async def of_message(self, id: str, keys: Sequence[str], features: MessageFeatures) -> Decision:
        """Choose the stream and judge the message with its recipients.

        A recipient whose facts could not be read gets `temporary_failure`. Where mail is
        counted, those who may get it are counted now, under `id` (see `counted`).
        Raises StoreUnavailable.
        """
        parts, choice = self._parts, self._choice
        start = parts.ticks()
        stream = choose_stream(choice.permitted, choice.default, features.stream_header)
        if isinstance(stream, Verdict):
            refused = stream  # on no stream, so nobody can be allowed either
            return Decision(
                choice.default, choice.default.rulebook, (refused,) * len(keys), message=refused
            )
        certain = choice.certain
        if features.closer is not None and features.closer.came_on is not None:
            stream, certain = parts.undeclared, False
        if certain and not stream.counts_mailings:  # then they were judged for good
            verdicts: Sequence[Verdict] = [self._verdicts.get(key, _UNDECIDED) for key in keys]
        else:
            verdicts = self._judged(stream, keys, features)
        message = judge_message(stream, features)
        if parts.mailings is not None and stream.stream_class is StreamClass.MARKETING:
            passes = message.action is Action.ALLOW or stream.mode is Mode.OBSERVE
            if passes and await self._count(id, stream, keys, verdicts):
                verdicts = self._judged(stream, keys, features)
        spend(self._seconds, "policy", parts.ticks() - start)
        return Decision(stream, stream.rulebook, tuple(verdicts), message)

    async def _count(
        self, id: str, stream: Stream, keys: Sequence[str], verdicts: Sequence[Verdict]
    ) -> bool:
        """Count the message for those who may get it; tell whether verdicts depend on that.

        From now on the facts hold what was counted before it, by any worker.
        """
        observed = stream.mode is Mode.OBSERVE
        pairs = zip(keys, verdicts, strict=True)
        mailed = {key for key, verdict in pairs if observed or verdict.action is Action.ALLOW}
        if not mailed or self._parts.mailings is None:
            return False
        start = self._parts.ticks()
        try:
            before = await self._parts.mailings.reserve(id, stream.name, mailed, self._parts.now())
        except StoreUnavailable as error:
            if not observed:
                raise
            self.uncounted = error
            return False
        self.counted = mailed
        spend(self._seconds, "store", self._parts.ticks() - start)
        if not stream.counts_mailings:
            return False
        self.facts.update(with_mailings(self.facts, before))
        return True

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
