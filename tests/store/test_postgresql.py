"""Specific to PostgreSQL: versions, concurrent writers, roles, migrations, failures."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from smtpproxy.policy.model import Lookups
from smtpproxy.settings import StoreSettings
from smtpproxy.store import open_confirmation_limit, open_store, store_connections
from smtpproxy.store.postgres import migrations, target
from smtpproxy.store.postgres.connection import Lease
from smtpproxy.store.postgres.session import translated
from smtpproxy.store.records import StoreInaccessible, StoreMisconfigured, StoreUnavailable
from smtpproxy.store.sql.store import Store
from tests.kit import postgres
from tests.kit.parts import needs
from tests.kit.ports import wait_for
from tests.kit.postgres import PostgresCluster
from tests.store.conftest import Database, OnPostgresql
from tests.store.contract import ANNA, DAY, T0, WHOLE, entry, facts_of

pytestmark = needs("postgresql")
NAMES = tuple(f"p{n}@people.example" for n in range(40))


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    postgres.cluster()
    with await asyncio.to_thread(OnPostgresql, tmp_path) as database:
        yield database
        await database.close()


@pytest.fixture
def server() -> Iterator[PostgresCluster]:
    """A server that a test may stop or break."""
    server = PostgresCluster()
    yield server
    server.stop()


def sql(database: Database, *statements: str) -> str:
    name = database.url.partition("///")[2].partition("?")[0]
    return postgres.cluster().sql(name, *statements)


def test_placeholders_are_numbered_and_unused_values_are_not_sent() -> None:
    assert translated("a = ? AND b = ?") == ("a = $1 AND b = $2", (0, 1))
    assert translated("a = ?3 AND b = ?1 AND c = ?3") == ("a = $1 AND b = $2 AND c = $1", (2, 0))
    assert translated("a = ? /*AND b = ?*/ LIMIT ?") == ("a = $1 AND b = $2 LIMIT $3", (0, 1, 2))


async def test_tasks_waiting_for_a_connection_are_counted(database: Database) -> None:
    settings = replace(database.settings(), connections=3)  # two of them are not for reads
    store = open_store(settings, database.folder, read_only=True)
    database.opened.append(store)
    await store.facts(Lookups((ANNA,)))
    name = database.url.partition("///")[2].partition("?")[0]
    with postgres.cluster().session(name) as say:
        say("BEGIN; LOCK TABLE contact IN ACCESS EXCLUSIVE MODE; SELECT 1;")
        asked = []
        for _ in range(3):  # each in its own turn of the loop
            asked.append(asyncio.ensure_future(facts_of(store, ANNA)))
            await asyncio.sleep(0.05)
        (use,) = store_connections()
        assert (use.busy, use.limit, use.waiting) == (1, 3, 2)
    await asyncio.gather(*asked)
    (use,) = store_connections()
    assert (use.busy, use.waiting) == (0, 0)
    assert use.waited > 0.05


async def test_every_commit_that_affects_decisions_changes_the_version(
    database: Database,
) -> None:
    store = database.open()
    versions = [await store.version()]
    await store.add_suppressions([entry()])
    versions.append(await store.version())
    sql(database, "DELETE FROM suppression")  # by another program
    versions.append(await store.version())
    await store.put_contacts([WHOLE])
    versions.append(await store.version())
    assert len(set(versions)) == len(versions)
    assert await store.version() == versions[-1]


async def test_another_commit_with_the_same_number_changes_the_version(database: Database) -> None:
    """A promoted standby may lack the last commits and have others in their place."""
    store: Any = database.open()
    before = await store.version()
    sql(database, "UPDATE store_state SET version = version")  # by another program
    after = await store.version()
    assert after != before
    assert after[0] == before[0]


async def test_concurrent_writers_wait_and_no_write_is_lost(database: Database) -> None:
    stores = [database.open(timeout=20.0) for _ in range(4)]
    writes = [stores[n % 4].add_suppressions([entry(name)]) for n, name in enumerate(NAMES)]
    await asyncio.gather(*writes)
    assert (await stores[0].counts())[1]["marketing", "unsubscribe"] == len(NAMES)
    changes = await stores[0].changes(0, 100)
    assert [change.seq for change in changes] == list(range(1, len(NAMES) + 1))


async def test_a_write_that_waits_too_long_fails(database: Database) -> None:
    first, second = database.open(), database.open(timeout=0.3)
    async with first._writing() as session:  # type: ignore[attr-defined]
        await session.run("SELECT 1")
        with pytest.raises(StoreUnavailable, match="in time"):
            await second.add_suppressions([entry()])
    await second.add_suppressions([entry()])


@pytest.mark.parametrize("broken", ["DROP TABLE contact CASCADE", "DROP TABLE store_state CASCADE"])
async def test_missing_tables_make_the_store_unavailable(database: Database, broken: str) -> None:
    store = database.open(timeout=0.5)
    await store.put_contacts([WHOLE])
    sql(database, broken)
    with pytest.raises(StoreUnavailable):
        await store.facts(Lookups((WHOLE.address,)))


async def test_concurrent_migrations_run_once(tmp_path: Path) -> None:
    server = postgres.cluster()
    url = server.url(server.create())
    lease = Lease(target(Database(tmp_path, url).settings(20.0)))
    with closing(lease):
        made = [migrations.migrate(lease.database, tmp_path) for _ in range(3)]
        newest = len(migrations.migrations())
        assert sorted(await asyncio.gather(*made)) == [(0, newest)] + [(newest, newest)] * 2


async def test_a_database_that_is_too_new_is_refused(database: Database) -> None:
    store, newest = database.open(read_only=True), len(migrations.migrations())
    sql(database, f"UPDATE schema_version SET version = {newest + 1}, oldest = 1")
    await store.ping()  # a migration that is compatible with this release
    sql(database, f"UPDATE schema_version SET version = {newest + 2}, oldest = {newest + 2}")
    with pytest.raises(StoreMisconfigured, match="run a newer release"):
        await database.open(read_only=True).ping()


async def test_an_older_database_is_refused_with_the_command_to_run(
    database: Database,
) -> None:
    sql(database, "UPDATE schema_version SET version = 0, oldest = 0")
    with pytest.raises(StoreMisconfigured, match="smtpproxy migrate brings it up to date"):
        await database.open(read_only=True).ping()


async def test_the_tables_of_a_preview_are_refused(database: Database) -> None:
    """Previews numbered their migrations as well, and no later one fits them."""
    sql(database, "UPDATE schema_version SET version = 1", "DROP INDEX report_erased")
    lease = Lease(target(database.settings()))
    with closing(lease), pytest.raises(StoreMisconfigured, match=r"by a preview .* new database"):
        await migrations.migrate(lease.database, database.folder)
    with pytest.raises(StoreMisconfigured, match="by a preview"):
        await database.open(read_only=True).ping()


async def test_roles_may_only_read_or_write(database: Database) -> None:
    reader, writer = (f"{role}_{id(database)}" for role in ("reads", "writes"))
    sql(database, f"CREATE ROLE {reader} LOGIN", f"CREATE ROLE {writer} LOGIN")
    lease = Lease(target(database.settings()))
    with closing(lease):
        roles: dict[str, Any] = {"readers": [reader], "writers": [writer]}
        await migrations.migrate(lease.database, database.folder, **roles)
    writing = _as(database, writer).open()
    await writing.put_contacts([WHOLE])
    await writing.add_suppressions([entry()])
    await writing.remove_suppression(ANNA, at=WHOLE.acts[0].at, reason="x")
    reading = _as(database, reader).open()
    assert (await facts_of(reading, WHOLE.address)).contact
    with pytest.raises(StoreUnavailable, match="permission denied"):
        await reading.add_suppressions([entry()])
    with pytest.raises(StoreUnavailable):
        async with writing._writing() as session:  # type: ignore[attr-defined]
            await session.run("DROP TABLE contact")


def _as(database: Database, role: str) -> Database:
    return Database(database.folder, database.url.rpartition("&")[0] + f"&user={role}")


async def test_a_restart_within_the_timeout_goes_unnoticed(
    tmp_path: Path, server: PostgresCluster
) -> None:
    store = await _opened(tmp_path, server, timeout=20.0)
    server.kill()
    asked = asyncio.create_task(facts_of(store, ANNA))
    await asyncio.to_thread(asyncio.run, asyncio.sleep(0.2))
    server.start()
    assert (await asked).suppressions
    await store.close()


async def test_a_hanging_database_is_given_up_in_time(
    tmp_path: Path, server: PostgresCluster
) -> None:
    store = await _opened(tmp_path, server, timeout=0.5)
    server.signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(5):
            for _ in range(3):
                with pytest.raises(StoreUnavailable, match="in time"):
                    await store.facts(Lookups((ANNA,)))
            with pytest.raises(StoreUnavailable, match="in time"):
                await store.version()
    finally:
        server.signal(signal.SIGCONT)
    assert (await facts_of(store, ANNA)).suppressions
    await store.close()


@pytest.mark.parametrize("hangs_at", ["the first statement", "the commit"])
async def test_a_write_without_an_answer_fails_in_time(
    tmp_path: Path, server: PostgresCluster, hangs_at: str
) -> None:
    """The database's machine is gone, and nothing on the network says so."""
    store: Any = await _opened(tmp_path, server, timeout=0.5)

    async def write() -> None:
        if hangs_at == "the first statement":
            server.signal(signal.SIGSTOP)
        async with store._writing() as session:
            await session.run("UPDATE store_state SET version = version")
            server.signal(signal.SIGSTOP)

    try:
        async with asyncio.timeout(8) as bound:
            with pytest.raises(StoreUnavailable, match="in time"):
                await write()
        assert not bound.expired()
    finally:
        server.signal(signal.SIGCONT)
    assert (await facts_of(store, ANNA)).suppressions
    await store.close()


