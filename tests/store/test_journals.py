"""What relays that share a PostgreSQL know of each other's journals."""

import asyncio
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from smtpproxy.access import Access
from smtpproxy.config import load
from smtpproxy.policy.model import Action, Reason
from smtpproxy.process.journals import Indexer
from smtpproxy.settings import Settings, StoreSettings
from smtpproxy.store import open_journals
from smtpproxy.store.journals import IndexQuery, IndexRow, Outstanding, SharedJournals
from smtpproxy.store.postgres import target
from smtpproxy.store.postgres.connection import Lease
from smtpproxy.store.postgres.migrations import migrate
from smtpproxy.store.postgres.session import PostgresSession, translated
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sql.rows import Row
from smtpproxy.web.api.elsewhere import elsewhere
from tests.kit import postgres
from tests.kit.journal import START, Clock, decided, journal
from tests.kit.parts import needs
from tests.kit.relay import relay_config
from tests.kit.toml import to_toml
from tests.store.conftest import Database, OnPostgresql
from tests.store.contract import ANNA, DAY, T0
from tests.store.test_postgresql_reads import explained

pytestmark = needs("postgresql")
ONE, TWO = "00000000000000aa", "00000000000000bb"
BERT = "bert@people.example"
ID = "01KJKB3Q0062T0HAH063NCCJA7"
NEVER_PUT_BACK = 2**40
_COUNTING = """
CREATE TABLE tests.added AS SELECT 0 AS n;
CREATE FUNCTION tests.count_added() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN UPDATE tests.added SET n = n + 1; RETURN NULL; END $$;
CREATE TRIGGER added AFTER INSERT ON decision
FOR EACH STATEMENT EXECUTE FUNCTION tests.count_added();
"""
_NOT_COUNTING = """
DROP TRIGGER added ON decision;
DROP FUNCTION tests.count_added;
DROP TABLE tests.added;
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    postgres.cluster()
    with OnPostgresql(tmp_path) as database:
        yield database


@pytest.fixture
def journals(database: Database) -> Iterator[SharedJournals]:
    opened = open_journals(database.settings())
    assert opened is not None
    yield opened
    opened.close()


def test_a_store_for_one_relay_needs_none(tmp_path: Path) -> None:
    assert open_journals(Database(tmp_path).settings()) is None


def row(line: int, canonical: str | None = ANNA, relay: str = ONE, **over: object) -> IndexRow:
    values = {
        "relay": relay,
        "file": "01KJKB3Q0062T0HAH063NCCJA7-0.ndjson",
        "line": line,
        "recipient": 0,
        "id": f"{ID[:-2]}{line:02}",
        "at": T0 + line * DAY,
        "stream": "offers",
        "brand": "shop",
        "verdict": Action.ALLOW,
        "reason": Reason.NONE,
        "canonical": canonical,
    }
    return IndexRow(**(values | over))  # type: ignore[arg-type]


async def test_rows_added_twice_are_stored_once(journals: SharedJournals) -> None:
    assert await journals.tell(ONE, "mx1.example", T0) == {}
    await journals.add(ONE, [row(1), row(2)], {0: 2})
    await journals.add(ONE, [row(2), row(3)], {0: 3, 1: 7})
    assert [one.line for one in await journals.find(IndexQuery(), 10)] == [3, 2, 1]
    assert await journals.tell(ONE, "mx1.example", T0) == {0: 3, 1: 7}


async def test_a_batch_is_added_in_one_statement(
    journals: SharedJournals, database: Database
) -> None:
    cluster, name = postgres.cluster(), database.url.partition("///")[2].partition("?")[0]
    cluster.sql(name, _COUNTING)
    await journals.tell(ONE, "mx1.example", T0)
    await journals.add(ONE, [row(n) for n in range(50)], {0: 50})
    assert cluster.sql(name, "SELECT n FROM tests.added") == "1"
    cluster.sql(name, _NOT_COUNTING)


async def test_rows_are_found_by_every_criterion(journals: SharedJournals) -> None:
    for relay in (ONE, TWO):
        await journals.tell(relay, f"{relay[-2:]}.example", T0)
    refused = {"verdict": Action.REFUSE, "reason": Reason.CONSENT_MISSING, "stream": "news"}
    await journals.add(ONE, [row(1), row(2, BERT, **refused), row(3, None)], {0: 3})
    await journals.add(TWO, [row(4, relay=TWO)], {0: 4})

    async def found(**wanted: object) -> list[int]:
        asked = IndexQuery(**wanted)  # type: ignore[arg-type]
        return [one.line for one in await journals.find(asked, 10)]

    assert await found(recipients=(ANNA,)) == [4, 1]
    assert await found(recipients=(ANNA, BERT)) == [4, 2, 1]
    assert await found(id=f"{ID[:-2]}02") == [2]
    assert await found(id=ID[:-2]) == [4, 3, 2, 1]
    assert await found(stream="news", reason=Reason.CONSENT_MISSING) == [2]
    assert await found(verdict=Action.ALLOW, since=T0 + 3 * DAY) == [4, 3]
    assert await found(until=T0 + 2 * DAY) == [1]
    await journals.add(TWO, [row(5, relay=TWO, brand="other")], {0: 5})
    assert await found(brands=frozenset({"shop"})) == [4, 3, 2, 1]
    (newest,) = await journals.find(IndexQuery(brands=frozenset({"shop"})), 1)
    assert newest.line == 4, "the limit must count rows of that brand"
    (theirs,) = await journals.find(IndexQuery(brands=frozenset({"shop"})), 10, but=ONE)
    assert (theirs.relay, theirs.host, theirs.canonical) == (TWO, "bb.example", None)
    assert len(await journals.find(IndexQuery(), 2)) == 2


async def test_a_token_for_one_brand_gets_as_many_rows_as_it_asks_for(
    database: Database, journals: SharedJournals, tmp_path: Path
) -> None:
    """However many newer rows there are of brands that it may not see."""
    await journals.tell(TWO, "mx2.example", T0)
    others = [row(line, relay=TWO, brand="other") for line in (2, 3)]
    await journals.add(TWO, [row(1, relay=TWO), *others], {0: 3})
    path = tmp_path / "smtpproxy.toml"
    path.write_text(to_toml(relay_config(tmp_path, "127.0.0.1:9")))
    settings = replace(load(path), store=database.settings())
    access = Access("shop", frozenset({"shop"}), settings)
    (found,) = await elsewhere(settings, access, IndexQuery(recipients=(ANNA,)), 1)
    assert found.row == 1


async def test_an_erasure_is_outstanding_until_every_relay_has_carried_it_out(
    journals: SharedJournals,
) -> None:
    for relay in (ONE, TWO):
        await journals.tell(relay, "mx.example", T0)
    await journals.add(ONE, [row(1), row(2, BERT)], {0: 2})
    numbers = await asyncio.gather(*(journals.add_erasure(who, T0) for who in (ANNA, BERT)))
    assert not await journals.find(IndexQuery(recipients=(ANNA, BERT)), 10)
    assert len(await journals.find(IndexQuery(), 10)) == 2

    await journals.add(ONE, [row(3)], {0: 3})  # written before the relay carried out the erasure
    outstanding = await journals.outstanding(ONE, NEVER_PUT_BACK)
    key = await journals.key()
    assert outstanding == Outstanding(max(numbers), frozenset({key(ANNA), key(BERT)}))
    await journals.carried_out(ONE, outstanding)
    assert not await journals.find(IndexQuery(recipients=(ANNA,)), 10)
    assert (await journals.outstanding(ONE, NEVER_PUT_BACK)).newest == 0
    assert [one.relay for one in await journals.behind(max(numbers))] == [TWO]


async def test_old_rows_are_forgotten_and_erasures_a_year_later(journals: SharedJournals) -> None:
    await journals.tell(ONE, "mx.example", T0)
    await journals.add(ONE, [row(1), row(2), row(3)], {0: 3})
    await journals.add_erasure(BERT, T0)
    assert await journals.prune(T0 + 3 * DAY, journals_before=T0) == 2
    assert [one.line for one in await journals.find(IndexQuery(), 10)] == [3]
    late = T0 + timedelta(days=370)
    assert await journals.prune(late, journals_before=T0) == 1
    assert (await journals.outstanding(ONE, NEVER_PUT_BACK)).newest, (
        "journals may still hold the erased"
    )
    await journals.prune(late, journals_before=late)
    assert not (await journals.outstanding(ONE, NEVER_PUT_BACK)).newest


async def test_pruning_takes_several_batches_and_misses_no_row_of_one_moment(
    journals: SharedJournals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtpproxy.store.journals._AT_ONCE", 2)
    await journals.tell(ONE, "mx.example", T0)
    old = [row(line, at=T0 + (line // 4) * DAY) for line in range(9)]
    await journals.add(ONE, [*old, row(9)], {0: 9})
    assert await journals.prune(T0 + 3 * DAY, journals_before=T0) == 9
    assert [one.line for one in await journals.find(IndexQuery(), 10)] == [9]


def configured(root: Path, database: Database) -> Settings:
    path = root / "smtpproxy.toml"
    path.write_text(to_toml(relay_config(root, "127.0.0.1:9")))
    return replace(load(path), store=database.settings())


async def test_a_rebuilt_index_skips_rows_that_are_too_old(
    database: Database, journals: SharedJournals, tmp_path: Path
) -> None:
    settings = configured(tmp_path, database)
    clock = Clock()
    log = journal(settings.server.state_dir / "audit", clock)
    for days in (100, 1):
        await log.commit(decided(clock, ANNA))
        clock.tick(days=days)
    log.close()
    await Indexer(settings, journals, ONE, now=clock.now).look()
    (found,) = await journals.find(IndexQuery(), 10)
    assert clock.now() - found.at < 2 * DAY
    assert (await journals.tell(ONE, "mx.example", clock.now()))[0] >= found.line > 1


async def test_a_long_journal_is_read_beside_the_signs_of_life(
    database: Database, journals: SharedJournals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay takes a process without any for one that hangs, and it would begin again."""
    settings, clock = configured(tmp_path, database), Clock()
    log = journal(settings.server.state_dir / "audit", clock)
    await log.commit(decided(clock, ANNA))
    log.close()
    indexer, threads = Indexer(settings, journals, ONE, now=clock.now), list[threading.Thread]()
    read = indexer._tail._of_slot

    def noted(*asked: Any) -> Iterator[object]:
        threads.append(threading.current_thread())
        yield from read(*asked)

    monkeypatch.setattr(indexer._tail, "_of_slot", noted)
    await indexer.look()
    assert len(await journals.find(IndexQuery(), 10)) == 1
    assert threads
    assert threading.main_thread() not in threads


