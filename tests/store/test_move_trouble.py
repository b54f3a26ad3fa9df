"""The worst moments of a copy: others write past its triggers, change tables or create files in
its place, and it is killed between two of its last steps."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from smtpproxy.store import open_mailings
from smtpproxy.store.move import postgres, postgres_target, sqlite, sqlite_target
from smtpproxy.store.move.sqlite import part_path
from smtpproxy.store.records import StoreMisconfigured, StoreUnavailable
from smtpproxy.store.sqlite import connection as sqlite_connection
from tests.kit import postgres as server
from tests.kit.parts import needs
from tests.store.conftest import Database
from tests.store.test_mailings import OFFERS
from tests.store.test_move_meanwhile import (
    NOW,
    PEOPLE,
    Killed,
    contents,
    entry,
    half,
    kinds,
    known,
    moved,
    reopened,
)

pytestmark = needs("postgresql")
Kinds = tuple[Database, str]
FROM_FILE = pytest.mark.parametrize("kinds", ["sqlite"], indirect=True)
FROM_SERVER = pytest.mark.parametrize("kinds", ["postgresql"], indirect=True)
__all__ = ["kinds"]

CHANGE = "UPDATE contact SET collected_at = 4711 WHERE id = (SELECT min(id) FROM contact)"
IN_THE_END = "nobody can write from now on"


def now(url: str, *statements: str) -> None:
    """Run statements at once, with nothing else in between."""
    if url.startswith("postgresql"):
        server.cluster().sql(url.partition("///")[2].partition("?")[0], "; ".join(statements))
        return
    path = url.removeprefix("sqlite://")
    with closing(sqlite3.connect(path, isolation_level=None)) as opened:
        for statement in statements:
            opened.execute(statement)


def at(moment: str, act: Callable[[], object]) -> Callable[[str], None]:
    """Return a `say` that acts once, when it is told of that moment."""
    acts = [act]

    def say(text: str) -> None:
        if moment in text and acts:
            acts.pop()()

    return say


async def filled(database: Database) -> None:
    store = database.open()
    await store.put_contacts([known(name) for name in PEOPLE])
    await store.add_suppressions([entry(name) for name in PEOPLE])
    await database.part(open_mailings(database.settings())).reserve("1", OFFERS, PEOPLE, NOW)


async def same_rows(database: Database, new: str) -> bool:
    return await contents(new) == await contents(database.url)


async def test_a_change_to_the_copy_after_its_verification_is_detected(
    tmp_path: Path, kinds: Kinds
) -> None:
    """Even though the number of rows is the same."""
    database, new = kinds
    await filled(database)

    def change() -> None:
        alter = "ALTER TABLE contact {} TRIGGER closed"
        if new.startswith("postgresql"):
            now(new, alter.format("DISABLE"), CHANGE, alter.format("ENABLE ALWAYS"))
        else:
            now(half(new), CHANGE)

    with pytest.raises(StoreUnavailable, match="somebody else may have written to it"):
        await moved(database.url, new, tmp_path, say=at("changes were made meanwhile", change))
    await database.open().add_suppressions([entry("late@people.example")])
    assert not (await moved(database.url, new, tmp_path)).resumed
    assert await same_rows(database, new)


async def test_a_change_past_the_triggers_after_verification_is_detected(
    tmp_path: Path, kinds: Kinds
) -> None:
    database, new = kinds
    await filled(database)

    def change() -> None:
        if database.url.startswith("postgresql"):
            off = "ALTER TABLE contact DISABLE TRIGGER copying"
            on = "ALTER TABLE contact ENABLE ALWAYS TRIGGER copying"
        else:
            query = "SELECT sql FROM sqlite_master WHERE name = 'copying_update_contact'"
            with closing(sqlite3.connect(database.path)) as opened:
                (on,) = opened.execute(query).fetchone()
            off = "DROP TRIGGER copying_update_contact"
        now(database.url, off, CHANGE, on)

    with pytest.raises(StoreUnavailable, match="contact has 8 rows with checksum"):
        await moved(database.url, new, tmp_path, say=at(IN_THE_END, change))
    await moved(database.url, new, tmp_path)
    assert await same_rows(database, new)


async def test_a_missing_trigger_ends_the_copy(tmp_path: Path, kinds: Kinds) -> None:
    database, new = kinds
    await filled(database)
    is_file = database.url.startswith("sqlite")
    off = "DROP TRIGGER " + ("copying_update_contact" if is_file else "copying ON contact")
    act = at(IN_THE_END, lambda: now(database.url, off, CHANGE))
    with pytest.raises(StoreUnavailable, match="no longer records its changes for this copy"):
        await moved(database.url, new, tmp_path, say=act)
    assert not (await moved(database.url, new, tmp_path)).resumed
    assert await same_rows(database, new)


@FROM_SERVER
async def test_changes_replicated_into_the_source_are_copied(tmp_path: Path, kinds: Kinds) -> None:
    database, new = kinds
    await filled(database)
    act = at(
        IN_THE_END, lambda: now(database.url, "SET session_replication_role = replica", CHANGE)
    )
    await moved(database.url, new, tmp_path, say=act)
    assert await same_rows(database, new)
    assert "4711" in str(await contents(new))


async def test_a_column_added_at_the_end_is_not_lost(tmp_path: Path, kinds: Kinds) -> None:
    database, new = kinds
    await filled(database)
    act = at(IN_THE_END, lambda: now(database.url, "ALTER TABLE contact ADD COLUMN later TEXT"))
    try:
        with pytest.raises(StoreMisconfigured, match="contact: the two databases have different"):
            await moved(database.url, new, tmp_path, say=act)
        await database.open().add_suppressions([entry("late@people.example")])
    finally:
        now(database.url, "ALTER TABLE contact DROP COLUMN later")
        await reopened(database.url)


@FROM_FILE
async def test_a_file_is_not_migrated_while_it_is_copied(
    tmp_path: Path, kinds: Kinds, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, new = kinds
    await filled(database)
    scripts = [*sqlite_connection.migrations(), "ALTER TABLE contact ADD COLUMN more TEXT;\n"]

    def next_release() -> None:
        with monkeypatch.context() as patch:
            for module in ("smtpproxy.store.sqlite.connection", "smtpproxy.store.sqlite"):
                patch.setattr(f"{module}.migrations", lambda: scripts)
            with pytest.raises(StoreUnavailable, match="migrate its tables after"):
                database.open()

    def killed() -> None:
        next_release()
        raise Killed

    with pytest.raises(Killed):
        await moved(database.url, new, tmp_path, say=at(IN_THE_END, killed))
    with closing(sqlite3.connect(database.path, isolation_level=None)) as opened:
        assert opened.execute(f"PRAGMA user_version = {len(scripts) - 2}") is not None
        with monkeypatch.context() as patch:
            patch.setattr(sqlite_connection, "migrations", lambda: [*scripts[:-2], "SELECT 1;\n"])
            sqlite_connection.migrate(opened, database.path, lambda _: None)
        assert "copying_" not in str(opened.execute("SELECT name FROM sqlite_master").fetchall())
    assert not (await moved(database.url, new, tmp_path)).resumed
    assert await same_rows(database, new)


async def test_a_copy_killed_while_closing_its_source_has_the_last_changes(
    tmp_path: Path, kinds: Kinds, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, new = kinds
    await filled(database)
    with monkeypatch.context() as patch:
        for target in (postgres_target.PostgresTarget, sqlite_target.SqliteTarget):
            patch.setattr(target, "commit", _dies)
        with pytest.raises(Killed):
            await moved(
                database.url, new, tmp_path, say=at(IN_THE_END, lambda: now(database.url, CHANGE))
            )
    with pytest.raises(StoreUnavailable, match="was copied to"):
        await database.open().add_suppressions([entry("late@people.example")])
    assert (await moved(database.url, new, tmp_path)).resumed
    assert await same_rows(database, new)
    assert "4711" in str(await contents(new))


async def _dies(*_: object) -> None:
    raise Killed


class Step:
    """Kills the command before the `last` call of a function, counted from one."""

    def __init__(self, last: int, does: Callable[..., Any]) -> None:
        self._left = last
        self._does = does

    def __call__(self, *given: Any, **named: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            raise Killed
        return self._does(*given, **named)


@pytest.mark.parametrize(("last", "then"), [(5, "copied"), (5, "reopened"), (8, "copied")])
@FROM_FILE
async def test_a_half_closed_store_can_be_written_to_again(
    tmp_path: Path, kinds: Kinds, monkeypatch: pytest.MonkeyPatch, last: int, then: str
) -> None:
    database, new = kinds
    await filled(database)
    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "_close_tables", Step(last, sqlite._close_tables))
        with pytest.raises(Killed):
            await moved(database.url, new, tmp_path)
    await database.open().add_suppressions([entry("late@people.example")])
    log = database.part(open_mailings(database.settings()))
    with pytest.raises(StoreUnavailable, match="was copied to"):
        await log.reserve("2", OFFERS, PEOPLE, NOW)
    if then == "reopened":
        found = await reopened(database.url)
        assert found is not None
        assert found.was_closed
        await log.reserve("2", OFFERS, PEOPLE, NOW)
        assert await reopened(database.url) is None
        return

    def write() -> None:
        with closing(sqlite3.connect(part_path(database.path, "mailings"))) as opened, opened:
            opened.execute("UPDATE mailing SET at = at + 1")

    assert (await moved(database.url, new, tmp_path, say=at("resuming", write))).resumed
    assert await same_rows(database, new)


@FROM_SERVER
async def test_a_store_being_copied_is_not_a_target(tmp_path: Path, kinds: Kinds) -> None:
    database, file = kinds
    await filled(database)
    with pytest.raises(Killed):
        await moved(database.url, file, tmp_path, say=at("all rows", _kill))
    before = await contents(database.url)
    other = Database(tmp_path / "other")
    other.folder.mkdir()
    (other.folder / "suppression.key").write_bytes((tmp_path / "suppression.key").read_bytes())
    (other.folder / "suppression.key").chmod(0o600)
    await other.open().put_contacts([known("elsewhere@people.example")])
    with pytest.raises(StoreMisconfigured, match="is itself being copied"):
        await moved(other.url, database.url, other.folder)
    assert await contents(database.url) == before
    await other.close()


def _kill() -> None:
    raise Killed


@pytest.mark.parametrize("last", [2, 40, 60])
@FROM_SERVER
async def test_a_killed_reopen_leaves_the_store_open_or_closed_as_a_whole(
    tmp_path: Path, kinds: Kinds, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    database, file = kinds
    await filled(database)
    with monkeypatch.context() as patch:  # the tidying that could wait does not happen
        patch.setattr(postgres.PostgresSource, "tidy", _nothing)
        await moved(database.url, file, tmp_path)
    with monkeypatch.context() as patch:
        run = Step(last, postgres.PostgresSource._run)
        patch.setattr(postgres.PostgresSource, "_run", lambda *given: run(*given))
        with suppress(Killed):
            await reopened(database.url)
    store, log = database.open(), database.part(open_mailings(database.settings()))
    answers = []
    for write in (
        lambda: store.add_suppressions([entry("late@people.example")]),
        lambda: log.reserve("2", OFFERS, PEOPLE, NOW),
    ):
        with suppress(StoreUnavailable):
            await write()
            answers.append(True)
    assert len(answers) in (0, 2)
    await reopened(database.url)
    assert await reopened(database.url) is None
    await store.add_suppressions([entry("late@people.example")])
    connection = await asyncpg.connect(database.url)
    query = "SELECT relname FROM pg_class UNION SELECT tgname FROM pg_trigger"
    assert "copying" not in str(await connection.fetch(query))
    await connection.close()


async def _nothing(*_: object) -> None:
    pass


@pytest.mark.parametrize("last", [1, 3, 8])
@FROM_SERVER
async def test_the_files_of_a_copy_take_effect_together(
    tmp_path: Path, kinds: Kinds, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    database, new = kinds
    await filled(database)
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_target, "_link", Step(last, sqlite_target._link))
        with pytest.raises(Killed):
            await moved(database.url, new, tmp_path)
    assert not (tmp_path / "new.db").exists()
    assert (tmp_path / "new-streams.db").exists() == (last > 1)
    assert (await moved(database.url, new, tmp_path)).resumed
    assert not (tmp_path / ".new.db.copy").exists()
    assert await same_rows(database, new)
    await _is_in_use(tmp_path, new)


async def _is_in_use(folder: Path, new: str) -> None:
    other = Database(folder, new)
    await other.open().add_suppressions([entry("late@people.example")])
    await other.part(open_mailings(other.settings())).reserve("2", OFFERS, PEOPLE, NOW)
    await other.close()


@FROM_SERVER
async def test_a_finished_copy_is_not_repeated_if_its_folder_is_left(
    tmp_path: Path, kinds: Kinds, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, new = kinds
    await filled(database)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", Step(1, _nothing))
        with pytest.raises(Killed):
            await moved(database.url, new, tmp_path)
    await _is_in_use(tmp_path, new)
    with pytest.raises(StoreMisconfigured, match="there is already a database") as said:
        await moved(database.url, new, tmp_path)
    assert "if that is its copy, set store.url" in said.value.__notes__[0]
    assert not (tmp_path / ".new.db.copy").exists()


@pytest.mark.parametrize("name", ["new.db", "new-bulk.db", "new.db-wal"])
@FROM_SERVER
async def test_files_of_others_are_not_overwritten(
    tmp_path: Path, kinds: Kinds, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whether they exist before, or appear at the last moment."""
    database, new = kinds
    await filled(database)
    there = tmp_path / name
    there.write_bytes(b"mine")
    with pytest.raises(StoreMisconfigured, match="there is already a database"):
        await moved(database.url, new, tmp_path)
    there.unlink()
    assert not (tmp_path / ".new.db.copy").exists()

    def make_it_first(file: Path) -> None:
        if not there.exists():
            there.write_bytes(b"mine")
        return flush(file)

    flush = sqlite_target.sync_path
    monkeypatch.setattr(sqlite_target, "sync_path", make_it_first)
    with pytest.raises(StoreMisconfigured, match="there is already a database") as said:
        await moved(database.url, new, tmp_path)
    assert "or smtpproxy store reopen" in said.value.__notes__[0]
    assert there.read_bytes() == b"mine"
    there.unlink()
    monkeypatch.undo()
    assert (await moved(database.url, new, tmp_path)).resumed
    assert await same_rows(database, new)


