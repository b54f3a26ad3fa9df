"""Section 4 of the design: the verdict on one recipient, rule by rule."""

from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from smtpproxy.policy.model import (
    Action,
    Audience,
    Basis,
    Contact,
    Provenance,
    Purchase,
    Reason,
    Source,
    Stream,
)
from tests.policy.cases import (
    APPEAL,
    BOUGHT,
    BUYER,
    COLLECTED,
    CUSTOMER,
    DAY,
    DISCLOSED,
    NOW,
    OFFERS,
    PERSON,
    RECEIPTS,
    SUBSCRIBER,
    THREE_YEARS_AGO,
    TICK,
    WITHDRAWN,
    said,
    verdict,
)

OLD = THREE_YEARS_AGO - TICK


def _silent(contact: Contact, last: datetime) -> Contact:
    return replace(contact, collected_at=last, informed_at=last, last_activity_at=None)


BASES = [
    (SUBSCRIBER, OFFERS, "allow consent"),
    (CUSTOMER, OFFERS, "allow existing_customer"),
    (BUYER, OFFERS, "allow professional"),
    (PERSON, APPEAL, "allow charity"),
    (replace(PERSON, audience=Audience.GENERIC), OFFERS, "allow generic_address"),
    (PERSON, RECEIPTS, "allow transactional"),
    (None, RECEIPTS, "allow transactional"),
    # the first basis that holds is named
    (replace(SUBSCRIBER, purchases=(BOUGHT,)), APPEAL, "allow consent"),
    (replace(CUSTOMER, audience=Audience.PROFESSIONAL), APPEAL, "allow existing_customer"),
    (BUYER, APPEAL, "allow charity"),
]


@pytest.mark.parametrize(("contact", "stream", "expected"), BASES)
def test_every_basis(contact: Contact | None, stream: Stream, expected: str) -> None:
    assert said(verdict(contact, stream=stream)) == expected


GENERIC = [
    ("contact@example.org", "allow generic_address"),
    ("info@mail.example.org", "allow generic_address"),
    ("jeanne@example.org", "refuse no_record"),
    ("contact@gmail.com", "refuse no_record"),
    ("contact@pages.free.fr", "refuse no_record"),
    ("contact@notfree.fr", "allow generic_address"),
    # a widened key never allows
    ("contact+jeanne@example.org", "refuse no_record"),
    ("contact.jeanne@example.org", "refuse no_record"),
]


@pytest.mark.parametrize(("address", "expected"), GENERIC)
def test_unknown_addresses(address: str, expected: str) -> None:
    assert said(verdict(None, address=address)) == expected


def test_a_known_person_behind_a_role_address_is_a_person() -> None:
    assert said(verdict(PERSON, address="contact@example.org")) == "refuse consent_missing"


GENERIC_CONTACTS: list[tuple[dict[str, Any], str, str]] = [
    ({}, "contact@example.org", "allow generic_address"),
    ({"source": Source.WEB}, "contact@example.org", "refuse source_forbidden"),
    ({"source": None}, "contact@example.org", "refuse source_unproven"),
    ({"source": Source.PARTNER}, "contact@example.org", "refuse source_undisclosed"),
    ({"tags": frozenset({"restricted"})}, "contact@example.org", "refuse contact_restricted"),
    # at a provider of private mailboxes it belongs to a person
    ({}, "contact@gmail.com", "refuse consent_missing"),
    ({}, "contact@pages.free.fr", "refuse consent_missing"),
]


@pytest.mark.parametrize(("changes", "address", "expected"), GENERIC_CONTACTS)
def test_a_generic_contact_needs_the_same_facts_as_any_record(
    changes: dict[str, Any], address: str, expected: str
) -> None:
    contact = replace(PERSON, audience=Audience.GENERIC, **changes)
    assert said(verdict(contact, address=address)) == expected


@pytest.mark.parametrize(
    "tag", ["restricted", "Restricted", " RESTRICTED\t", "\u200brestricted\u200e"]
)
def test_tags_are_compared_without_case_and_margins(tag: str) -> None:
    tagged = replace(SUBSCRIBER, tags=frozenset({tag}))
    assert said(verdict(tagged)) == "refuse contact_restricted"


def test_a_restricted_contact_is_never_mailed_in_bulk() -> None:
    contact = replace(SUBSCRIBER, tags=frozenset({"vip", "restricted"}), source=Source.WEB)
    assert said(verdict(contact)) == "refuse contact_restricted"
    assert said(verdict(replace(contact, tags=frozenset({"vip"})))) == "refuse source_forbidden"


