"""The contract of a store, one suite for all backends.

A backend's test file subclasses `StoreContract` and gives it the fixture `store`.
"""

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from smtpproxy.mail.address import AddressError
from smtpproxy.policy.model import (
    Audience,
    Collection,
    ConsentAct,
    Contact,
    Dealing,
    Evidence,
    Frequency,
    Link,
    Lookups,
    Origin,
    Preference,
    Provenance,
    Purchase,
    Reading,
    RecipientFacts,
    Source,
    Suppression,
    collections,
)
from smtpproxy.policy.scopes import SCOPE_KINDS
from smtpproxy.store.merge import MARKS
from smtpproxy.store.records import (
    BatchResult,
    ContactUpdate,
    LiftedSuppression,
    StoreUnavailable,
    SuppressionEntry,
)
from smtpproxy.store.sql.store import Store
from tests.kit import store as kit
from tests.store.imports_contract import ImportContract
from tests.store.propagation_contract import PropagationContract

T0 = datetime(2026, 3, 1, 10, 0, 0, 123456, tzinfo=UTC)
DAY = timedelta(days=1)
ANNA = "anna@people.example"

WHOLE = Contact(
    ANNA,
    audience=Audience.PROFESSIONAL,
    source=Source.PARTNER,
    collected_at=T0,
    informed_at=T0 + DAY,
    optout_offered=True,
    last_activity_at=T0 + 2 * DAY,
    occupations=frozenset({"finance", "métiers d'art"}),
    tags=frozenset({"restricted"}),
    provenance=Provenance(
        "Lists Ltd", sender_disclosed=True, chain=(Link("Collector", True, T0), Link())
    ),
    purchases=(
        Purchase("shoes", T0),
        Purchase("boots", T0 + DAY, Dealing.INQUIRY),
        Purchase("boots", T0 + DAY, brand="shop", came_by="rented: X"),
    ),
    acts=(
        ConsentAct(
            "offers",
            T0,
            method="unticked_box",
            conditional=True,
            channels=frozenset({"email", "sms"}),
            evidence=Evidence("form v3", "192.0.2.7"),
        ),
        ConsentAct("news", T0 + DAY, channels=frozenset()),
        ConsentAct(
            "news",
            T0 + DAY,
            method="double_opt_in",
            evidence=Evidence("news v1", version="1", form="/join", document_hash="0a" * 32),
            pending=True,
            brand="shop",
            came_by="web",
        ),
        ConsentAct("offers", T0 + 2 * DAY, withdrawal=True),
    ),
    first_contacted_at=T0 + DAY,
    language="de-at",
    preferences=(Preference("offers", Frequency.WEEKLY, T0, "shop"),),
    brand="mill",
    others=(
        Collection("shop", Source.WEB, T0, as_of=T0),
        Collection(
            *(None, Source.DIRECT, T0, T0), optout_offered=False, last_activity_at=T0, as_of=T0
        ),
        Collection(
            *("shop", Source.RENTED),
            never_informed=True,
            provenance=Provenance("X"),
            as_of=T0,
            audience=Audience.GENERIC,
            occupations=frozenset({"racing", "été"}),
        ),
    ),
)
AGREEMENT = ConsentAct("offers", T0, method="unticked_box", evidence=Evidence("form v3"))


def entry(
    address: str = ANNA,
    scope: str = "marketing",
    origin: Origin = Origin.UNSUBSCRIBE,
    since: datetime = T0,
    note: str | None = None,
) -> SuppressionEntry:
    return SuppressionEntry(address, scope, origin, since, note)


async def facts_of(store: Store, address: str) -> RecipientFacts:
    return (await store.facts(Lookups((address,)))).get(address, RecipientFacts())


async def assert_counts_are_right(store: Store) -> None:
    """The counts agree with an export."""
    contacts, suppressions = await store.counts()
    assert contacts == len([contact async for contact in store.export_contacts()])
    exported = [suppression async for _, suppression in store.export_suppressions()]
    kinds = [(found.scope.partition(":")[0], str(found.origin)) for found in exported]
    assert {kind: count for kind, count in suppressions.items() if count} == {
        kind: kinds.count(kind) for kind in kinds
    }


