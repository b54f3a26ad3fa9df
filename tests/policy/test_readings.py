"""Facts about a whole domain, and about other addresses an MTA may read this one as."""

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
def test_a_domain_suppression_holds_everywhere_and_consent_does_not_lift_it(
    origin: Origin, how: dict[str, str]
) -> None:
    entry = replace(suppression("all", origin, NOW - 999 * DAY), **how)
    facts = RecipientFacts((entry,), SUBSCRIBER)
    assert answer(facts) == answer(facts, RECEIPTS) == f"refuse suppressed_{origin}"


def test_a_withdrawal_under_another_reading_counts_for_marketing() -> None:
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


def test_the_date_given_is_that_of_the_withdrawal_in_force() -> None:
    """Not that of an earlier withdrawal ended by consent."""
    own = ConsentAct("offers", NOW - 900 * DAY, withdrawal=True)
    theirs = ConsentAct("offers", NOW - DAY, withdrawal=True)
    contact = replace(SUBSCRIBER, acts=(own, *SUBSCRIBER.acts))
    facts = RecipientFacts(contact=contact, readings=(Reading(VICTIM, (theirs,)),))
    assert answer(facts) == "refuse consent_withdrawn"
    case = RecipientCase(SUBSCRIBER.address, OFFERS, facts, BOOK, NOW)
    assert withdrawn_at(case) == theirs.at
    assert withdrawn_at(replace(case, facts=replace(facts, readings=()))) == own.at


def test_consent_under_another_reading_allows_nothing() -> None:
    facts = RecipientFacts(readings=(Reading(VICTIM, SUBSCRIBER.acts),))
    assert answer(facts) == "refuse no_record"
