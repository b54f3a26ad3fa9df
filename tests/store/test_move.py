"""A whole store moves from SQLite to PostgreSQL and back, and only one of the two answers."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.policy.model import Lookups
from smtpproxy.settings import StoreSettings
from smtpproxy.store import open_feedback, open_mailings
from smtpproxy.store.closed import closed_text, without_password
from smtpproxy.store.move import (
    CopyEnd,
    CopyResult,
    move,
    postgres,
    postgres_target,
    sqlite,
    sqlite_target,
    tables,
)
from smtpproxy.store.move.ends import Reopened
from smtpproxy.store.move.sqlite import part_path
from smtpproxy.store.records import StoreMisconfigured, StoreUnavailable
from smtpproxy.store.sqlite.side_tables import SIDE_TABLES
from tests.kit import postgres as server
from tests.kit.parts import needs
from tests.store.conftest import Database
from tests.store.contract import ANNA, WHOLE, entry, facts_of
from tests.store.test_mailings import OFFERS

pytestmark = needs("postgresql")
NOW = datetime(2026, 11, 1, tzinfo=UTC)


NOT_COPIED = frozenset(
    {
        "secret",  # copied by `Source.secrets`
        "relay",  # each relay registers again; with SQLite there is only one
        "refusal_change",  # SQLite only: changes yet to be written to the journal of changes
        "change_number",  # PostgreSQL only, like the next two: copied by `Source.numbers`
        "store_state",
        "schema_version",
        "journal",  # PostgreSQL only: each relay fills these from its journals
        "journal_erasure",
        "decision",
        "asked_message",  # relays ask again
    }
)


def place(url: str, folder: Path) -> CopyEnd:
    if url.startswith("postgresql"):
        target = postgres_target.open_target(url, 5.0, "relay")
        return CopyEnd(url, postgres.open_source(url, 5.0), target)
    path = Path(url.removeprefix("sqlite://"))
    return CopyEnd(url, sqlite.open_source(path, 5.0), sqlite_target.open_target(path, folder))


async def moved(
    old: str, new: str, folder: Path, say: Callable[[str], None] = lambda _: None
) -> CopyResult:
    to = place(new, folder)
    return await move(place(old, folder), to, closed_text(old, to.shown), folder, say)


@pytest.fixture
def empty(tmp_path: Path) -> str:
    """A database with the tables that `smtpproxy migrate` creates."""
    return server.cluster().url(server.cluster().create(server.template()))


def sql(url: str, *statements: str) -> str:
    return server.cluster().sql(url.partition("///")[2].partition("?")[0], *statements)


async def filled(folder: Path) -> str:
    """An SQLite store with rows in every table to copy."""
    database = Database(folder)
    store = database.open()
    await store.put_contacts([WHOLE])
    await store.add_suppressions([entry()])
    mailings = open_mailings(database.settings())
    mailings.close()
    await database.close()
    async with sqlite.open_source(database.path, 5.0):
        pass  # creates the side files
    for table in tables.TABLES:
        part = next((name for name, held in tables.BESIDE.items() if table in held), "")
        path = part_path(database.path, part)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            _fill(connection, table)
    return database.url


_WORDS = {"scope": "brand:a", "origin": "bounce", "since": 5, "contact": 1}


def _fill(connection: sqlite3.Connection, table: str) -> None:
    if connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0] or table == "tally":
        return
    found = connection.execute(f'PRAGMA table_info("{table}")').fetchall()
    samples: dict[str, object] = {"INTEGER": 7, "TEXT": "é '\"[]", "BLOB": b"\x00\xff" * 16}
    values = [_WORDS.get(name, samples[kind]) for _, name, kind, *_ in found]
    names = ", ".join(f'"{name}"' for _, name, *_ in found)
    places = ", ".join("?" * len(values))
    connection.execute(f'INSERT INTO "{table}" ({names}) VALUES ({places})', values)


_TRIGGERS = """
SELECT concat_ws(' ', tgrelid::regclass, tgname, tgenabled) FROM pg_trigger
WHERE NOT tgisinternal ORDER BY 1
"""


async def test_everything_moves_to_postgresql_and_back(tmp_path: Path, empty: str) -> None:
    first = await filled(tmp_path)
    made = sql(empty, _TRIGGERS)
    there = await moved(first, empty, tmp_path)
    assert sql(empty, _TRIGGERS) == made  # all enabled: they record each change
    assert [table for table, sum in there.sums.items() if not sum.rows] == []
    back = f"sqlite://{tmp_path}/back.db"
    again = await moved(empty, back, tmp_path)
    assert again.sums == there.sums
    with (
        closing(sqlite3.connect(tmp_path / "store.db")) as old,
        closing(sqlite3.connect(tmp_path / "back.db")) as new,
    ):
        triggers = (
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name NOT LIKE 'closed%'"
        )
        assert set(old.execute(triggers)) == set(new.execute(triggers))
        assert new.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database = Database(tmp_path, back)
    store = database.open()
    assert (await facts_of(store, ANNA)).suppressions
    await store.add_suppressions([entry("new@people.example")])
    assert (await store.changes(0, 100))[-1].seq > 1
    await database.close()


async def test_numbers_of_deleted_rows_are_not_reused(tmp_path: Path, empty: str) -> None:
    first = await filled(tmp_path)
    query = "SELECT name, seq FROM sqlite_sequence"
    with closing(sqlite3.connect(tmp_path / "store.db")) as old, old:
        old.execute("UPDATE sqlite_sequence SET seq = 70")
    await moved(first, empty, tmp_path)
    await moved(empty, f"sqlite://{tmp_path}/back.db", tmp_path)
    with (
        closing(sqlite3.connect(tmp_path / "store.db")) as old,
        closing(sqlite3.connect(tmp_path / "back.db")) as new,
    ):
        given = dict(old.execute(query)).keys() & tables.NUMBERED.keys()
        assert {dict(new.execute(query))[table] for table in given} == {70}


async def test_mailings_are_known_after_the_move(tmp_path: Path, empty: str) -> None:
    database = Database(tmp_path)
    await database.open().put_contacts([WHOLE])
    before = database.part(open_mailings(database.settings()))
    await before.reserve("id", OFFERS, [ANNA], NOW)
    known = await before.known([ANNA])
    await moved(database.url, empty, tmp_path)
    after = open_mailings(StoreSettings(empty))
    assert (await after.known([ANNA])) == known
    after.close()
    await database.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_after_the_move_the_old_store_refuses_open_connections(
    tmp_path: Path, empty: str, kind: str
) -> None:
    first = Database(tmp_path)
    await first.open().add_suppressions([entry()])
    old, new = first.url, empty
    if kind == "postgresql":
        await moved(old, empty, tmp_path)
        old, new = empty, f"sqlite://{tmp_path}/new.db"
    database = Database(tmp_path, old)
    store, mailings = database.open(), database.part(open_mailings(database.settings()))
    await mailings.reserve("1", OFFERS, [ANNA], NOW)
    assert (await facts_of(store, ANNA)).suppressions
    await moved(old, new, tmp_path)
    for refused in (
        store.ping,  # over its open connection, as /readyz does
        lambda: store.facts(Lookups((ANNA,))),
        store.version,
        lambda: store.add_suppressions([entry("late@people.example")]),
        lambda: mailings.reserve("2", OFFERS, [ANNA], NOW),
    ):
        with pytest.raises(StoreUnavailable, match="was copied to"):
            await refused()
    with pytest.raises(StoreMisconfigured, match="which replaces it; set"):
        await Database(tmp_path, old).open().ping()
    other = Database(tmp_path, new)
    assert (await facts_of(other.open(), ANNA)).suppressions
    await _reopen(old)
    assert (await facts_of(store, ANNA)).suppressions
    await store.add_suppressions([entry("late@people.example")])
    assert not await _reopen(old)
    for each in (first, database, other):
        await each.close()


async def _reopen(url: str) -> Reopened | None:
    if url.startswith("postgresql"):
        return await postgres.reopen(url, 5.0)
    return await sqlite.reopen(Path(url.removeprefix("sqlite://")), 5.0)


async def test_writes_during_the_copy_are_refused_or_copied(tmp_path: Path, empty: str) -> None:
    database = Database(tmp_path)
    await database.open().add_suppressions([entry()])
    accepted: list[str] = []
    is_over, is_under_way = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        store, n = database.open(timeout=0.1), 0
        while not is_over.is_set():
            name = f"p{(n := n + 1)}@people.example"
            try:
                await store.add_suppressions([entry(name)])
                accepted.append(name)
                is_under_way.set()
            except StoreUnavailable:
                await asyncio.sleep(0)

    writing = asyncio.create_task(write())
    await is_under_way.wait()
    await moved(database.url, empty, tmp_path)
    is_over.set()
    await writing
    new = Database(tmp_path, empty)
    store = new.open()
    for name in accepted:
        assert (await facts_of(store, name)).suppressions, name
    await new.close()
    await database.close()


@pytest.mark.parametrize("at", ["write", "finish", "commit"])
async def test_an_interrupted_copy_to_postgresql_is_resumed(
    tmp_path: Path, empty: str, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await filled(tmp_path)

    async def dies(*_: Any) -> None:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as patch:
        patch.setattr(postgres_target.PostgresTarget, at, dies)
        with pytest.raises(StoreUnavailable, match="gone"):
            await moved(url, empty, tmp_path)
    with pytest.raises(StoreMisconfigured, match="is being filled with a copy of sqlite:"):
        await Database(tmp_path, empty).open().ping()
    with pytest.raises(StoreMisconfigured, match="create the database again"):
        await _reopen(empty)
    with pytest.raises(StoreMisconfigured, match="not complete yet"):
        await moved(empty, f"sqlite://{tmp_path}/other.db", tmp_path)
    database = Database(tmp_path, url)
    if at == "commit":  # nobody can tell whether the commit succeeded: neither answers
        with pytest.raises(StoreMisconfigured, match="was copied to"):
            database.open()
    else:
        await database.open().add_suppressions([entry("late@people.example")])
        await database.close()
    said: list[str] = []
    done = await moved(url, empty, tmp_path, said.append)
    assert done.resumed
    assert said[0].startswith("resuming the earlier copy: ")
    assert sql(empty, "SELECT count(*) FROM suppression") == str(done.sums["suppression"].rows)
    assert (await moved(url, empty, tmp_path)).already_there
    sql(empty, "DELETE FROM bulk")
    with pytest.raises(StoreUnavailable, match="bulk has 0 rows"):
        await moved(url, empty, tmp_path)


@pytest.mark.parametrize("at", ["write", "commit"])
async def test_an_interrupted_copy_to_a_file_is_resumed(
    tmp_path: Path, empty: str, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await moved(await filled(tmp_path), empty, tmp_path)
    back = f"sqlite://{tmp_path}/back.db"

    async def dies(*_: Any) -> None:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite_target.SqliteTarget, at, dies)
        with pytest.raises(StoreUnavailable, match="gone"):
            await moved(empty, back, tmp_path)
    assert not (tmp_path / "back.db").exists()
    done = await moved(empty, back, tmp_path)
    assert done.resumed
    assert not (tmp_path / ".back.db.copy").exists()
    new = Database(tmp_path, back)
    assert (await facts_of(new.open(), ANNA)).suppressions
    await new.close()


async def test_reports_of_erased_people_go_with_the_next_purge(tmp_path: Path, empty: str) -> None:
    """Even if the relay that has the file has not removed it yet."""
    await moved(await filled(tmp_path), empty, tmp_path)
    sql(empty, "UPDATE report SET at = 2e15, erased = TRUE", "UPDATE hand_on SET due = NULL")
    await moved(empty, f"sqlite://{tmp_path}/back.db", tmp_path)
    log = open_feedback(StoreSettings(f"sqlite://{tmp_path}/back.db"))
    assert len(await log.purge(datetime(1990, 1, 1, tzinfo=UTC))) == 1
    log.close()


async def test_a_target_with_other_content_is_refused(tmp_path: Path, empty: str) -> None:
    url = await filled(tmp_path)
    sql(empty, "INSERT INTO event_source VALUES ('a', 'b')")
    with pytest.raises(StoreMisconfigured, match="already has rows in event_source"):
        await moved(url, empty, tmp_path)
    sql(empty, "DELETE FROM event_source", "INSERT INTO suppression_key VALUES (1, 'ffffffff')")
    with pytest.raises(StoreMisconfigured, match="has a key"):
        await moved(url, empty, tmp_path)
    sql(empty, "DELETE FROM suppression_key", "ALTER TABLE contact ADD COLUMN more2 text")
    with pytest.raises(
        StoreMisconfigured, match="contact: the two databases have different columns"
    ):
        await moved(url, empty, tmp_path)
    with pytest.raises(StoreMisconfigured, match="there is already a database"):
        await moved(empty, url, tmp_path)
    await Database(tmp_path, url).open().close()  # works as before


async def test_the_link_key_created_by_migrate_is_replaced(tmp_path: Path, empty: str) -> None:
    url = await filled(tmp_path)
    sql(empty, "INSERT INTO link_key (version, fingerprint, used_from) VALUES (1, 'made', 0)")
    await moved(url, empty, tmp_path)
    assert sql(empty, "SELECT count(*) FROM link_key WHERE fingerprint = 'made'") == "0"
    assert sql(empty, "SELECT count(*) FROM link_key") == "1"


async def test_another_key_in_state_dir_is_refused(tmp_path: Path, empty: str) -> None:
    url = await filled(tmp_path)
    (tmp_path / "suppression.key").write_text("1 " + "0" * 64 + "\n")
    with pytest.raises(StoreMisconfigured, match=r"not in suppression\.key"):
        await moved(url, empty, tmp_path)


async def test_every_table_is_copied_or_deliberately_left_out(tmp_path: Path, empty: str) -> None:
    known = {*tables.TABLES, *NOT_COPIED}
    query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    assert set(sql(empty, query).split()) <= known
    await Database(tmp_path).open().close()
    async with sqlite.open_source(tmp_path / "store.db", 5.0):
        pass
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    for part in ("", *tables.BESIDE):
        path = part_path(tmp_path / "store.db", part)
        with closing(sqlite3.connect(path)) as connection:
            assert {name for (name,) in connection.execute(query)} <= known


_UNIQUE = """
SELECT relname || ':' || string_agg(attname, ',' ORDER BY place) FROM pg_index
JOIN pg_class ON pg_class.oid = indrelid, unnest(indkey) WITH ORDINALITY AS part (number, place)
JOIN pg_attribute ON attnum = part.number WHERE attrelid = indrelid AND indisunique
GROUP BY indexrelid, relname
"""


def test_the_unique_columns_match_those_of_the_database(empty: str) -> None:
    """They find the row that has to go before another is written."""
    keys = {(table, key) for table, key in tables.KEYS.items() if table != "confirmation"}
    others = {(table, (column,)) for table, column in tables.UNIQUE.items()}
    found = [line.split(":") for line in sql(empty, _UNIQUE).split()]
    assert {(table, tuple(columns.split(","))) for table, columns in found
            if table in tables.TABLES} == keys | others  # fmt: skip


def test_every_side_file_is_copied() -> None:
    assert set(SIDE_TABLES) == set(tables.BESIDE)


def test_a_checksum_ignores_order_but_counts_repeated_rows() -> None:
    rows: list[tuple[object, ...]] = [(1, "a", None), (2, b"b", "c"), (2, b"b", "c")]
    one, other, fewer = tables.Sum(), tables.Sum(), tables.Sum()
    one.add(rows)
    other.add(rows[2:])
    other.add(rows[:2][::-1])
    fewer.add(rows[:2])
    assert one == other
    assert one != fewer


def test_no_password_is_shown() -> None:
    url = "postgresql://owner:secret@db1,db2:5433/smtpproxy?password=secret&sslmode=require"
    shown = "postgresql://owner@db1,db2:5433/smtpproxy?password=...&sslmode=require"
    assert without_password(url) == shown
    url = "postgresql://owner:se@cr:et@db/smtpproxy?sslpassword=secret"
    assert without_password(url) == "postgresql://owner@db/smtpproxy?sslpassword=..."


async def test_only_one_copy_or_reopen_runs_at_a_time(tmp_path: Path, empty: str) -> None:
    old = await filled(tmp_path)
    path = Path(old.removeprefix("sqlite://"))
    under_way = "is running on it; wait until that has ended"
    async with sqlite.open_source(path, 5.0):
        with pytest.raises(StoreUnavailable, match=under_way):
            await moved(old, empty, tmp_path)
        with pytest.raises(StoreUnavailable, match=under_way):
            await _reopen(old)
    async with postgres.open_source(empty, 9.0):
        with pytest.raises(StoreUnavailable, match=under_way):
            await postgres.reopen(empty, 1.5)
        with pytest.raises(StoreUnavailable, match=under_way):
            async with postgres_target.open_target(empty, 1.5, "relay"):
                pass
    await moved(old, empty, tmp_path)


async def test_a_file_created_at_the_target_meanwhile_is_not_overwritten(
    tmp_path: Path, empty: str
) -> None:
    await moved(await filled(tmp_path), empty, tmp_path)
    back = tmp_path / "back.db"

    def started_too_soon(text: str) -> None:
        if "comparing" in text:
            back.write_bytes(b"")

    with pytest.raises(StoreMisconfigured, match="there is already a database"):
        await moved(empty, f"sqlite://{back}", tmp_path, started_too_soon)
    assert back.read_bytes() == b""
    back.unlink()
    await moved(empty, f"sqlite://{back}", tmp_path)


async def test_a_lost_copy_is_not_made_again_from_a_closed_store(
    tmp_path: Path, empty: str
) -> None:
    """It would lack every refusal since."""
    await moved(await filled(tmp_path), empty, tmp_path)
    back = f"sqlite://{tmp_path}/back.db"
    await moved(empty, back, tmp_path)
    _put_aside(tmp_path)
    with pytest.raises(StoreMisconfigured, match="nothing of the copy is there"):
        await moved(empty, back, tmp_path)
    await _reopen(empty)
    await moved(empty, back, tmp_path)


def _put_aside(folder: Path) -> None:
    for file in folder.glob("back*"):
        file.rename(folder / f"elsewhere-{file.name}")
