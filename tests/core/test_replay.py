"""Replaying decisions: the same rulebook changes nothing, another only what it must."""

from datetime import timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from smtpproxy.core.evaluation import replay, words
from smtpproxy.events import Client, Decided, JudgedRecipient, UlidFactory
from smtpproxy.policy.decide import judge
from smtpproxy.policy.model import (
    Action,
    Decision,
    MessageFeatures,
    Reason,
    RecipientFacts,
    Rulebook,
    Transaction,
    Verdict,
)
from smtpproxy.policy.rulebooks import BUILTIN_NAMES, builtin
from smtpproxy.sinks.audit.chain import Chain, take_apart
from smtpproxy.sinks.audit.lines import DecisionEntry, LineMaker, read_line
from smtpproxy.sinks.audit.lines import decided as read_decided
from tests.policy.cases import AGREED, NOW, OFFERS, PERSON, THREE_YEARS_AGO
from tests.policy.strategies import random_case, untimed

FEATURES = [
    None,
    MessageFeatures(malformed="no From"),
    MessageFeatures(from_domains=("example.com",), unsubscribe_fields=1),
    MessageFeatures(
        from_domains=("example.com",),
        unsubscribe_fields=1,
        unsubscribe_https=("https://example.com/u/1",),
        one_click=True,
    ),
]
MAX_AGE = timedelta(seconds=90)


def on_record(decided: Decided) -> Decided:
    """The decision as read back from the journal."""
    raw = Chain().seal(*LineMaker().decision(decided))
    line = read_line(raw)
    assert isinstance(line.entry, DecisionEntry)
    return read_decided(line, line.entry)


def some_decision(random: Random, rulebook: Rulebook) -> Decided:
    """A decision as the pipeline makes it: recipients at RCPT, message and record later."""
    cases = [random_case(random) for _ in range(random.choice([1, 1, 2, 4]))]
    stream = cases[0][1]
    facts = {f"{number}{address}": known for number, (address, _, known) in enumerate(cases)}
    features = random.choice(FEATURES)
    begun, recorded = NOW, NOW + random.choice([timedelta(0), MAX_AGE])
    judged_at = begun + (recorded - begun) * random.random()
    decision = judge(Transaction((stream,), tuple(facts), features), facts, rulebook, judged_at)
    message = decision.message
    if message is not None and message.action is Action.ALLOW and random.random() < 0.3:
        message = Verdict(Action.REFUSE, Reason.RECIPIENTS_REFUSED, rule="on_mixed")
    return Decided(
        id=UlidFactory(lambda: int(begun.timestamp() * 1000), lambda n: bytes(n))(),
        at=recorded,
        stage="rcpt" if features is None else "data",
        client=Client("apps", "192.0.2.1", "app.example"),
        reverse_path="news@example.com",
        decision=changed(decision, message=message),
        recipients=tuple(
            JudgedRecipient(address.upper(), address, verdict)
            for address, verdict in zip(facts, decision.recipients, strict=True)
        ),
        facts=facts,
        features=features,
    )


@pytest.mark.parametrize("name", BUILTIN_NAMES)
@untimed
@given(st.integers(0, 2**32))
def test_the_same_rulebook_changes_nothing(name: str, seed: int) -> None:
    rulebook = builtin(name)
    decided = some_decision(Random(seed), rulebook)
    result = replay(on_record(decided), rulebook)
    assert result.changes == ()
    assert (result.judged, result.erased) == (len(decided.recipients), 0)


@untimed
@given(st.integers(0, 2**32), st.sampled_from(BUILTIN_NAMES), st.sampled_from(BUILTIN_NAMES))
def test_another_rulebook_changes_what_it_judges_differently(
    seed: int, first: str, second: str
) -> None:
    decided = changed(some_decision(Random(seed), builtin(first)), at=NOW)
    stream, keys = decided.decision.stream, tuple(r.canonical for r in decided.recipients)
    now = judge(Transaction((stream,), keys, decided.features), decided.facts, builtin(second), NOW)
    expected = {
        recipient.address: (words(recipient.verdict), words(verdict))
        for recipient, verdict in zip(decided.recipients, now.recipients, strict=True)
        if words(recipient.verdict) != words(verdict)
    }
    found = {
        change.recipient.address: (words(change.before), words(change.after))
        for change in replay(on_record(decided), builtin(second)).changes
        if change.recipient is not None
    }
    assert found == expected


def case(random_seed: int = 1) -> Decided:
    return some_decision(Random(random_seed), builtin("fr"))


def test_a_period_that_ended_between_rcpt_and_the_record_makes_no_difference() -> None:
    """The moment exactly 3 years later is still allowed."""
    act = changed(AGREED, at=THREE_YEARS_AGO)
    person = changed(
        PERSON, acts=(act,), collected_at=THREE_YEARS_AGO, last_activity_at=None, purchases=()
    )
    facts = {person.address: RecipientFacts((), person)}
    verdict = judge(Transaction((OFFERS,), (person.address,)), facts, builtin("fr"), NOW)
    assert verdict.recipients[0].action is Action.ALLOW
    decided = changed(
        case(),
        at=NOW + timedelta(seconds=5),
        decision=verdict,
        recipients=(JudgedRecipient("A", person.address, verdict.recipients[0]),),
        facts=facts,
        features=None,
    )
    assert replay(decided, builtin("fr")).changes == ()
    assert replay(changed(decided, id="no id of ours"), builtin("fr")).changes != ()
    late = judge(Transaction((OFFERS,), (person.address,)), facts, builtin("fr"), decided.at)
    assert late.recipients[0].action is Action.REFUSE
    others = (*decided.recipients, JudgedRecipient("B", person.address, late.recipients[0]))
    assert replay(changed(decided, recipients=others), builtin("fr")).changes == ()


@pytest.mark.parametrize("reason", [Reason.TEMPORARY_FAILURE, Reason.STREAM_NOT_PERMITTED])
def test_decisions_made_without_a_rulebook_are_not_replayed(reason: Reason) -> None:
    verdict = Verdict(Action.DEFER, reason)
    decided = changed(
        case(),
        decision=Decision(case().decision.stream, "fr", (verdict,), verdict),
        recipients=(JudgedRecipient("a@b.example", "a@b.example", verdict),),
    )
    result = replay(decided, builtin("us"))
    assert (result.judged, result.changes) == (0, ())


def test_erased_recipients_cannot_be_replayed() -> None:
    decided = changed(case(), features=FEATURES[3])
    line = Chain().seal(*LineMaker().decision(decided))
    count = len(decided.recipients)
    sealed = take_apart(line)
    erased = read_line(sealed.without(set(range(len(sealed.parts)))))
    assert isinstance(erased.entry, DecisionEntry)
    result = replay(read_decided(erased, erased.entry), builtin("us"))
    assert (result.judged, result.erased, result.changes) == (0, count, ())
