"""What only the API needs of a store: pages of suppressions, conditional writes of a contact."""

from datetime import UTC, datetime

from smtpproxy.policy.model import Contact, Origin
from smtpproxy.store.records import ContactUpdate, SuppressionEntry
from tests.store.conftest import Database

T0 = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
ANNA = "anna@people.example"


async def test_pages_list_every_suppression_once(any_database: Database) -> None:
    store = any_database.open()
    await store.add_suppressions(
        [SuppressionEntry(f"a{n}@x.example", "all", Origin.MANUAL, T0) for n in range(7)]
    )
    keys, after = [], None
    for _ in range(3):
        page = await store.suppression_page(after, 3)
        keys += [key for key, _ in page.entries]
        after = page.next
    assert after is None
    assert sorted(keys) == sorted([key async for key, _ in store.export_suppressions()])


async def test_pages_of_some_scopes_continue_where_the_last_one_ended(
    any_database: Database,
) -> None:
    store = any_database.open()
    for scope in ("brand:shop", "brand:mill"):
        await store.add_suppressions(
            [SuppressionEntry(f"p{n}@people.example", scope, Origin.MANUAL, T0) for n in range(3)]
        )
    found, after = [], None
    for _ in range(3):
        page = await store.suppression_page(after, 1, {"all", "brand:shop"})
        found += [one.scope for _, one in page.entries]
        after = page.next
    assert (found, after) == (["brand:shop"] * 3, None)


async def test_a_contact_is_written_only_if_it_is_as_expected(any_database: Database) -> None:
    store = any_database.open()
    update = ContactUpdate(Contact(ANNA, language="fr"), frozenset({"language"}))
    assert await store.put_contact(ANNA, lambda known: update if known else None) is None
    assert await store.contact(ANNA) is None
    made = await store.put_contact(ANNA, lambda known: None if known else update)
    assert made is not None
    assert made.added == 1
    await store.erase_contact(ANNA, at=T0)
    left_out = await store.put_contact(ANNA, lambda known: update, imported=True)
    assert left_out is not None
    assert (left_out.erased, await store.contact(ANNA)) == (1, None)