async def test_a_commit_waiting_for_a_lost_standby_does_not_count_as_done(
    tmp_path: Path, server: PostgresCluster
) -> None:
    """Nor does one that an operator releases without the standby; either may be repeated."""
    store = await _opened(tmp_path, server, timeout=0.5)
    lost = "ALTER SYSTEM SET synchronous_standby_names = 'nobody'"
    server.sql("postgres", lost, "SELECT pg_reload_conf()")
    await asyncio.to_thread(wait_for, lambda: _commits_wait(server), "commits to wait")
    with pytest.raises(StoreUnavailable, match="may or may not be written: do it again"):
        await store.add_suppressions([entry(NAMES[0])])
    with pytest.raises(StoreUnavailable, match="in time"):  # it waits for the first commit
        await store.add_suppressions([entry(NAMES[0])])
    assert server.sql("postgres", _RELEASE) == "t"
    writing = asyncio.create_task(store.add_suppressions([entry(NAMES[1])]))
    released = lambda: server.sql("postgres", _RELEASE) == "t"  # noqa: E731
    await asyncio.to_thread(wait_for, released, "the commit to wait for the standby")
    with pytest.raises(StoreUnavailable, match="the standby did not"):
        await writing
    server.sql("postgres", "ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()")
    result = await store.add_suppressions([entry(name) for name in NAMES[:3]])
    assert (result.added, result.unchanged) == (1, 2)
    await store.close()


