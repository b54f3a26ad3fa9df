"""A new campaign on trial: what a campaign is, who is a stranger, how long others wait."""

from datetime import timedelta

import pytest
from msgspec.structs import replace

from smtpproxy.policy.campaign import Campaign, Trial, campaign_key, held_until
from smtpproxy.policy.decide import judge
from smtpproxy.policy.model import (
    Contact,
    ContentFeatures,
    Mailing,
    RecipientFacts,
    Transaction,
)
from smtpproxy.policy.rules import RecipientCase
from smtpproxy.policy.rules.deferrals import is_stranger
from tests.policy.cases import (
    ADDRESS,
    BOOK,
    DAY,
    GOOD_MESSAGE,
    NOW,
    OFFERS,
    SUBSCRIBER,
    TICK,
    said,
)

HOUR = timedelta(hours=1)
TRIAL = Trial(100)  # half of them strangers, 5 % dead: 4 hours
TRIED = replace(OFFERS, trial=TRIAL)
FULL = Campaign("k", people=100, full_at=NOW - HOUR)


@pytest.mark.parametrize(
    ("campaign", "wait"),
    [
        (Campaign("k"), None),
        (Campaign("k", people=99, strangers=99), None),  # not enough people yet
        (FULL, None),
        (replace(FULL, strangers=49), None),
        (replace(FULL, strangers=50), 3 * HOUR),
        (replace(FULL, dead=5, dead_at=NOW), 4 * HOUR),
        # dead addresses before there were enough people: the wait begins once there are
        (replace(FULL, dead=9, dead_at=NOW - 2 * HOUR), 3 * HOUR),
        (replace(FULL, strangers=50, dead=5, dead_at=NOW), 4 * HOUR),
    ],
)
def test_how_long_the_others_wait(campaign: Campaign, wait: timedelta | None) -> None:
    until = held_until(campaign, TRIAL)
    assert until == (None if wait is None else NOW + wait)
    message = replace(GOOD_MESSAGE, content=ContentFeatures(campaign=campaign))
    facts = {ADDRESS: RecipientFacts(contact=SUBSCRIBER)}
    for now, holds in ((NOW, wait is not None), (NOW + 4 * HOUR, False)):
        verdict = judge(Transaction((TRIED,), (ADDRESS,), message), facts, BOOK, now).recipients[0]
        assert said(verdict) == ("defer campaign_on_trial" if holds else "allow consent")
        if until is not None and holds:
            assert verdict.rule == "campaign"
            assert verdict.detail == (
                f"of the first 100 recipients {campaign.strangers} strangers, {campaign.dead} dead"
                f"; until {until:%Y-%m-%dT%H:%M:%SZ}"
            )
    other = judge(Transaction((OFFERS,), (ADDRESS,), message), facts, BOOK, NOW).recipients[0]
    assert said(other) == "allow consent"
    for unknown in (None, GOOD_MESSAGE):  # the campaign is unknown
        asked = Transaction((TRIED,), (ADDRESS,), unknown)
        assert said(judge(asked, facts, BOOK, NOW).recipients[0]) == "allow consent"


def test_bounds_can_be_disabled() -> None:
    lenient = replace(TRIAL, strangers=None, dead_addresses=None)
    assert held_until(replace(FULL, strangers=100, dead=100, dead_at=NOW), lenient) is None


def test_refusals_come_first() -> None:
    message = replace(GOOD_MESSAGE, content=ContentFeatures(campaign=replace(FULL, strangers=100)))
    verdict = judge(Transaction((TRIED,), (ADDRESS,), message), {}, BOOK, NOW).recipients[0]
    assert said(verdict) == "refuse no_record"


YEAR = 365 * DAY
ACTIVE = replace(SUBSCRIBER, last_activity_at=NOW - DAY)
SILENT = Contact(ADDRESS, collected_at=NOW - 2 * YEAR, last_activity_at=NOW - YEAR - TICK)


@pytest.mark.parametrize(
    ("contact", "first_mailed", "stranger"),
    [
        (ACTIVE, NOW, False),
        (ACTIVE, None, True),  # never mailed
        (ACTIVE, NOW + DAY, True),
        (replace(ACTIVE, first_contacted_at=NOW - DAY), None, False),  # mailed by another system
        (SILENT, NOW - DAY, True),
        (replace(SILENT, last_activity_at=NOW - YEAR), NOW - DAY, False),
        (Contact(ADDRESS), NOW - DAY, True),  # no sign of life at all
        (None, NOW - DAY, False),  # a generic address
        (None, None, True),
    ],
)
def test_who_is_a_stranger(contact: Contact | None, first_mailed: object, stranger: bool) -> None:
    facts = RecipientFacts(
        contact=contact,
        first_mailed_at=first_mailed,  # type: ignore[arg-type]
        mailings=(Mailing("offers", NOW - DAY),),
    )
    assert is_stranger(RecipientCase(ADDRESS, TRIED, facts, BOOK, NOW)) is stranger


def test_what_identifies_a_campaign() -> None:
    spring = campaign_key("offers", [b"spring:shop:news:esp"], b"text")
    assert spring == campaign_key("offers", [b" SPRING:shop:news:esp "], b"another text")
    assert spring != campaign_key("news", [b"spring:shop:news:esp"], None)
    assert spring != campaign_key("offers", [b"summer:shop:news:esp"], None)
    assert campaign_key("offers", [], b"text") == campaign_key("offers", [], b"text")
    assert campaign_key("offers", [], b"text") not in (spring, campaign_key("offers", [], b"other"))
    assert campaign_key("offers", [], None) is None
