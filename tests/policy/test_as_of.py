"""Facts as they were known at an earlier moment."""

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from smtpproxy.policy.as_of import known_at
from smtpproxy.policy.model import (
    ConsentAct,
    Contact,
    Frequency,
    Mailing,
    Origin,
    Pause,
    Preference,
    Purchase,
    RecipientFacts,
    Suppression,
)

DAY = timedelta(days=1)
START = datetime(2026, 3, 1, tzinfo=UTC)

FACTS = RecipientFacts(
    (
        Suppression("purpose:offers", Origin.UNSUBSCRIBE, START + 4 * DAY),
        Suppression("all", Origin.BOUNCE, START + 6 * DAY),
    ),
    Contact(
        "jeanne@example.org",
        collected_at=START,
        informed_at=START + DAY,
        last_activity_at=START + 5 * DAY,
        purchases=(Purchase("shoes", START + 2 * DAY),),
        acts=(
            ConsentAct("offers", START + DAY),
            ConsentAct("offers", START + 3 * DAY, withdrawal=True),
        ),
    ),
)


@pytest.mark.parametrize(
    ("days", "suppressions", "acts", "purchases", "informed", "active"),
    [
        (0, 0, 0, 0, False, False),
        (1, 0, 1, 0, True, False),
        (2, 0, 1, 1, True, False),
        (3, 0, 2, 1, True, False),
        (4, 1, 2, 1, True, False),
        (5, 1, 2, 1, True, True),
        (6, 2, 2, 1, True, True),
    ],
)
def test_the_moment_itself_counts_and_later_facts_do_not(
    days: int, suppressions: int, acts: int, purchases: int, informed: bool, active: bool
) -> None:
    for known in (
        known_at(FACTS, START + days * DAY),
        known_at(FACTS, START + days * DAY + DAY / 2),
    ):
        assert known.contact is not None
        assert len(known.suppressions) == suppressions
        assert len(known.contact.acts) == acts
        assert len(known.contact.purchases) == purchases
        assert (known.contact.informed_at is not None) == informed
        assert (known.contact.last_activity_at is not None) == active


def test_a_contact_collected_later_was_not_known() -> None:
    assert known_at(FACTS, START - DAY) == RecipientFacts()


def test_a_contact_without_a_date_was_always_known() -> None:
    contact = Contact("jeanne@example.org")
    assert known_at(RecipientFacts((), contact), START).contact == contact


def test_other_facts_known_by_then_stay_and_later_ones_go() -> None:
    at = START + DAY
    contact = Contact(
        "jeanne@example.org",
        first_contacted_at=at,
        profiling_objected_at=at,
        preferences=(Preference("offers", Frequency.WEEKLY, at),),
    )
    facts = RecipientFacts(
        contact=contact,
        mailings=(Mailing("offers", at),),
        first_mailed_at=at,
        snapshot_at=at,
        pauses=(Pause("marketing", at, "person"),),
    )
    assert known_at(facts, at) == facts
    before = RecipientFacts(contact=Contact("jeanne@example.org"))
    assert known_at(facts, at - timedelta(microseconds=1)) == before
    # a later snapshot replaced one that is no longer known
    newer = replace(facts, newest_snapshot_at=at + DAY)
    assert known_at(newer, at) == replace(facts, snapshot_at=None)
    assert known_at(newer, at + DAY) == newer
