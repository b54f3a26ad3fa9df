"""What has outlived its period goes; what people asked for stays."""

import asyncio
import contextlib
from dataclasses import replace as replace_limits
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from smtpproxy.policy.model import (
    ConsentAct,
    Contact,
    Dealing,
    Evidence,
    Lookups,
    Origin,
    Purchase,
    Source,
    Suppression,
)
from smtpproxy.policy.periods import beginning, years
from smtpproxy.store.operations import Limits, PurgedContacts, PurgedSuppressions, Removed
from smtpproxy.store.records import SuppressionEntry
from smtpproxy.store.sql import retention
from smtpproxy.store.sql.store import Store
from tests.store.conftest import Database

NOW = datetime(2040, 6, 1, 12, tzinfo=UTC)  # what is added now was added long before
TICK = timedelta(microseconds=1)
DAY = timedelta(days=1)
EDGE = datetime(2037, 6, 1, 12, tzinfo=UTC)  # exactly three years before
OLD = EDGE - TICK
LIMITS = Limits(EDGE, EDGE, frozenset({"restricted"}))

ANNA = "anna@people.example"
VARIANT = "anna+shop@people.example"
KNOWN = Contact(ANNA, source=Source.DIRECT, collected_at=OLD)


def agreed(at: datetime, **more: bool) -> ConsentAct:
    return ConsentAct("offers", at, method="unticked_box", evidence=Evidence("v1"), **more)


def withdrew(at: datetime, purpose: str = "offers") -> ConsentAct:
    return ConsentAct(purpose, at, withdrawal=True)


def entry(
    address: str = ANNA,
    origin: Origin = Origin.UNSUBSCRIBE,
    since: datetime = OLD,
    scope: str = "marketing",
) -> SuppressionEntry:
    return SuppressionEntry(address, scope, origin, since)


async def orders_of(store: Store, address: str) -> list[Suppression]:
    return list(await store.suppressions(address))


async def everything(store: Store) -> tuple[list[Contact], list[tuple[str, Suppression]]]:
    return (
        [one async for one in store.export_contacts()],
        [one async for one in store.export_suppressions()],
    )


@pytest.fixture
def store(any_database: Database) -> Store:
    return any_database.open()


CONTACTS = [
    (KNOWN, OLD),
    (replace(KNOWN, collected_at=EDGE), None),
    # informed is when it was collected, where that is not said
    (replace(KNOWN, collected_at=None, informed_at=OLD), OLD),
    (replace(KNOWN, collected_at=None, informed_at=EDGE), None),
    (replace(KNOWN, informed_at=EDGE), OLD),
    # any sign of life counts, up to the very moment
    (replace(KNOWN, last_activity_at=EDGE), None),
    (replace(KNOWN, last_activity_at=OLD), OLD),
    (replace(KNOWN, acts=(agreed(EDGE),)), None),
    (replace(KNOWN, acts=(agreed(OLD - DAY), agreed(OLD))), OLD),
    (replace(KNOWN, acts=(withdrew(EDGE),)), None),
    (replace(KNOWN, acts=(agreed(EDGE, pending=True),)), None),
    # customers: the last dealing
    (replace(KNOWN, purchases=(Purchase("shoes", EDGE),)), None),
    (replace(KNOWN, purchases=(Purchase("shoes", EDGE, Dealing.INQUIRY),)), None),
    (replace(KNOWN, purchases=(Purchase("shoes", OLD - DAY), Purchase("boots", OLD))), OLD),
    (Contact(ANNA, purchases=(Purchase("shoes", OLD),)), OLD),
    # what is dated after now has not happened
    (replace(KNOWN, last_activity_at=NOW + TICK), OLD),
    (replace(KNOWN, last_activity_at=NOW), None),
    (replace(KNOWN, purchases=(Purchase("shoes", NOW + DAY),)), OLD),
    # when we mailed somebody is no sign of life of theirs
    (replace(KNOWN, first_contacted_at=EDGE), OLD),
]