class SuppressionContract:
    async def test_an_unknown_address_has_no_facts(self, store: Store) -> None:
        await store.add_suppressions([entry("other@people.example")])
        assert await store.facts(Lookups((ANNA,))) == {}
        assert await store.facts(Lookups(())) == {}

    async def test_an_added_suppression_is_found(self, store: Store) -> None:
        result = await store.add_suppressions([entry("Anna@People.Example", note="by phone")])
        assert result == BatchResult(added=1)
        found = Suppression("marketing", Origin.UNSUBSCRIBE, T0, note="by phone")
        assert await facts_of(store, ANNA) == RecipientFacts((found,))
        assert list(await store.suppressions("ANNA@people.example")) == [found]

    async def test_each_scope_and_origin_is_kept_separately_oldest_first(
        self, store: Store
    ) -> None:
        await store.add_suppressions(
            [
                entry(scope="purpose:offers", since=T0 + 2 * DAY),
                entry(scope="all", origin=Origin.COMPLAINT, since=T0 + DAY),
                entry(scope="all", origin=Origin.BOUNCE),
            ]
        )
        found = (await facts_of(store, ANNA)).suppressions
        assert [(one.scope, one.origin) for one in found] == [
            ("all", Origin.BOUNCE),
            ("all", Origin.COMPLAINT),
            ("purpose:offers", Origin.UNSUBSCRIBE),
        ]

    async def test_adding_a_suppression_again_changes_nothing(self, store: Store) -> None:
        await store.add_suppressions([entry(note="first")])
        before = await facts_of(store, ANNA)
        again = [entry(note="second"), entry(since=T0 - DAY), entry()]
        assert await store.add_suppressions(again) == BatchResult(unchanged=3)
        assert await facts_of(store, ANNA) == before

    async def test_a_later_unsubscribe_moves_the_date_forward(self, store: Store) -> None:
        await store.add_suppressions([entry(note="first")])
        assert await store.add_suppressions([entry(since=T0 + DAY)]) == BatchResult(changed=1)
        found = Suppression("marketing", Origin.UNSUBSCRIBE, T0 + DAY, note="first")
        assert (await facts_of(store, ANNA)).suppressions == (found,)
        await assert_counts_are_right(store)

    @pytest.mark.parametrize("origin", list(Origin))
    async def test_what_a_person_asks_covers_all_variants_of_their_mailbox(
        self, store: Store, origin: Origin
    ) -> None:
        await store.add_suppressions([entry("anna+shop@people.example", origin=origin)])
        expected = (
            ()
            if origin in (Origin.BOUNCE, Origin.MANUAL)
            else (Suppression("marketing", origin, T0, widened=True),)
        )
        for variant in (ANNA, "anna+other@people.example"):
            assert (await facts_of(store, variant)).suppressions == expected
            assert tuple(await store.suppressions(variant)) == expected
        exact = (Suppression("marketing", origin, T0),)
        assert (await facts_of(store, "anna+shop@people.example")).suppressions == exact

    async def test_dots_are_ignored_at_gmail_only(self, store: Store) -> None:
        await store.add_suppressions(
            [entry("an.na@gmail.com"), entry("an.na@people.example", since=T0 + DAY)]
        )
        assert (await facts_of(store, "anna@googlemail.com")).suppressions[0].widened
        assert (await facts_of(store, ANNA)).suppressions == ()

    async def test_lifting_affects_the_exact_address_only(self, store: Store) -> None:
        tagged = "anna+shop@people.example"
        await store.add_suppressions([entry(), entry(tagged), entry(origin=Origin.COMPLAINT)])
        lifted = await store.remove_suppression(
            ANNA, at=T0 + DAY, reason="she asked", origin=Origin.UNSUBSCRIBE
        )
        assert list(lifted) == [Suppression("marketing", Origin.UNSUBSCRIBE, T0)]
        assert list(await store.lifted_suppressions(ANNA)) == [
            LiftedSuppression("marketing", Origin.UNSUBSCRIBE, T0, None, T0 + DAY, "she asked")
        ]
        assert list(await store.lifted_suppressions(tagged)) == []
        left = (await facts_of(store, ANNA)).suppressions
        assert {(one.origin, one.widened) for one in left} == {
            (Origin.COMPLAINT, False),
            (Origin.UNSUBSCRIBE, True),
        }
        assert await store.remove_suppression(ANNA, at=T0, reason="x", scope="all") == []
        assert await store.remove_suppression(ANNA, at=T0, reason="x", up_to=T0 - DAY) == []
        assert len(await store.remove_suppression(ANNA, at=T0, reason="x", up_to=T0)) == 1
        await assert_counts_are_right(store)

    async def test_an_export_has_no_addresses_and_can_be_imported(self, store: Store) -> None:
        await store.add_suppressions([entry(), entry("bert+x@people.example", scope="all")])
        exported = [found async for found in store.export_suppressions()]
        assert not any("people" in key or "anna" in key for key, _ in exported)
        again = [
            entry(key, found.scope, found.origin, found.since, found.note)
            for key, found in exported
        ]
        assert await store.add_suppressions(again) == BatchResult(unchanged=2)
        for key, _ in exported:
            await store.remove_suppression(key, at=T0, reason="moving")
        assert await facts_of(store, ANNA) == RecipientFacts()
        assert await store.add_suppressions(again) == BatchResult(added=2)
        assert (await facts_of(store, "bert@people.example")).suppressions[0].widened
        await assert_counts_are_right(store)

    async def test_an_export_under_another_key_is_rejected(self, store: Store) -> None:
        foreign = f"hmac:01234567:{'0' * 32}:{'0' * 64}"
        with pytest.raises(ValueError, match="another key"):
            await store.add_suppressions([entry(), entry(foreign)])
        with pytest.raises(ValueError, match="not a key text"):
            await store.add_suppressions([entry("hmac:anna")])
        assert await facts_of(store, ANNA) == RecipientFacts()

    async def test_a_suppressed_domain_covers_everyone_in_it(self, store: Store) -> None:
        names = ["@People.Example", "*@other.example", "*.below.example", "@[192.0.2.1]"]
        await store.add_suppressions([entry(name, "all", Origin.MANUAL) for name in names])
        over = {
            "anna+shop@people.example": "@people.example",
            "anna@other.example": "@other.example",
            "anna@below.example": "*.below.example",
            "anna@x.y.below.example": "*.below.example",
            "anna@[192.0.2.1]": "@[192.0.2.1]",
            "anna@sub.people.example": None,
            "anna@notbelow.example": None,
        }
        facts = await store.facts(Lookups(tuple(over)))
        told = {name: facts[name].suppressions if name in facts else () for name in over}
        assert {name: [one.domain for one in told[name]] for name in over} == {
            name: [domain] if domain else [] for name, domain in over.items()
        }
        assert not any(one.widened for found in told.values() for one in found)
        assert [one.domain for one in await store.suppressions("*@people.example")] == [
            "@people.example"
        ]
        assert [one.domain for one in await store.suppressions("@x.below.example")] == [
            "*.below.example"
        ]

    async def test_a_domain_is_lifted_exported_and_listed_among_changes_as_a_domain(
        self, store: Store
    ) -> None:
        names = ["@people.example", "*.people.example", ANNA]
        before = await store.newest_change()
        await store.add_suppressions([entry(name, "all", Origin.MANUAL) for name in names])
        exported = {key: one async for key, one in store.export_suppressions()}
        assert sorted(key.partition("hmac:")[0] for key in exported) == ["", "*.", "@"]
        assert "example" not in "".join(exported)
        assert {one.key for one in await store.changes(before, 9)} == set(exported)
        await store.remove_suppression(ANNA, at=T0, reason="x")
        assert len(await store.suppressions(ANNA)) == 2
        for name in names[:2]:
            assert len(await store.remove_suppression(name, at=T0, reason="x")) == 1
            assert len(await store.lifted_suppressions(name)) == 1
        assert await store.suppressions(ANNA) == ()
        again = [entry(key, one.scope, one.origin) for key, one in exported.items()]
        assert await store.add_suppressions(again) == BatchResult(added=3)
        assert await store.standing(again) == [T0] * 3
        assert len(await store.suppressions(ANNA)) == 3

    async def test_an_address_is_suppressed_if_any_routed_reading_of_it_is(
        self, store: Store
    ) -> None:
        await store.add_suppressions([entry(), entry("@wild.example", "all", Origin.MANUAL)])
        withdrawal = ConsentAct("offers", T0, withdrawal=True)
        await store.record_act("bert@people.example", withdrawal)
        routed = {
            "anna%people.example@localhost": [(None, ANNA)],
            "people.example!anna+x@localhost": [(None, "anna+x@people.example")],
            '"anna@people.example"@localhost': [(None, ANNA)],
            "carl%wild.example%x@y": [("@wild.example", "carl@wild.example")],
            "people.example!anna@wild.example": [("@wild.example", None), (None, ANNA)],
        }
        for name, found in routed.items():
            for asked in ((name,), (name, "nobody@people.example")):
                known = (await store.facts(Lookups(asked)))[name].suppressions
                assert sorted([(one.domain, one.read_as) for one in known], key=str) == sorted(
                    found, key=str
                )
        facts = await facts_of(store, "bert%people.example@localhost")
        assert facts == RecipientFacts(readings=(Reading("bert@people.example", (withdrawal,)),))
        alone = await store.facts(Lookups(("bert%people.example@localhost",), contacts=False))
        assert alone == {}
        assert await store.facts(Lookups(("hello!@people.example",))) == {}

    async def test_an_invalid_address_is_rejected(self, store: Store) -> None:
        with pytest.raises(AddressError):
            await store.add_suppressions([entry(), entry("anna")])
        with pytest.raises(AddressError):
            await store.suppressions("anna")
        with pytest.raises(AddressError):
            await store.contact("anna")
        assert await facts_of(store, ANNA) == RecipientFacts()


