"""Opening a store: what is created, what is refused, and with which message."""

import asyncio
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from smtpproxy.policy.model import Lookups
from smtpproxy.settings import StoreSettings
from smtpproxy.store import open_store, side_file_faults
from smtpproxy.store.records import StoreMisconfigured, StoreUnavailable
from smtpproxy.store.sqlite import connection as opening
from smtpproxy.store.sqlite.side_file import SideFile
from smtpproxy.store.sqlite.side_tables import SIDE_TABLES
from tests.store.answering import REPOSITORY
from tests.store.conftest import Database
from tests.store.contract import ANNA, entry, facts_of

OPEN = """
import asyncio, sys
from pathlib import Path
from smtpproxy.settings import StoreSettings
from smtpproxy.store import open_store, side_file_faults
from tests.store.contract import entry

async def main():
    print(flush=True)
    sys.stdin.readline()
    store = open_store(StoreSettings(f"sqlite://{sys.argv[1]}", 20.0), Path(sys.argv[2]))
    await store.add_suppressions([entry(sys.argv[3])])
    await store.close()

asyncio.run(main())
"""


def assert_refused(database: Database, *parts: str, read_only: bool = False) -> None:
    with pytest.raises(StoreMisconfigured) as caught:
        database.open(read_only=read_only)
    for part in parts:
        assert part in str(caught.value)


def test_the_first_start_creates_files_readable_by_their_owner_only(database: Database) -> None:
    database.open()
    for path in (database.path, database.key_path):
        assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(path.suffix for path in database.folder.iterdir())[:2] == [".db", ".db-shm"]


def test_missing_folders_are_created(tmp_path: Path) -> None:
    database = Database(tmp_path / "var" / "lib")
    database.open()
    assert database.path.parent.stat().st_mode & 0o777 == 0o700


async def test_opening_again_keeps_key_and_contents(database: Database) -> None:
    await database.open().add_suppressions([entry()])
    key = database.key_path.read_bytes()
    assert (await facts_of(database.open(), ANNA)).suppressions
    assert database.key_path.read_bytes() == key


def test_processes_starting_together_agree_on_key_and_content(database: Database) -> None:
    names = [f"user{number}@people.example" for number in range(4)]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, str(database.path), str(database.folder), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
        )
        for name in names
    ]
    for process in started:  # each has finished its imports
        assert process.stdout is not None
        assert process.stdout.readline()
    for process in started:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    assert [process.wait(timeout=60) for process in started] == [0] * len(started)

    async def all_suppressed() -> bool:
        facts = await database.open().facts(Lookups(tuple(names)))
        return all(facts[name].suppressions for name in names)

    assert asyncio.run(all_suppressed())
    assert sorted(path.name for path in database.folder.glob("*key*")) == ["suppression.key"]


def test_opening_for_reading_creates_nothing(database: Database) -> None:
    assert_refused(database, "no database yet", "smtpproxy serve", read_only=True)
    assert list(database.folder.iterdir()) == []


def test_a_key_that_others_can_read_is_refused(database: Database) -> None:
    database.open()
    for mode in (0o640, 0o604, 0o660, 0o777):
        database.key_path.chmod(mode)
        assert_refused(database, f"mode {mode:04o}", f"chmod 600 {database.key_path}")
    database.key_path.chmod(0o400)
    database.open()


@pytest.mark.parametrize("read_only", [True, False])
def test_a_lost_key_is_not_replaced(database: Database, read_only: bool) -> None:
    database.open()
    database.key_path.unlink()
    assert_refused(database, str(database.key_path), "missing", "backup", read_only=read_only)
    assert not database.key_path.exists()


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("emptied", [True, False])
async def test_a_lost_database_is_not_replaced(
    database: Database, read_only: bool, emptied: bool
) -> None:
    """An empty one would not know who refused mail, nor journal new refusals."""
    store = database.open()
    await store.add_suppressions([entry()])
    await store.close()
    for path in database.folder.glob("store.db*"):
        path.unlink()
    if emptied:
        database.path.touch()
    assert_refused(database, str(database.path), "was lost", "restore", read_only=read_only)
    assert database.path.exists() == emptied
    for path in database.folder.glob("audit/changes-*.ndjson"):
        path.rename(database.folder / path.name)
    assert (await facts_of(database.open(), ANNA)).suppressions == ()