SOURCES = [
    (Source.DIRECT, None, "allow consent"),
    (Source.WEB, DISCLOSED, "refuse source_forbidden"),
    (Source.HARVESTED, DISCLOSED, "refuse source_forbidden"),
    (Source.GUESSED, DISCLOSED, "refuse source_forbidden"),
    (None, DISCLOSED, "refuse source_unproven"),
    (Source.UNKNOWN, DISCLOSED, "refuse source_unproven"),
    *[
        (source, provenance, expected)
        for source in (Source.PURCHASED, Source.RENTED, Source.EXCHANGED, Source.PARTNER)
        for provenance, expected in [
            (DISCLOSED, "allow consent"),
            (None, "refuse source_undisclosed"),
            (Provenance("List Ltd"), "refuse source_undisclosed"),
            (Provenance(None, sender_disclosed=True), "refuse source_undisclosed"),
            (Provenance("", sender_disclosed=True), "refuse source_undisclosed"),
        ]
    ],
]


@pytest.mark.parametrize(("source", "provenance", "expected"), SOURCES)
def test_sources(source: Source | None, provenance: Provenance | None, expected: str) -> None:
    contact = replace(SUBSCRIBER, source=source, provenance=provenance)
    assert said(verdict(contact)) == expected


PURCHASES = [
    ((Purchase("shoes", NOW),), "allow existing_customer"),
    ((Purchase("shoes", THREE_YEARS_AGO),), "allow existing_customer"),
    ((Purchase("shoes", OLD),), "refuse customer_stale"),
    ((Purchase("hats", NOW),), "refuse product_not_similar"),
    ((Purchase("hats", NOW), Purchase("shoes", OLD)), "refuse product_not_similar"),
    ((Purchase("hats", OLD), Purchase("shoes", NOW)), "allow existing_customer"),
    # a purchase in the future does not count
    ((Purchase("shoes", NOW + TICK),), "refuse consent_missing"),
    ((Purchase("shoes", NOW + DAY), Purchase("shoes", OLD)), "refuse customer_stale"),
]


@pytest.mark.parametrize(("purchases", "expected"), PURCHASES)
def test_purchases(purchases: tuple[Purchase, ...], expected: str) -> None:
    assert said(verdict(replace(PERSON, purchases=purchases))) == expected


CUSTOMERS = [
    ({}, "allow existing_customer"),
    ({"source": Source.PARTNER, "provenance": DISCLOSED}, "refuse source_not_direct"),
    ({"informed_at": None}, "refuse notice_missing"),
    ({"informed_at": COLLECTED + TICK}, "refuse notice_missing"),
    ({"informed_at": COLLECTED - DAY}, "allow existing_customer"),
    ({"informed_at": COLLECTED, "collected_at": None}, "refuse notice_missing"),
    ({"informed_at": NOW + TICK, "collected_at": None}, "refuse notice_missing"),
    ({"informed_at": NOW + TICK, "collected_at": NOW + DAY}, "refuse notice_missing"),
    ({"optout_offered": False}, "refuse optout_not_offered"),
    ({"optout_offered": False, "informed_at": None}, "refuse notice_missing"),
]


@pytest.mark.parametrize(("changes", "expected"), CUSTOMERS)
def test_customers(changes: dict[str, Any], expected: str) -> None:
    assert said(verdict(replace(CUSTOMER, **changes))) == expected


CHARITIES = [
    (PERSON, "allow charity"),
    (replace(PERSON, informed_at=None), "refuse notice_missing"),
    (replace(PERSON, optout_offered=False), "refuse optout_not_offered"),
    (_silent(PERSON, THREE_YEARS_AGO), "allow charity"),
    (_silent(PERSON, OLD), "refuse inactive"),
    (_silent(replace(PERSON, optout_offered=False), OLD), "refuse optout_not_offered"),
    (replace(_silent(PERSON, OLD), last_activity_at=NOW), "allow charity"),
    (replace(_silent(PERSON, OLD), last_activity_at=NOW + TICK), "refuse inactive"),
    (replace(PERSON, collected_at=None), "refuse notice_missing"),
    # the customer's failure is named before the charity's
    (
        replace(_silent(PERSON, OLD), purchases=(Purchase("hats", OLD),)),
        "refuse customer_stale",
    ),
]


@pytest.mark.parametrize(("contact", "expected"), CHARITIES)
def test_charities(contact: Contact, expected: str) -> None:
    assert said(verdict(contact, stream=APPEAL)) == expected


PROFESSIONALS = [
    (BUYER, "allow professional"),
    (replace(BUYER, optout_offered=False), "refuse optout_not_offered"),
    (replace(BUYER, source=Source.PARTNER, provenance=DISCLOSED), "allow professional"),
    (replace(BUYER, informed_at=None), "refuse notice_missing"),
    (replace(BUYER, informed_at=None, occupations=frozenset()), "refuse notice_missing"),
    (replace(BUYER, occupations=frozenset({"finance"})), "refuse topic_unrelated"),
    (_silent(replace(BUYER, occupations=frozenset()), OLD), "refuse topic_unrelated"),
    (replace(BUYER, profiling_objected_at=NOW), "allow professional"),
    (
        replace(BUYER, source=Source.PARTNER, provenance=DISCLOSED, profiling_objected_at=NOW),
        "refuse topic_unrelated",
    ),
    (_silent(BUYER, THREE_YEARS_AGO), "allow professional"),
    (_silent(BUYER, OLD), "refuse inactive"),
]


