"""How a contact is merged: a repeated fact changes nothing, a later one corrects its subject."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from msgspec.structs import replace

from smtpproxy.policy.model import (
    ConsentAct,
    Contact,
    Evidence,
    Provenance,
    Purchase,
    Source,
    came_by,
    collections,
)
from smtpproxy.store import collected
from smtpproxy.store.collected import included_in, joined_items
from smtpproxy.store.merge import Known, merge
from smtpproxy.store.records import ContactUpdate
from tests.kit.soak import times

T0 = datetime(2026, 3, 1, 10, tzinfo=UTC)
DAY = timedelta(days=1)
ANNA = "anna@people.example"
AGREED = ConsentAct("offers", T0, method="unticked_box", evidence=Evidence("form v3"))
WITHDRAWN = ConsentAct("offers", T0 + DAY, withdrawal=True)
SHOES = Purchase("shoes", T0)
SAID = frozenset({"source", "provenance"})


def told(days: int, given: frozenset[str] = SAID, **fields: object) -> ContactUpdate:
    return ContactUpdate(Contact(ANNA, **fields), given, T0 + days * DAY)  # type: ignore[arg-type]


def after(*updates: ContactUpdate) -> Contact:
    known: Known | None = None
    for update in updates:
        known = merge(known, update).known
    assert known is not None
    return known.contact


def sources(contact: Contact) -> list[tuple[str | None, str | None]]:
    return [(way.brand, way.source and str(way.source)) for way in collections(contact)]


def test_each_source_is_a_collection_and_the_newest_comes_first() -> None:
    form, bought = told(1, source=Source.DIRECT), told(2, source=Source.PURCHASED)
    both = [(None, "purchased"), (None, "direct")]
    assert sources(after(form, bought)) == both
    assert sources(after(bought, form)) == both


def test_each_supplier_and_each_brand_has_its_own_collection() -> None:
    lists = [
        told(1, source=Source.PURCHASED, provenance=Provenance("X"), brand="mill"),
        told(2, source=Source.PURCHASED, provenance=Provenance("Y"), brand="mill"),
        told(3, source=Source.PURCHASED, provenance=Provenance("Y"), brand="shop"),
    ]
    assert len(collections(after(*lists))) == 3


def test_a_newer_file_corrects_only_the_collection_it_is_about() -> None:
    when = frozenset({*SAID, "collected_at", "informed_at"})
    old = told(1, when, source=Source.DIRECT, collected_at=T0, informed_at=T0)
    web = told(2, source=Source.WEB)
    newer = told(3, when, source=Source.DIRECT, collected_at=T0 - DAY)
    found = after(old, web, newer)
    assert (found.source, found.collected_at, found.informed_at) == (Source.DIRECT, T0 - DAY, None)
    assert [way.source for way in found.others] == [Source.WEB]
    older = replace(newer.contact, collected_at=T0 - 9 * DAY)
    assert after(old, web, newer, ContactUpdate(older, when, T0)) == found


def test_an_older_file_about_another_source_is_kept_second() -> None:
    found = after(told(2, source=Source.DIRECT), told(1, source=Source.WEB))
    assert sources(found) == [(None, "direct"), (None, "web")]


def test_a_contact_without_a_source_is_not_another_collection() -> None:
    """`consent record` first creates the contact, then says how its brand obtained it."""
    agreed = told(1, frozenset(), acts=(replace(AGREED, brand="shop"),))
    found = after(agreed, told(1, source=Source.DIRECT, brand="shop"))
    assert sources(found) == [("shop", "direct")]


def test_a_file_without_a_source_is_about_the_newest_collection_of_its_brand() -> None:
    click = frozenset({"last_activity_at"})
    found = after(
        told(1, source=Source.DIRECT, brand="shop"),
        told(2, source=Source.DIRECT, brand="mill"),
        told(3, click, last_activity_at=T0, brand="shop"),
    )
    assert [(way.brand, way.last_activity_at) for way in collections(found)] == [
        ("shop", T0),
        ("mill", None),
    ]


@pytest.mark.parametrize("first", [None, "shop"])
def test_learning_the_brand_later_duplicates_nothing(first: str | None) -> None:
    fields = {"source": Source.DIRECT, "acts": (AGREED,), "purchases": (SHOES,)}
    named = {
        "acts": (replace(AGREED, brand="shop"),),
        "purchases": (replace(SHOES, brand="shop"),),
        "brand": "shop",
    }
    one, two = told(1, **fields), told(1, **{**fields, **named})
    found = after(two, one) if first else after(one, two)
    assert (found.brand, found.others) == ("shop", ())
    assert found.acts == named["acts"]
    assert found.purchases == named["purchases"]


def test_a_brand_does_not_inherit_what_its_own_file_lacks() -> None:
    """A notice by somebody unnamed is not one by the brand."""
    when = frozenset({*SAID, "informed_at"})
    unnamed = told(1, when, source=Source.DIRECT, informed_at=T0)
    found = after(unnamed, told(2, source=Source.DIRECT, brand="shop"))
    assert [(way.brand, way.informed_at) for way in collections(found)] == [
        ("shop", None),
        (None, T0),
    ]


def test_a_consent_to_another_brand_is_another_consent() -> None:
    acts = [replace(AGREED, brand=brand) for brand in ("shop", "mill", None)]
    found = after(*[told(1, frozenset(), acts=(act,)) for act in acts])
    assert set(found.acts) == set(acts[:2])


def test_no_file_narrows_a_withdrawal_to_one_brand() -> None:
    named = replace(WITHDRAWN, brand="shop")
    none, shop = [told(1, frozenset(), acts=(act,)) for act in (WITHDRAWN, named)]
    assert after(none, shop).acts == (WITHDRAWN,)
    assert set(after(shop, none).acts) == {WITHDRAWN, named}


def test_a_consent_from_a_list_and_from_the_person_counts_as_the_persons() -> None:
    listed = replace(AGREED, came_by="purchased: X")
    orders = ([AGREED, listed], [listed, AGREED])
    for acts in orders:
        assert after(*[told(1, frozenset(), acts=(act,)) for act in acts]).acts == (AGREED,)


def test_a_brand_from_one_file_and_a_source_from_another_stay_two_consents() -> None:
    """One names the brand and a bad list, the other neither: none proves a good one to the shop."""
    tainted = replace(AGREED, brand="shop", came_by="web")
    found = after(*[told(1, frozenset(), acts=(act,)) for act in (AGREED, tainted)])
    assert set(found.acts) == {AGREED, tainted}


ANY = (None, None, "shop", "mill")


def some(random: Random, brands: Sequence[str | None]) -> ContactUpdate:
    """A line of a file, with only the fields that it gives."""
    brand = random.choice(brands)
    fields = {
        "source": random.choice([None, Source.DIRECT, Source.DIRECT, Source.PURCHASED, Source.WEB]),
        "provenance": random.choice([None, Provenance("X"), Provenance("Y", True)]),
        "collected_at": random.choice([None, T0, T0 - DAY]),
        "informed_at": random.choice([None, T0]),
        "last_activity_at": random.choice([None, T0, T0 + DAY]),
        "tags": random.choice([frozenset[str](), frozenset({"vip"})]),
    }
    given = frozenset(random.sample(sorted(fields), random.randrange(len(fields) + 1)))
    given -= frozenset() if "source" in given else {"provenance"}
    contact = Contact(ANNA, **{name: fields[name] for name in given})  # type: ignore[arg-type]
    came = came_by(contact.source, contact.provenance)
    act = random.choice([AGREED, WITHDRAWN, replace(AGREED, conditional=True)])
    act = replace(act, brand=brand, came_by=None if act.withdrawal else came)
    contact = replace(
        contact,
        acts=(act,),
        purchases=(replace(SHOES, brand=brand, came_by=came),),
        brand=brand,
        profiling_objected_at=random.choice([None] * 9 + [T0]),
    )
    return ContactUpdate(contact, given, random.choice([None, T0, T0, T0 + DAY]))


def _run(known: Known | None, file: Sequence[ContactUpdate]) -> tuple[Known | None, bool]:
    changed = False
    for update in file:
        merged = merge(known, update)
        known, changed = merged.known, changed or merged.changed
    return known, changed


@pytest.mark.soak
def test_many_items_are_merged_like_few(monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(7)
    signed = [None, "token crm"]
    for _ in range(300):
        items = [
            ConsentAct(
                random.choice(["offers", "news"]),
                T0 + random.randrange(2) * DAY,
                withdrawal=random.random() < 0.3,
                conditional=random.choice([None, True, False]),
                evidence=Evidence("form v3", recorded_by=random.choice(signed)),
                brand=random.choice([None, "shop", "mill"]),
                came_by=random.choice([None, "rented"]),
            )
            for _ in range(12)
        ]
        few = joined_items(tuple(items[:4]), items[4:])
        known = [included_in(items[:6])(item) for item in items]
        monkeypatch.setattr(collected, "_FEW", 0)
        assert joined_items(tuple(items[:4]), items[4:]) == few
        assert [included_in(items[:6])(item) for item in items] == known
        monkeypatch.undo()


@pytest.mark.timeout(30)
def test_a_contact_with_thousands_of_acts_is_merged_quickly() -> None:
    acts = tuple(replace(AGREED, at=T0 + timedelta(seconds=n)) for n in range(10_000))
    contact = after(told(0, acts=acts), told(1, acts=acts))
    assert len(contact.acts) == 10_000


def test_importing_twice_changes_nothing() -> None:
    random = Random(20261128)
    for _ in range(times(1_500, 100_000)):
        as_of = random.choice([T0, T0 + DAY])
        before, _ = _run(None, [some(random, ANY) for _ in range(random.randrange(3))])
        brands = random.choice([[None], ["shop", "mill"]])
        lines = [some(random, brands) for _ in range(random.randrange(1, 4))]
        file = [ContactUpdate(line.contact, line.given, as_of) for line in lines]
        once, _ = _run(before, file)
        twice, changed = _run(once, file)
        assert not changed, (before, file)
        assert twice == once
