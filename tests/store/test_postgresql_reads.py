"""How often PostgreSQL is queried: waiting reads share a statement, and connections are kept."""

import asyncio
import gc
import re
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.policy.model import Lookups, Stream
from smtpproxy.store import feedback, open_mailings
from smtpproxy.store.keys import Partner, SuppressionKey
from smtpproxy.store.postgres import reader, target
from smtpproxy.store.postgres.connection import Database as PostgresDatabase
from smtpproxy.store.postgres.connection import Lease, session_settings
from smtpproxy.store.postgres.session import translated
from smtpproxy.store.postgres.statements import VERSION, facts_query
from smtpproxy.store.sql import contacts, imported_contacts, live_keys, stream_counts
from smtpproxy.store.sql.rows import Row
from smtpproxy.store.sql.session import (
    ASKED_EXACT,
    ASKED_SUPPRESSIONS,
    ASKED_WIDE,
    Session,
    looked_up,
)
from tests.kit import postgres
from tests.kit.parts import needs
from tests.store.conftest import Database, OnPostgresql
from tests.store.contract import ANNA, T0, entry, facts_of

pytestmark = needs("postgresql")
NAMES = tuple(f"p{n}@people.example" for n in range(40))


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    postgres.cluster()
    with await asyncio.to_thread(OnPostgresql, tmp_path) as database:
        yield database
        await database.close()