@pytest.mark.parametrize(("contact", "expected"), PROFESSIONALS)
def test_professionals(contact: Contact, expected: str) -> None:
    assert said(verdict(contact)) == expected


@pytest.mark.parametrize("audience", [Audience.CONSUMER, Audience.UNKNOWN])
def test_a_person_not_known_as_a_professional_is_a_consumer(audience: Audience) -> None:
    assert said(verdict(replace(BUYER, audience=audience))) == "refuse consent_missing"


@pytest.mark.parametrize(
    "contact",
    [
        replace(SUBSCRIBER, purchases=(BOUGHT,)),
        CUSTOMER,
        BUYER,
        replace(PERSON, audience=Audience.GENERIC),
        replace(SUBSCRIBER, source=Source.WEB),
        replace(SUBSCRIBER, tags=frozenset({"restricted"})),
    ],
)
def test_a_withdrawal_beats_every_other_basis(contact: Contact) -> None:
    contact = replace(contact, acts=(*contact.acts, WITHDRAWN))
    assert said(verdict(contact)) == "refuse consent_withdrawn"
    assert said(verdict(contact, stream=APPEAL)) == "refuse consent_withdrawn"
    assert said(verdict(contact, stream=RECEIPTS)) == "allow transactional"


def test_a_withdrawal_for_another_purpose_does_not_count() -> None:
    other = replace(WITHDRAWN, purpose="news")
    assert said(verdict(replace(SUBSCRIBER, acts=(*SUBSCRIBER.acts, other)))) == "allow consent"


@pytest.mark.parametrize(
    ("contact", "expected"),
    [
        (SUBSCRIBER, "defer stream_paused"),
        (CUSTOMER, "defer stream_paused"),
        (replace(PERSON, audience=Audience.GENERIC), "defer stream_paused"),
        (PERSON, "refuse consent_missing"),
        (None, "refuse no_record"),
    ],
)
def test_a_paused_stream_defers_permitted_mail_and_refuses_the_rest(
    contact: Contact | None, expected: str
) -> None:
    assert said(verdict(contact, stream=replace(OFFERS, paused=True))) == expected


def test_transactional_mail_is_never_paused() -> None:
    assert said(verdict(None, stream=replace(RECEIPTS, paused=True))) == "allow transactional"


LEAP = datetime(2024, 2, 29, 12, tzinfo=UTC)
YEARS = [
    (COLLECTED, datetime(2028, 3, 1, 10, tzinfo=UTC), True),
    (COLLECTED, datetime(2028, 3, 1, 10, 0, 0, 1, tzinfo=UTC), False),
    (COLLECTED, datetime(2028, 2, 29, 23, tzinfo=UTC), True),
    (COLLECTED, datetime(2029, 1, 1, tzinfo=UTC), False),
    # from 29 February to a year without one: the last day of the month
    (LEAP, datetime(2027, 2, 28, 12, tzinfo=UTC), True),
    (LEAP, datetime(2027, 2, 28, 12, 0, 0, 1, tzinfo=UTC), False),
    # to a leap year: the same day, without an extra one
    (datetime(2025, 2, 28, 12, tzinfo=UTC), datetime(2028, 2, 28, 12, tzinfo=UTC), True),
    (datetime(2025, 2, 28, 12, tzinfo=UTC), datetime(2028, 2, 29, 0, tzinfo=UTC), False),
    # across the turn of the year
    (datetime(2024, 12, 31, 23, tzinfo=UTC), datetime(2027, 12, 31, 23, tzinfo=UTC), True),
    (datetime(2024, 12, 31, 23, tzinfo=UTC), datetime(2028, 1, 1, tzinfo=UTC), False),
]


@pytest.mark.parametrize(("at", "now", "allowed"), YEARS)
def test_three_calendar_years_for_every_clock(at: datetime, now: datetime, allowed: bool) -> None:
    bought = replace(PERSON, purchases=(Purchase("shoes", at),))
    agreed = replace(PERSON, collected_at=None, acts=(replace(SUBSCRIBER.acts[0], at=at),))
    assert (verdict(bought, now=now).basis is Basis.EXISTING_CUSTOMER) == allowed
    assert (verdict(agreed, now=now).basis is Basis.CONSENT) == allowed
    collected = _silent(BUYER, at)
    assert (verdict(collected, now=now).basis is Basis.PROFESSIONAL) == allowed
    if not allowed:
        assert verdict(agreed, now=now).reason is Reason.CONSENT_EXPIRED
        assert verdict(bought, now=now).reason is Reason.CUSTOMER_STALE
        assert verdict(collected, now=now).action is Action.REFUSE
