"""After a power cut, no name stands for a file that never got to the disk."""

from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from smtpproxy import clock
from smtpproxy.cli import main
from smtpproxy.drafts import Drafts
from smtpproxy.setup.files import File, write
from smtpproxy.store.postgres.hosts import Lineage
from smtpproxy.store.sql.copies import CopyLedger
from smtpproxy.store.sqlite.side_file import SideFile
from tests.kit.disk import flushed


def test_an_export_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = flushed(monkeypatch)
    with Drafts() as drafts:
        drafts.open(tmp_path / "list.csv").write(b"address\n")
        drafts.commit()
    (path,) = paths
    assert path.name.startswith(".list.csv.")


def test_a_new_key_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = flushed(monkeypatch)
    names = ("--domain", "shop.example", "--selector", "s1", "--type", "ed25519")
    done = CliRunner().invoke(main, ["dkim", "keygen", str(tmp_path / "s1.pem"), *names])
    assert done.exit_code == 0, done.output
    assert paths == [tmp_path / "s1.pem", tmp_path]


def test_a_first_configuration_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = flushed(monkeypatch)
    write([File(tmp_path / "smtpproxy.toml", b"")], tmp_path / "state")
    assert paths == [tmp_path / "smtpproxy.toml", tmp_path]


async def test_who_has_a_copy_is_on_the_disk_when_that_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of one would mean a second copy. That a client has its answer may be lost."""
    file = SideFile(tmp_path / "store.db", "copies", 2.0)
    ledger = CopyLedger(file, clock.now)
    digest = partial(bytes, 32)
    paths = flushed(monkeypatch)
    await ledger.note("news@shop.example", digest, "anne@people.example")
    assert paths == [tmp_path / "store-copies.db-wal"]
    await ledger.forget("news@shop.example", digest, ["anne@people.example"])
    assert len(paths) == 1
    file.close()


async def test_the_timeline_of_the_newest_primary_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Primary:
        async def fetchrow(self, _: str) -> tuple[str, int, str]:
            return "7", 2, "db1"

    async def nothing() -> None:
        pass

    paths = flushed(monkeypatch)
    lineage = Lineage(nothing)
    lineage.folder = tmp_path
    await lineage.admit(Primary())
    assert (tmp_path / "timeline").read_text() == "7 2\n"
    assert len(paths) == 2
    assert paths[0].name.startswith("timeline.")