REQUEST = agreed(OLD, pending=True)
STRANGERS = [
    (Contact(ANNA, acts=(REQUEST,)), OLD),
    (Contact(ANNA, source=Source.DIRECT, acts=(agreed(OLD - DAY, pending=True), REQUEST)), OLD),
    (Contact(ANNA, acts=(agreed(EDGE, pending=True),)), None),
    (Contact(ANNA, acts=(REQUEST, replace(REQUEST, at=OLD + TICK, pending=False))), None),
    (Contact(ANNA, acts=(REQUEST, withdrew(OLD + TICK))), None),
    (replace(KNOWN, acts=(REQUEST,)), None),
    (Contact(ANNA, purchases=(Purchase("shoes", OLD),), acts=(REQUEST,)), None),
    (Contact(ANNA), None),
]


@pytest.mark.parametrize(("contact", "goes"), STRANGERS)
async def test_who_was_only_asked_goes_sooner(
    store: Store, contact: Contact, goes: datetime | None
) -> None:
    await store.put_contacts([contact])
    limits = Limits(OLD - 999 * DAY, OLD - 999 * DAY, requests=EDGE)
    found = await store.purge_contacts(limits, at=NOW)
    assert found.removed == (Removed(1, goes, goes) if goes else Removed())
    assert (await store.contact(ANNA) is None) is (goes is not None)


@pytest.mark.parametrize(("contact", "goes"), CONTACTS)
async def test_contacts_go_when_nothing_was_heard_for_the_period(
    store: Store, contact: Contact, goes: datetime | None
) -> None:
    await store.put_contacts([contact])
    expected = PurgedContacts(Removed(1, goes, goes) if goes else Removed())
    found = await store.purge_contacts(LIMITS, at=NOW, dry_run=True)
    assert (found.removed, await store.contact(ANNA)) == (expected.removed, contact)
    found = await store.purge_contacts(LIMITS, at=NOW)
    assert found.removed == expected.removed
    assert await store.contact(ANNA) == (None if goes else contact)
    assert (await store.purge_contacts(LIMITS, at=NOW)).removed == Removed()


async def test_customers_may_be_kept_longer(store: Store) -> None:
    prospect = replace(KNOWN, last_activity_at=OLD)
    customer = replace(KNOWN, address="c@people.example", purchases=(Purchase("shoes", OLD),))
    await store.put_contacts([prospect, customer])
    await store.purge_contacts(Limits(EDGE, OLD), at=NOW)
    assert [one.address for one in (await everything(store))[0]] == ["c@people.example"]


async def test_a_contact_without_any_date_counts_from_the_first_purge(store: Store) -> None:
    await store.put_contacts([Contact(ANNA)])
    later = NOW.replace(year=NOW.year + 3)
    assert (await store.purge_contacts(LIMITS, at=NOW)).removed == Removed()
    same = Limits(NOW, NOW)
    assert (await store.purge_contacts(same, at=later)).removed == Removed()
    after = Limits(NOW + TICK, NOW + TICK)
    assert (await store.purge_contacts(after, at=later + TICK)).removed == Removed(1, NOW, NOW)


async def test_nothing_of_the_person_is_left_but_what_they_asked_for(store: Store) -> None:
    acts = (agreed(OLD - 9 * DAY), withdrew(OLD - 8 * DAY), withdrew(OLD - 2 * DAY, "news"))
    await store.put_contacts([replace(KNOWN, collected_at=OLD - 9 * DAY, acts=acts)])
    purged = await store.purge_contacts(LIMITS, at=NOW)
    assert (purged.removed.rows, purged.orders) == (1, 2)
    assert await store.contact(ANNA) is None
    assert {(one.scope, one.origin, one.since) for one in await orders_of(store, ANNA)} == {
        ("purpose:offers", Origin.UNSUBSCRIBE, OLD - 8 * DAY),
        ("purpose:news", Origin.UNSUBSCRIBE, OLD - 2 * DAY),
    }


