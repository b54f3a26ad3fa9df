"""PgBouncer between us and PostgreSQL: no statement or setting outlives a transaction."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from msgspec.structs import replace

from smtpproxy.events import Client
from smtpproxy.policy.model import Lookups
from smtpproxy.settings import StoreSettings
from smtpproxy.store import open_asked_messages, open_journals
from smtpproxy.store.feedback import SentMessage
from smtpproxy.store.records import StoreMisconfigured, StoreUnavailable
from smtpproxy.store.sql.store import Store
from tests.kit import lent_databases, postgres
from tests.kit.parts import needs
from tests.kit.pgbouncer import PgBouncer
from tests.kit.soak import LONGEST, SOAK
from tests.store.conftest import Database
from tests.store.contract import ANNA, DAY, T0, StoreContract, entry
from tests.store.test_journals import ONE, row

pytestmark = needs("postgresql", "pgbouncer")
NAMES = tuple(f"p{n}@people.example" for n in range(40))


class Pooled(Database):
    """A database behind transaction pooling, configured for it."""

    def settings(self, timeout: float = 5.0) -> StoreSettings:
        return replace(super().settings(timeout), prepared_statements=False)


@pytest.fixture(scope="module")
def pooler() -> Iterator[PgBouncer]:
    with PgBouncer(postgres.cluster(), "transaction", size=3) as pooler:
        yield pooler


@pytest.fixture
async def database(tmp_path: Path, pooler: PgBouncer) -> AsyncIterator[Pooled]:
    name = await asyncio.to_thread(lent_databases.borrow)
    await asyncio.to_thread(postgres.migrated, postgres.cluster().url(name), tmp_path)
    database = Pooled(tmp_path, pooler.url(name))
    yield database
    await database.close()
    await asyncio.to_thread(lent_databases.give_back, name)


@pytest.fixture
def store(database: Pooled) -> Store:
    return database.open()


if SOAK:

    @pytest.mark.soak
    @pytest.mark.timeout(LONGEST)
    class TestByTransaction(StoreContract):
        pass


async def test_many_concurrent_reads_share_a_few_servers(database: Pooled) -> None:
    stores = [database.open() for _ in range(3)]
    await stores[0].add_suppressions([entry(name) for name in NAMES[::2]])

    async def ask(store: Store, name: str) -> bool:
        return name in await store.facts(Lookups((name,)))

    asked = [ask(store, name) for name in NAMES for store in stores]
    assert await asyncio.gather(*asked) == [n % 2 == 0 for n in range(40) for _ in stores]


async def test_a_read_is_a_transaction_with_the_settings_of_a_session(
    database: Pooled, pooler: PgBouncer
) -> None:
    store = database.open()
    await store.version()
    name = database.url.rpartition("/")[2]
    before = pooler.queries(name)
    for _ in range(10):
        await store.version()
    assert pooler.queries(name) == before + 3 * 10  # BEGIN, the query, COMMIT
    async with store._reading() as session:  # type: ignore[attr-defined]
        for setting, value in {"enable_seqscan": "off", "lock_timeout": "2s"}.items():
            assert await session.fetch_all(f"SHOW {setting}") == [(value,)]


async def test_a_purge_keeps_recently_matched_suppressions(store: Store) -> None:
    await store.add_suppressions([entry(name) for name in NAMES])
    matched = [{NAMES[0]: T0 + 500 * DAY}]
    purged = await store.purge_suppressions(T0 + 400 * DAY, matched=matched)
    assert purged.removed.rows == len(NAMES) - 1
    assert await store.suppressions(NAMES[0])


async def test_relays_ask_each_other_about_messages(database: Pooled) -> None:
    asked = open_asked_messages(database.settings())
    journals = open_journals(database.settings())
    assert asked is not None
    assert journals is not None
    for part in (asked, journals):
        database.part(part)
    sent = row(1)
    message = SentMessage(Client("apps", "192.0.2.1", "app.example"), "app@shop.example", (ANNA,))
    await journals.tell(ONE, "mx1.example", T0)
    await journals.add(ONE, [sent], {0: 1})
    assert await asked.ask([sent.id], T0) == {}
    assert await asked.asked(ONE, 10) == [sent.id]
    await asked.answer(ONE, {sent.id: message}, T0)
    assert await asked.ask([sent.id], T0) == {sent.id: message}
    await asked.used([sent.id])
    await asked.forget(T0)
    assert await asked.ask([sent.id], T0) == {}


async def test_a_standby_is_not_read(database: Pooled, tmp_path: Path) -> None:
    """The pooler may switch to one at any time, so each transaction checks."""
    server = await asyncio.to_thread(postgres.PostgresCluster)
    try:
        name = server.create()
        await asyncio.to_thread(postgres.migrated, server.url(name), tmp_path)
        server.restart_as_standby()
        store = Pooled(tmp_path, server.url(name)).open(timeout=0.5)
        with pytest.raises(StoreUnavailable, match="standby"):
            await store.facts(Lookups((ANNA,)))
        await store.close()
    finally:
        server.stop()


async def test_lost_prepared_statements_are_reported_with_the_setting_to_change(
    database: Pooled,
) -> None:
    """Since 1.21 PgBouncer keeps them, and it is the session's settings that are lost."""
    store = Database(database.folder, database.url).open()
    other = await asyncpg.connect(database.url, statement_cache_size=0)

    async def read_on_two_servers() -> None:
        await store.version()
        async with other.transaction():  # occupies the server with the prepared statement
            await other.execute("SELECT 1")
            await store.version()

    try:
        with pytest.raises(StoreMisconfigured, match=r"store\.prepared_statements = false"):
            await read_on_two_servers()
    finally:
        await other.close()
        await store.close()


async def test_prepared_statements_kept_by_a_newer_pgbouncer_are_reported_too(
    database: Pooled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 1.21 on it names them itself, in transaction mode only."""
    numbers = itertools.count(1)
    name = database.url.rpartition("/")[2]
    monkeypatch.setattr(
        asyncpg.Connection, "_get_unique_id", lambda _, prefix: f"PGBOUNCER_{next(numbers)}"
    )
    store = Database(database.folder, postgres.cluster().url(name)).open()
    with pytest.raises(StoreMisconfigured, match=r"store\.prepared_statements = false"):
        await store.version()
    await store.close()


async def test_a_session_gets_its_settings_despite_pgbouncer(
    database: Database, tmp_path: Path
) -> None:
    name = database.url.rpartition("/")[2]
    with PgBouncer(postgres.cluster(), "session") as pooler:
        store = Database(tmp_path, pooler.url(name)).open()
        async with store._reading() as session:  # type: ignore[attr-defined]
            for setting, value in {"enable_seqscan": "off", "lock_timeout": "2s"}.items():
                assert await session.fetch_all(f"SHOW {setting}") == [(value,)]
        await store.close()
        store = Database(tmp_path, f"{pooler.url(name)}?jit=off").open()
        with pytest.raises(StoreMisconfigured, match="ignore_startup_parameters"):
            await store.version()
        await store.close()
