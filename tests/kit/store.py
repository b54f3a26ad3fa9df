"""Invented people, one for each basis and each common refusal.

They fit the streams of tests/kit/relay.py (offers, receipts, appeals, b2b). `contacts()`
is for a store, `ndjson()` and `suppressions_csv()` for the import commands.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.policy.model import (
    Audience,
    ConsentAct,
    Contact,
    Evidence,
    Facts,
    Lookups,
    Origin,
    Provenance,
    Purchase,
    Source,
)
from smtpproxy.settings import StoreSettings
from smtpproxy.store import open_store
from smtpproxy.store.key_files import FILE_NAME
from smtpproxy.store.records import StoreUnavailable, SuppressionEntry
from smtpproxy.store.sql.session import Session
from smtpproxy.store.sql.store import Store
from smtpproxy.store.sqlite import SqliteStore, live_keys, make
from smtpproxy.store.sqlite.connection import migrate, open_writer

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
DOMAIN = "people.example"


def address(name: str) -> str:
    return f"{name}@{DOMAIN}"


class Person(Struct, frozen=True):
    """A person, and the decision that the relay should make on `stream`."""

    contact: Contact
    stream: str
    outcome: str  # a basis if allowed, a reason if refused


def people(now: datetime = NOW) -> dict[str, Person]:
    """Every invented contact by name; times are relative to `now`."""
    recent = now - timedelta(days=90)
    old = now - timedelta(days=4 * 366)
    known = Contact(
        "",
        audience=Audience.CONSUMER,
        source=Source.DIRECT,
        collected_at=recent,
        informed_at=recent,
        optout_offered=True,
    )
    consent = ConsentAct(
        "offers", recent, method="unticked_box", evidence=Evidence("form v3", "192.0.2.7")
    )
    list_of = [
        ("consent", "offers", "consent", replace(known, acts=(consent,))),
        (
            "customer",
            "offers",
            "existing_customer",
            replace(known, purchases=(Purchase("shoes", recent),)),
        ),
        ("donor", "appeals", "charity", replace(known, last_activity_at=recent)),
        (
            "accountant",
            "b2b",
            "professional",
            replace(known, audience=Audience.PROFESSIONAL, occupations=frozenset({"finance"})),
        ),
        ("desk", "offers", "generic_address", replace(known, audience=Audience.GENERIC)),
        (
            "withdrawn",
            "offers",
            "consent_withdrawn",
            replace(
                known,
                acts=(
                    consent,
                    ConsentAct("offers", recent + timedelta(days=1), withdrawal=True),
                ),
            ),
        ),
        (
            "preticked",
            "offers",
            "consent_preticked",
            replace(known, acts=(replace(consent, method="preticked_box"),)),
        ),
        (
            "expired",
            "offers",
            "consent_expired",
            replace(known, collected_at=old, informed_at=old, acts=(replace(consent, at=old),)),
        ),
        (
            "stale",
            "offers",
            "customer_stale",
            replace(known, purchases=(Purchase("shoes", old),)),
        ),
        ("scraped", "offers", "source_forbidden", replace(known, source=Source.WEB)),
        (
            "bought",
            "offers",
            "source_undisclosed",
            replace(known, source=Source.PURCHASED, provenance=Provenance("Lists Ltd")),
        ),
        ("nothing", "offers", "consent_missing", known),
    ]
    return {
        name: Person(replace(contact, address=address(name)), stream, outcome)
        for name, stream, outcome, contact in list_of
    }


def contacts(now: datetime = NOW) -> list[Contact]:
    return [person.contact for person in people(now).values()]


SUPPRESSED = {
    "unsubscribed": ("marketing", Origin.UNSUBSCRIBE),
    "complained": ("all", Origin.COMPLAINT),
    "bounced": ("all", Origin.BOUNCE),
    "objected": ("purpose:offers", Origin.OBJECTION),
}
"""Name: scope and origin. On `offers` each is refused as `suppressed_<origin>`."""


def suppression_entries(now: datetime = NOW) -> list[SuppressionEntry]:
    since = now - timedelta(days=30)
    return [
        SuppressionEntry(address(name), scope, origin, since)
        for name, (scope, origin) in SUPPRESSED.items()
    ]


async def fill(store: Store, suppressions: Store, now: datetime = NOW) -> None:
    """Put everybody into a store; both arguments are usually the same object."""
    await store.put_contacts(contacts(now))
    await suppressions.add_suppressions(suppression_entries(now))


@cache
def _tables() -> bytes:
    """A migrated database without a key."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "store.db"
        path.touch()
        with closing(open_writer(path, 2.0)) as connection:
            migrate(connection, path, live_keys.name)
        return path.read_bytes()


