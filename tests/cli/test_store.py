"""`store copy`, `store reopen` and `migrate`."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from smtpproxy.config import parse
from smtpproxy.store.move import CopyResult
from smtpproxy.store.move.traces import uncopied
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sqlite.connection import migrations
from tests.cli.stored import Stored
from tests.kit import postgres
from tests.kit.parts import needs
from tests.kit.relay import relay_config
from tests.kit.toml import to_toml

FILE = "sqlite:////srv/smtpproxy.db"
WRONG = (
    "postgresql://owner:secret@db:port/smtpproxy",
    "postgresql://owner:secret@[db/smtpproxy",
    "postgresql://owner:sec/ret@db/smtpproxy",
    "mysql://owner:secret@db/smtpproxy",
    "sqlite://",
)


@pytest.mark.parametrize("url", WRONG)
def test_an_invalid_url_is_refused_without_showing_its_password(tmp_path: Path, url: str) -> None:
    stored = Stored(tmp_path)
    for words in (("copy", FILE, url), ("copy", url, FILE), ("reopen", url)):
        said = stored.run("store", *words, code=2).stderr
        assert "Invalid value for" in said
        assert "sec" not in said


@needs("postgresql")
def test_a_former_file_whose_content_was_not_copied_is_reported(tmp_path: Path) -> None:
    """With another store.url its people would be unknown, even those who refused mail."""
    stored = Stored(tmp_path)
    stored.run("suppress", "add", "anna@people.example", "--scope", "all", "--origin", "manual")
    new = postgres.cluster().url(postgres.cluster().create())
    postgres.migrated(new, tmp_path / "state")
    of_database = relay_config(tmp_path, "127.0.0.1:25", {"store": {"url": new}})
    stored.config_path.write_text(to_toml(of_database))
    told = stored.run("check").stdout
    assert "smtpproxy.db: has contacts or suppressions, and was not copied to the store" in told
    stored.run("store", "copy", f"sqlite://{tmp_path}/state/smtpproxy.db", new)
    assert "was not copied" not in stored.run("check").stdout


def test_migrate_says_what_it_did_to_a_file(tmp_path: Path) -> None:
    stored, newest = Stored(tmp_path), len(migrations())
    (tmp_path / "state").mkdir(exist_ok=True)
    with closing(sqlite3.connect(tmp_path / "state" / "smtpproxy.db")) as older:
        older.executescript("".join([*migrations()[:5], "PRAGMA user_version = 5"]))
    said = f"brought from version 5 to {newest}\n"
    assert stored.run("migrate").stdout == f"the tables of the store: {said}"
    assert stored.json("migrate") == {"before": newest, "after": newest}


@pytest.mark.parametrize("content", [b"", b"x" * 5_000])
def test_an_unreadable_former_file_is_reported_but_does_not_stop_the_relay(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "state").mkdir()
    left = tmp_path / "state" / "smtpproxy.db"
    left.write_bytes(content)
    of_database = {"store": {"url": "postgresql://relay@db.example/smtpproxy"}}
    settings = parse(to_toml(relay_config(tmp_path, "127.0.0.1:25", of_database)), "x.toml")
    (found,) = uncopied(settings)
    assert found.subject == str(left)
    assert found.text.startswith("may have contacts or suppressions that are not in the store in")
    assert found.fix.startswith("move it away")


@needs("postgresql")
def test_a_store_is_copied_there_and_back(tmp_path: Path) -> None:
    stored = Stored(tmp_path)
    stored.run("suppress", "add", "anna@people.example", "--scope", "all", "--origin", "manual")
    (file,) = (tmp_path / "state").glob("smtpproxy.db")
    old, new = f"sqlite://{file}", postgres.cluster().url(postgres.cluster().create())
    postgres.migrated(new, tmp_path / "state")
    done = stored.run("store", "copy", old, new)
    assert "suppression: 1 rows copied\n" in done.stderr
    assert "nobody can write from now on\n" in done.stderr
    assert f"copied and verified; {old} is closed" in done.stdout
    assert "nobody could write for " in done.stdout
    assert "the copy was already complete" in stored.run("store", "copy", old, new).stdout
    assert "was copied to" in stored.run("suppress", "show", "anna@people.example", code=2).stderr
    back = f"sqlite://{tmp_path}/back.db"
    told = stored.json("store", "copy", new, back)
    assert told["tables"]["suppression"]["rows"] == 1
    assert (told["already_there"], told["resumed"], told["not_erased_by"]) == (False, False, [])
    assert stored.json("store", "reopen", new)["was_closed"]
    assert stored.json("store", "reopen", old)["was_closed"]
    assert "already open" in stored.run("store", "reopen", old, code=1).stderr


@needs("postgresql")
def test_an_interrupted_copy_can_be_resumed_or_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = Stored(tmp_path)
    stored.run("suppress", "add", "anna@people.example", "--scope", "all", "--origin", "manual")
    old = f"sqlite://{tmp_path}/state/smtpproxy.db"
    new = postgres.cluster().url(postgres.cluster().create())
    postgres.migrated(new, tmp_path / "state")

    async def dies(*_: object) -> CopyResult:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as patch:
        patch.setattr("smtpproxy.store.move.copying.Copying.prove", dies)
        assert stored.run("store", "copy", old, new, code=1).stderr.endswith("gone\n")
    begun = f"a copy to {new} was started but not finished"
    assert begun in stored.run("check", code=None).stdout
    (finding,) = stored.json("doctor", "--only", "store")["findings"]
    assert (finding["status"], finding["text"].startswith(begun)) == ("warn", True)
    stored.run("suppress", "add", "ben@people.example", "--scope", "all", "--origin", "manual")
    said = stored.run("store", "reopen", new, code=2).stderr
    assert "is being filled with a copy of sqlite:" in said
    assert "to give it up, create the database again" in said
    assert not stored.json("store", "reopen", old)["was_closed"]
    assert "starting again: " in stored.run("store", "copy", old, new).stderr