@FROM_FILE
async def test_a_reader_of_the_copy_causes_no_deadlock(tmp_path: Path, kinds: Kinds) -> None:
    """A relay started with the new URL too soon reads while others write to the source."""
    database, new = kinds
    await filled(database)
    writer = database.open(timeout=2.0)
    relay = await asyncpg.connect(new)
    reads: list[asyncio.Task[None]] = []

    async def read() -> None:
        async with relay.transaction():
            await relay.execute("LOCK TABLE contact IN ACCESS SHARE MODE")
            for _ in range(500):
                if await relay.fetchval(_IS_WAITED_FOR):
                    break
                await asyncio.sleep(0.01)
            await writer.add_suppressions([entry("late@people.example")])
            await relay.fetch("SELECT * FROM store_state")

    act = at("all rows", lambda: reads.append(asyncio.create_task(read())))
    await moved(database.url, new, tmp_path, say=act)
    await reads[0]
    await relay.close()
    assert await same_rows(database, new)


@FROM_SERVER
async def test_closing_a_source_is_flushed_even_if_its_role_turns_that_off(
    kinds: Kinds,
) -> None:
    database, _ = kinds
    now(database.url, "ALTER ROLE smtpproxy SET synchronous_commit = off")
    try:
        async with postgres.open_source(database.url, 5.0) as source:
            ((flushed,),) = await source.fetch("", "SHOW synchronous_commit")
    finally:
        now(database.url, "ALTER ROLE smtpproxy RESET synchronous_commit")
    assert flushed == "on"


@FROM_SERVER
async def test_a_file_being_read_is_not_finished_without_its_log(
    tmp_path: Path, kinds: Kinds
) -> None:
    database, new = kinds
    await filled(database)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as reader:

        def read() -> None:
            file = part_path(Path(half(new).removeprefix("sqlite://")), "mailings")
            reader.execute("ATTACH DATABASE ? AS other", (str(file),))
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM other.mailing").fetchall()

        with pytest.raises(
            StoreUnavailable, match=r"new-mailings\.db: another process is reading it"
        ):
            await moved(database.url, new, tmp_path, say=at("all rows", read))
    await database.open().add_suppressions([entry("late@people.example")])
    assert (await moved(database.url, new, tmp_path)).resumed
    assert await same_rows(database, new)


_IS_WAITED_FOR = """
SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'contact'::regclass)
"""
