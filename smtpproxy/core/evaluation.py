"""The one place where recipients and messages are judged, and where recorded decisions are judged
again under another rulebook.

Pure: facts come in, verdicts go out. core/transaction.py asks for the facts.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.core.services import Services, StreamChoice
from smtpproxy.events import Decided, JudgedRecipient, time_of
from smtpproxy.policy.decide import judge, judge_recipients
from smtpproxy.policy.model import (
    NO_FACTS,
    Action,
    Facts,
    Lookups,
    MessageFeatures,
    Reason,
    RecipientFacts,
    Rulebook,
    Stream,
    Transaction,
    Verdict,
)
from smtpproxy.policy.rules import RecipientCase
from smtpproxy.policy.rules.deferrals import is_stranger
from smtpproxy.policy.rules.recipient import is_tracked
from smtpproxy.sinks.audit.lines import is_erased
from smtpproxy.store.sql.mailings import Mailed

_NOT_REFUSED = Verdict(Action.ALLOW)
UNDECIDED = Verdict(Action.DEFER, Reason.TEMPORARY_FAILURE, rule="store")
"""The verdict on a recipient whose facts could not be read."""


class Evaluation:
    """What is known about the recipients of one transaction, and the verdicts on them.

    Recipients are canonical addresses. A verdict is only as good as the facts: `outdated` says
    whether the store has changed since they were read.
    """

    def __init__(self, services: Services, choice: StreamChoice) -> None:
        self.facts: dict[str, RecipientFacts] = {}
        self.limited: set[str] = set()  # those who have said how often they want mail
        self._services = services
        self._choice = choice
        self._read_at: dict[str, object] = {}  # the state of the store that the facts come from
        self._at_rcpt: dict[str, Verdict] = {}
        self._changed: set[str] = set()  # something was learned since the last verdict

    def lookups(self, addresses: Sequence[str], *, provisional: bool) -> Lookups:
        """What has to be read about these recipients, whichever stream it will be."""
        people = tuple(addresses if len(addresses) == 1 else dict.fromkeys(addresses))
        return replace(self._choice.lookups, addresses=people, provisional=provisional)

    def learn(self, addresses: Iterable[str], facts: Facts, version: object) -> None:
        """Take in what the store knows, in a state no older than `version`.

        What came from elsewhere (earlier mail, null MX) is kept.
        """
        for address in addresses:
            known, before = facts.get(address, NO_FACTS), self.facts.get(address)
            if before is not None:
                known = replace(
                    known,
                    mailings=before.mailings,
                    first_mailed_at=before.first_mailed_at,
                    null_mx=before.null_mx,
                )
            self.facts[address] = known
            self._read_at[address] = version
            self._changed.add(address)
            if known.contact is not None and known.contact.preferences:
                self.limited.add(address)

    def learn_domains(self, null_mx: Mapping[str, bool]) -> None:
        for address, known in null_mx.items():
            self.facts[address] = replace(self.facts[address], null_mx=known)
            self._changed.add(address)

    def learn_mailings(self, mailed: Mapping[str, Mailed]) -> None:
        for address, known in mailed.items():
            facts = self.facts.get(address, NO_FACTS)
            self.facts[address] = replace(
                facts, mailings=known.mailings, first_mailed_at=known.first_at
            )
            self._changed.add(address)

    def learn_mailed(self, facts: Facts) -> None:
        self.learn_mailings({a: Mailed(f.mailings, f.first_mailed_at) for a, f in facts.items()})

    def outdated(self, addresses: Iterable[str], version: object) -> bool:
        """Whether facts of any of these are from another state of the store."""
        read_at = self._read_at
        for address in addresses:  # noqa: SIM110 - a generator takes three times as long
            if read_at.get(address) != version:
                return True
        return False

    def holds(self, stream: Stream, addresses: Sequence[str]) -> bool:
        """Whether the verdicts on these still hold, because nothing was learned since.

        Always false for a stream that looks at the age of snapshots, because time passes.
        """
        return not stream.asks_for_snapshots and self._changed.isdisjoint(addresses)

    def judge_at_rcpt(self, addresses: Sequence[str], now: datetime) -> Sequence[Verdict]:
        """Judge as far as RCPT allows; nobody is refused if the candidates' rulebooks differ."""
        choice = self._choice
        rulebook = self._services.rulebooks[choice.default.rulebook]
        if choice.certain:
            verdicts = judge_recipients(choice.default, addresses, self.facts, rulebook, now, None)
            self._at_rcpt.update(zip(addresses, verdicts, strict=True))
            self._changed.difference_update(addresses)
            return verdicts
        if not choice.one_rulebook:
            return [_NOT_REFUSED] * len(addresses)
        question = Transaction(choice.candidates, tuple(addresses))
        return judge(question, self.facts, rulebook, now).recipients

    def strangers(self, stream: Stream, addresses: Iterable[str]) -> dict[str, bool]:
        """Whether each was never mailed before, or has been silent for long."""
        rulebook, now = self._services.rulebooks[stream.rulebook], self._services.now()
        known = {address: self.facts.get(address, NO_FACTS) for address in addresses}
        return {
            address: is_stranger(RecipientCase(address, stream, facts, rulebook, now))
            for address, facts in known.items()
        }

    def judge_at_end(
        self,
        stream: Stream,
        addresses: Sequence[str],
        features: MessageFeatures,
        now: datetime,
    ) -> tuple[Verdict, ...]:
        """Judge with the message; a final verdict from RCPT is not computed again."""
        if (
            self._choice.certain
            and stream is self._choice.default
            and not stream.counts_mailings
            and not stream.asks_for_snapshots
            and (features.content is None or not is_tracked(stream, features.content))
        ):
            return tuple([self._at_rcpt.get(address, UNDECIDED) for address in addresses])
        return self.judge_again(stream, addresses, features, now)

    def judge_again(
        self,
        stream: Stream,
        addresses: Sequence[str],
        features: MessageFeatures,
        now: datetime,
    ) -> tuple[Verdict, ...]:
        """Judge by what is known now; a recipient whose facts could not be read is UNDECIDED."""
        self._changed.difference_update(addresses)
        known = tuple([address for address in addresses if address in self.facts])
        rulebook = self._services.rulebooks[stream.rulebook]
        verdicts = judge_recipients(stream, known, self.facts, rulebook, now, features)
        if len(known) == len(addresses):
            return verdicts
        found = dict(zip(known, verdicts, strict=True))
        return tuple([found.get(address, UNDECIDED) for address in addresses])


