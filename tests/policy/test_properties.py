"""What holds for every case, including those nobody thought of."""

from datetime import datetime
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from smtpproxy.explain.trace import trace
from smtpproxy.mail.address import canonical, widened
from smtpproxy.policy.decide import judge
from smtpproxy.policy.model import (
    Action,
    Basis,
    ConsentAct,
    ContentFeatures,
    Origin,
    Reason,
    RecipientFacts,
    Stream,
    Suppression,
    Transaction,
    Verdict,
)
from tests.kit.soak import times
from tests.policy.cases import BOOK, GOOD_MESSAGE, NOW, OFFERS, SUBSCRIBER, said
from tests.policy.oracle import expected
from tests.policy.strategies import (
    TRIAL,
    cases,
    random_campaign,
    random_case,
    streams,
    suppressions,
    untimed,
)

# Not reasons of a recipient: those of the message, internal failures, and none at all.
OTHER_REASONS = {
    Reason.NONE,
    Reason.HEADER_MALFORMED,
    Reason.STREAM_NOT_PERMITTED,
    Reason.SENDER_NOT_PERMITTED,
    Reason.UNSUBSCRIBE_MISSING,
    Reason.UNSUBSCRIBE_MALFORMED,
    Reason.ONE_CLICK_MISSING,
    Reason.UNSUBSCRIBE_UNSIGNED,
    Reason.FROM_MISALIGNED,
    Reason.BODY_OPTOUT_MISSING,
    Reason.SENDER_UNIDENTIFIED,
    Reason.SUBJECT_MISLEADING,
    Reason.CONFIRM_LINK_MISSING,
    Reason.BULK_UNDECLARED,
    Reason.RECIPIENTS_REFUSED,
    Reason.SINGLE_RECIPIENT_REQUIRED,
    Reason.RECIPIENT_LIMIT,
    Reason.TEMPORARY_FAILURE,
    Reason.SOURCE_NOT_ANNOUNCED,  # needs both the recipient and the message
    Reason.TRACKING_UNCONSENTED,
    Reason.CAMPAIGN_ON_TRIAL,
}

Case = tuple[str, Stream, RecipientFacts]


def _judge(address: str, stream: Stream, facts: RecipientFacts) -> Verdict:
    return judge(Transaction((stream,), (address,)), {address: facts}, BOOK, NOW).recipients[0]


@pytest.mark.soak
def test_the_rules_say_what_the_design_says() -> None:
    """Compare with the oracle over a sweep that must reach every answer."""
    random = Random(20261130)
    seen = set()
    for _ in range(times(30_000, 100_000)):
        address, stream, facts = random_case(random)
        # of two suppressions with one scope and time either may be named
        keys = {(entry.scope, entry.since) for entry in facts.suppressions}
        if len(keys) == len(facts.suppressions):
            answer = said(_judge(address, stream, facts))
            assert answer == expected(address, stream, facts, BOOK, NOW), (address, stream, facts)
            seen.add(answer.partition(" ")[2])
    recipient_reasons = set(Reason) - OTHER_REASONS
    assert seen == recipient_reasons | set(Basis) - {Basis.OPT_OUT}  # fr has no opt-out basis


@pytest.mark.soak
def test_new_campaigns_wait_as_designed() -> None:
    random = Random(20261128)
    seen = set()
    for _ in range(times(3_000, 100_000)):
        address, stream, facts = random_case(random)
        if len({(s.scope, s.since) for s in facts.suppressions}) != len(facts.suppressions):
            continue
        stream = replace(stream, trial=random.choice([None, TRIAL]))
        campaign = random_campaign(random)
        message = replace(GOOD_MESSAGE, content=ContentFeatures(campaign=campaign))
        asked = Transaction((stream,), (address,), message)
        answer = said(judge(asked, {address: facts}, BOOK, NOW).recipients[0])
        assert answer == expected(address, stream, facts, BOOK, NOW, campaign=campaign), (
            stream,
            campaign,
        )
        seen.add(answer)
    assert {"defer campaign_on_trial", "allow consent", "defer stream_paused"} <= seen