@pytest.mark.parametrize("read_only", [True, False])
def test_another_key_is_refused(database: Database, read_only: bool, tmp_path: Path) -> None:
    database.open()
    other = Database(tmp_path / "other")
    other.open()
    database.key_path.write_bytes(other.key_path.read_bytes())
    assert_refused(database, str(database.path), "not in suppression.key", read_only=read_only)


@pytest.mark.parametrize(
    "content",
    [b"", b"1\n", b"1 " + b"g" * 64, b"\xff\xfe", b"1 " + b"a" * 64 + b"\n1 " + b"b" * 64],
)
def test_an_invalid_key_file_is_refused(database: Database, content: bytes) -> None:
    database.open()
    database.key_path.write_bytes(content)
    assert_refused(database, str(database.key_path), "not a key file", "backup")


def test_a_newer_database_is_refused(database: Database) -> None:
    database.open()
    with closing(sqlite3.connect(database.path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert_refused(database, "newer smtpproxy", "99")
    assert_refused(database, "newer smtpproxy", "99", read_only=True)


def test_only_a_writer_migrates_an_older_database(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.open()
    scripts = opening.migrations()
    monkeypatch.setattr(opening, "migrations", lambda: [*scripts, "CREATE TABLE later (x);"])
    assert_refused(database, f"needs {len(scripts) + 1}", "smtpproxy serve", read_only=True)
    database.open()
    with closing(sqlite3.connect(database.path)) as connection:
        assert opening.version_of(connection) == len(scripts) + 1
        connection.execute("SELECT x FROM later")
    database.open(read_only=True)


def test_a_failed_migration_leaves_nothing_behind(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.open()
    scripts = opening.migrations()
    broken = "CREATE TABLE later (x);\nINSERT INTO nowhere VALUES (1);\n"
    with monkeypatch.context() as patched:
        patched.setattr(opening, "migrations", lambda: [*scripts, broken])
        with pytest.raises(StoreUnavailable):
            database.open()
    with closing(sqlite3.connect(database.path)) as connection:
        assert opening.version_of(connection) == len(scripts)
        assert (
            connection.execute("SELECT * FROM sqlite_master WHERE name = 'later'").fetchall() == []
        )
    database.open()


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("change", "lacks"),
    [
        ("ALTER TABLE contact RENAME COLUMN audience TO public", "contact.audience"),
        ("DROP TABLE import", "import.first_contact"),
    ],
)
def test_a_database_from_a_preview_release_is_refused(
    database: Database, change: str, lacks: str, *, read_only: bool
) -> None:
    """Previews used the same numbers, and no migration fits their tables."""
    with closing(sqlite3.connect(database.path)) as connection:
        for script in (*opening.migrations()[:5], change, "PRAGMA user_version = 5"):
            connection.executescript(script)
    before = database.path.read_bytes()
    said = "Export contacts and suppressions with the program that made it"
    assert_refused(database, str(database.path), "preview", lacks, said, read_only=read_only)
    assert database.path.read_bytes() == before


def test_a_file_that_is_not_a_database_is_refused(database: Database) -> None:
    database.path.write_text("address,scope\n" * 1000)
    assert_refused(database, str(database.path), "not an SQLite database")
    assert database.path.read_text().startswith("address,scope")


VERSIONS = [0, 1, 7, 20_261_130]
"""Other programs keep a number in the same place."""


def make_foreign(path: Path, version: int) -> bytes:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE their_own (x)")
        connection.execute(f"PRAGMA user_version = {version}")
    return path.read_bytes()


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_database_of_another_program_is_refused(
    database: Database, version: int, read_only: bool
) -> None:
    before = make_foreign(database.path, version)
    named = (str(database.path), "of another program, with 'their_own'")
    assert_refused(database, *named, read_only=read_only)
    assert database.path.read_bytes() == before


@pytest.mark.parametrize("part", SIDE_TABLES)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("read_only", [False, True])
async def test_another_programs_side_file_is_refused(
    database: Database, part: str, version: int, read_only: bool
) -> None:
    database.open()
    path = database.folder / f"store-{part}.db"
    before = make_foreign(path, version)
    file = database.part(SideFile(database.path, part, 2.0, read_only=read_only))
    with pytest.raises(StoreMisconfigured, match=f"{path}: .* of another program"):
        await file.hold_any("their_own")
    assert list(side_file_faults(database.settings())) == [
        f"{path}: the database of another program, with 'their_own'; move it away, or name"
        " another place in store.url"
    ]
    assert path.read_bytes() == before
    path.write_text("not a database\n" * 100)
    (fault,) = side_file_faults(database.settings())
    assert fault.startswith(f"{path}: the database is damaged, or its disk fails")


@pytest.mark.parametrize("read_only", [False, True])
async def test_side_files_of_previews_are_refused(database: Database, *, read_only: bool) -> None:
    database.open()
    async with database.part(SideFile(database.path, "mailings", 2.0)).writing():
        pass
    path = database.folder / "store-mailings.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE mailing DROP COLUMN purpose")
    file = database.part(SideFile(database.path, "mailings", 2.0, read_only=read_only))
    with pytest.raises(StoreMisconfigured, match=f"{path}: .* preview .* mailing.purpose is miss"):
        await file.hold_any("mailing")
    (fault,) = side_file_faults(database.settings())
    assert "Move the file away" in fault


async def test_side_files_may_be_missing_or_just_created(
    database: Database,
) -> None:
    database.open()
    assert list(side_file_faults(database.settings())) == []
    for part in SIDE_TABLES:
        (database.folder / f"store-{part}.db").write_text("")
    assert list(side_file_faults(database.settings())) == []
    for part in SIDE_TABLES:
        async with database.part(SideFile(database.path, part, 2.0)).writing():
            pass
    assert list(side_file_faults(database.settings())) == []


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_refused(Database(tmp_path / "file" / "state"), str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("mysql://db/smtpproxy", "sqlite:///"),
        ("sqlite://relative.db", "sqlite:///"),
        ("", "sqlite:///"),
    ],
)
def test_invalid_urls_are_refused(tmp_path: Path, url: str, part: str) -> None:
    with pytest.raises(StoreMisconfigured, match=r"store\.url") as caught:
        open_store(StoreSettings(url), tmp_path)
    assert part in str(caught.value)


def test_a_path_may_have_any_characters(tmp_path: Path) -> None:
    Database(tmp_path / "a b%20?mode=memory#é").open()
    assert (tmp_path / "a b%20?mode=memory#é" / "store.db").stat().st_size > 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
async def test_files_created_by_root_belong_to_the_owner_of_the_folder(database: Database) -> None:
    os.chown(database.folder, 12345, 12346)
    await database.open().add_suppressions([entry()])
    for path in database.folder.iterdir():
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346), path.name


async def test_a_timeout_beyond_the_databases_range_works(
    any_database: Database,
) -> None:
    store = any_database.open(timeout=36_500 * 86_400)
    await store.add_suppressions([entry()])
    assert (await facts_of(store, ANNA)).suppressions


async def test_a_side_file_whose_place_cannot_be_read_is_reported(tmp_path: Path) -> None:
    """Not a fault of the program: /metrics has the last known numbers then."""
    file = SideFile(tmp_path / f"{'s' * 240}.db", "confirmations", 2.0)  # the name is too long
    with pytest.raises(StoreUnavailable):
        file.exist()
