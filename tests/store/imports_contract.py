"""Imports on record, and what undoing one leaves, on every backend."""

from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest
from msgspec.structs import replace

from smtpproxy.policy.model import (
    Audience,
    Collection,
    ConsentAct,
    Contact,
    Evidence,
    Lookups,
    Origin,
    Purchase,
    Source,
    Suppression,
)
from smtpproxy.store.operations import Batch, Checkpoint, ImportRecord, Kind, Undone
from smtpproxy.store.records import BatchResult, ContactUpdate, SuppressionEntry
from smtpproxy.store.sql.store import Store

T0 = datetime(2026, 3, 1, 10, tzinfo=UTC)
DAY = timedelta(days=1)
ANNA, BERT = "anna@people.example", "bert@people.example"
LATER = T0 + 30 * DAY
AGREEMENT = ConsentAct("offers", T0, method="unticked_box", evidence=Evidence("form v3"))
WITHDRAWAL = ConsentAct("offers", T0 + DAY, withdrawal=True)
SHOES = Purchase("shoes", T0)
PROFILE = Contact(
    ANNA, audience=Audience.CONSUMER, source=Source.DIRECT, collected_at=T0, acts=(AGREEMENT,)
)


class Importing:
    """One import into a store, batch by batch."""

    def __init__(self, store: Store, id: str, kind: Kind) -> None:
        self.store = store
        self.id = id
        self.kind = kind
        self.line = 0

    def next_batch(self) -> Batch:
        self.line += 1
        return Batch(self.id, Checkpoint(self.line, lines=self.line))

    async def contacts(
        self, *contacts: Contact, as_of: datetime | None = None, given: str = ""
    ) -> BatchResult:
        fields = frozenset(given.split()) if given else None
        updates = [
            ContactUpdate(one, fields, as_of) if fields else ContactUpdate(one, as_of=as_of)
            for one in contacts
        ]
        return await self.store.put_contacts(updates, self.next_batch())

    async def suppress(
        self, address: str = ANNA, days: int = 0, note: str | None = None
    ) -> BatchResult:
        return await self.store.add_suppressions([entry(address, days, note)], self.next_batch())

    async def undo(self) -> Undone:
        """Undo all of it, and check that it does what the dry run said."""
        would = await self.store.would_undo(self.id, at=LATER)
        left: dict[str, Contact | None] = {}
        async for part in self.store.without_import(self.id):
            left.update(part)
        undone = None
        while (some := await self.store.undo_import(self.id, at=LATER, by="root")) is not None:
            undone = some
        assert undone is not None
        assert (would.removed, would.put_back, would.kept) == counts(undone)
        assert left == {address: await self.store.contact(address) for address in left}
        assert len(left) >= (undone.removed + undone.put_back) * (self.kind == "contacts")
        (record,) = [one for one in await self.store.imports() if one.id == self.id]
        assert (record.state, record.undone) == ("undone", undone)
        return undone


def counts(undone: Undone) -> tuple[int, int, int]:
    return undone.removed, undone.put_back, undone.kept


def entry(address: str = ANNA, days: int = 0, note: str | None = None) -> SuppressionEntry:
    since = T0 + timedelta(days=days)
    return SuppressionEntry(address, "marketing", Origin.UNSUBSCRIBE, since, note)


async def begun(store: Store, kind: Kind = "contacts") -> Importing:
    id = f"01J9ZK3W5V7Q8R9S0T1V2W3X{len(await store.imports()):02}"
    await store.begin_import(
        ImportRecord(id, kind, "list.csv", "root", T0, T0, 17, {"scope": "all"})
    )
    return Importing(store, id, kind)


async def since(store: Store, address: str = ANNA) -> int | None:
    """The suppression's date in days after T0; None: there is no suppression."""
    found = (await store.facts(Lookups((address,)))).get(address)
    if found is None or not found.suppressions:
        return None
    (one,) = found.suppressions
    return (one.since - T0).days


