"""One message in the decision core, from RCPT to the record.

This is what all intakes have in common: recipients are judged as they come, the message at its end,
and the decision goes on record only if the store has not changed since. core/relaying.py and
core/advice.py add what differs.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from msgspec.structs import replace

from smtpproxy.core.content_checks import Message, with_content, with_dns
from smtpproxy.core.counting import CountedTransaction
from smtpproxy.core.effects import STORE_VERSION, AskDomains, ReadFacts, Steps
from smtpproxy.core.recording import (
    Outcome,
    Recipient,
    Refused,
    refused_as_a_whole,
    unreadable_reply,
    verdict_holds,
    was_erased,
)
from smtpproxy.events import Decided, Failed
from smtpproxy.mail.address import AddressError, canonical
from smtpproxy.mail.reply import Reply
from smtpproxy.policy.decide import choose_stream, judge_message
from smtpproxy.policy.features import read_features, read_identity
from smtpproxy.policy.model import NO_FACTS, Action, Decision, Facts, Lookups, Mode, Reason, Verdict
from smtpproxy.policy.replies import recipient_reply
from smtpproxy.policy.rules.message import stream_in_force
from smtpproxy.sinks.audit.journal import AuditUnavailable
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.wire.commands import Rcpt

T = TypeVar("T")

_ALLOW, _OBSERVE = Action.ALLOW, Mode.OBSERVE
_AT = ord("@")  # as a number, which `in` tries first

MAX_RECHECKS = 5
"""How often a message may be judged again because the store keeps changing."""
CHANGES_TOO_FAST = "the store changes faster than a message can be judged"


class Transaction(CountedTransaction):
    """Judges recipients as they come and the message at its end, and keeps the record.

    Its methods are steps (core/effects.py). An internal failure is a 451 and an event for the
    log, never an exception out of `recipients` and `message` of the classes below this one.
    """

    __slots__ = ()

    # RCPT

    def _judge_rcpts(
        self, asked: Sequence[Rcpt], *, early: bool
    ) -> Steps[tuple[list[Recipient], list[Reply | None]]]:
        """Judge recipients; return the permitted ones, and a reply or None for each RCPT.

        Refusals are recorded before this returns. Unless `early`, only a path that is not an
        address gets a reply; everything else is left to the end of the message.
        """
        replies: list[Reply | None] = []
        people, addresses = [], []
        for rcpt in asked:
            try:
                address = self.canonical(rcpt.forward_path)
            except AddressError as error:
                replies.append(unreadable_reply(error))
            else:
                replies.append(None)
                people.append(Recipient(rcpt, address))
                addresses.append(address)
        early = early and self._choice.refuses_at_rcpt
        try:
            verdicts = yield from self._read_and_judge(addresses, provisional=True)
            if not early or all(map(_is_allowed, verdicts)):
                return people, replies
            verdicts = yield from self._without_retried(people, verdicts)
            if all(map(_is_allowed, verdicts)):
                return people, replies
            judged = list(zip(people, verdicts, strict=True))
            yield from self._record_refused([each for each in judged if not _is_allowed(each[1])])
        except (StoreUnavailable, AuditUnavailable) as error:
            failure = self._failed(error, recipients=len(people) if early else 0)
            if not early:
                return people, replies
            return [], [failure if reply is None else reply for reply in replies]
        given = iter([None if _is_allowed(v) else self._recipient_reply(r, v) for r, v in judged])
        replies = [next(given) if reply is None else reply for reply in replies]
        return [r for r, verdict in judged if _is_allowed(verdict)], replies

    def _without_retried(
        self, people: Sequence[Recipient], verdicts: Sequence[Verdict]
    ) -> Steps[Sequence[Verdict]]:
        """Let recipients pass for now who may be named again because others were deferred."""
        yield from ()
        return verdicts

    def _read_and_judge(
        self, addresses: Sequence[str], *, provisional: bool = False
    ) -> Steps[Sequence[Verdict]]:
        """Read facts and judge as far as RCPT allows. Raises StoreUnavailable.

        `provisional`: they are read again at the end of the message.
        """
        evaluation, services = self._evaluation, self._services
        yield from self._read(addresses, provisional=provisional)
        verdicts = evaluation.judge_at_rcpt(addresses, services.now())
        if provisional and services.reads_standby and not all(map(_is_allowed, verdicts)):
            yield from self._refresh(addresses)  # nobody is refused by what a standby alone says
            verdicts = evaluation.judge_at_rcpt(addresses, services.now())
        if services.asks_domains:
            pairs = zip(addresses, verdicts, strict=True)
            asked = [a for a, v in pairs if v.action is not Action.REFUSE]
            if asked:  # no lookup for a recipient that is refused anyway
                null_mx = yield from AskDomains(asked)
                evaluation.learn_domains(null_mx)
                yield from self._refresh(addresses)  # the lookup took time
                verdicts = evaluation.judge_at_rcpt(addresses, services.now())
        return verdicts

    def _record_refused(self, refused: Sequence[Refused]) -> Steps[None]:
        stream, facts = self._choice.candidates[0], self._evaluation.facts
        decision = Decision(stream, stream.rulebook, tuple([verdict for _, verdict in refused]))
        people = [recipient for recipient, _ in refused]
        about = {recipient.canonical: facts[recipient.canonical] for recipient in people}
        decided = self._decision("rcpt", self._services.now(), decision, people, about)
        yield from self._record(decided)

    # the end of the message

    def _decide(self, message: Message) -> Steps[Outcome]:
        """Judge the message and its remaining recipients. Nothing is recorded yet.

        Where mail is counted, it is counted here for the permitted recipients; `_not_mailed` takes
        that back. Raises StoreUnavailable.
        """
        services, evaluation = self._services, self._evaluation
        addresses = [recipient.canonical for recipient in self.recipients_accepted]
        self._addresses = addresses
        self._size = message.size
        self._identity = read_identity(message.headers)
        features = read_features(message.headers, services.stream_header, services.source_header)
        default = self._choice.default
        stream = choose_stream(self._choice.permitted, default, features.stream_header)
        if isinstance(stream, Verdict):  # on no stream, so nobody can be allowed either
            self._features, self._stream = features, None
            verdicts = (stream,) * len(addresses)
            decision = Decision(default, default.rulebook, verdicts, stream)
            return self._outcome(decision, services.now())
        features = yield from with_content(
            services, stream, features, message, self.reverse_path, addresses
        )
        if features.content is not None and features.content.declared_stream is not None:
            stream = stream_in_force(stream, features, services.undeclared)
        if services.asks_organisations or (services.checks_signatures and features.dkim_fields):
            features, failure = yield from with_dns(services, stream, features, message)
            if failure:
                services.emit(Failed(self.client.listener, "dns", failure))
        self._features, self._stream = features, stream
        now = services.now()
        judged = evaluation.judge_at_end(stream, addresses, features, now)
        observes = stream.mode is _OBSERVE
        if services.reads_standby and not observes and not all(map(_is_allowed, judged)):
            yield from self._refresh(addresses)
            judged = evaluation.judge_again(stream, addresses, features, now)
        verdict = judge_message(stream, features)
        may_pass = observes or verdict.action is _ALLOW
        if (
            may_pass
            and self._counts(stream)
            and (yield from self._count(stream, addresses, judged))
        ):
            judged = evaluation.judge_again(stream, addresses, features, now)
        if may_pass and stream.trial is not None:
            self._features = yield from self._try_campaign(stream, addresses, judged, features)
            judged = evaluation.judge_again(stream, addresses, self._features, now)
        outcome = self._outcome(Decision(stream, stream.rulebook, judged, verdict), now)
        if self._counted:
            yield from self._release_refused(outcome)
        return outcome

    def _outcome(self, decision: Decision, at: datetime) -> Outcome:
        """What follows from verdicts of that moment: whether it passes, and who does not get it."""
        refused: tuple[Refused, ...] = ()
        if not all(map(_is_allowed, decision.recipients)):
            judged = zip(self.recipients_accepted, decision.recipients, strict=True)
            refused = tuple([each for each in judged if not _is_allowed(each[1])])
        allowed = decision.message is None or decision.message.action is _ALLOW
        passes = decision.stream.mode is _OBSERVE or (
            allowed and (not refused or self._goes_to_some(refused))
        )
        if not passes and allowed:
            decision = replace(decision, message=refused_as_a_whole(refused))
        decided = self._decided(decision, at, passes)
        return Outcome(decided, refused, passes, self._services.help_url)

    def _refused(self, outcome: Outcome, message: Verdict) -> Outcome:
        """Refuse the message itself after all, unless it is only observed."""
        decision = replace(outcome.decided.decision, message=message)
        passes, at = outcome.decided.observed, self._services.now()
        return replace(outcome, decided=self._decided(decision, at, passes), passes=passes)

    def _refused_whole(self, outcome: Outcome) -> Outcome:
        """Refuse the message for everybody, since some cannot be answered separately."""
        return self._refused(outcome, refused_as_a_whole(outcome.refused))

    def _goes_to_some(self, refused: Sequence[Refused]) -> bool:
        """Whether the permitted recipients are mailed and the others answered separately."""
        if len(refused) == len(self.recipients_accepted) or self._mixed == "refuse":
            return False
        return self._mixed == "each" or (
            self.reverse_path != ""
            and all(verdict.action is Action.REFUSE for _, verdict in refused)
        )

    def _decided(self, decision: Decision, at: datetime, passes: bool) -> Decided:
        return self._decision(
            "data",
            at,
            decision,
            self.recipients_accepted,
            dict(self._evaluation.facts),  # a copy: it was not based on later ones
            features=self._features,
            observed=decision.stream.mode is _OBSERVE,
            relayed=passes,
        )

    # how fresh a verdict is

    def _recheck(self, outcome: Outcome) -> Steps[Outcome | None]:
        """Return the outcome by the store as it is now, or None if the old one still holds.

        Looking again can only refuse, never permit. Raises StoreUnavailable, unless the message is
        only observed.
        """
        stream, addresses, decision = self._stream, self._addresses, outcome.decided.decision
        if stream is None:
            return None  # it is on no stream, so nothing was read for it
        try:
            yield from self._refresh(addresses)
        except StoreUnavailable as error:
            if not outcome.decided.observed:
                raise
            self._failed(error)
            return None
        if self._evaluation.holds(stream, addresses):
            return None
        now = self._services.now()  # verdicts may be older than the facts
        anew = self._evaluation.judge_again(stream, addresses, self._features, now)
        before = decision.recipients
        verdicts = _refused_by_either(before, anew)
        if (yield from self._count(stream, addresses, verdicts)):  # new preferences
            anew = self._evaluation.judge_again(stream, addresses, self._features, now)
            verdicts = _refused_by_either(before, anew)
        if all(map(verdict_holds, before, verdicts)):
            return None
        message = decision.message
        if message is not None and message.reason is Reason.RECIPIENTS_REFUSED:
            message = judge_message(stream, self._features)
        changed = self._outcome(replace(decision, recipients=verdicts, message=message), now)
        facts = {  # a verdict that stays was based on what was known then
            address: outcome.decided.facts.get(address, NO_FACTS)
            for address, verdict in zip(addresses, before, strict=True)
            if not _is_allowed(verdict)
        }
        if not facts:
            return changed
        decided = replace(changed.decided, facts={**changed.decided.facts, **facts})
        return replace(changed, decided=decided)

    def _recheck_and_record(self, outcome: Outcome) -> Steps[Outcome | None]:
        """Look again, and record the outcome if it still holds; otherwise return the new one.

        None: it is on record, and nothing that was committed to the store before that forbids it.
        Raises StoreUnavailable, AuditUnavailable.
        """
        changed = yield from self._recheck(outcome)
        if changed is None:
            yield from self._record_passing(outcome.decided)
            if self._services.record_waits:
                return (yield from self._recheck_recorded(outcome))
        elif self._counted:
            yield from self._release_refused(changed)
        return changed

    def _recheck_recorded(self, outcome: Outcome) -> Steps[Outcome | None]:
        """Look again at an outcome that is on record; return the new one if it no longer holds."""
        changed = yield from self._recheck(outcome)
        if changed is None:
            return None
        if not outcome.refused:
            verdicts = outcome.decided.decision.recipients
            bases = tuple([verdict.basis or "" for verdict in verdicts])
            changed = replace(changed, decided=replace(changed.decided, permitted_before=bases))
        if self._counted:
            yield from self._release_refused(changed)
        return changed

    def _refresh(self, addresses: Sequence[str]) -> Steps[None]:
        """Read the facts of all these again if any may have changed. Raises StoreUnavailable.

        All of them, because the store may change once more before the outdated ones are read.
        """
        version: object = yield STORE_VERSION
        if self._evaluation.outdated(addresses, version):
            yield from self._read(addresses)

    def _read(self, addresses: Sequence[str], *, provisional: bool = False) -> Steps[None]:
        evaluation = self._evaluation
        lookups = evaluation.lookups(addresses, provisional=provisional)
        answer: tuple[Facts, object] = yield ReadFacts(lookups)
        evaluation.learn(addresses, *answer)
        if evaluation.limited and (few := evaluation.limited - self._counted):
            mailed, _ = yield from ReadFacts(Lookups(tuple(few), mailings=True))
            evaluation.learn_mailed(mailed)

    def _note_outcome(
        self, reply: Reply, recipients: int = 0, each: tuple[str, ...] = ()
    ) -> Steps[None]:
        """Add the client's answer to the record of a relayed message that lacks one.

        `each` has the upstream's reply for each recipient where each had their own copy.
        """
        decided = self._on_record
        if decided is None or not self._lacks_outcome:
            return
        if _AT in reply.wire or (each and any("@" in one for one in each)):
            addresses = self._addresses
            try:
                yield from self._refresh(addresses)
                facts = [self._evaluation.facts.get(address, NO_FACTS) for address in addresses]
                erased = any(was_erased(known, self._began) for known in facts)
            except StoreUnavailable:
                erased = True  # perhaps
            if erased:
                reply = Reply.of(reply.code, reply.enhanced)
                each = tuple(" ".join(one.split(" ")[:2]) for one in each)
        self._note(decided, reply, recipients, each)

    # replies

    def _recipient_reply(self, recipient: Recipient, verdict: Verdict) -> Reply:
        stream = self._choice.candidates[0].name
        return recipient_reply(recipient.path, verdict, stream, self.id, self._services.help_url)

    def canonical(self, path: str) -> str:
        """The canonical address of a recipient. Raises AddressError."""
        return canonical(path if "@" in path else f"{path}@{self._services.hostname}")


def _refused_by_either(before: Sequence[Verdict], anew: Sequence[Verdict]) -> tuple[Verdict, ...]:
    return tuple([new if _is_allowed(old) else old for old, new in zip(before, anew, strict=True)])


def _is_allowed(verdict: Verdict) -> bool:
    return verdict.action is _ALLOW