_RELEASE = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


def _commits_wait(server: PostgresCluster) -> bool:
    """Tell whether commits wait for a standby, as they do once the checkpointer has reloaded."""
    with ThreadPoolExecutor(1) as pool:
        commit = pool.submit(server.sql, "postgres", "COMMENT ON DATABASE postgres IS 'tried'")
        while not commit.done():
            if server.sql("postgres", _RELEASE) == "t":
                return True
        return False


async def test_require_synchronous_refuses_work_while_commits_do_not_wait(
    tmp_path: Path, server: PostgresCluster
) -> None:
    """Checked each time: it may change while we are connected."""
    url = server.url(server.create())
    await asyncio.to_thread(postgres.migrated, url, tmp_path)
    store = open_store(StoreSettings(url, 0.5, require_synchronous=True), tmp_path)

    async def may_read() -> bool:
        try:
            return not await store.facts(Lookups((ANNA,)))
        except StoreInaccessible:
            return False

    async def turns(may: bool, setting: str, value: str) -> None:
        server.sql("postgres", f"ALTER SYSTEM SET {setting} = '{value}'", "SELECT pg_reload_conf()")
        async with asyncio.timeout(5):
            while await may_read() is not may:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    assert not await may_read()
    with pytest.raises(StoreInaccessible, match="do not wait for a standby"):
        await store.add_suppressions([entry()])
    await turns(True, "synchronous_standby_names", "nobody")
    await turns(False, "synchronous_commit", "local")
    await turns(True, "synchronous_commit", "remote_apply")
    await turns(False, "synchronous_standby_names", "")
    with pytest.raises(StoreInaccessible, match="do not wait for a standby"):
        await store.add_suppressions([entry()])
    await store.close()