@untimed
@given(cases, suppressions)
def test_one_more_suppression_never_lets_mail_through(case: Case, more: Suppression) -> None:
    address, stream, facts = case
    before = _judge(address, stream, facts)
    after = _judge(address, stream, replace(facts, suppressions=(*facts.suppressions, more)))
    if before.action is Action.REFUSE:
        assert after.action is Action.REFUSE
    elif after.action is not Action.REFUSE:
        assert after.basis is before.basis


@untimed
@given(cases)
def test_facts_in_the_future_never_let_mail_through(case: Case) -> None:
    """Removing the sender's claims about the future changes no verdict."""
    address, stream, facts = case
    assume(facts.contact is not None)
    assert facts.contact is not None
    past = replace(
        facts.contact,
        last_activity_at=_past(facts.contact.last_activity_at),
        purchases=tuple(p for p in facts.contact.purchases if p.at <= NOW),
        acts=tuple(a for a in facts.contact.acts if a.at <= NOW or a.withdrawal),
    )
    with_claims = _judge(address, stream, facts)
    without = _judge(address, stream, replace(facts, contact=past))
    if without.action is Action.REFUSE:
        assert with_claims.action is Action.REFUSE


def _past(at: datetime | None) -> datetime | None:
    return at if at is not None and at <= NOW else None


@untimed
@given(cases)
def test_a_withdrawal_now_always_stops_marketing(case: Case) -> None:
    address, stream, facts = case
    assume(facts.contact is not None and stream.purpose is not None)
    assert facts.contact is not None
    assert stream.purpose is not None
    act = ConsentAct(stream.purpose, NOW, withdrawal=True)
    contact = replace(facts.contact, acts=(*facts.contact.acts, act))
    verdict = _judge(address, stream, replace(facts, contact=contact))
    waits = stream.confirmation and verdict.reason is Reason.RESTORE_PENDING
    assert verdict.action is Action.REFUSE or verdict.basis == "transactional" or waits


@untimed
@given(cases, st.lists(streams, min_size=1, max_size=2))
def test_an_uncertain_stream_refuses_what_all_candidates_refuse(
    case: Case, others: list[Stream]
) -> None:
    address, stream, facts = case
    streams = [stream, *others]
    each = [_judge(address, stream, facts) for stream in streams]
    together = judge(
        Transaction(tuple(streams), (address,)), {address: facts}, BOOK, NOW
    ).recipients[0]
    if all(verdict.action is Action.REFUSE for verdict in each):
        assert together == each[0]
    else:
        assert together.action is Action.ALLOW
        assert together.basis is None
    steps = trace(Transaction(tuple(streams), (address,)), 0, {address: facts}, BOOK, NOW)
    assert steps[-1].outcome == together.action or steps[-1].rule == "paused"


variants = st.sampled_from(
    ["jeanne+a@example.org", "Jeanne@example.org", "jeanne@gmail.com", "j.eanne+b@googlemail.com"]
)


@untimed
@given(variants, variants, st.sampled_from(Origin))
def test_a_widened_key_never_allows_what_the_exact_one_refuses(
    asked: str, listed: str, origin: Origin
) -> None:
    """Facts as a store gives them: exact entries, and those sharing only the widened key."""
    key = canonical(asked)
    exact = canonical(listed) == key
    if not exact and widened(canonical(listed)) != widened(key):
        return
    entry = Suppression("all", origin, NOW, widened=not exact)
    verdict = _judge(key, OFFERS, RecipientFacts((entry,), SUBSCRIBER))
    strictly = _judge(key, OFFERS, RecipientFacts((replace(entry, widened=False),), SUBSCRIBER))
    assert strictly.action is Action.REFUSE
    assert verdict.action is Action.REFUSE or (
        not exact and origin in (Origin.BOUNCE, Origin.MANUAL)
    )