_NOT_JUDGED = frozenset({Reason.TEMPORARY_FAILURE, Reason.STREAM_NOT_PERMITTED})
"""Reasons that no rulebook gives."""


class Change(Struct, frozen=True):
    """A verdict that would be different. `recipient` is None for the message itself."""

    recipient: JudgedRecipient | None
    before: Verdict
    after: Verdict


class Replayed(Struct, frozen=True):
    """One decision, judged again, except for the `erased` recipients, who cannot be."""

    judged: int
    erased: int
    changes: tuple[Change, ...]


def replay(decided: Decided, rulebook: Rulebook) -> Replayed:
    """Judge a recorded decision again, by the facts and features on record.

    Under the recorded rulebook nothing changes. That a message is refused because of its recipients
    follows from their verdicts and is not a change of its own.
    """
    recipients = [r for r in decided.recipients if r.verdict.reason not in _NOT_JUDGED]
    known = [recipient for recipient in recipients if not is_erased(recipient)]
    changes = [] if not known else list(_changes(decided, known, rulebook))
    return Replayed(len(known), len(recipients) - len(known), tuple(changes))


def _changes(
    decided: Decided, known: list[JudgedRecipient], rulebook: Rulebook
) -> Iterator[Change]:
    keys = tuple(recipient.canonical for recipient in known)
    question = Transaction((decided.decision.stream,), keys, decided.features)
    late = judge(question, decided.facts, rulebook, decided.at)
    early = late
    if any(_differ(r.verdict, v) for r, v in zip(known, late.recipients, strict=True)):
        # Recipients are judged at RCPT, between the beginning of the transaction and its record: a
        # period that ended in between is not a change.
        early = judge(question, decided.facts, rulebook, _start_of(decided))
    for recipient, first, last in zip(known, early.recipients, late.recipients, strict=True):
        if _differ(recipient.verdict, first) and _differ(recipient.verdict, last):
            yield Change(recipient, recipient.verdict, last)
    before, after = decided.decision.message, late.message
    if before is None or after is None or before.reason is Reason.RECIPIENTS_REFUSED:
        return
    if _differ(before, after):
        yield Change(None, before, after)


def _differ(before: Verdict, after: Verdict) -> bool:
    return (before.action, before.reason, before.basis) != (
        after.action,
        after.reason,
        after.basis,
    )


def _start_of(decided: Decided) -> datetime:
    """When the transaction began, according to its id; never after the record."""
    try:
        start = datetime.fromtimestamp(time_of(decided.id) / 1000, UTC)
    except ValueError:
        return decided.at
    return min(start, decided.at)


def words(verdict: Verdict) -> str:
    """The verdict as replays count it: by its reason, or by its basis if it allows."""
    if verdict.action is Action.ALLOW:
        return f"allow, {verdict.basis}" if verdict.basis else "allow"
    return f"{verdict.action}, {verdict.reason}"