class RecordContract:
    async def test_a_batch_and_its_checkpoint_are_one_commit(self, store: Store) -> None:
        assert await store.imports() == []
        one = await begun(store)
        await one.contacts(Contact(ANNA), Contact(BERT))
        await one.contacts(Contact(ANNA), replace(PROFILE, address=BERT))
        (record,) = await store.imports()
        assert (record.added, record.changed, record.unchanged) == (2, 1, 1)
        assert (record.place, record.state) == (Checkpoint(2, lines=2), "running")
        assert (record.options, record.size, record.started_at) == ({"scope": "all"}, 17, T0)
        await store.mark_import(one.id, "complete", at=LATER, place=Checkpoint(9))
        (record,) = await store.imports()
        assert (record.state, record.ended_at, record.place.line) == ("complete", LATER, 9)

    async def test_a_rejected_batch_changes_nothing(self, store: Store) -> None:
        one = await begun(store, "suppressions")
        await one.suppress()
        with pytest.raises(ValueError, match="key"):
            await one.suppress("hmac:01234567:00:00")
        (record,) = await store.imports()
        assert (record.added, record.place.line) == (1, 1)

    async def test_an_unknown_id_is_rejected(self, store: Store) -> None:
        with pytest.raises(KeyError):
            await store.undo_import("x", at=LATER, by="root")
        with pytest.raises(KeyError):
            await store.would_undo("x", at=LATER)

    async def test_an_undone_import_has_nothing_to_undo(self, store: Store) -> None:
        one = await begun(store)
        await one.contacts(PROFILE)
        assert counts(await one.undo()) == (1, 0, 0)
        assert await store.undo_import(one.id, at=LATER, by="root") is None