class ContactContract:
    async def test_a_contact_comes_back_whole(self, store: Store) -> None:
        assert await store.put_contacts([WHOLE]) == BatchResult(added=1)
        assert await facts_of(store, ANNA) == RecipientFacts(contact=WHOLE)
        assert await store.contact("Anna@PEOPLE.example") == WHOLE
        assert [contact async for contact in store.export_contacts()] == [WHOLE]

    async def test_a_bare_contact_comes_back_bare(self, store: Store) -> None:
        await store.put_contacts([Contact(ANNA)])
        assert await store.contact(ANNA) == Contact(ANNA)

    async def test_times_of_other_zones_and_ages_come_back_exactly(self, store: Store) -> None:
        for moment in (
            datetime(1, 1, 1, tzinfo=UTC),
            datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
            datetime(2100, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
            datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        ):
            await store.put_contacts([Contact(ANNA, collected_at=moment)])
            found = await store.contact(ANNA)
            assert found is not None
            assert found.collected_at == moment

    async def test_facts_can_be_read_without_contacts(self, store: Store) -> None:
        await store.put_contacts([WHOLE, Contact("bert@people.example")])
        await store.add_suppressions([entry()])
        facts = await store.facts(Lookups((ANNA, "bert@people.example"), contacts=False))
        suppressed = Suppression("marketing", Origin.UNSUBSCRIBE, T0)
        assert facts == {ANNA: RecipientFacts((suppressed,))}

    @pytest.mark.parametrize("count", [2, 50, 51, 300])
    async def test_one_read_answers_for_many_addresses(self, store: Store, count: int) -> None:
        everybody = [Contact(f"user{number}@people.example") for number in range(count)]
        await store.put_contacts(everybody)
        await store.add_suppressions([entry(contact.address) for contact in everybody[::2]])
        names = tuple(contact.address for contact in everybody)
        facts = await store.facts(Lookups((*names, "nobody@people.example", names[0])))
        assert list(facts) == list(names)
        assert [facts[name].contact for name in names] == everybody
        assert [bool(facts[name].suppressions) for name in names] == [
            number % 2 == 0 for number in range(count)
        ]

    async def test_the_people_of_the_tests_survive_a_round_trip(self, store: Store) -> None:
        await kit.fill(store, store)
        facts = await store.facts(Lookups(tuple(one.address for one in kit.contacts())))
        assert [found.contact for found in facts.values()] == kit.contacts()
        await assert_counts_are_right(store)

    async def test_putting_a_contact_twice_changes_nothing(self, store: Store) -> None:
        update = ContactUpdate(WHOLE, as_of=T0)
        assert await store.put_contacts([update]) == BatchResult(added=1)
        done = await store.put_contacts([update, WHOLE])
        assert done == BatchResult(unchanged=2)
        assert done.contacts == {ANNA: WHOLE}
        assert await store.contact(ANNA) == WHOLE

    async def test_a_newer_profile_replaces_only_the_fields_it_gives(self, store: Store) -> None:
        await store.put_contacts([ContactUpdate(WHOLE, as_of=T0)])
        told = Contact(ANNA, audience=Audience.CONSUMER, tags=frozenset(), brand="mill")
        update = ContactUpdate(told, frozenset({"audience", "tags"}), T0 + DAY)
        assert await store.put_contacts([update]) == BatchResult(changed=1)
        assert await store.contact(ANNA) == replace(
            WHOLE, audience=Audience.CONSUMER, tags=frozenset()
        )

    async def test_audience_and_occupations_belong_to_their_collection(self, store: Store) -> None:
        finance, racing = frozenset({"finance"}), frozenset({"racing"})
        mill = Contact(ANNA, Audience.PROFESSIONAL, Source.DIRECT, T0, brand="mill")
        mill = replace(mill, occupations=finance)
        await store.put_contacts([ContactUpdate(mill, as_of=T0)])
        shop = Contact(ANNA, source=Source.PARTNER, brand="shop")
        await store.put_contacts([ContactUpdate(shop, as_of=T0 + DAY)])
        known = collections(mill)[0]
        assert await store.contact(ANNA) == replace(shop, others=(replace(known, as_of=T0),))
        told = Contact(ANNA, Audience.CONSUMER, occupations=racing, brand="mill")
        given = frozenset({"audience", "occupations"})
        await store.put_contacts([ContactUpdate(told, given, as_of=T0 + 2 * DAY)])
        (found,) = [one async for one in store.export_contacts()]
        assert {(way.brand, way.audience, way.occupations) for way in collections(found)} == {
            ("mill", Audience.CONSUMER, racing), ("shop", Audience.UNKNOWN, frozenset()),
        }  # fmt: skip

    @pytest.mark.parametrize("age", [timedelta(0), DAY])
    async def test_an_older_profile_changes_nothing(self, store: Store, age: timedelta) -> None:
        await store.put_contacts([ContactUpdate(WHOLE, as_of=T0)])
        older = ContactUpdate(Contact(ANNA, tags=frozenset()), as_of=T0 - age)
        assert await store.put_contacts([older]) == BatchResult(unchanged=1, older=1)
        between = replace(older, as_of=T0 - age / 2)  # the stored profile has not become older
        assert await store.put_contacts([between]) == BatchResult(unchanged=1, older=1)
        assert await store.contact(ANNA) == WHOLE

    async def test_a_profile_is_as_old_as_its_newest_source(self, store: Store) -> None:
        for days in (0, 2):  # the same profile, confirmed two days later
            await store.put_contacts([ContactUpdate(WHOLE, as_of=T0 + days * DAY)])
        between = ContactUpdate(Contact(ANNA, tags=frozenset(), brand="mill"), as_of=T0 + DAY)
        assert await store.put_contacts([between]) == BatchResult(unchanged=1, older=1)
        assert await store.contact(ANNA) == WHOLE

    async def test_each_collection_is_as_old_as_its_first_source(self, store: Store) -> None:
        mill = Collection("mill", source=Source.DIRECT)
        told = Contact(ANNA, source=Source.DIRECT, brand="shop", others=(mill,))
        await store.put_contacts([ContactUpdate(told, as_of=T0)])
        found = await store.contact(ANNA)
        assert found is not None
        assert found.others == (replace(mill, as_of=T0),)

    async def test_last_activity_never_moves_back(self, store: Store) -> None:
        await store.put_contacts([WHOLE])
        for earlier in (None, T0):
            await store.put_contacts([replace(WHOLE, last_activity_at=earlier)])
            assert await store.contact(ANNA) == WHOLE
        later = replace(WHOLE, last_activity_at=T0 + 9 * DAY)
        await store.put_contacts([later])
        assert await store.contact(ANNA) == later

    @pytest.mark.parametrize("mark", MARKS)
    async def test_a_mark_is_set_once_and_only_moves_back(self, store: Store, mark: str) -> None:
        await store.put_contacts([ContactUpdate(Contact(ANNA), as_of=T0)])
        for days, expected in [(2, 2), (3, 2), (None, 2), (1, 1), (2, 1)]:
            at = None if days is None else T0 + days * DAY
            told = replace(Contact(ANNA), **{mark: at})
            # From an older file too: the date of an event does not depend on who reports it.
            await store.put_contacts([ContactUpdate(told, as_of=T0 - DAY)])
            found = await store.contact(ANNA)
            assert found is not None
            assert getattr(found, mark) == T0 + expected * DAY

    async def test_an_objection_to_profiling_freezes_the_profile(self, store: Store) -> None:
        await store.put_contacts([WHOLE])
        objection = Contact(ANNA, profiling_objected_at=T0 + 3 * DAY)
        assert await store.put_contacts([ContactUpdate(objection, frozenset())]) == BatchResult(
            changed=1
        )
        objected = replace(WHOLE, profiling_objected_at=T0 + 3 * DAY)
        gathered = replace(
            WHOLE,
            occupations=frozenset({"racing"}),
            tags=frozenset({"gambler"}),
            last_activity_at=T0 + 9 * DAY,
        )
        assert await store.put_contacts([gathered]) == BatchResult(unchanged=1)
        assert await store.contact(ANNA) == objected
        # The rest of the record is still updated; purchases and consents are still added.
        act = replace(AGREEMENT, at=T0 + 9 * DAY)
        await store.put_contacts([replace(gathered, audience=Audience.CONSUMER, acts=(act,))])
        assert await store.contact(ANNA) == replace(
            objected, audience=Audience.CONSUMER, acts=(*WHOLE.acts, act)
        )

    async def test_a_restriction_is_added_despite_an_objection_to_profiling(
        self, store: Store
    ) -> None:
        objected = Contact(ANNA, tags=frozenset({"vip"}), profiling_objected_at=T0)
        await store.put_contacts([objected])
        await store.put_contacts([Contact(ANNA, tags=frozenset({"restricted", "gambler"}))])
        found = await store.contact(ANNA)
        assert found == replace(objected, tags=frozenset({"vip", "restricted"}))

    async def test_purchases_add_up(self, store: Store) -> None:
        shoes, boots = Purchase("shoes", T0), Purchase("boots", T0 + DAY)
        await store.put_contacts([Contact(ANNA, purchases=(boots, boots))])
        older = ContactUpdate(Contact(ANNA, purchases=(shoes,)), as_of=T0 - DAY)
        assert await store.put_contacts([older]) == BatchResult(changed=1)
        found = await store.contact(ANNA)
        assert found is not None
        assert found.purchases == (shoes, boots)

    async def test_two_lines_of_one_batch_are_merged(self, store: Store) -> None:
        first = ContactUpdate(Contact(ANNA, acts=(AGREEMENT,)), as_of=T0)
        news = replace(AGREEMENT, purpose="news")
        second = ContactUpdate(Contact(ANNA, tags=frozenset({"x"}), acts=(news,)), as_of=T0)
        assert await store.put_contacts([first, second, second]) == BatchResult(1, 1, 1, older=2)
        found = await store.contact(ANNA)
        assert found == Contact(ANNA, acts=(AGREEMENT, news))
        await assert_counts_are_right(store)

    async def test_erasing_leaves_only_a_suppression(self, store: Store) -> None:
        await store.put_contacts([WHOLE])
        assert await store.erase_contact("ANNA@people.example", at=T0)
        erased = RecipientFacts((Suppression("marketing", Origin.ERASURE, T0),))
        assert await facts_of(store, ANNA) == erased
        assert [contact async for contact in store.export_contacts()] == []
        assert not await store.erase_contact(ANNA, at=T0)
        await store.put_contacts([Contact(ANNA)])  # a new contact does not lift it
        assert await facts_of(store, ANNA) == replace(erased, contact=Contact(ANNA))
        await assert_counts_are_right(store)

    async def test_erasing_removes_addresses_from_notes(self, store: Store) -> None:
        """Other notes stay: they are part of the proof."""
        bounce = SuppressionEntry(ANNA, "all", Origin.BOUNCE, T0, f"<{ANNA}> unknown")
        await store.add_suppressions([bounce])
        await store.remove_suppression(ANNA, at=T0, reason=f"{ANNA} works again")
        await store.add_suppressions([bounce])
        objection = SuppressionEntry(ANNA, "marketing", Origin.OBJECTION, T0, "letter 12")
        await store.add_suppressions([objection])
        await store.erase_contact(ANNA, at=T0)
        notes = {one.origin: one.note for one in await store.suppressions(ANNA)}
        assert notes == {Origin.BOUNCE: None, Origin.OBJECTION: "letter 12", Origin.ERASURE: None}
        (lifted,) = await store.lifted_suppressions(ANNA)
        assert (lifted.note, lifted.reason) == (None, "erased")


class ConsentContract:
    async def test_an_act_creates_the_contact(self, store: Store) -> None:
        assert await store.record_act("ANNA@people.example", AGREEMENT)
        assert await store.contact(ANNA) == Contact(ANNA, acts=(AGREEMENT,))
        await assert_counts_are_right(store)

    async def test_an_act_leaves_the_profile_alone(self, store: Store) -> None:
        await store.put_contacts([WHOLE])
        act = replace(AGREEMENT, purpose="news", at=T0 + 9 * DAY)
        await store.record_act(ANNA, act)
        assert await store.contact(ANNA) == replace(WHOLE, acts=(*WHOLE.acts, act))

    async def test_the_same_act_counts_once(self, store: Store) -> None:
        assert await store.record_act(ANNA, AGREEMENT)
        assert not await store.record_act(ANNA, AGREEMENT)
        other = replace(AGREEMENT, evidence=Evidence("form v4"))
        assert await store.record_act(ANNA, other)
        found = await store.contact(ANNA)
        assert found is not None
        assert found.acts == (AGREEMENT, other)

    async def test_a_confirmation_is_a_second_act(self, store: Store) -> None:
        request = replace(AGREEMENT, method="double_opt_in", pending=True)
        confirmation = ConsentAct("offers", T0 + DAY, method="double_opt_in")
        assert await store.record_act(ANNA, request)
        assert await store.record_act(ANNA, confirmation)
        assert not await store.record_act(ANNA, request)
        found = await store.contact(ANNA)
        assert found is not None
        assert found.acts == (request, confirmation)

    async def test_acts_are_listed_oldest_first(self, store: Store) -> None:
        early, late = replace(AGREEMENT, at=T0 - DAY), replace(AGREEMENT, at=T0 + DAY)
        for act in (late, AGREEMENT, early):
            await store.record_act(ANNA, act)
        found = await store.contact(ANNA)
        assert found is not None
        assert found.acts == (early, AGREEMENT, late)

    async def test_a_withdrawal_counts_as_later_than_a_consent_of_the_same_moment(
        self, store: Store
    ) -> None:
        withdrawal = ConsentAct("offers", T0, withdrawal=True)
        for act in (withdrawal, AGREEMENT):
            await store.record_act(ANNA, act)
        found = await store.contact(ANNA)
        assert found is not None
        assert found.acts == (AGREEMENT, withdrawal)

    async def test_an_import_removes_no_act(self, store: Store) -> None:
        withdrawal = ConsentAct("offers", T0 + DAY, withdrawal=True)
        await store.put_contacts([Contact(ANNA, acts=(AGREEMENT,))])
        await store.record_act(ANNA, withdrawal)
        assert await store.put_contacts([Contact(ANNA, acts=(AGREEMENT,))]) == BatchResult(
            unchanged=1
        )
        found = await store.contact(ANNA)
        assert found is not None
        assert found.acts == (AGREEMENT, withdrawal)


class StateContract:
    async def test_counts_of_an_empty_store_are_zero_for_every_kind(self, store: Store) -> None:
        contacts, suppressions = await store.counts()
        assert contacts == 0
        assert suppressions == {(kind, str(origin)): 0 for kind in SCOPE_KINDS for origin in Origin}

    async def test_counts_follow_every_change(self, store: Store) -> None:
        await store.add_suppressions([entry(scope="purpose:offers"), entry(scope="purpose:news")])
        await store.add_suppressions([entry(scope="brand:shop")])
        await store.put_contacts([WHOLE])
        contacts, suppressions = await store.counts()
        assert suppressions["brand", "unsubscribe"] == 1
        assert (contacts, suppressions["purpose", "unsubscribe"]) == (1, 2)
        await store.remove_suppression(ANNA, at=T0, reason="x", scope="purpose:news")
        await store.erase_contact(ANNA, at=T0)
        contacts, suppressions = await store.counts()
        assert (contacts, suppressions["purpose", "unsubscribe"]) == (0, 1)
        assert suppressions["marketing", "erasure"] == 1

    async def test_suppressions_follow_a_renamed_brand(self, store: Store) -> None:
        def entry(who: str, scope: str, days: int, origin: Origin) -> SuppressionEntry:
            return SuppressionEntry(f"{who}@people.example", scope, origin, T0 + days * DAY, "x")

        left, objected = Origin.UNSUBSCRIBE, Origin.OBJECTION
        await store.add_suppressions(
            [
                entry("ann", "brand:old", 5, left),
                entry("ann", "brand:new", 1, left),
                entry("ann", "brand:old", 2, objected),
                entry("bob", "brand:old", 1, left),
                entry("bob", "brand:new", 5, left),
                entry("bob", "purpose:old", 1, left),
                entry("cat", "marketing", 1, left),
                *(entry(f"p{n}", "brand:old", 1, left) for n in range(2_500)),
            ]
        )
        assert await store.named_scopes() == {
            "brand:old": 2_503, "brand:new": 2, "purpose:old": 1
        }  # fmt: skip
        assert await store.move_scope("brand:old", "brand:new") == 2_503
        assert await store.named_scopes() == {"brand:new": 2_503, "purpose:old": 1}
        _, counts = await store.counts()
        assert (counts["brand", "unsubscribe"], counts["brand", "objection"]) == (2_502, 1)
        assert (counts["purpose", "unsubscribe"], counts["marketing", "unsubscribe"]) == (1, 1)
        for who, standing in (
            ("ann", {("brand:new", left, 5), ("brand:new", objected, 2)}),
            ("bob", {("brand:new", left, 5), ("purpose:old", left, 1)}),
            ("p2499", {("brand:new", left, 1)}),
        ):
            found = await store.suppressions(f"{who}@people.example")
            assert {(one.scope, one.origin, (one.since - T0).days) for one in found} == standing
        assert await store.move_scope("brand:old", "brand:new") == 0

    async def test_the_newest_preference_of_a_new_contact_counts(self, store: Store) -> None:
        weekly = Preference("offers", Frequency.WEEKLY, T0 + DAY)
        monthly = Preference("offers", Frequency.MONTHLY, T0)
        people = {ANNA: (weekly, monthly), "bob@people.example": (monthly, weekly)}
        await store.put_contacts([Contact(who, preferences=told) for who, told in people.items()])
        found = [contact.preferences async for contact in store.export_contacts()]
        assert found == [(weekly,)] * 2

    async def test_preferences_follow_a_renamed_brand(self, store: Store) -> None:
        weekly, monthly = Frequency.WEEKLY, Frequency.MONTHLY
        old, new = Preference("offers", weekly, T0, "old"), Preference("offers", monthly, T0, "new")
        wishes = {
            "ann": (old, replace(new, at=T0 + DAY)),
            "bob": (replace(old, at=T0 + DAY), new),
            "cat": (old, Preference("news", monthly, T0, "mill")),
            "dan": (),
        }
        people = {who: f"{who}@people.example" for who in wishes}
        told = [
            Contact(people[who], preferences=those, language="fr") for who, those in wishes.items()
        ]
        await store.put_contacts(told)
        assert await store.named_wishes() == {
            ("old", "offers"): 3, ("new", "offers"): 2, ("mill", "news"): 1
        }  # fmt: skip
        assert await store.move_wishes("brand:old", "brand:new") == 3
        assert await store.move_wishes("brand:old", "brand:new") == 0
        assert await store.move_wishes("purpose:news", "marketing") == 0
        assert await store.move_wishes("purpose:news", "purpose:letter") == 1
        assert await store.move_wishes("brand:mill", "marketing") == 1
        for who, standing in {
            "ann": {("new", "offers", monthly, T0 + DAY)},
            "bob": {("new", "offers", weekly, T0 + DAY)},
            "cat": {("new", "offers", weekly, T0), ("default", "letter", monthly, T0)},
            "dan": set(),
        }.items():
            found = await store.contact(people[who])
            assert found is not None
            assert found.language == "fr"
            those = {(one.brand, one.purpose, one.frequency, one.at) for one in found.preferences}
            assert those == standing

    async def test_a_closed_store_is_unavailable(self, store: Store) -> None:
        await store.ping()
        await store.close()
        with pytest.raises(StoreUnavailable):
            await store.facts(Lookups((ANNA,)))
        with pytest.raises(StoreUnavailable):
            await store.ping()


class StoreContract(
    SuppressionContract,
    ContactContract,
    ConsentContract,
    StateContract,
    PropagationContract,
    ImportContract,
):
    """The whole contract."""