async def test_consent_from_before_a_withdrawal_cannot_revive_it(store: Store) -> None:
    """Whoever comes with the old agreement again finds the withdrawal; a newer one counts."""
    acts = (agreed(OLD - 9 * DAY), withdrew(OLD - 8 * DAY), agreed(OLD - 7 * DAY))
    await store.put_contacts([replace(KNOWN, acts=acts)])
    await store.purge_contacts(LIMITS, at=NOW)
    (order,) = await orders_of(store, ANNA)
    assert acts[0].at < order.since == acts[1].at < acts[2].at


async def test_objections_and_restrictions_are_not_forgotten(store: Store) -> None:
    objected = replace(KNOWN, profiling_objected_at=OLD)
    restricted = replace(KNOWN, address="r@people.example", tags=frozenset({"restricted", "vip"}))
    await store.put_contacts([objected, restricted])
    assert (await store.purge_contacts(LIMITS, at=NOW, dry_run=True)).orders == 2
    await store.purge_contacts(LIMITS, at=NOW)
    (order,) = await orders_of(store, ANNA)
    assert (order.scope, order.origin, order.since) == ("marketing", Origin.OBJECTION, OLD)
    (order,) = await orders_of(store, "r@people.example")
    assert (order.scope, order.origin) == ("marketing", Origin.MANUAL)


async def test_of_who_objected_to_all_marketing_the_suppression_alone_is_kept(
    store: Store,
) -> None:
    """However lively, to the very moment; an objection to one purpose is none to the others."""
    since = NOW - timedelta(30)
    limits = replace_limits(LIMITS, objected=since)
    alive = Contact(ANNA, collected_at=NOW - DAY, purchases=(Purchase("shoes", NOW - DAY),))
    people = {
        ANNA: entry(ANNA, Origin.OBJECTION, since - TICK),
        "exactly@people.example": entry("exactly@people.example", Origin.OBJECTION, since),
        "one@people.example": entry(
            "one@people.example", Origin.OBJECTION, since - DAY, "purpose:offers"
        ),
        "unsubscribed@people.example": entry("unsubscribed@people.example", since=since - DAY),
        VARIANT: None,
    }
    await store.put_contacts([replace(alive, address=address) for address in people])
    await store.add_suppressions([order for order in people.values() if order is not None])
    expected = PurgedContacts(Removed(1, since - TICK, since - TICK), 0, 1)
    before = await everything(store)
    assert await store.purge_contacts(limits, at=NOW, dry_run=True) == expected
    assert await everything(store) == before
    assert await store.purge_contacts(limits, at=NOW) == expected
    assert {one.address for one in (await everything(store))[0]} == set(people) - {ANNA}
    assert [(one.scope, one.origin) for one in await orders_of(store, ANNA)] == [
        ("marketing", Origin.OBJECTION)
    ]
    assert await store.purge_contacts(limits, at=NOW) == PurgedContacts()


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_BATCH", 50)


async def test_a_dry_run_changes_nothing_and_tells_what_a_run_does(
    store: Store, small_batches: None
) -> None:
    acts = (agreed(OLD - DAY), withdrew(OLD))
    await store.put_contacts(
        [replace(KNOWN, address=f"p{n}@people.example", acts=acts) for n in range(123)]
    )
    await store.add_suppressions([entry(f"s{n}@people.example") for n in range(123)])
    before = await everything(store)
    dry = [
        await store.purge_contacts(LIMITS, at=NOW, dry_run=True),
        await store.purge_suppressions(EDGE, dry_run=True),
    ]
    assert await everything(store) == before
    assert dry[0] == PurgedContacts(Removed(123, OLD, OLD), 123)
    wet = [await store.purge_contacts(LIMITS, at=NOW), await store.purge_suppressions(EDGE)]
    assert wet == dry
    contacts, left = await everything(store)
    assert (contacts, len(left)) == ([], 123), "those of the withdrawals begin their time"
    counted, kinds = await store.counts()
    assert (counted, sum(kinds.values())) == (0, 123)


