"""Data past its period is purged; what people asked for stays."""

import asyncio
import contextlib
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

NOW = datetime(2040, 6, 1, 12, tzinfo=UTC)  # far enough ahead that rows added today are long past
TICK = timedelta(microseconds=1)
DAY = timedelta(days=1)
EDGE = datetime(2037, 6, 1, 12, tzinfo=UTC)  # exactly three years before NOW
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
    # without a collection date, that of the notice counts
    (replace(KNOWN, collected_at=None, informed_at=OLD), OLD),
    (replace(KNOWN, collected_at=None, informed_at=EDGE), None),
    (replace(KNOWN, informed_at=EDGE), OLD),
    # any sign of life counts, to the microsecond
    (replace(KNOWN, last_activity_at=EDGE), None),
    (replace(KNOWN, last_activity_at=OLD), OLD),
    (replace(KNOWN, acts=(agreed(EDGE),)), None),
    (replace(KNOWN, acts=(agreed(OLD - DAY), agreed(OLD))), OLD),
    (replace(KNOWN, acts=(withdrew(EDGE),)), None),
    (replace(KNOWN, acts=(agreed(EDGE, pending=True),)), None),
    # customers: the last dealing counts
    (replace(KNOWN, purchases=(Purchase("shoes", EDGE),)), None),
    (replace(KNOWN, purchases=(Purchase("shoes", EDGE, Dealing.INQUIRY),)), None),
    (replace(KNOWN, purchases=(Purchase("shoes", OLD - DAY), Purchase("boots", OLD))), OLD),
    (Contact(ANNA, purchases=(Purchase("shoes", OLD),)), OLD),
    # what is dated in the future has not happened
    (replace(KNOWN, last_activity_at=NOW + TICK), OLD),
    (replace(KNOWN, last_activity_at=NOW), None),
    (replace(KNOWN, purchases=(Purchase("shoes", NOW + DAY),)), OLD),
    # our mail is not a sign of life of theirs
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
async def test_unanswered_requests_for_consent_are_purged_sooner(
    store: Store, contact: Contact, goes: datetime | None
) -> None:
    await store.put_contacts([contact])
    limits = Limits(OLD - 999 * DAY, OLD - 999 * DAY, requests=EDGE)
    found = await store.purge_contacts(limits, at=NOW)
    assert found.removed == (Removed(1, goes, goes) if goes else Removed())
    assert (await store.contact(ANNA) is None) is (goes is not None)


