"""Invariant: people of one shape get the same verdict and would be freed by the same facts."""

from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from smtpproxy.policy.decide import judge_recipient
from smtpproxy.policy.model import (
    Action,
    Contact,
    Evidence,
    Reason,
    RecipientFacts,
    Rulebook,
    Stream,
)
from smtpproxy.policy.rulebooks import builtin
from smtpproxy.policy.rules import RecipientCase
from smtpproxy.scrub.fixes import freed_by
from smtpproxy.scrub.shapes import Shapes
from tests.policy.cases import ADDRESS, AGREED, CUSTOMER, NOW, OFFERS, PERSON
from tests.policy.strategies import MOMENTS, random_case

BOOKS = [builtin(name) for name in ("fr", "uk", "us", "ca")]


def standing(
    address: str, stream: Stream, known: RecipientFacts, book: Rulebook
) -> tuple[object, ...]:
    case = RecipientCase(address, stream, known, book, NOW)
    verdict = judge_recipient(case)
    told = () if known.contact is None else (known.contact,)
    return verdict.action, verdict.reason, verdict.basis, freed_by(case, verdict, told)


def plain(known: RecipientFacts) -> RecipientFacts:
    contact = known.contact and replace(known.contact, others=(), preferences=())
    return replace(known, contact=contact, mailings=(), readings=(), null_mx=None)


FIELDS = (
    "audience", "source", "brand", "optout_offered", "never_informed", "provenance",
    "occupations", "tags", "purchases", "acts",
)  # fmt: skip
ACT_FIELDS = (
    "purpose", "withdrawal", "method", "conditional", "channels", "evidence", "brand", "came_by",
)  # fmt: skip


class Moving:
    """Moves moments consistently: mostly a little, or all so that only their order remains."""

    def __init__(self, random: Random, *, recent: bool) -> None:
        self._random = random
        self._recent = recent
        self._places: dict[datetime, datetime] = {}

    def moment(self, at: datetime | None) -> datetime | None:
        return None if at is None else self.there(at)

    def there(self, at: datetime) -> datetime:
        random = self._random
        if self._recent:
            return self._places.setdefault(at, NOW - timedelta(hours=random.randint(1, 3)))
        if at not in self._places:
            near = at + timedelta(microseconds=random.choice([-1, 0, 1, 7, -(10**6), 3 * 10**9]))
            self._places[at] = random.choice([at, near, near, random.choice(MOMENTS)])
        return self._places[at]

    def contact(self, contact: Contact) -> Contact:
        return replace(
            contact,
            address="anybody@else.example",
            collected_at=self.moment(contact.collected_at),
            informed_at=self.moment(contact.informed_at),
            last_activity_at=self.moment(contact.last_activity_at),
            profiling_objected_at=self.moment(contact.profiling_objected_at),
            acts=tuple(replace(act, at=self.there(act.at)) for act in contact.acts),
            purchases=tuple(replace(one, at=self.there(one.at)) for one in contact.purchases),
        )

    def facts(self, known: RecipientFacts) -> RecipientFacts:
        return replace(
            known,
            contact=known.contact and self.contact(known.contact),
            suppressions=tuple(
                replace(one, since=self.there(one.since)) for one in known.suppressions
            ),
        )


def other(random: Random, known: RecipientFacts) -> RecipientFacts:
    """Change one thing other than a moment."""
    _, _, elsewhere = random_case(random)
    contact, another = known.contact, elsewhere.contact
    if contact is None or another is None or random.random() < 0.2:
        return replace(known, suppressions=elsewhere.suppressions)
    if contact.acts and another.acts and random.random() < 0.4:
        act, like = contact.acts[0], another.acts[0]
        name = random.choice(ACT_FIELDS)
        act = replace(act, **{name: getattr(like, name)})
        return replace(known, contact=replace(contact, acts=(act, *contact.acts[1:])))
    name = random.choice(FIELDS)
    return replace(known, contact=replace(contact, **{name: getattr(another, name)}))


def test_people_of_one_shape_get_the_same_verdict() -> None:
    shapes = Shapes(BOOKS, NOW)
    alike = 0
    for seed in range(12_000):
        random = Random(seed)
        address, stream, known = random_case(random)
        recent = seed % 3 == 0
        first = plain(known)
        first = Moving(random, recent=True).facts(first) if recent else first
        second = plain(other(random, known)) if seed % 3 == 1 else first
        second = Moving(random, recent=recent).facts(second) if seed % 3 != 1 else second
        told = [[one.contact] if one.contact else [] for one in (first, second)]
        shape = shapes.of(address, first, told[0])
        if shape is None or shape != shapes.of("anybody@else.example", second, told[1]):
            continue
        alike += first != second
        for book in BOOKS:
            assert standing(address, stream, first, book) == standing(
                "anybody@else.example", stream, second, book
            ), seed
    assert alike > 500


@pytest.mark.parametrize(
    "period", ["consent_period", "customer_period", "inquiry_period", "activity_period"]
)
def test_each_period_of_a_rulebook_separates_shapes(period: str) -> None:
    two_years = builtin("ca").customer_period
    book = replace(builtin("uk"), **{"activity_period": None, period: two_years})
    people = [
        RecipientFacts(contact=Contact(ADDRESS, collected_at=NOW - timedelta(days)))
        for days in (700, 720, 740, 760)
    ]
    shapes = Shapes([book], NOW)
    one, same, other, like = [shapes.of(ADDRESS, known, ()) for known in people]
    assert one == same != other == like


def test_irrelevant_differences_do_not_separate_shapes() -> None:
    shapes = Shapes(BOOKS, NOW)
    assert shapes.of("contact@firm.example", RecipientFacts(), ()) is None
    assert shapes.of("anna@firm.example", RecipientFacts(), ()) is not None
    contact = Contact("anna@firm.example")
    known = RecipientFacts(contact=contact)
    assert shapes.of(contact.address, known, [contact]) is not None
    assert shapes.of(contact.address, known, [contact, contact]) is None
    assert shapes.of(contact.address, known, [Contact(contact.address, language="fr")]) is None


@pytest.mark.parametrize("evidence", [Evidence("\u200b"), Evidence("form v3", recorded_by="crm")])
def test_different_evidence_separates_shapes(evidence: Evidence) -> None:
    """Invisible characters count as nothing, and a rulebook may require any field."""
    book = builtin("fr")
    needs_author = replace(book, required_evidence=frozenset({"recorded_by"}))
    shapes = Shapes([book, needs_author], NOW)
    acts = (AGREED, replace(AGREED, evidence=evidence))
    people = [RecipientFacts(contact=replace(PERSON, acts=(act,))) for act in acts]
    first, second = (shapes.of(ADDRESS, known, ()) for known in people)
    assert first != second


@pytest.mark.parametrize(
    ("lacking", "frees"),
    [
        ({"collected_at": None}, ("collected_at",)),
        ({"informed_at": None}, ("informed_at",)),
        ({"collected_at": None, "informed_at": None}, ("collected_at", "informed_at")),
        ({"collected_at": None, "never_informed": True, "informed_at": None}, ()),
    ],
)
def test_a_notice_needs_its_date_and_that_of_collection(
    lacking: dict[str, Any], frees: tuple[str, ...]
) -> None:
    known = RecipientFacts(contact=replace(CUSTOMER, **lacking))
    assert standing(ADDRESS, OFFERS, known, builtin("fr")) == (
        Action.REFUSE,
        Reason.NOTICE_MISSING,
        None,
        frees,
    )
