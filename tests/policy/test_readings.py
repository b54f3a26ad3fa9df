"""What holds for a whole domain, and for what an MTA may take the address for."""

import pytest
from msgspec.structs import replace

from smtpproxy.policy.decide import judge_recipient
from smtpproxy.policy.model import ConsentAct, Origin, Reading, RecipientFacts
from smtpproxy.policy.rules import RecipientCase
from smtpproxy.policy.rules.bases import withdrawn_at
from tests.policy.cases import BOOK, DAY, NOW, OFFERS, RECEIPTS, SUBSCRIBER, said, suppression

VICTIM = "victim@example.net"


def answer(facts: RecipientFacts, stream=OFFERS) -> str:  # type: ignore[no-untyped-def]
    return said(judge_recipient(RecipientCase(SUBSCRIBER.address, stream, facts, BOOK, NOW)))


@pytest.mark.parametrize("how", [{"domain": "@example.org"}, {"read_as": VICTIM}])
@pytest.mark.parametrize("origin", Origin)
def test_it_holds_on_every_stream_and_yields_to_no_consent(
    origin: Origin, how: dict[str, str]
) -> None:
    entry = replace(suppression("all", origin, NOW - 999 * DAY), **how)
    facts = RecipientFacts((entry,), SUBSCRIBER)
    assert answer(facts) == answer(facts, RECEIPTS) == f"refuse suppressed_{origin}"


def test_a_withdrawal_by_whom_the_mta_may_deliver_to_counts_for_marketing() -> None:
    withdrawn = ConsentAct("offers", NOW - DAY, withdrawal=True)
    facts = RecipientFacts(contact=SUBSCRIBER, readings=(Reading(VICTIM, (withdrawn,)),))
    assert answer(facts) == "refuse consent_withdrawn"
    assert answer(facts, RECEIPTS) == "allow transactional"
    implied = replace(withdrawn, at=NOW, withdrawal=False)
    unproven = replace(facts, readings=(Reading(VICTIM, (withdrawn, implied)),))
    assert answer(unproven) == "refuse consent_withdrawn"
    agreed = replace(SUBSCRIBER.acts[0], at=NOW)
    newer = replace(facts, readings=(Reading(VICTIM, (withdrawn, agreed)),))
    assert answer(newer) == "allow consent"


def test_the_withdrawal_that_is_in_force_is_dated() -> None:
    """Not one of the person's own that a later consent ended."""
    own = ConsentAct("offers", NOW - 900 * DAY, withdrawal=True)
    theirs = ConsentAct("offers", NOW - DAY, withdrawal=True)
    contact = replace(SUBSCRIBER, acts=(own, *SUBSCRIBER.acts))
    facts = RecipientFacts(contact=contact, readings=(Reading(VICTIM, (theirs,)),))
    assert answer(facts) == "refuse consent_withdrawn"
    case = RecipientCase(SUBSCRIBER.address, OFFERS, facts, BOOK, NOW)
    assert withdrawn_at(case) == theirs.at
    assert withdrawn_at(replace(case, facts=replace(facts, readings=()))) == own.at


def test_consent_by_whom_the_mta_may_deliver_to_allows_nothing() -> None:
    facts = RecipientFacts(readings=(Reading(VICTIM, SUBSCRIBER.acts),))
    assert answer(facts) == "refuse no_record"