@pytest.mark.parametrize(("contact", "goes"), CONTACTS)
async def test_contacts_without_a_sign_of_life_are_purged(
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


async def test_the_period_of_an_undated_contact_begins_at_the_first_purge(store: Store) -> None:
    await store.put_contacts([Contact(ANNA)])
    later = NOW.replace(year=NOW.year + 3)
    assert (await store.purge_contacts(LIMITS, at=NOW)).removed == Removed()
    same = Limits(NOW, NOW)
    assert (await store.purge_contacts(same, at=later)).removed == Removed()
    after = Limits(NOW + TICK, NOW + TICK)
    assert (await store.purge_contacts(after, at=later + TICK)).removed == Removed(1, NOW, NOW)


async def test_only_a_persons_refusals_survive_a_purge(store: Store) -> None:
    acts = (agreed(OLD - 9 * DAY), withdrew(OLD - 8 * DAY), withdrew(OLD - 2 * DAY, "news"))
    acts += (withdrew(OLD - 3 * DAY, "*"), replace(withdrew(OLD - 4 * DAY, "*"), brand="shop"))
    await store.put_contacts([replace(KNOWN, collected_at=OLD - 9 * DAY, acts=acts)])
    purged = await store.purge_contacts(LIMITS, at=NOW)
    assert (purged.removed.rows, purged.orders) == (1, 4)
    assert await store.contact(ANNA) is None
    assert {(one.scope, one.origin, one.since) for one in await orders_of(store, ANNA)} == {
        ("purpose:offers", Origin.UNSUBSCRIBE, OLD - 8 * DAY),
        ("purpose:news", Origin.UNSUBSCRIBE, OLD - 2 * DAY),
        ("marketing", Origin.UNSUBSCRIBE, OLD - 3 * DAY),
        ("brand:shop", Origin.UNSUBSCRIBE, OLD - 4 * DAY),
    }


async def test_a_withdrawal_survives_the_purge_with_its_own_date(store: Store) -> None:
    """So the old consent, imported again, stays withdrawn, and a newer one counts."""
    acts = (agreed(OLD - 9 * DAY), withdrew(OLD - 8 * DAY), agreed(OLD - 7 * DAY))
    await store.put_contacts([replace(KNOWN, acts=acts)])
    await store.purge_contacts(LIMITS, at=NOW)
    (order,) = await orders_of(store, ANNA)
    assert acts[0].at < order.since == acts[1].at < acts[2].at


async def test_objections_and_restrictions_survive_as_suppressions(store: Store) -> None:
    objected = replace(KNOWN, profiling_objected_at=OLD)
    restricted = replace(KNOWN, address="r@people.example", tags=frozenset({"restricted", "vip"}))
    await store.put_contacts([objected, restricted])
    assert (await store.purge_contacts(LIMITS, at=NOW, dry_run=True)).orders == 2
    await store.purge_contacts(LIMITS, at=NOW)
    (order,) = await orders_of(store, ANNA)
    assert (order.scope, order.origin, order.since) == ("marketing", Origin.OBJECTION, OLD)
    (order,) = await orders_of(store, "r@people.example")
    assert (order.scope, order.origin) == ("marketing", Origin.MANUAL)


async def test_of_people_who_objected_to_all_marketing_only_the_suppression_is_kept(
    store: Store,
) -> None:
    """However active they are; an objection to one purpose is not one to all."""
    since = NOW - timedelta(30)
    limits = replace(LIMITS, objected=since)
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


async def test_a_dry_run_changes_nothing_and_foretells_the_run(
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
    assert (contacts, len(left)) == ([], 123), (
        "the suppressions made of withdrawals must start their own period"
    )
    counted, kinds = await store.counts()
    assert (counted, sum(kinds.values())) == (0, 123)


async def test_suppressions_last_exactly_their_period(store: Store) -> None:
    await store.add_suppressions([entry(), entry("eve@people.example", since=EDGE)])
    assert (await store.purge_suppressions(EDGE)).removed == Removed(1, OLD, OLD)
    assert await orders_of(store, ANNA) == []
    assert len(await orders_of(store, "eve@people.example")) == 1


async def test_the_period_of_an_imported_suppression_begins_at_the_import(store: Store) -> None:
    """A company that changes its tool imports refusals ten years old: none may go that night."""
    await store.add_suppressions([entry(since=datetime(2010, 1, 1, tzinfo=UTC))])
    ago = beginning(datetime.now(UTC), years(3))
    assert await store.purge_suppressions(ago) == PurgedSuppressions()
    assert len(await orders_of(store, ANNA)) == 1


async def test_each_match_renews_a_suppression(store: Store) -> None:
    await store.add_suppressions([entry(), entry(origin=Origin.BOUNCE), entry(VARIANT)])
    assert await store.renew_suppressions({ANNA: EDGE}) == 3
    assert await store.renew_suppressions({ANNA: OLD}) == 0, "the date never moves back"
    assert await store.purge_suppressions(EDGE) == PurgedSuppressions()
    assert (await store.purge_suppressions(EDGE + TICK)).removed == Removed(3, EDGE, EDGE)


async def test_a_match_by_a_variant_renews_what_counts_for_it(store: Store) -> None:
    await store.add_suppressions([entry(VARIANT), entry(VARIANT, Origin.BOUNCE)])
    assert await store.renew_suppressions({ANNA: EDGE}) == 1
    await store.purge_suppressions(EDGE)
    assert [one.origin for one in await orders_of(store, VARIANT)] == [Origin.UNSUBSCRIBE]


async def test_rows_merged_by_a_rename_last_as_long_as_the_longer(store: Store) -> None:
    await store.add_suppressions([entry(scope="brand:old", since=OLD - DAY)])
    await store.renew_suppressions({ANNA: EDGE})
    await store.add_suppressions([entry(scope="brand:new")])
    await store.move_scope("brand:old", "brand:new")
    assert await store.purge_suppressions(EDGE) == PurgedSuppressions()
    assert await orders_of(store, ANNA) == [Suppression("brand:new", Origin.UNSUBSCRIBE, OLD)]
    assert (await store.purge_suppressions(EDGE + TICK)).removed == Removed(1, EDGE, EDGE)


async def test_a_dry_run_counts_matches_not_yet_applied(store: Store) -> None:
    await store.add_suppressions([entry(), entry("eve@people.example")])
    matched = [{ANNA: EDGE}, {"eve@people.example": OLD}]
    dry = await store.purge_suppressions(EDGE, dry_run=True, matched=matched)
    assert dry.removed.rows == 1


@pytest.mark.parametrize("origin", list(Origin))
@pytest.mark.parametrize("holder", [ANNA, VARIANT, "paul@people.example"])
async def test_suppressions_of_existing_contacts_are_never_purged(
    store: Store, origin: Origin, holder: str
) -> None:
    """Even of another variant of the address, for the origins that cover variants."""
    await store.add_suppressions([entry(origin=origin)])
    await store.put_contacts([replace(KNOWN, address=holder, collected_at=EDGE)])
    held = holder == ANNA or (holder == VARIANT and origin not in (Origin.BOUNCE, Origin.MANUAL))
    expected = PurgedSuppressions(Removed() if held else Removed(1, OLD, OLD), int(held))
    assert await store.purge_suppressions(EDGE, dry_run=True) == expected
    assert await store.purge_suppressions(EDGE) == expected
    assert len(await orders_of(store, ANNA)) == held


async def test_the_period_of_a_suppression_restarts_when_its_contact_is_purged(
    store: Store,
) -> None:
    await store.add_suppressions([entry(origin=Origin.COMPLAINT)])
    await store.put_contacts([KNOWN])
    await store.purge_contacts(LIMITS, at=NOW)
    assert await store.purge_suppressions(NOW) == PurgedSuppressions()
    assert (await store.purge_suppressions(NOW + TICK)).removed == Removed(1, NOW, NOW)


async def test_old_free_text_notes_are_removed(store: Store) -> None:
    eve, paul = "eve@people.example", "paul@people.example"
    told = ((ANNA, OLD, "ask Eve"), (eve, EDGE, "ask Eve"), (paul, OLD, "by phone"))
    await store.add_suppressions(
        [SuppressionEntry(who, "all", Origin.MANUAL, at, note) for who, at, note in told]
    )
    for dry_run in (True, False):
        assert await store.trim_notes(EDGE, "by phone".__eq__, dry_run=dry_run) == 1
    notes = [one.note for who, _, _ in told for one in await orders_of(store, who)]
    assert notes == [None, "ask Eve", "by phone"]


async def test_old_records_of_lifted_suppressions_are_purged(store: Store) -> None:
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


async def test_people_heard_from_during_a_purge_stay(any_database: Database) -> None:
    """One connection purges while another records acts all the time."""
    store, other = any_database.open(), any_database.open()
    people = [replace(KNOWN, address=f"p{n}@people.example") for n in range(3_000)]
    await store.put_contacts(people)
    done = asyncio.Event()

    async def write() -> int:
        count = 0
        while not done.is_set():
            await other.record_act(f"p{2_999 - count}@people.example", agreed(NOW))
            count += 1
        return count

    writing = asyncio.create_task(write())
    purged = await store.purge_contacts(LIMITS, at=NOW)
    done.set()
    count = await writing
    assert count > 3, "writers must not wait for more than a batch"
    contacts, _ = await everything(store)
    assert {f"p{2_999 - n}@people.example" for n in range(count)} <= {c.address for c in contacts}
    assert all(one.acts for one in contacts), "nobody without a new act may be left"
    assert purged.removed.rows >= 3_000 - count


async def test_an_interrupted_purge_leaves_whole_batches(
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
    assert all(facts[address].suppressions for address in gone), "nobody may lose their refusal"
    assert (await store.purge_contacts(LIMITS, at=NOW)).removed.rows == len(left)


async def test_purged_rows_are_overwritten_on_the_disk(database: Database) -> None:
    store = database.open()
    await store.put_contacts([replace(KNOWN, address="very.unusual@people.example")])
    await store.purge_contacts(LIMITS, at=NOW)
    await store.close()
    files = [path for path in database.folder.iterdir() if path.name.startswith("store.db")]
    assert b"very.unusual" not in b"".join(path.read_bytes() for path in files)