class ContactUndoContract:
    async def test_undoing_removes_new_contacts_whole(self, store: Store) -> None:
        await store.put_contacts([Contact("carl@people.example")])
        one = await begun(store)
        await one.contacts(PROFILE, Contact(BERT))
        await one.contacts(replace(PROFILE, address=BERT, purchases=(SHOES,)))
        assert counts(await one.undo()) == (2, 0, 0)
        assert [found.address async for found in store.export_contacts()] == ["carl@people.example"]
        assert (await store.counts())[0] == 1

    async def test_undoing_restores_what_was_there_before(self, store: Store) -> None:
        before = replace(PROFILE, tags=frozenset({"vip"}), purchases=(Purchase("boots", T0),))
        await store.put_contacts([ContactUpdate(before, as_of=T0)])
        one = await begun(store)
        news = replace(AGREEMENT, purpose="news")
        told = Contact(ANNA, tags=frozenset({"x"}), purchases=(SHOES,), acts=(news,))
        await one.contacts(told, as_of=T0 + DAY)
        assert counts(await one.undo()) == (0, 1, 0)
        assert await store.contact(ANNA) == before
        again = await store.put_contacts([ContactUpdate(told, as_of=T0 + DAY)])
        assert again == BatchResult(changed=1)  # its age was restored too

    async def test_undoing_keeps_a_later_consent_and_removes_the_imported_one(
        self, store: Store
    ) -> None:
        one = await begun(store)
        await one.contacts(PROFILE)
        own = replace(AGREEMENT, at=T0 + 2 * DAY)
        await store.record_act(ANNA, own)
        assert counts(await one.undo()) == (0, 0, 1)
        assert await store.contact(ANNA) == Contact(ANNA, acts=(own,))

    async def test_undoing_keeps_a_later_withdrawal(self, store: Store) -> None:
        one = await begun(store)
        await one.contacts(replace(PROFILE, purchases=(SHOES,)))
        await store.record_act(ANNA, WITHDRAWAL)
        assert counts(await one.undo()) == (0, 0, 1)
        assert await store.contact(ANNA) == Contact(ANNA, acts=(WITHDRAWAL,))

    async def test_undoing_keeps_a_withdrawal_from_two_imports(self, store: Store) -> None:
        one, two = await begun(store), await begun(store)
        for importing in (one, two):
            await importing.contacts(Contact(ANNA, acts=(AGREEMENT, WITHDRAWAL)))
        assert counts(await one.undo()) == (0, 0, 1)
        assert await store.contact(ANNA) == Contact(ANNA, acts=(AGREEMENT, WITHDRAWAL))
        await two.undo()
        assert await store.contact(ANNA) == Contact(ANNA, acts=(WITHDRAWAL,))

    async def test_repeating_the_consent_does_not_repeat_the_withdrawal(self, store: Store) -> None:
        one, two = await begun(store), await begun(store)
        await one.contacts(Contact(ANNA, acts=(AGREEMENT, WITHDRAWAL)))
        await two.contacts(Contact(ANNA, acts=(AGREEMENT,)))
        assert counts(await one.undo()) == (0, 0, 1)
        assert await store.contact(ANNA) == Contact(ANNA, acts=(AGREEMENT,))

    async def test_a_fact_from_two_imports_goes_when_both_are_undone(self, store: Store) -> None:
        one, two = await begun(store), await begun(store)
        told = replace(PROFILE, purchases=(SHOES,))
        await one.contacts(told, Contact(BERT), as_of=T0)
        await two.contacts(told, as_of=T0)
        assert counts(await one.undo()) == (1, 0, 1)
        assert await store.contact(ANNA) == told
        assert counts(await two.undo()) == (1, 0, 0)
        assert (await store.counts())[0] == 0

    async def test_facts_missing_from_a_later_import_do_not_stay(self, store: Store) -> None:
        one, two = await begun(store), await begun(store)
        news = replace(AGREEMENT, purpose="news")
        everything = replace(
            PROFILE, tags=frozenset({"vip"}), purchases=(SHOES,), acts=(AGREEMENT, news)
        )
        await one.contacts(everything, as_of=T0)
        said = Contact(ANNA, source=Source.DIRECT, acts=(news,))
        await two.contacts(said, as_of=T0, given="source")
        assert counts(await one.undo()) == (0, 0, 1)
        assert await store.contact(ANNA) == said
        assert counts(await two.undo()) == (1, 0, 0)

    async def test_an_import_vouches_only_for_what_it_said_itself(self, store: Store) -> None:
        """Two imports say the same and a third adds to it: what it added goes with it."""
        one, two, three = await begun(store), await begun(store), await begun(store)
        await one.contacts(PROFILE, as_of=T0)
        await two.contacts(PROFILE, as_of=T0)
        news = replace(AGREEMENT, purpose="news")
        await three.contacts(replace(PROFILE, acts=(news,)), as_of=T0)
        assert counts(await three.undo()) == (0, 1, 0)
        assert await store.contact(ANNA) == PROFILE
        await one.undo()
        assert await store.contact(ANNA) == PROFILE
        assert counts(await two.undo()) == (1, 0, 0)

    async def test_undoing_the_wrong_profile_keeps_the_corrected_one(self, store: Store) -> None:
        before = Contact(ANNA, source=Source.PARTNER)
        await store.put_contacts([ContactUpdate(before, as_of=T0 - DAY)])
        one, two = await begun(store), await begun(store)
        await one.contacts(replace(PROFILE, audience=Audience.GENERIC), as_of=T0)
        right = replace(AGREEMENT, method="preticked_box")
        await two.contacts(replace(PROFILE, acts=(right,)), as_of=T0 + DAY)
        assert counts(await one.undo()) == (0, 0, 1)
        partner = Collection(source=Source.PARTNER, as_of=T0 - DAY)
        assert await store.contact(ANNA) == replace(PROFILE, acts=(right,), others=(partner,))
        await two.undo()
        assert await store.contact(ANNA) == before

    async def test_a_later_import_vouches_only_for_people_in_it(
        self, store: Store, small_parts: None
    ) -> None:
        one, two = await begun(store), await begun(store)
        people = [Contact(f"user{n}@people.example", acts=(AGREEMENT,)) for n in range(90)]
        await one.contacts(*people)
        await two.contacts(*people[::3])
        assert counts(await one.undo()) == (60, 0, 30)
        assert (await store.counts())[0] == 30
        assert counts(await two.undo()) == (30, 0, 0)

    async def test_fields_changed_since_stay(self, store: Store) -> None:
        before = Contact(ANNA, source=Source.PARTNER, tags=frozenset({"a"}))
        await store.put_contacts([before])
        one = await begun(store)
        await one.contacts(replace(before, source=Source.DIRECT, tags=frozenset({"b"})))
        await store.put_contacts([replace(before, source=Source.DIRECT, tags=frozenset({"c"}))])
        assert counts(await one.undo()) == (0, 0, 1)
        assert await store.contact(ANNA) == replace(before, tags=frozenset({"c"}))

    async def test_later_activity_stays(self, store: Store) -> None:
        one = await begun(store)
        await one.contacts(PROFILE)
        active = Contact(ANNA, last_activity_at=LATER)
        await store.put_contacts([ContactUpdate(active, frozenset({"last_activity_at"}))])
        await one.undo()
        assert await store.contact(ANNA) == active

    async def test_an_import_skips_erased_people(self, store: Store) -> None:
        tagged = "anna+news@people.example"
        await store.put_contacts([PROFILE])
        await store.erase_contact(ANNA, at=T0 + DAY)
        one = await begun(store)
        done = await one.contacts(PROFILE, Contact(BERT), replace(PROFILE, address=tagged))
        assert (done.added, done.unchanged, done.erased) == (1, 0, 2)
        assert [known.address async for known in store.export_contacts()] == [BERT]
        (record,) = await store.imports()
        assert (record.added, record.erased) == (1, 2)

    async def test_for_erased_people_who_came_back_only_refusals_are_imported(
        self, store: Store
    ) -> None:
        await store.erase_contact(ANNA, at=T0)
        again = replace(AGREEMENT, at=T0 + DAY)
        await store.record_act(ANNA, again)
        one = await begun(store)
        assert (await one.contacts(replace(PROFILE, purchases=(SHOES,)))).erased == 1
        withdrawal = replace(WITHDRAWAL, at=T0 + 2 * DAY)
        told = replace(PROFILE, acts=(AGREEMENT, withdrawal), profiling_objected_at=T0)
        assert (await one.contacts(told)).erased == 0
        assert await store.contact(ANNA) == Contact(
            ANNA, acts=(again, withdrawal), profiling_objected_at=T0
        )

    async def test_undoing_does_not_bring_back_what_was_erased(self, store: Store) -> None:
        await store.put_contacts([replace(PROFILE, acts=())])
        one = await begun(store)
        await one.contacts(Contact(BERT), PROFILE)
        await store.erase_contact(ANNA, at=LATER)
        await store.erase_contact(BERT, at=LATER)
        await store.put_contacts([Contact("new@people.example")])
        assert counts(await one.undo()) == (0, 0, 0)
        assert [one.address async for one in store.export_contacts()] == ["new@people.example"]
        suppressions = await store.suppressions(ANNA)
        assert [one.origin for one in suppressions] == [Origin.ERASURE]

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    async def test_two_imports_undone_in_any_order_leave_nothing(
        self, store: Store, order: tuple[int, int]
    ) -> None:
        imports = [await begun(store), await begun(store)]
        await imports[0].contacts(PROFILE)
        second = replace(PROFILE, audience=Audience.PROFESSIONAL, purchases=(SHOES,))
        await imports[1].contacts(second)
        await imports[order[0]].undo()
        if order[0] == 0:  # what the second one said is kept
            assert await store.contact(ANNA) == second
        else:
            assert await store.contact(ANNA) == PROFILE
        await imports[order[1]].undo()
        assert await store.contact(ANNA) is None

    async def test_audience_and_occupations_go_with_the_file_that_gave_them(
        self, store: Store
    ) -> None:
        imports = [await begun(store), await begun(store)]
        mill = replace(PROFILE, audience=Audience.PROFESSIONAL, brand="mill")
        await imports[0].contacts(replace(mill, occupations=frozenset({"finance"})), as_of=T0)
        shop = replace(PROFILE, acts=(), audience=Audience.UNKNOWN, brand="shop")
        await imports[1].contacts(shop, as_of=T0 + DAY)
        await imports[0].undo()
        found = await store.contact(ANNA)
        assert found is not None
        assert (found.brand, found.audience, found.others) == ("shop", Audience.UNKNOWN, ())

    async def test_many_contacts_are_undone_in_parts(self, store: Store, small_parts: None) -> None:
        one = await begun(store)
        people = [Contact(f"user{n}@people.example") for n in range(300)]
        await store.put_contacts(people[::10])
        await one.contacts(*[replace(person, source=Source.DIRECT) for person in people])
        await store.record_act(people[1].address, WITHDRAWAL)
        assert counts(await one.undo()) == (269, 30, 1)
        assert (await store.counts())[0] == 31


