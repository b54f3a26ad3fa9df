"""After any history of changes, a backend gives the same answers as the model."""

import asyncio
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from smtpproxy.policy.model import (
    Audience,
    Collection,
    ConsentAct,
    Contact,
    Dealing,
    Evidence,
    Link,
    Lookups,
    Origin,
    Provenance,
    Purchase,
    Source,
)
from smtpproxy.store.collected import included_in
from smtpproxy.store.records import PROFILE_FIELDS, ContactUpdate, SuppressionEntry
from smtpproxy.store.sql.store import Store
from tests.kit.parts import needs
from tests.kit.soak import times
from tests.kit.store import put_tables
from tests.store.conftest import Database, OnPostgresql
from tests.store.contract import T0
from tests.store.model import Model

ADDRESSES = ["anna@people.example", "anna+x@people.example", "a.nna@gmail.com", "anna@gmail.com"]
MOMENTS = st.sampled_from([T0 + timedelta(days=days) for days in range(4)])
MAYBE = st.none() | MOMENTS
BRANDS = st.sampled_from([None, None, "shop", "mill"])
WORDS = st.frozensets(st.sampled_from(["finance", "art", ""]))
ACTS = st.builds(
    ConsentAct,
    purpose=st.sampled_from(["offers", "news"]),
    at=MOMENTS,
    withdrawal=st.booleans(),
    method=st.sampled_from([None, "implied"]),
    conditional=st.booleans(),
    channels=st.sampled_from([frozenset[str](), frozenset({"email"}), frozenset({"sms"})]),
    evidence=st.builds(
        Evidence,
        wording=st.sampled_from([None, "", "v1", 'é "\\\n\x1f\x7f\u2028😀']),
        version=st.sampled_from([None, "", "2"]),
        document_hash=st.sampled_from([None, "0a" * 32]),
    ),
    pending=st.booleans(),
    brand=BRANDS,
    came_by=st.sampled_from([None, None, "web"]),
)
CONTACTS = st.builds(
    Contact,
    address=st.sampled_from(ADDRESSES),
    audience=st.sampled_from(Audience),
    source=st.none() | st.sampled_from(Source),
    collected_at=MAYBE,
    informed_at=MAYBE,
    optout_offered=st.none() | st.booleans(),
    never_informed=st.booleans(),
    last_activity_at=MAYBE,
    occupations=WORDS,
    tags=WORDS,
    provenance=st.none()
    | st.builds(
        Provenance,
        st.sampled_from([None, "", "X"]),
        st.booleans(),
        st.lists(
            st.builds(Link, st.sampled_from([None, "Y"]), st.booleans(), MAYBE), max_size=2
        ).map(tuple),
    ),
    purchases=st.lists(
        st.builds(
            Purchase, st.sampled_from(["shoes", "boots"]), MOMENTS, st.sampled_from(Dealing), BRANDS
        ),
        max_size=3,
    ).map(tuple),
    acts=st.lists(ACTS, max_size=3).map(tuple),
    first_contacted_at=MAYBE,
    profiling_objected_at=MAYBE,
    brand=BRANDS,
    others=st.lists(
        st.builds(
            Collection,
            *(BRANDS, st.sampled_from(Source), MAYBE, MAYBE),
            audience=st.sampled_from(Audience),
            occupations=WORDS,
        ),
        max_size=2,
    ).map(tuple),
)
UPDATES = CONTACTS | st.builds(
    ContactUpdate, CONTACTS, st.frozensets(st.sampled_from(sorted(PROFILE_FIELDS))), MAYBE
)
ENTRIES = st.builds(
    SuppressionEntry,
    address=st.sampled_from(ADDRESSES),
    scope=st.sampled_from(["all", "marketing", "purpose:offers"]),
    origin=st.sampled_from(Origin),
    since=MOMENTS,
    note=st.sampled_from([None, "", "by phone"]),
)


class Call(Struct, frozen=True):
    """One call of a store's method."""

    method: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    async def on(self, store: Store | Model) -> object:
        return await getattr(store, self.method)(*self.arguments, **self.options)


def calls(method: str, *arguments: Any, **options: Any) -> st.SearchStrategy[Call]:
    return st.builds(Call, st.just(method), st.tuples(*arguments), st.fixed_dictionaries(options))


ADDRESS = st.sampled_from(ADDRESSES)
HISTORY = st.lists(
    calls("put_contacts", st.lists(UPDATES, max_size=4))
    | calls("add_suppressions", st.lists(ENTRIES, max_size=4))
    | calls("record_act", ADDRESS, ACTS)
    | calls("erase_contact", ADDRESS, at=MOMENTS)
    | calls(
        "remove_suppression",
        ADDRESS,
        at=MOMENTS,
        reason=st.just("x"),
        scope=st.sampled_from([None, "all", "marketing"]),
        origin=st.none() | st.sampled_from(Origin),
    ),
    max_size=6,
)


async def state(store: Store | Model) -> object:
    facts = await store.facts(Lookups(tuple(ADDRESSES)))
    exported = [found async for _, found in store.export_suppressions()]
    return (
        {
            name: (found.contact, sorted(map(repr, found.suppressions)))
            for name, found in facts.items()
        },
        await store.counts(),
        sorted([contact async for contact in store.export_contacts()], key=lambda c: c.address),
        sorted(map(repr, exported)),
    )


def comparable(result: object) -> object:
    return sorted(map(repr, result)) if isinstance(result, list) else result


def histories(contacts: list[Contact]) -> dict[str, list[ConsentAct]]:
    return {contact.address: list(contact.acts) for contact in contacts}


async def put_all(folder: Path, updates: list[Contact | ContactUpdate]) -> None:
    put_tables(folder / "store.db")
    database = Database(folder).open()
    try:
        before: dict[str, list[ConsentAct]] = {}
        for update in updates:
            await database.put_contacts([update])
            after = histories([contact async for contact in database.export_contacts()])
            for address, acts in before.items():
                kept = [act for act in after[address] if act in acts]
                assert kept == [act for act in acts if act in kept], "an act was moved"
                assert all(map(included_in(after[address]), acts)), "an act was lost"
            told = update.contact if isinstance(update, ContactUpdate) else update
            there = after[told.address]
            assert all(map(included_in(there), told.acts)), "an act was not stored"
            before = after
    finally:
        await database.close()


@settings(deadline=None, max_examples=times(20, 1_000))
@given(updates=st.lists(UPDATES, max_size=8))
def test_no_import_ever_loses_or_rewrites_an_act(
    updates: list[Contact | ContactUpdate],
) -> None:
    with TemporaryDirectory() as folder:
        asyncio.run(put_all(Path(folder), updates))


async def compare(where: Database, history: list[Call]) -> None:
    database, model = where.open(), Model()
    try:
        for call in history:
            assert comparable(await call.on(database)) == comparable(await call.on(model))
            assert await state(database) == await state(model)
    finally:
        await database.close()


@settings(deadline=None, max_examples=times(25, 1_000))
@given(history=HISTORY)
def test_the_store_answers_like_the_model_after_any_history(history: list[Call]) -> None:
    with TemporaryDirectory() as folder:
        database = Database(Path(folder))
        put_tables(database.path)
        asyncio.run(compare(database, history))


@needs("postgresql")
@settings(deadline=None, max_examples=times(8, 500))
@given(history=HISTORY)
def test_postgresql_answers_like_the_model_after_any_history(history: list[Call]) -> None:
    with TemporaryDirectory() as folder, OnPostgresql(Path(folder)) as database:
        asyncio.run(compare(database, history))