class Queries:
    """The statements sent to a database; none is answered until `goes_on` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.statements: list[str] = []
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        ask = PostgresDatabase.fetch

        async def noted(database: PostgresDatabase, sql: str, *more: Any) -> Any:
            self.statements.append(sql)
            await self.goes_on.wait()
            return await ask(database, sql, *more)

        monkeypatch.setattr(PostgresDatabase, "fetch", noted)


async def test_reads_in_one_turn_of_the_loop_share_a_statement(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = database.open()
    await store.add_suppressions([entry(name) for name in NAMES[::2]])
    await store.facts(Lookups((ANNA,)))
    asked = Queries(monkeypatch)
    found = await asyncio.gather(*(store.facts(Lookups((name,))) for name in NAMES))
    assert [bool(facts) for facts in found] == [True, False] * 20
    assert len(asked.statements) == 1


async def test_reads_during_a_statement_share_the_next_one(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_BATCH_WAIT", 60.0)
    store = database.open(timeout=60)
    await store.add_suppressions([entry(name) for name in NAMES[::2]])
    await store.facts(Lookups((ANNA,)))
    asked = Queries(monkeypatch)
    asked.goes_on.clear()
    found = []
    for name in NAMES:
        found.append(asyncio.ensure_future(facts_of(store, name)))
        await asyncio.sleep(0.001)
    asked.goes_on.set()
    facts = await asyncio.gather(*found)
    assert [bool(one.suppressions) for one in facts] == [True, False] * 20
    assert len(asked.statements) == 2


async def test_no_read_waits_long_for_another(database: Database) -> None:
    store = database.open(timeout=60)
    await store.facts(Lookups((ANNA,)))
    name = database.url.partition("///")[2].partition("?")[0]
    with postgres.cluster().session(name) as say:
        say("BEGIN; LOCK TABLE contact IN ACCESS EXCLUSIVE MODE; SELECT 1;")
        hangs = asyncio.ensure_future(facts_of(store, ANNA))
        await asyncio.sleep(0.05)
        versions = await asyncio.gather(store.version(), store.version())
        assert not hangs.done()
    await hangs
    assert versions[0] == versions[1]


async def test_a_late_event_loop_reads_the_answer_before_asking_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Any = database.open()
    await store.version()
    asked = Queries(monkeypatch)
    asked.goes_on.clear()
    first, second = (asyncio.ensure_future(_version(store)) for _ in range(2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    third = asyncio.ensure_future(_version(store))
    await asyncio.sleep(0)
    asked.goes_on.set()
    store._reader._due -= 1.0  # as after a long turn of the loop
    store._reader._on_timer()
    assert len(asked.statements) == 1
    await asyncio.gather(first, second, third)
    assert len(asked.statements) == 2


async def _version(store: Any) -> object:
    return await store.version()


async def test_the_version_is_queried_alone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = database.open()
    await store.facts(Lookups((ANNA,)))
    asked = Queries(monkeypatch)
    await store.version()
    assert asked.statements == [VERSION]


async def test_a_connection_is_kept_and_replaced_once_it_has_ended(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = database.open()
    await store.facts(Lookups((ANNA,)))
    lent = 0
    lend = PostgresDatabase._lent

    async def counted(database: PostgresDatabase) -> Any:
        nonlocal lent
        lent += 1
        return await lend(database)

    monkeypatch.setattr(PostgresDatabase, "_lent", counted)
    for _ in range(10):
        await store.version()
    assert lent == 0
    name = database.url.partition("///")[2].partition("?")[0]
    await asyncio.to_thread(
        postgres.cluster().sql,
        name,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    await store.version()
    assert lent >= 1


async def test_a_connection_is_not_kept_in_an_open_transaction(
    database: Database,
) -> None:
    lease = database.part(Lease(target(database.settings())))
    async with lease.database.connection() as connection:
        await connection.execute("BEGIN")
    async with lease.database.connection() as connection:
        assert not connection.is_in_transaction()


async def test_a_mailing_takes_four_round_trips(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncpg

    mailings = open_mailings(database.settings())
    assert mailings is not None
    database.part(mailings)
    stream = Stream("offers")
    await mailings.reserve("1", stream, [ANNA], T0)
    said: list[str] = []
    for way in ("execute", "fetch", "fetchmany", "prepare"):
        monkeypatch.setattr(asyncpg.Connection, way, _noting(said, way))
    known = await mailings.reserve("2", stream, [ANNA], T0)
    assert [len(one.mailings) for one in known.values()] == [1]
    assert [text.split()[0] for text in said] == ["BEGIN", "SELECT", "WITH", "COMMIT"]


def _noting(said: list[str], way: str) -> Any:
    import asyncpg

    does = getattr(asyncpg.Connection, way)

    async def noted(connection: Any, text: str, *values: Any, **more: Any) -> Any:
        said.append(text)
        return await does(connection, text, *values, **more)

    return noted


def test_a_store_does_not_keep_closed_event_loops_alive(tmp_path: Path) -> None:
    postgres.cluster()
    with OnPostgresql(tmp_path) as database:
        store = database.open()
        loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

        async def asks() -> None:
            loops.append(weakref.ref(asyncio.get_running_loop()))
            await store.version()

        for _ in range(3):
            asyncio.run(asks())
        asyncio.run(store.close())
        gc.collect()
        assert [loop() for loop in loops[:-1]] == [None] * 2


SUPPRESSIONS = """
INSERT INTO suppression (wide_key, exact_key, scope, origin, since, key_version, renewed_at)
SELECT sha224(n::text::bytea), sha256(n::text::bytea), 'all', 'bounce', 0, 1, 0
FROM generate_series(1, 1000) AS n;
"""


def explained(database: Database, statement: str, values: str, rows: str) -> str:
    """Return the plan by which a statement runs that was planned before there were any rows."""
    settings = "".join(f"SET {n} = '{v}';" for n, v in session_settings(2.0).items())
    return postgres.cluster().sql(
        database.url.partition("///")[2].partition("?")[0],
        f"""
        {settings}
        ANALYZE;
        PREPARE asked AS {statement};
        EXECUTE asked ({values});
        {rows}
        EXPLAIN (ANALYZE, TIMING OFF) EXECUTE asked ({values});
        """,
    )


def test_people_are_found_by_index_whatever_plan_is_cached(database: Database) -> None:
    """Also right after a partner's first snapshot."""
    key = SuppressionKey(bytes(32))
    texts = ", ".join(f"'{digits}'" for digits in ("1" * 32, "1" * 64, "1" * 32) * 2)
    rows = f"""
    INSERT INTO contact (id, address, audience)
    SELECT n, 'p' || n || '@x.example', 'consumer' FROM generate_series(1, 1000) AS n;
    INSERT INTO consent_act (contact, sequence, at, withdrawal, purpose)
    SELECT n, 0, 0, 0, 'offers' FROM generate_series(1, 1000) AS n;
    {SUPPRESSIONS}
    INSERT INTO partner_snapshot (partner, snapshot, key, sender, taken_at, imported_at, count,
        digest) VALUES ('boots', 1, '{key.fingerprint}', 'b.example', 0, 0, 1000, '');
    INSERT INTO partner_entry (snapshot, wide_key, exact_key, scope, origin, since)
    SELECT 1, wide_key, exact_key, scope, origin, since FROM suppression;
    """
    statement = facts_query([Partner("boots", key)])
    said = explained(database, statement, f"ARRAY['p1@x.example'], {texts}", rows)
    found = re.findall(
        r" on (contact|consent_act|suppression|partner_entry)\b.*actual rows=(\d+)", said
    )
    assert sorted(found) == [
        *(("consent_act", "1"), ("contact", "1")),
        *(("partner_entry", "0"), ("partner_entry", "0")),
        *(("suppression", "0"), ("suppression", "0")),
    ], said
    assert len(re.findall(r"Index Cond: \(\(snapshot = .*wide_key = ", said)) == 2, said
    assert "Removed by" not in said, said