def behind(indexer: Indexer) -> float:
    return indexer.snapshot().gauges["audit_index_backlog_rows"][()]


async def test_a_relay_reports_every_ten_seconds_that_it_is_alive(
    database: Database, journals: SharedJournals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sooner if its clock was set back or the store did not answer: another relay may take over."""
    tell, told, clock = journals.tell, list[datetime](), Clock()

    async def noted(relay: str, host: str, at: datetime) -> Mapping[int, int]:
        told.append(at)
        return await tell(relay, host, at)

    async def unavailable(*_: object) -> None:
        raise StoreUnavailable("locked")

    monkeypatch.setattr(journals, "tell", noted)
    indexer = Indexer(configured(tmp_path, database), journals, ONE, now=clock.now)
    for seconds in (0, 9, 1, 9, -60, 9, 0):
        clock.tick(seconds=seconds)
        await indexer.look()
    assert [(at - START).total_seconds() for at in told] == [0, 10, -41]

    log = journal(tmp_path / "state" / "audit", clock)
    await log.commit(decided(clock, ANNA))
    log.close()
    with monkeypatch.context() as patch:
        patch.setattr(journals, "add", unavailable)
        with pytest.raises(StoreUnavailable):
            await indexer.look()
        assert behind(indexer) > 0
    await indexer.look()
    assert behind(indexer) == 0
    assert len(told) == 4
    assert len(await journals.find(IndexQuery(), 10)) == 1

    monkeypatch.setattr(journals, "add", unavailable)
    again = Indexer(indexer.settings, journals, ONE, now=clock.now)
    await again.look()  # it starts from what the store has, with nothing to add
    assert behind(again) == 0


async def test_rights_on_the_tables_extend_to_later_migrations(
    database: Database,
) -> None:
    role, name = f"relay_{id(database)}", database.url.partition("///")[2].partition("?")[0]
    rights = "SELECT, INSERT, UPDATE, DELETE"
    statements = f"CREATE ROLE {role} LOGIN", f"GRANT {rights} ON contact, secret TO {role}"
    postgres.cluster().sql(name, *statements)
    with closing(Lease(target(database.settings()))) as lease:
        await migrate(lease.database, None)
    journals = open_journals(StoreSettings(database.url.rpartition("&")[0] + f"&user={role}", 5.0))
    assert journals is not None
    await journals.tell(ONE, "mx.example", T0)
    await journals.add(ONE, [row(1)], {0: 1})
    assert await journals.add_erasure(ANNA, T0)
    journals.close()
    postgres.cluster().sql(name, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


DECISIONS = """
INSERT INTO journal (relay, host, told_at) VALUES ('mx1', 'mx1.example', 0);
INSERT INTO decision
SELECT 'mx1', 'f', n, 0, 'ID' || n, n, 'offers', 'shop', 'allow', 'none', FALSE,
    sha224(n::text::bytea)
FROM generate_series(1, 1000) AS n;
"""


@pytest.mark.parametrize(
    ("wanted", "values"),
    [
        (IndexQuery(id="ID77"), "'ID77', 'ID77~'"),
        (IndexQuery(recipients=(ANNA,)), "ARRAY[sha224('77')]"),
    ],
)
async def test_few_rows_are_read_whatever_plan_is_cached(
    journals: SharedJournals,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    wanted: IndexQuery,
    values: str,
) -> None:
    """A search by id could scan even an analysed table: its cached plan is for any id."""
    asked: list[str] = []
    fetch_all = PostgresSession.fetch_all

    async def noted(session: PostgresSession, sql: str, *more: object) -> list[Row]:
        asked.append(translated(sql)[0])
        return await fetch_all(session, sql, *more)

    monkeypatch.setattr(PostgresSession, "fetch_all", noted)
    await journals.find(wanted, 10)
    said = await asyncio.to_thread(explained, database, asked[-1], values, DECISIONS)
    assert not re.search(r"(?:Removed by .*: |actual rows=)\d{3}", said), said