async def test_suppressions_last_to_the_very_moment(store: Store) -> None:
    await store.add_suppressions([entry(), entry("eve@people.example", since=EDGE)])
    assert (await store.purge_suppressions(EDGE)).removed == Removed(1, OLD, OLD)
    assert await orders_of(store, ANNA) == []
    assert len(await orders_of(store, "eve@people.example")) == 1


async def test_an_old_order_that_is_imported_lasts_from_then(store: Store) -> None:
    """A company that changes its tool brings orders of ten years ago: none goes that night."""
    await store.add_suppressions([entry(since=datetime(2010, 1, 1, tzinfo=UTC))])
    ago = beginning(datetime.now(UTC), years(3))
    assert await store.purge_suppressions(ago) == PurgedSuppressions()
    assert len(await orders_of(store, ANNA)) == 1


async def test_each_match_renews(store: Store) -> None:
    await store.add_suppressions([entry(), entry(origin=Origin.BOUNCE), entry(VARIANT)])
    assert await store.renew_suppressions({ANNA: EDGE}) == 3
    assert await store.renew_suppressions({ANNA: OLD}) == 0, "it never goes back"
    assert await store.purge_suppressions(EDGE) == PurgedSuppressions()
    assert (await store.purge_suppressions(EDGE + TICK)).removed == Removed(3, EDGE, EDGE)


async def test_a_match_of_a_variant_renews_what_counts_for_it(store: Store) -> None:
    await store.add_suppressions([entry(VARIANT), entry(VARIANT, Origin.BOUNCE)])
    assert await store.renew_suppressions({ANNA: EDGE}) == 1
    await store.purge_suppressions(EDGE)
    assert [one.origin for one in await orders_of(store, VARIANT)] == [Origin.UNSUBSCRIBE]


async def test_what_moves_to_another_scope_lasts_as_long_as_either(store: Store) -> None:
    await store.add_suppressions([entry(scope="brand:old", since=OLD - DAY)])
    await store.renew_suppressions({ANNA: EDGE})
    await store.add_suppressions([entry(scope="brand:new")])
    await store.move_scope("brand:old", "brand:new")
    assert await store.purge_suppressions(EDGE) == PurgedSuppressions()
    assert await orders_of(store, ANNA) == [Suppression("brand:new", Origin.UNSUBSCRIBE, OLD)]
    assert (await store.purge_suppressions(EDGE + TICK)).removed == Removed(1, EDGE, EDGE)


async def test_a_dry_run_counts_with_the_matches_that_have_not_renewed_yet(store: Store) -> None:
    await store.add_suppressions([entry(), entry("eve@people.example")])
    matched = [{ANNA: EDGE}, {"eve@people.example": OLD}]
    dry = await store.purge_suppressions(EDGE, dry_run=True, matched=matched)
    assert dry.removed.rows == 1


@pytest.mark.parametrize("origin", list(Origin))
@pytest.mark.parametrize("holder", [ANNA, VARIANT, "paul@people.example"])
async def test_what_counts_for_a_contact_is_never_purged(
    store: Store, origin: Origin, holder: str
) -> None:
    """Under the widened address too, for the origins that count there."""
    await store.add_suppressions([entry(origin=origin)])
    await store.put_contacts([replace(KNOWN, address=holder, collected_at=EDGE)])
    held = holder == ANNA or (holder == VARIANT and origin not in (Origin.BOUNCE, Origin.MANUAL))
    expected = PurgedSuppressions(Removed() if held else Removed(1, OLD, OLD), int(held))
    assert await store.purge_suppressions(EDGE, dry_run=True) == expected
    assert await store.purge_suppressions(EDGE) == expected
    assert len(await orders_of(store, ANNA)) == held


async def test_what_a_purged_contact_held_begins_its_time_then(store: Store) -> None:
    await store.add_suppressions([entry(origin=Origin.COMPLAINT)])
    await store.put_contacts([KNOWN])
    await store.purge_contacts(LIMITS, at=NOW)
    assert await store.purge_suppressions(NOW) == PurgedSuppressions()
    assert (await store.purge_suppressions(NOW + TICK)).removed == Removed(1, NOW, NOW)