def test_changed_contacts_are_found_by_index_whatever_plan_is_cached(database: Database) -> None:
    found = looked_up("contact", "address = asked.value")
    statement, _ = translated(f"SELECT address FROM json_each(?) AS asked {found}")
    rows = """
    INSERT INTO contact (id, address, audience)
    SELECT n, 'p' || n || '@x.example', 'consumer' FROM generate_series(1, 1000) AS n;
    """
    said = explained(database, statement, """'["p1@x.example"]'""", rows)
    assert re.findall(r"using contact_address_key.*actual rows=(\d+)", said) == ["1"], said
    assert "Removed by" not in said, said


def test_purging_reports_does_not_scan_all_waiting_bounces(database: Database) -> None:
    """With 150,000 of them, 1,000 reports once took half a minute."""
    rows = """
    INSERT INTO report
    SELECT 'R' || n, n, 'bounce', '', 0, 'a' FROM generate_series(1, 1000) AS n;
    INSERT INTO hand_on
    SELECT sha256(n::text::bytea), 'R' || n, '', n, 0, n, 'a' FROM generate_series(2, 1000) AS n;
    """
    said = explained(database, translated(feedback._OLD)[0], "2000, 'a', 10", rows)
    assert re.findall(r" on hand_on .*actual rows=(\d+) loops=1000", said) == ["1"], said


def test_a_repeated_suppression_is_found_by_index_whatever_plan_is_cached(
    database: Database,
) -> None:
    """Otherwise one unsubscribe reads all suppressions until the database analyses the table."""
    asked = f"SELECT * FROM {ASKED_SUPPRESSIONS} WHERE {ASKED_WIDE} AND {ASKED_EXACT}"
    statement, places = translated(asked)
    octets = "1" * (16 + 32) * 2
    values = ", ".join([f"'\\x{octets}'", "'[0]'"][place] for place in places)
    said = explained(database, statement, values, SUPPRESSIONS)
    assert re.findall(r"using suppression_pkey.*actual rows=(\d+)", said) == ["0"], said
    assert "Removed by" not in said, said


CONTACTS = """
INSERT INTO contact (id, address, audience)
SELECT n, 'p' || n || '@x.example', 'consumer' FROM generate_series(1, 1000) AS n;
INSERT INTO contact_version (contact, number, state)
SELECT n, 1, '[]' FROM generate_series(1, 1000) AS n;
INSERT INTO rectification (contact, at, reason, changes) SELECT n, 0, 'wrong', replace(
    '[{"field":"address","before":"o?@x.example","after":"p?@x.example"}]', '?', n::text)
FROM generate_series(1, 1000) AS n;
"""
LIFTED = f"""
{SUPPRESSIONS}
INSERT INTO lifted_suppression
    (wide_key, exact_key, scope, origin, since, key_version, lifted_at, reason)
SELECT wide_key, exact_key, scope, origin, since, key_version, 0, 'asked' FROM suppression;
"""
CAMPAIGNS = """
INSERT INTO campaign_person (campaign, person, id, dead)
SELECT 'c' || n, '', 'ID' || n, 0 FROM generate_series(1, 1000) AS n;
"""


class NotingSession:
    """A session that records its queries and returns no rows."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[object, ...]]] = []

    async def fetch_all(self, sql: str, *values: object) -> list[Row]:
        self.asked.append((sql, values))
        return []

    async def run(self, sql: str, *values: object) -> int:
        raise AssertionError(sql)

    async def run_many(self, sql: str, values: Iterable[Row]) -> int:
        assert not list(values), sql
        return 0


@pytest.mark.parametrize(
    ("asks", "rows"),
    [
        (lambda session: contacts.by_number(session, [1]), CONTACTS),
        (lambda session: contacts.moved_to(session, ["o1@x.example"]), CONTACTS),
        (lambda session: imported_contacts.chains(session, [1]), CONTACTS),
        (lambda session: imported_contacts.origins(session, [1]), CONTACTS),
        (lambda session: live_keys.move(session, [(bytes(16), bytes(32)) * 2 + (2,)]), LIFTED),
        (lambda session: session.fetch_all(stream_counts._BEGAN, "c999"), CAMPAIGNS),
    ],
)
async def test_few_rows_are_read_whatever_plan_is_cached(
    database: Database, asks: Callable[[Session], Awaitable[object]], rows: str
) -> None:
    session = NotingSession()
    await asks(session)
    ((sql, values),) = session.asked
    statement, places = translated(sql)
    literals = [f"'\\x{v.hex()}'" if isinstance(v, bytes) else f"'{v}'" for v in values]
    given = ", ".join(literals[place] for place in places)
    said = await asyncio.to_thread(explained, database, statement, given, rows)
    assert not re.search(r"(?:Removed by .*: |actual rows=)\d{3}", said), said
