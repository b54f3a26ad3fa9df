"""Rectifying a contact: what changes, what stays, what is on record."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta

import pytest
from msgspec.structs import replace

from smtpproxy.policy.contact import collections
from smtpproxy.policy.model import (
    Audience,
    Collection,
    ConsentAct,
    Contact,
    Origin,
    Source,
    Suppression,
)
from smtpproxy.store.operations import Change, Correction, Rectification
from smtpproxy.store.records import BatchResult, ContactUpdate, SuppressionEntry
from smtpproxy.store.sql.store import Store
from tests.kit.store import before_next_write
from tests.store.conftest import Database
from tests.store.contract import AGREEMENT, ANNA, DAY, T0, WHOLE, facts_of

NEW = "anna.b@people.example"
LATER = T0 + 9 * DAY
MOVE = Correction(NEW)
ALONE = replace(WHOLE, others=())


@pytest.fixture
def store(any_database: Database) -> Store:
    return any_database.open()


async def rectify(
    store: Store, correction: Correction, *, address: str = ANNA, days: int = 9
) -> Rectification:
    done = await store.rectify(address, correction, at=T0 + days * DAY, reason="she wrote")
    assert done is not None
    return done


async def test_a_profile_is_rectified_and_the_record_has_the_old_values(store: Store) -> None:
    await store.put_contacts([ALONE])
    correction = Correction(
        audience=Audience.CONSUMER,
        source=Source.DIRECT,
        add_occupations=frozenset({"law"}),
        remove_occupations=frozenset({"finance", "unknown"}),
        remove_tags=frozenset({"restricted"}),
    )
    done = await rectify(store, correction)
    assert done == Rectification(
        LATER,
        "she wrote",
        (
            Change("audience", "professional", "consumer"),
            Change("occupations", "finance, métiers d'art", "law, métiers d'art"),
            Change("source", "partner", "direct"),
            Change("tags", "restricted", None),
        ),
    )
    assert list(await store.rectifications(ANNA)) == [done]
    assert await store.contact(ANNA) == replace(
        ALONE,
        audience=Audience.CONSUMER,
        source=Source.DIRECT,
        occupations=frozenset({"law", "métiers d'art"}),
        tags=frozenset(),
    )


async def test_audience_and_occupations_are_rectified_in_every_collection(store: Store) -> None:
    partner, mill = Collection("shop", Source.PARTNER), Collection("mill", Source.WEB)
    finance = frozenset({"finance"})
    said = replace(partner, audience=Audience.PROFESSIONAL, occupations=finance)
    await store.put_contacts([replace(ALONE, audience=Audience.CONSUMER, others=(said, mill))])
    everywhere = Correction(audience=Audience.CONSUMER, remove_occupations=finance)
    of_mill = replace(everywhere, brands=frozenset({"mill", None}))
    done = await rectify(store, of_mill)
    assert done.changes == (
        Change("occupations", "finance, métiers d'art", "métiers d'art"),
        Change("audience", "unknown", "consumer"),
    )
    found = await store.contact(ANNA)
    assert found is not None
    assert found.others == (said, replace(mill, audience=Audience.CONSUMER))
    done = await rectify(store, everywhere, days=10)
    assert done.changes == (
        Change("audience", "professional", "consumer"),
        Change("occupations", "finance", None),
    )
    found = await store.contact(ANNA)
    assert found is not None
    assert {way.audience for way in collections(found)} == {Audience.CONSUMER}
    assert not any("finance" in way.occupations for way in collections(found))


async def test_a_notice_added_later_is_on_record(store: Store) -> None:
    """A court must be able to see that the notice was added afterwards."""
    untold = replace(WHOLE, informed_at=None, never_informed=True)
    await store.put_contacts([ContactUpdate(untold)])
    done = await rectify(store, Correction(informed_at=T0 - DAY))
    assert done.changes == (Change("informed_at", "false", "2026-02-28T10:00:00Z"),)


async def test_each_rectification_is_recorded(store: Store) -> None:
    await store.put_contacts([WHOLE])
    first = await rectify(store, Correction(audience=Audience.CONSUMER))
    second = await rectify(store, Correction(collected_at=T0 - DAY), days=10)
    assert second.changes == (
        Change("collected_at", "2026-03-01T10:00:00Z", "2026-02-28T10:00:00Z"),
    )
    assert list(await store.rectifications("ANNA@people.example")) == [first, second]


async def test_a_correction_without_effect_leaves_no_record(store: Store) -> None:
    await store.put_contacts([ALONE])
    assert (await rectify(store, Correction(audience=WHOLE.audience))).changes == ()
    assert list(await store.rectifications(ANNA)) == []


async def test_an_unknown_person_cannot_be_rectified(store: Store) -> None:
    await store.add_suppressions([SuppressionEntry(ANNA, "all", Origin.COMPLAINT, T0)])
    assert await store.rectify(ANNA, MOVE, at=T0, reason="x") is None
    assert list(await store.suppressions(NEW)) == []
    assert list(await store.rectifications(ANNA)) == []


async def test_an_older_file_does_not_undo_a_rectification(store: Store) -> None:
    await store.put_contacts([ContactUpdate(WHOLE, as_of=T0)])
    await rectify(store, Correction(audience=Audience.CONSUMER))
    for days, audience in ((5, Audience.CONSUMER), (12, Audience.PROFESSIONAL)):
        await store.put_contacts([ContactUpdate(WHOLE, as_of=T0 + days * DAY)])
        found = await store.contact(ANNA)
        assert found is not None
        assert found.audience is audience


async def test_a_rectification_counts_even_after_a_file_from_the_future(store: Store) -> None:
    await store.put_contacts([ContactUpdate(ALONE, as_of=T0 + 99 * DAY)])
    await rectify(store, Correction(audience=Audience.CONSUMER))
    found = await store.contact(ANNA)
    assert found == replace(ALONE, audience=Audience.CONSUMER)


async def test_a_frozen_profile_can_be_rectified(store: Store) -> None:
    objected = replace(ALONE, profiling_objected_at=T0)
    await store.put_contacts([objected])
    await rectify(store, Correction(remove_occupations=WHOLE.occupations))
    assert await store.contact(ANNA) == replace(objected, occupations=frozenset())


class TestNewAddress:
    async def test_the_whole_contact_follows(self, store: Store) -> None:
        await store.put_contacts([ContactUpdate(WHOLE, as_of=T0)])
        await rectify(store, Correction(audience=Audience.CONSUMER))
        done = await rectify(store, MOVE, days=10)
        assert done.changes == (Change("address", ANNA, NEW),)
        assert await store.contact(ANNA) is None
        moved = replace(Correction(audience=Audience.CONSUMER).applied(WHOLE), address=NEW)
        assert (await facts_of(store, NEW)).contact == moved
        assert [len(one.changes) for one in await store.rectifications(NEW)] == [3, 1]
        assert list(await store.rectifications(ANNA)) == []
        assert (await store.counts())[0] == 1

    async def test_suppressions_hold_for_both_addresses(self, store: Store) -> None:
        await store.put_contacts([WHOLE])
        asked = [
            SuppressionEntry(ANNA, "marketing", Origin.UNSUBSCRIBE, T0, "by phone"),
            SuppressionEntry("anna+shop@people.example", "all", Origin.COMPLAINT, T0 + DAY),
            SuppressionEntry(ANNA, "purpose:news", Origin.MANUAL, T0 + 2 * DAY),
        ]
        await store.add_suppressions(asked)
        before = await store.suppressions(ANNA)
        await rectify(store, MOVE)
        assert list(await store.suppressions(ANNA)) == list(before)
        assert list(await store.suppressions(NEW)) == [
            Suppression("marketing", Origin.UNSUBSCRIBE, T0, note="by phone"),
            Suppression("all", Origin.COMPLAINT, T0 + DAY),
            Suppression("purpose:news", Origin.MANUAL, T0 + 2 * DAY),
        ]

    async def test_later_suppressions_of_the_old_address_hold_for_both(self, store: Store) -> None:
        newest = "anna.c@people.example"
        await store.put_contacts([WHOLE])
        await rectify(store, MOVE)
        await rectify(store, Correction(newest), address=NEW, days=10)
        at = T0 + 11 * DAY
        done = await store.add_suppressions(
            [
                SuppressionEntry(ANNA, "marketing", Origin.UNSUBSCRIBE, at),
                SuppressionEntry(ANNA, "all", Origin.BOUNCE, at),
                SuppressionEntry("@example.org", "all", Origin.MANUAL, at),
            ]
        )
        assert (done.added, done.changed, done.unchanged) == (3, 0, 0)
        await store.suppress([SuppressionEntry(NEW, "all", Origin.COMPLAINT, at)])
        unsubscribed = Suppression("marketing", Origin.UNSUBSCRIBE, at)
        complained = Suppression("all", Origin.COMPLAINT, at)
        assert set(await store.suppressions(newest)) == {unsubscribed, complained}
        assert list(await store.suppressions(NEW)) == [complained]
        assert list(await store.moved_to(ANNA)) == [newest]
        assert list(await store.moved_to(newest)) == []

    async def test_a_withdrawal_during_the_move_counts(self, store: Store) -> None:
        await store.put_contacts([WHOLE])
        withdrawal = ConsentAct("offers", T0, withdrawal=True)
        before_next_write(store, lambda: rectify(store, MOVE))
        assert await store.record_act(ANNA, withdrawal)
        contact = await store.contact(NEW)
        assert contact is not None
        assert withdrawal in contact.acts

    async def test_a_suppression_during_the_move_counts(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await store.put_contacts([WHOLE])
        add = store.add_suppressions
        asked = SuppressionEntry(ANNA, "marketing", Origin.UNSUBSCRIBE, T0)

        async def meanwhile(entries: Sequence[SuppressionEntry]) -> BatchResult:
            monkeypatch.undo()
            done = await add(entries)
            await add([asked])
            return done

        monkeypatch.setattr(store, "add_suppressions", meanwhile)
        await rectify(store, MOVE)
        assert [one.scope for one in await store.suppressions(NEW)] == ["marketing"]

    async def test_a_withdrawal_by_the_old_address_counts(self, store: Store) -> None:
        await store.put_contacts([Contact(ANNA, acts=(AGREEMENT,))])
        await rectify(store, MOVE)
        withdrawal = ConsentAct(AGREEMENT.purpose, T0 + 11 * DAY, withdrawal=True)
        assert await store.record_act(ANNA, withdrawal)
        assert not await store.record_act(ANNA, withdrawal)
        for address, acts in ((ANNA, (withdrawal,)), (NEW, (AGREEMENT, withdrawal))):
            contact = await store.contact(address)
            assert contact is not None
            assert contact.acts == acts

    async def test_a_bounce_holds_for_the_old_address_only(self, store: Store) -> None:
        await store.put_contacts([WHOLE])
        await store.add_suppressions([SuppressionEntry(ANNA, "all", Origin.BOUNCE, T0)])
        await rectify(store, MOVE)
        assert [one.origin for one in await store.suppressions(ANNA)] == [Origin.BOUNCE]
        assert list(await store.suppressions(NEW)) == []

    async def test_the_later_of_two_unsubscribes_counts(self, store: Store) -> None:
        await store.put_contacts([WHOLE])
        for address, days in ((ANNA, 1), (NEW, 3)):
            at = T0 + days * DAY
            await store.add_suppressions(
                [SuppressionEntry(address, "marketing", Origin.UNSUBSCRIBE, at)]
            )
        await rectify(store, MOVE)
        assert [one.since for one in await store.suppressions(NEW)] == [T0 + 3 * DAY]

    async def test_two_histories_are_merged_and_the_new_profile_wins(self, store: Store) -> None:
        withdrawal = ConsentAct("offers", T0 + 5 * DAY, withdrawal=True)
        there = Contact(
            NEW,
            source=Source.PURCHASED,
            tags=frozenset({"vip"}),
            acts=(AGREEMENT, withdrawal),
            first_contacted_at=T0 + 7 * DAY,
            profiling_objected_at=T0,
        )
        await store.put_contacts([WHOLE, there])
        done = await rectify(store, MOVE)
        assert await store.contact(ANNA) is None
        found = await store.contact(NEW)
        assert found is not None
        assert set(found.acts) == {*WHOLE.acts, AGREEMENT, withdrawal}
        assert found.purchases == WHOLE.purchases
        assert replace(found, acts=(), purchases=()) == Contact(
            NEW,
            source=Source.PURCHASED,
            tags=frozenset({"vip", "restricted"}),  # a restriction of either restricts both
            first_contacted_at=WHOLE.first_contacted_at,
            profiling_objected_at=T0,
            preferences=WHOLE.preferences,
            others=collections(WHOLE),  # how the old address was obtained is kept
        )
        assert Change("source", "partner", "purchased") in done.changes

    async def test_a_contact_without_a_profile_inherits_the_old_one(self, store: Store) -> None:
        await store.put_contacts([ContactUpdate(WHOLE, as_of=T0)])
        later = replace(AGREEMENT, at=T0 + 5 * DAY)
        await store.record_act(NEW, later)
        await rectify(store, MOVE)
        assert await store.contact(NEW) == replace(WHOLE, address=NEW, acts=(*WHOLE.acts, later))

    async def test_the_same_address_is_not_a_move(self, store: Store) -> None:
        await store.put_contacts([WHOLE])
        assert (await rectify(store, Correction(ANNA))).changes == ()
        assert await store.contact(ANNA) == WHOLE


async def test_erasing_removes_the_records(store: Store) -> None:
    await store.put_contacts([WHOLE])
    await rectify(store, Correction(audience=Audience.CONSUMER))
    await store.erase_contact(ANNA, at=LATER)
    await store.put_contacts([Contact(ANNA)])
    assert list(await store.rectifications(ANNA)) == []


async def test_a_record_cannot_be_rewritten(database: Database) -> None:
    store = database.open()
    await store.put_contacts([WHOLE])
    await rectify(store, Correction(audience=Audience.CONSUMER))
    with (
        closing(sqlite3.connect(database.path)) as connection,
        pytest.raises(sqlite3.IntegrityError, match="history"),
    ):
        connection.execute("UPDATE rectification SET reason = 'another'")


async def test_contacts_that_differ_only_by_a_tag_are_listed(store: Store) -> None:
    tagged, other = "anna+shop@people.example", "anna+a@people.example"
    people = [ANNA, tagged, other, "anna.b@people.example", "anna+x@other.example"]
    await store.put_contacts([Contact(address) for address in people])
    assert sorted(await store.variants(ANNA)) == [other, tagged]
    assert sorted(await store.variants(tagged)) == [other, ANNA]
    assert list(await store.variants("anna.b@people.example")) == []


async def test_merging_two_contacts_keeps_the_earlier_mark(store: Store) -> None:
    early, late = T0 - timedelta(days=1), T0 + timedelta(days=1)
    await store.put_contacts(
        [Contact(ANNA, first_contacted_at=late), Contact(NEW, first_contacted_at=early)]
    )
    await rectify(store, MOVE)
    found = await store.contact(NEW)
    assert found is not None
    assert found.first_contacted_at == early