def put_tables(path: Path) -> None:
    """Create what opening a missing database would create except its key: twice as fast."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(path, "xb", opener=lambda name, how: os.open(name, how, 0o600)) as file:
            file.write(_tables())


def fill_database(url: str, state_dir: Path, now: datetime = NOW) -> None:
    """Put everybody into the store of a relay, whether running or not started yet."""

    async def put() -> None:
        if url.startswith("sqlite://"):
            put_tables(Path(url.removeprefix("sqlite://")))
        store = open_store(StoreSettings(url), state_dir)
        await fill(store, store, now)
        await store.close()

    asyncio.run(put())


@cache
def _files(*, filled: bool) -> Mapping[str, bytes]:
    """The files of a store created once, with its key."""

    async def put(store: TrialStore) -> None:
        if filled:
            await fill(store, store, datetime.now(UTC))
        await SqliteStore.close(store)

    store = TrialStore()
    with store.folder as folder, ThreadPoolExecutor(1) as aside:  # a test may be in a loop already
        aside.submit(asyncio.run, put(store)).result(30)
        files = (Path(folder) / name for name in ("store.db", "store.db-wal", FILE_NAME))
        return {file.name: file.read_bytes() for file in files if file.exists()}


class TrialStore(SqliteStore):
    """A database in its own temporary folder. `fail_with` makes each call fail.

    A `copy` takes half the time, with one key for all of a test process. `filled`: with everybody.
    """

    def __init__(self, timeout: float = 2.0, *, copy: bool = False, filled: bool = False) -> None:
        self.folder = TemporaryDirectory(prefix="store-")
        folder = Path(self.folder.name)
        for name, content in _files(filled=filled).items() if copy or filled else ():
            (folder / name).touch(0o600)
            (folder / name).write_bytes(content)
        put_tables(folder / "store.db")
        make(folder / "store.db", folder, timeout)
        super().__init__(folder / "store.db", folder, timeout)
        self.fail_with: str | None = None

    def read(self, lookups: Lookups) -> Awaitable[tuple[Facts, object]]:
        self._check()
        return super().read(lookups)

    def version(self) -> Awaitable[object]:
        self._check()
        return super().version()

    def _writing(self) -> AbstractAsyncContextManager[Session]:
        self._check()
        return super()._writing()

    @asynccontextmanager
    async def _reading(self, *, snapshot: bool = False) -> AsyncIterator[Session]:
        self._check()
        async with super()._reading(snapshot=snapshot) as session:
            yield session

    def _check(self) -> None:
        if self.fail_with:
            raise StoreUnavailable(self.fail_with)

    async def __aenter__(self) -> "TrialStore":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await super().close()
        self.folder.cleanup()


def before_next_write(store: Store, other: Callable[[], Awaitable[object]]) -> None:
    """Run another write just before the store's next transaction begins."""

    @asynccontextmanager
    async def writing() -> AsyncIterator[Session]:
        del vars(store)["_writing"]
        await other()
        async with store._writing() as session:
            yield session

    vars(store)["_writing"] = writing


def ndjson(now: datetime = NOW) -> list[str]:
    """Everybody as lines for `smtpproxy contact import`."""
    return [json.dumps(_plain(contact)) for contact in contacts(now)]


def suppressions_csv(now: datetime = NOW) -> list[str]:
    """Everybody as lines for `smtpproxy suppress import`, without the header."""
    return [
        f"{entry.address},{entry.scope},{entry.origin},{_time(entry.since)},"
        for entry in suppression_entries(now)
    ]


def _plain(contact: Contact) -> dict[str, Any]:
    provenance = contact.provenance
    return {
        "address": contact.address,
        "audience": str(contact.audience),
        "source": contact.source and str(contact.source),
        "collected_at": _time(contact.collected_at),
        "informed_at": _time(contact.informed_at),
        "optout_offered": contact.optout_offered,
        "last_activity_at": _time(contact.last_activity_at),
        "occupations": sorted(contact.occupations),
        "tags": sorted(contact.tags),
        "provenance": provenance
        and {"supplier": provenance.supplier, "sender_disclosed": provenance.sender_disclosed},
        "purchases": [{"product": p.product, "at": _time(p.at)} for p in contact.purchases],
        "consents": _consents(contact),
    }


def _consents(contact: Contact) -> list[dict[str, Any]]:
    """Pair each consent with the withdrawal after it in one object."""
    consents: list[dict[str, Any]] = []
    for act in contact.acts:
        if act.withdrawal:
            consents[-1]["withdrawn_at"] = _time(act.at)
            continue
        consents.append(
            {
                "purpose": act.purpose,
                "method": act.method,
                "given_at": _time(act.at),
                "withdrawn_at": None,
                "conditional": act.conditional,
                "channels": sorted(act.channels),
                "evidence": {"wording": act.evidence.wording, "ip": act.evidence.ip},
            }
        )
    return consents


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
