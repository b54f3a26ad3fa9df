"""Two live keys and partners' hashes, on every backend."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import pytest

from smtpproxy.policy.model import (
    ConsentAct,
    Contact,
    Lookups,
    Origin,
    RecipientFacts,
    Suppression,
)
from smtpproxy.settings import PartnerSettings, StoreSettings
from smtpproxy.store import open_store
from smtpproxy.store.key_files import create_partner_key, load_keys
from smtpproxy.store.keys import Coverage, PartnerSnapshot, SnapshotRow, SuppressionKey
from smtpproxy.store.operations import PurgedSuppressions
from smtpproxy.store.records import BatchResult, LiftedSuppression
from smtpproxy.store.sql.store import Store
from tests.store.conftest import Database
from tests.store.contract import ANNA, DAY, T0, assert_counts_are_right, entry, facts_of

BERT, TAGGED = "bert@people.example", "anna+shop@people.example"
PARTNERS = ("boots", "shoes")


@pytest.fixture
async def exchange(
    any_database: Database,
) -> AsyncIterator[tuple[Store, SuppressionKey]]:
    """A store with two partners, and the key shared with `boots`."""
    folder = any_database.folder
    shared = [PartnerSettings(name, folder / f"{name}.key") for name in PARTNERS]
    keys = {one.name: create_partner_key(one.key_file) for one in shared}
    settings = StoreSettings(any_database.url, partners=tuple(shared))
    store = open_store(settings, folder)
    yield store, keys["boots"]
    await store.close()


@pytest.fixture
def store(exchange: tuple[Store, SuppressionKey]) -> Store:
    return exchange[0]


async def left(store: Store) -> list[tuple[int, int, int]]:
    return [(key.version, key.suppressions, key.lifted) for key in await store.keys()]


async def test_both_keys_hold_until_the_old_one_is_retired(store: Store) -> None:
    await store.add_suppressions([entry(), entry(BERT, since=T0 + DAY, note="by phone")])
    assert await store.start_rekey(at=T0) == 2
    assert await store.start_rekey(at=T0) == 2  # starting again makes no third key
    assert await left(store) == [(1, 2, 0), (2, 0, 0)]
    for name in (ANNA, BERT):
        assert (await facts_of(store, name)).suppressions
    assert (await facts_of(store, TAGGED)).suppressions[0].widened
    assert not await store.finish_rekey(at=T0)
    assert await store.rekey([ANNA]) == 1
    assert await left(store) == [(1, 1, 0), (2, 1, 0)]
    before = await facts_of(store, BERT)
    assert await store.rekey([BERT, "nobody@people.example"]) == 1
    assert await facts_of(store, BERT) == before
    assert await store.finish_rekey(at=T0 + DAY)
    assert await left(store) == [(2, 2, 0)]
    assert await facts_of(store, BERT) == before
    assert (await facts_of(store, TAGGED)).suppressions[0].widened
    await assert_counts_are_right(store)


async def test_a_write_uses_the_newest_key_and_takes_older_rows_along(store: Store) -> None:
    await store.add_suppressions([entry(note="first"), entry(scope="all", origin=Origin.MANUAL)])
    await store.start_rekey(at=T0)
    assert await store.add_suppressions([entry()]) == BatchResult(unchanged=1)
    assert await store.add_suppressions([entry(since=T0 + DAY)]) == BatchResult(changed=1)
    assert await left(store) == [(1, 0, 0), (2, 2, 0)]
    found = (await facts_of(store, ANNA)).suppressions
    assert found == (
        Suppression("all", Origin.MANUAL, T0),
        Suppression("marketing", Origin.UNSUBSCRIBE, T0 + DAY, note="first"),
    )
    await store.erase_contact(BERT, at=T0)
    assert (await left(store))[1] == (2, 3, 0)


@pytest.mark.parametrize("days", [-1, 0, 1])
async def test_rows_under_both_keys_become_one(store: Store, days: int) -> None:
    """A key text of the old key gives no address, so its row stays until the address is known."""
    await store.add_suppressions([entry(since=T0 + days * DAY, note="old")])
    (exported,) = [one async for one in store.export_suppressions()]
    await store.start_rekey(at=T0)
    await store.add_suppressions([entry(note="new")])
    again = entry(exported[0], since=T0 + days * DAY, note="old")
    await store.add_suppressions([again])
    assert await left(store) == [(1, 1, 0), (2, 1, 0)]
    assert len((await facts_of(store, ANNA)).suppressions) == 2
    await assert_counts_are_right(store)
    since = T0 + max(days, 0) * DAY
    assert list(await store.standing([entry()])) == [since]
    await store.rekey([ANNA])
    (one,) = (await facts_of(store, ANNA)).suppressions
    assert one.since == since
    if days:
        assert one.note == ("old" if days > 0 else "new")
    assert await left(store) == [(1, 0, 0), (2, 1, 0)]
    await assert_counts_are_right(store)


@pytest.mark.parametrize("later", ["old", "new"])
async def test_rows_under_both_keys_last_as_long_as_the_longer(
    any_database: Database, later: str
) -> None:
    store, ahead = any_database.open(), datetime.now(UTC) + 9 * DAY
    await store.start_rekey(at=T0)
    texts = {
        name: key.text(key.pair(ANNA))
        for name, key in zip(("old", "new"), load_keys(any_database.folder).keys, strict=True)
    }
    await store.add_suppressions([entry(texts.pop(later))])
    await store.renew_suppressions({ANNA: ahead})
    await store.add_suppressions([entry(*texts.values())])
    await store.rekey([ANNA])
    assert await store.purge_suppressions(ahead) == PurgedSuppressions()
    assert (await store.purge_suppressions(ahead + DAY)).removed.rows == 1


async def test_lifting_and_lifted_suppressions_use_both_keys(store: Store) -> None:
    await store.add_suppressions([entry(), entry(BERT)])
    await store.remove_suppression(ANNA, at=T0 + DAY, reason="she asked")
    await store.start_rekey(at=T0)
    lifted = [LiftedSuppression("marketing", Origin.UNSUBSCRIBE, T0, None, T0 + DAY, "she asked")]
    assert list(await store.lifted_suppressions(ANNA)) == lifted
    assert len(await store.remove_suppression(BERT, at=T0, reason="x")) == 1
    assert await facts_of(store, BERT) == RecipientFacts()
    assert await left(store) == [(1, 0, 1), (2, 0, 1)]
    assert not await store.finish_rekey(at=T0)
    assert await store.rekey([ANNA]) == 1
    assert await store.finish_rekey(at=T0)
    assert list(await store.lifted_suppressions(ANNA)) == lifted
    assert len(await store.lifted_suppressions(BERT)) == 1


async def test_an_export_of_two_keys_can_be_imported_until_one_is_retired(store: Store) -> None:
    await store.add_suppressions([entry()])
    await store.start_rekey(at=T0)
    await store.add_suppressions([entry(BERT)])
    exported = [entry(key, one.scope, one.origin, one.since)
                async for key, one in store.export_suppressions()]  # fmt: skip
    assert await store.add_suppressions(exported) == BatchResult(unchanged=2)
    await store.rekey([ANNA])
    assert await store.finish_rekey(at=T0)
    with pytest.raises(ValueError, match="another key"):
        await store.add_suppressions(exported)


async def test_the_addresses_of_contacts_are_listed(store: Store) -> None:
    await store.put_contacts([Contact(ANNA), Contact(BERT)])
    assert {name async for some in store.contact_addresses() for name in some} == {ANNA, BERT}


# partners


async def told(store: Store, partner: str = "boots") -> list[tuple[bytes, ...] | None]:
    return [pair async for pair, _ in store.export_to_partner(partner)]


async def test_a_hash_is_made_while_the_address_is_known(
    exchange: tuple[Store, SuppressionKey],
) -> None:
    store, boots = exchange
    await store.add_suppressions([entry(TAGGED)])
    assert await told(store) == [boots.pair(TAGGED)]
    assert await told(store, "shoes") != await told(store)
    await store.start_rekey(at=T0)
    await store.rekey([TAGGED])
    assert await told(store) == [boots.pair(TAGGED)]
    await store.remove_suppression(TAGGED, at=T0, reason="x")
    assert await told(store) == []
    with pytest.raises(KeyError):
        await told(store, "stranger")


async def test_suppressions_without_an_address_are_covered_once_it_is_known(
    exchange: tuple[Store, SuppressionKey],
) -> None:
    store, boots = exchange
    await store.add_suppressions([entry(), entry(scope="all")])
    exported = [entry(key, one.scope, one.origin, one.since)
                async for key, one in store.export_suppressions()]  # fmt: skip
    await store.remove_suppression(ANNA, at=T0, reason="moving")
    await store.add_suppressions(exported)
    assert await store.coverage("boots") == Coverage(0, 2)
    await store.cover([ANNA, BERT])
    assert await store.coverage("boots") == Coverage(2, 2)
    assert await told(store) == [boots.pair(ANNA)] * 2


def snapshot(key: SuppressionKey, count: int = 0, days: int = 0) -> PartnerSnapshot:
    at = T0 + days * DAY
    return PartnerSnapshot(key.fingerprint, "boots.example", at, at, count, "")


async def one_batch(rows: Sequence[SnapshotRow]) -> AsyncIterator[Sequence[SnapshotRow]]:
    yield rows


async def broken(rows: Sequence[SnapshotRow]) -> AsyncIterator[Sequence[SnapshotRow]]:
    yield rows
    raise ValueError("cut short")


async def test_a_partners_snapshot_counts_as_external(
    exchange: tuple[Store, SuppressionKey],
) -> None:
    store, boots = exchange
    rows = [
        SnapshotRow(boots.pair(ANNA), "marketing", Origin.UNSUBSCRIBE, T0),
        SnapshotRow(boots.pair(BERT), "all", Origin.BOUNCE, T0),
    ]
    await store.take_snapshot("boots", snapshot(boots, 2), one_batch(rows))
    note = "partner boots: unsubscribe"
    found = Suppression("marketing", Origin.EXTERNAL, T0, note=note)
    assert (await facts_of(store, ANNA)).suppressions == (found,)
    assert list(await store.suppressions(ANNA)) == [found]
    assert (await facts_of(store, TAGGED)).suppressions[0].widened
    assert (await facts_of(store, BERT)).suppressions[0].scope == "all"
    assert (await facts_of(store, "bert+x@people.example")).suppressions == ()
    assert await told(store) == []  # what comes from a partner is passed on to nobody


async def test_only_a_complete_snapshot_replaces_the_previous_one(
    exchange: tuple[Store, SuppressionKey],
) -> None:
    store, boots = exchange
    first = [SnapshotRow(boots.pair(ANNA), "all", Origin.OBJECTION, T0)]
    second = [SnapshotRow(boots.pair(BERT), "all", Origin.OBJECTION, T0)]
    await store.take_snapshot("boots", snapshot(boots, 1), one_batch(first))
    with pytest.raises(ValueError, match="cut short"):
        await store.take_snapshot("boots", snapshot(boots, 1, days=1), broken(second))
    assert (await facts_of(store, ANNA)).suppressions
    assert not (await facts_of(store, BERT)).suppressions
    assert (await store.snapshots())["boots"].taken_at == T0
    await store.take_snapshot("boots", snapshot(boots, 1, days=2), one_batch(second))
    assert not (await facts_of(store, ANNA)).suppressions
    assert (await facts_of(store, BERT)).suppressions
    assert (await store.snapshots())["boots"].taken_at == T0 + 2 * DAY


async def test_the_age_is_that_of_the_oldest_snapshot_and_unknown_if_one_is_missing(
    exchange: tuple[Store, SuppressionKey],
) -> None:
    store, boots = exchange
    asked = Lookups((ANNA,), snapshots=True)
    assert (await store.facts(asked))[ANNA] == RecipientFacts()
    await store.take_snapshot("boots", snapshot(boots), one_batch([]))
    assert (await store.facts(asked))[ANNA].snapshot_at is None
    # The store knows the keys of its partners: a snapshot under another one does not count.
    taken = await store.snapshots()
    assert list(taken) == ["boots"]
    assert await store.facts(Lookups((ANNA,))) == {}


async def test_a_snapshot_from_the_future_is_not_hidden_by_an_older_one(
    any_database: Database,
) -> None:
    folder = any_database.folder
    shared = [PartnerSettings(name, folder / f"{name}.key") for name in PARTNERS]
    keys = {one.name: create_partner_key(one.key_file) for one in shared}
    store = open_store(StoreSettings(any_database.url, partners=tuple(shared)), folder)
    asked = Lookups((ANNA,), snapshots=True)
    await store.take_snapshot("boots", snapshot(keys["boots"], days=9), one_batch([]))
    await store.take_snapshot("shoes", snapshot(keys["shoes"]), one_batch([]))
    both = RecipientFacts(snapshot_at=T0, newest_snapshot_at=T0 + 9 * DAY)
    assert (await store.facts(asked))[ANNA] == both
    await store.take_snapshot("boots", snapshot(keys["boots"]), one_batch([]))
    assert (await store.facts(asked))[ANNA] == RecipientFacts(snapshot_at=T0)
    await store.close()


# whole domains


async def test_a_domain_is_rekeyed(store: Store) -> None:
    await store.add_suppressions([entry("@people.example", "all", Origin.MANUAL)])
    await store.start_rekey(at=T0)
    assert len(await store.suppressions(ANNA)) == 1
    assert await store.rekey(["@people.example"]) == 1
    assert await store.finish_rekey(at=T0)
    assert [one.domain for one in await store.suppressions(ANNA)] == ["@people.example"]


async def test_a_domain_is_exchanged_with_partners(
    exchange: tuple[Store, SuppressionKey],
) -> None:
    store, boots = exchange
    await store.add_suppressions([entry("*.people.example", "all", Origin.MANUAL)])
    (pair,) = await told(store)
    assert pair == boots.pair("*.people.example")
    await store.remove_suppression("*.people.example", at=T0, reason="x")
    rows = [SnapshotRow(boots.pair("*.people.example"), "all", Origin.MANUAL, T0)]
    await store.take_snapshot("boots", snapshot(boots, 1), one_batch(rows))
    (found,) = (await facts_of(store, "anna@sub.people.example")).suppressions
    assert (found.domain, found.origin) == ("*.people.example", Origin.EXTERNAL)
    assert len(await store.suppressions("anna%people.example@localhost")) == 1


async def test_many_people_read_at_once_have_the_same_facts_as_each_alone(
    exchange: tuple[Store, SuppressionKey],
) -> None:
    """Under two keys, from a partner, by domain and by other readings of an address."""
    store, boots = exchange
    older = [entry(), entry("@wild.example", "all", Origin.MANUAL), entry(BERT, "all", since=T0)]
    await store.add_suppressions(older)
    await store.start_rekey(at=T0)
    newer = [
        entry(BERT, note="by phone"),
        entry(BERT, origin=Origin.BOUNCE, since=T0 - DAY),
        entry("*.wild.example", "all", Origin.EXTERNAL, note="a list"),
    ]
    await store.add_suppressions(newer)
    rows = [
        SnapshotRow(boots.pair(TAGGED), "marketing", Origin.COMPLAINT, T0),
        SnapshotRow(boots.pair("carl@people.example"), "all", Origin.BOUNCE, T0),
        SnapshotRow(boots.pair("@domain.example"), "all", Origin.MANUAL, T0),
    ]
    await store.take_snapshot("boots", snapshot(boots, 3), one_batch(rows))
    acts = (ConsentAct("offers", T0), ConsentAct("offers", T0 + DAY, withdrawal=True))
    people = [Contact(BERT, acts=acts, tags=frozenset({"vip"})), Contact("a@wild.example")]
    await store.put_contacts([*people, Contact("carl@domain.example", acts=acts[1:])])
    names = [ANNA, TAGGED, BERT, "bert+x@people.example", "carl@people.example"]
    names += [f"{one}@{sub}wild.example" for one in ("a", "b") for sub in ("", "deep.", "x.deep.")]
    names += [
        "eva@domain.example",
        "eva@sub.domain.example",
        "*.deep.wild.example",
        "@domain.example",
    ]
    names += ["anna%people.example@localhost", "wild.example!carl@domain.example"]
    for contacts in (False, True):
        alone = {}
        for name in names:
            alone |= await store.facts(Lookups((name,), contacts=contacts))
        for nobody in (40, 120):
            among = [f"user{number}@people.example" for number in range(nobody)]
            assert await store.facts(Lookups((*among, *names), contacts=contacts)) == alone
        assert set(names) - set(alone) == {"eva@sub.domain.example"}