async def test_old_notes_in_free_text_go_and_younger_ones_and_motives_stay(store: Store) -> None:
    eve, paul = "eve@people.example", "paul@people.example"
    told = ((ANNA, OLD, "ask Eve"), (eve, EDGE, "ask Eve"), (paul, OLD, "by phone"))
    await store.add_suppressions(
        [SuppressionEntry(who, "all", Origin.MANUAL, at, note) for who, at, note in told]
    )
    for dry_run in (True, False):
        assert await store.trim_notes(EDGE, "by phone".__eq__, dry_run=dry_run) == 1
    notes = [one.note for who, _, _ in told for one in await orders_of(store, who)]
    assert notes == [None, "ask Eve", "by phone"]


async def test_the_record_of_what_was_lifted_goes(store: Store) -> None:
    for name, at in (("anna", OLD - DAY), ("eve", OLD), ("paul", EDGE)):
        await store.add_suppressions([entry(f"{name}@people.example", since=OLD - 9 * DAY)])
        await store.remove_suppression(f"{name}@people.example", at=at, reason="by phone")
    expected = Removed(2, OLD - DAY, OLD)
    assert await store.purge_lifted(EDGE, dry_run=True) == expected
    assert await store.purge_lifted(EDGE) == expected
    assert await store.purge_lifted(EDGE) == Removed()
    assert [
        len(await store.lifted_suppressions(f"{name}@people.example"))
        for name in ("anna", "eve", "paul")
    ] == [0, 0, 1]


async def test_who_is_heard_of_meanwhile_stays(any_database: Database) -> None:
    """Two connections: one purges, the other records acts and imports all the time."""
    store, other = any_database.open(), any_database.open()
    people = [replace(KNOWN, address=f"p{n}@people.example") for n in range(3_000)]
    await store.put_contacts(people)
    longest, done = 0.0, asyncio.Event()

    async def write() -> int:
        nonlocal longest
        count = 0
        while not done.is_set():
            began = asyncio.get_running_loop().time()
            await other.record_act(f"p{2_999 - count}@people.example", agreed(NOW))
            longest = max(longest, asyncio.get_running_loop().time() - began)
            count += 1
        return count

    writing = asyncio.create_task(write())
    purged = await store.purge_contacts(LIMITS, at=NOW)
    done.set()
    count = await writing
    assert count > 0
    contacts, _ = await everything(store)
    assert {f"p{2_999 - n}@people.example" for n in range(count)} <= {c.address for c in contacts}
    assert all(one.acts for one in contacts), "who was not heard of is gone"
    assert purged.removed.rows >= 3_000 - count
    assert longest < 1.0, "others wait for a batch, not for the whole"


async def test_a_purge_that_is_interrupted_leaves_whole_batches(
    any_database: Database, small_batches: None
) -> None:
    store = any_database.open()
    people = [
        replace(KNOWN, address=f"p{n}@people.example", acts=(withdrew(OLD),)) for n in range(600)
    ]
    await store.put_contacts(people)
    purging = asyncio.create_task(store.purge_contacts(LIMITS, at=NOW))
    while (await store.counts())[0] == 600:  # noqa: ASYNC110 - the database changes
        await asyncio.sleep(0.001)
    purging.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await purging
    left = {one.address for one in (await everything(store))[0]}
    gone = {one.address for one in people} - left
    assert gone
    facts = await store.facts(Lookups(tuple(gone)))
    assert all(facts[address].suppressions for address in gone), "nobody is forgotten halfway"
    assert (await store.purge_contacts(LIMITS, at=NOW)).removed.rows == len(left)


async def test_purged_is_overwritten(database: Database) -> None:
    store = database.open()
    await store.put_contacts([replace(KNOWN, address="very.unusual@people.example")])
    await store.purge_contacts(LIMITS, at=NOW)
    await store.close()
    files = [path for path in database.folder.iterdir() if path.name.startswith("store.db")]
    assert b"very.unusual" not in b"".join(path.read_bytes() for path in files)