async def test_an_old_primary_is_refused_once_another_took_over(
    tmp_path: Path, server: PostgresCluster
) -> None:
    store = await _opened(tmp_path, server, timeout=0.5)
    system, timeline = (tmp_path / "timeline").read_text().split()
    assert timeline == "1"
    # as written by another process of this relay that met the new primary
    (tmp_path / "timeline").write_text(f"{system} 2\n")
    server.kill()
    server.start()
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="old primary, on timeline 1, while another"):
            await store.facts(Lookups((ANNA,)))
        with pytest.raises(StoreUnavailable, match="stop it, or make it a standby"):
            await store.add_suppressions([entry()])
    server.restart_as_standby()
    server.sql("postgres", "SELECT pg_promote()")
    assert (await facts_of(store, ANNA)).suppressions
    await store.close()


async def test_writers_wait_for_each_other_in_a_serializable_database(database: Database) -> None:
    name = database.url.partition("///")[2].partition("?")[0]
    sql(database, f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    stores = [database.open(timeout=20.0) for _ in range(4)]
    writes = [stores[n % 4].add_suppressions([entry(name)]) for n, name in enumerate(NAMES)]
    await asyncio.gather(*writes)
    assert (await stores[0].counts())[1]["marketing", "unsubscribe"] == len(NAMES)


async def test_a_standby_is_refused_whatever_the_url_says(
    tmp_path: Path, server: PostgresCluster
) -> None:
    """It answers from some time ago: somebody may have objected since."""
    stores = []
    for attributes in ("", "any", "prefer-standby", "primary", "read-write"):
        folder = tmp_path / f"state {attributes}"
        folder.mkdir()
        told = f"&target_session_attrs={attributes}" if attributes else ""
        stores.append(await _opened(folder, server, timeout=0.5, told=told))
    server.restart_as_standby()
    for store in stores:
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="standby"):
                await store.facts(Lookups((ANNA,)))
            with pytest.raises(StoreUnavailable, match="standby"):
                await store.version()
        with pytest.raises(StoreUnavailable, match="standby"):
            await store.imports()
        await store.close()


async def _opened(
    folder: Path, server: PostgresCluster, *, timeout: float, told: str = ""
) -> Store:
    url = server.url(server.create()) + told
    await asyncio.to_thread(postgres.migrated, url, folder)
    store = Database(folder, url).open(timeout=timeout)
    await store.add_suppressions([entry()])
    return store


async def test_conflicting_rows_of_one_batch_are_applied_in_order(database: Database) -> None:
    store = database.open()
    again = [entry(since=T0 + days * DAY) for days in (0, 2, 1)]
    result = await store.add_suppressions([*again, entry(NAMES[0])])
    assert (result.added, result.changed, result.unchanged) == (2, 1, 1)
    assert [one.since for one in await store.suppressions(ANNA)] == [T0 + 2 * DAY]
    assert len(await store.changes(0, 10)) == 3  # two were added and one of them moved


def test_it_works_in_successive_event_loops(tmp_path: Path) -> None:
    with OnPostgresql(tmp_path) as database:
        limit = open_confirmation_limit(database.settings())
        for allowed in (True, False):
            taken = limit.take(ANNA, T0, per_address=1, per_day=9)
            assert asyncio.run(taken) is allowed
        limit.close()


async def test_no_read_uses_parallel_workers(database: Database) -> None:
    """Starting them takes longer than the read."""
    lease = Lease(target(database.settings()))
    with closing(lease):
        async with lease.database.connection() as connection:
            for setting in ("max_parallel_workers_per_gather", "jit", "enable_seqscan"):
                assert await connection.fetchval(f"SHOW {setting}") in ("0", "off")