class SuppressionUndoContract:
    async def test_suppressions_it_added_are_lifted_on_record(self, store: Store) -> None:
        await store.add_suppressions([entry(BERT)])
        one = await begun(store, "suppressions")
        await one.suppress()
        await one.suppress(BERT)
        assert counts(await one.undo()) == (1, 0, 0)
        assert (await since(store), await since(store, BERT)) == (None, 0)
        (lifted,) = await store.lifted_suppressions(ANNA)
        assert (lifted.lifted_at, lifted.reason) == (LATER, f"import {one.id} undone by root")

    async def test_a_date_it_moved_is_restored(self, store: Store) -> None:
        await store.add_suppressions([entry(note="by phone")])
        one = await begun(store, "suppressions")
        await one.suppress(days=2, note="list")
        await one.suppress(days=3)
        assert await since(store) == 3
        assert counts(await one.undo()) == (0, 1, 0)
        suppressed = Suppression("marketing", Origin.UNSUBSCRIBE, T0, note="by phone")
        assert list(await store.suppressions(ANNA)) == [suppressed]

    @pytest.mark.parametrize("days", [-1, 0, 5])
    async def test_a_later_unsubscribe_stays(self, store: Store, days: int) -> None:
        """Even if the date in the file is later than the person's own."""
        one = await begun(store, "suppressions")
        await one.suppress(days=3)
        await store.add_suppressions([entry(days=3 + days)])
        assert counts(await one.undo()) == (0, 0, 1)
        assert await since(store) == max(3, 3 + days)

    @pytest.mark.parametrize("days", [-1, 0, 5])
    async def test_a_suppression_from_two_imports_goes_with_the_second(
        self, store: Store, days: int
    ) -> None:
        one, two = await begun(store, "suppressions"), await begun(store, "suppressions")
        await one.suppress(days=3)
        await two.suppress(days=3 + days)
        assert counts(await one.undo()) == (0, 0, 1)
        assert await since(store) == max(3, 3 + days)
        assert counts(await two.undo()) == (1, 0, 0)
        assert await since(store) is None

    async def test_a_suppression_from_two_imports_goes_with_the_first(self, store: Store) -> None:
        one, two = await begun(store, "suppressions"), await begun(store, "suppressions")
        await one.suppress()
        await two.suppress()
        assert counts(await two.undo()) == (0, 0, 0)
        assert await since(store) == 0
        assert counts(await one.undo()) == (1, 0, 0)
        assert await since(store) is None

    async def test_a_date_moved_by_the_newer_of_two_imports_is_restored(self, store: Store) -> None:
        one, two = await begun(store, "suppressions"), await begun(store, "suppressions")
        await one.suppress(days=1)
        await two.suppress(days=1)
        await two.suppress(days=2)
        assert counts(await two.undo()) == (0, 1, 0)
        assert await since(store) == 1
        assert counts(await one.undo()) == (1, 0, 0)

    @pytest.mark.parametrize("order", list(permutations(range(3))))
    async def test_a_suppression_repeated_by_one_and_moved_by_another_goes_with_the_last(
        self, store: Store, order: tuple[int, int, int]
    ) -> None:
        imports = [await begun(store, "suppressions") for _ in range(3)]
        for days, importing in zip((0, 0, 2), imports, strict=True):
            await importing.suppress(days=days)
        left = {0, 1, 2}
        for place in order:
            await imports[place].undo()
            left.remove(place)
            assert await since(store) == (None if not left else 2 if 2 in left else 0)

    async def test_a_suppression_from_several_imports_stays(self, store: Store) -> None:
        imports = [await begun(store, "suppressions") for _ in range(3)]
        for importing in imports:
            await importing.suppress()
        for importing in imports:
            await importing.undo()
        assert await since(store) == 0

    async def test_suppressions_lifted_since_stay_lifted(self, store: Store) -> None:
        one = await begun(store, "suppressions")
        await one.suppress()
        await store.remove_suppression(ANNA, at=LATER, reason="asked for it")
        assert counts(await one.undo()) == (0, 0, 0)
        assert [lifted.reason for lifted in await store.lifted_suppressions(ANNA)] == [
            "asked for it"
        ]

    async def test_many_suppressions_are_lifted_in_parts(
        self, store: Store, small_parts: None
    ) -> None:
        one = await begun(store, "suppressions")
        names = [f"user{n}@people.example" for n in range(50)]
        batch = Batch(one.id, Checkpoint(1))
        await store.add_suppressions([entry(name) for name in names], batch)
        assert counts(await one.undo()) == (50, 0, 0)
        assert sum((await store.counts())[1].values()) == 0

    async def test_repeated_moves_keep_a_bounded_history(self, store: Store) -> None:
        """However often a date moves, only a few earlier dates are kept."""
        imports = [await begun(store, "suppressions") for _ in range(8)]
        for days, importing in enumerate(imports):
            await importing.suppress(days=days)
        for importing in reversed(imports):
            await importing.undo()
        assert await since(store) is not None  # the first moves can no longer be undone


class ImportContract(RecordContract, ContactUndoContract, SuppressionUndoContract):
    """The whole contract."""
