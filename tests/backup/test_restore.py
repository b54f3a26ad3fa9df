"""`smtpproxy backup` and `restore`: what a fire destroys, and who may be mailed afterwards."""

import asyncio
import json
import re
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from smtpproxy.settings import StoreSettings
from smtpproxy.sinks.audit import anchors
from smtpproxy.store import open_answers
from smtpproxy.store.exchange.snapshot import SnapshotWriter
from smtpproxy.store.key_files import load_partner_key
from smtpproxy.store.sql.web_tables import KeptAnswer
from tests.backup.conftest import WHOLE, Machine
from tests.kit.journal import Clock, decided, journal
from tests.kit.relay import relay_config
from tests.kit.toml import to_toml

ANNE, BEN, CLEO, DAN, EVE = (
    f"{name}@people.example" for name in ("anne", "ben", "cleo", "dan", "eve")
)
WAITS = "restore_pending"


@pytest.fixture
def backup(machine: Machine) -> Path:
    """A backup of five people who consented to offers."""
    machine.people([ANNE, BEN, CLEO, DAN, EVE])
    return machine.backup()


def stop_four(machine: Machine) -> None:
    """Let four of the five stop their mail after the backup."""
    machine.run("suppress", "add", ANNE, "--origin", "unsubscribe", "--scope", "marketing")
    machine.run("consent", "withdraw", BEN, "--purpose", "offers")
    machine.run("contact", "erase", CLEO)
    machine.run("suppress", "add", DAN, "--origin", "bounce", "--scope", "all")


def test_a_backup_is_private_and_complete(machine: Machine, backup: Path) -> None:
    assert backup.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in backup.iterdir()} == {0o600}
    manifest = json.loads((backup / "manifest.json").read_text())
    names = {kept["name"] for kept in manifest["files"]}
    assert {"smtpproxy.db", "suppression.key", "configuration.toml"} <= names
    assert names | {"manifest.json"} == {path.name for path in backup.iterdir()}
    assert (manifest["contacts"], manifest["suppressions"]) == (5, 0)
    assert not list(machine.folder.glob(".*.partial"))


def test_a_backup_holds_the_rulebooks_of_the_configuration(machine: Machine) -> None:
    book = machine.file("rulebook.toml", 'name = "own"\n')
    config = relay_config(machine.folder, "127.0.0.1:25", {"policy": {"rulebook": book}})
    machine.config_path.write_text(to_toml(config))
    machine.people([ANNE])
    backup = machine.backup()
    manifest = json.loads((backup / "manifest.json").read_text())
    (name,) = [kept["name"] for kept in manifest["files"] if kept.get("path") == book]
    assert (backup / name).read_text() == 'name = "own"\n'


def test_a_backup_overwrites_nothing_that_exists(machine: Machine, backup: Path) -> None:
    before = {path.name: path.read_bytes() for path in backup.iterdir()}
    told = machine.run("backup", str(backup), code=1).stderr
    assert "already exists" in told
    assert before == {path.name: path.read_bytes() for path in backup.iterdir()}


def test_nobody_becomes_mailable_again_after_a_restore(machine: Machine, backup: Path) -> None:
    """The journals are on another machine; this one has only its configuration."""
    stop_four(machine)
    left = machine.burn()
    done = machine.json("restore", str(backup), "--journals", str(machine.journals(left)), *WHOLE)
    assert (done["complete"], done["missing"]) == (True, [])
    assert (done["withdrawn"], done["erased"]) == (1, 1)
    assert machine.verdict(ANNE) == "suppressed_unsubscribe"
    assert machine.verdict(BEN) == "consent_withdrawn"
    assert machine.verdict(CLEO) == "suppressed_erasure"
    assert machine.verdict(DAN) == "suppressed_bounce"
    assert machine.verdict(EVE) == "allow"
    assert CLEO not in machine.run("contact", "export").stdout


def test_without_journals_marketing_waits(machine: Machine, backup: Path) -> None:
    stop_four(machine)
    machine.burn()
    done = machine.json("restore", str(backup), code=1)
    assert not done["complete"]
    assert "there is no journal of changes" in done["missing"][0]
    assert [machine.verdict(each) for each in (ANNE, EVE)] == [WAITS, WAITS]
    assert machine.json("check")["valid"]
    assert any(WAITS in warning for warning in machine.json("check")["warnings"])


def test_journals_may_come_later(machine: Machine, backup: Path) -> None:
    stop_four(machine)
    left = machine.burn()
    machine.run("restore", str(backup), code=1)
    machine.run("suppress", "add", "first@since.example", "--origin", "manual", "--scope", "all")
    machine.run("restore", "--journals", str(left), *WHOLE)
    assert machine.verdict(ANNE) == "suppressed_unsubscribe"
    assert machine.verdict(EVE) == "allow"
    machine.run("audit", "verify")


@pytest.mark.parametrize("changed", [False, True])
async def test_the_record_of_decisions_comes_with_late_journals(
    machine: Machine, backup: Path, changed: bool
) -> None:
    """A restore without them asks for them, and says what stays if this machine has gone on."""
    writing = journal(machine.state / "audit", Clock())
    await writing.commit(decided(Clock(), ANNE))
    writing.close()
    left = machine.burn()
    await asyncio.to_thread(machine.run, "restore", str(backup), code=1)
    if changed:
        add = ("suppress", "add", ANNE, "--origin", "manual", "--scope", "all")
        await asyncio.to_thread(machine.run, *add)
    done = await asyncio.to_thread(
        machine.json, "restore", "--journals", str(left), *WHOLE, code=None
    )
    told = await asyncio.to_thread(machine.run, "audit", "verify")
    assert "nothing is wrong" in told.stdout
    assert f"{0 if changed else 1} decision" in told.stdout
    assert any("it proves those decisions" in note for note in done["notes"]) is changed


def test_a_machine_that_still_has_its_journals(machine: Machine, backup: Path) -> None:
    """Only the database is lost."""
    stop_four(machine)
    for path in machine.state.glob("smtpproxy*.db*"):
        path.unlink()
    machine.run("restore", str(backup))
    assert machine.verdict(ANNE) == "suppressed_unsubscribe"
    assert machine.verdict(EVE) == "allow"
    # new commits get unused numbers and continue the same journal
    machine.run("suppress", "add", EVE, "--origin", "complaint", "--scope", "marketing")
    machine.backup("later")
    machine.burn()
    again = machine.folder / "later"
    machine.run("restore", str(again), "--journals", str(machine.folder / "burnt"), *WHOLE)
    assert machine.verdict(EVE) == "suppressed_complaint"


def test_an_operator_declares_the_journals_lost(machine: Machine, backup: Path) -> None:
    machine.burn()
    machine.run("restore", str(backup), code=1)
    assert machine.run("restore", "--journals-lost", code=2).stderr
    machine.run("restore", "--journals-lost", "--by", "Ada Martin", "--reason", "ticket 42")
    assert machine.verdict(EVE) == "allow"
    rows = [
        anchors.read_anchor(line).row
        for line in (machine.state / "audit" / "anchors.ndjson").open("rb")
    ]
    assert isinstance(rows[-1], anchors.RestoredRow)
    assert (rows[-1].what, rows[-1].by, rows[-1].reason) == ("lost", "Ada Martin", "ticket 42")
    machine.run("audit", "verify")
    told = machine.run("restore", "--journals-lost", "--by", "A", "--reason", "B", code=1).stderr
    assert "no restore is waiting" in told


def test_lifted_suppressions_are_lifted_again(machine: Machine, backup: Path) -> None:
    machine.run("suppress", "add", ANNE, "--origin", "manual", "--scope", "marketing")
    machine.run("suppress", "remove", ANNE, "--all", "--reason", "a_mistake", "--keep-notes")
    left = machine.burn()
    machine.run("restore", str(backup), "--journals", str(left), *WHOLE)
    assert machine.verdict(ANNE) == "allow"


def test_a_complaint_while_journals_are_awaited_stays(machine: Machine, backup: Path) -> None:
    """Though the journal says that an earlier complaint was lifted."""
    complaint = ANNE, "--origin", "complaint", "--scope", "marketing"
    machine.run("suppress", "add", *complaint)
    machine.run("suppress", "remove", ANNE, "--all", "--reason", "a_mistake", "--keep-notes")
    left = machine.burn()
    machine.run("restore", str(backup), code=1)
    machine.run("suppress", "add", *complaint)
    machine.run("restore", "--journals", str(left), *WHOLE)
    assert machine.verdict(ANNE) == "suppressed_complaint"


def test_a_person_added_after_the_backup_stays_withdrawn(machine: Machine, backup: Path) -> None:
    """The backup lacks their contact; importing the old list must not revive them."""
    machine.people(["late@people.example"])
    machine.run("consent", "withdraw", "late@people.example", "--purpose", "offers")
    left = machine.burn()
    machine.run("restore", str(backup), "--journals", str(left), *WHOLE)
    machine.people(["late@people.example"])
    assert machine.verdict("late@people.example") == "suppressed_unsubscribe"


async def test_changes_by_the_api_after_the_backup_are_repeated(
    machine: Machine, backup: Path
) -> None:
    """Only the database is lost; answers to requests are kept in another file."""
    (database,) = machine.state.glob("smtpproxy.db")
    settings = StoreSettings(f"sqlite://{database}")

    async def asked() -> object:
        answers = open_answers(settings, lambda: datetime(2026, 11, 28, tzinfo=UTC))
        with closing(answers):
            begun = await answers.begin("crm", "key", b"suppress somebody")
            await answers.finish("crm", "key", KeptAnswer(b"{}"))
            return begun

    assert await asked() == "new"
    assert await asked() == KeptAnswer(b"{}")
    for path in machine.state.glob("smtpproxy.db*"):
        path.unlink()
    await asyncio.to_thread(machine.run, "restore", str(backup))
    assert await asked() == "new"


def _lines(folder: Path) -> tuple[Path, list[str]]:
    (path,) = folder.glob("changes-*.ndjson")
    return path, path.read_text().splitlines(keepends=True)


def test_a_gap_in_a_journal_is_reported_and_marketing_waits(machine: Machine, backup: Path) -> None:
    stop_four(machine)
    left = machine.burn()
    path, lines = _lines(left / "audit")
    path.write_text("".join([*lines[:2], *lines[3:]]))
    done = machine.json("restore", str(backup), "--journals", str(left), code=1)
    assert "change 3 is missing" in done["missing"][0]
    assert machine.verdict(EVE) == WAITS
    # the entries that exist count all the same
    machine.run("restore", "--journals-lost", "--by", "Ada", "--reason", "ticket 42")
    assert machine.verdict(ANNE) == "suppressed_unsubscribe"
    assert machine.verdict(DAN) == "suppressed_bounce"


@pytest.mark.parametrize("fault", ["altered", "older", "another"])
def test_a_journal_that_does_not_continue_the_backup(
    machine: Machine, backup: Path, fault: str
) -> None:
    stop_four(machine)
    left = machine.burn()
    path, lines = _lines(left / "audit")
    if fault == "altered":
        lines[1] = lines[1].replace('"marketing"', '"brand:none"')
    elif fault == "older":
        lines = []
    else:
        lines[0] = lines[0].replace('"backup"', '"backup" ')
    path.write_text("".join(lines))
    done = machine.json("restore", str(backup), "--journals", str(left), code=1)
    told = {"altered": "does not continue", "older": "no journal", "another": "differs from"}
    assert told[fault] in done["missing"][0]
    assert machine.verdict(EVE) == WAITS


def test_a_restore_over_existing_files_is_refused(machine: Machine, backup: Path) -> None:
    before = (machine.state / "smtpproxy.db").read_bytes()
    told = machine.run("restore", str(backup), code=1).stderr
    assert "smtpproxy.db: already exists" in told
    assert "--journals" in told
    assert (machine.state / "smtpproxy.db").read_bytes() == before
    assert machine.verdict(EVE) == "allow"


@pytest.mark.parametrize(
    "fault", ["short", "flipped", "gone", "foreign key", "no manifest", "json"]
)
def test_a_damaged_backup_changes_nothing(machine: Machine, backup: Path, fault: str) -> None:
    machine.burn()
    database, key = backup / "smtpproxy.db", backup / "suppression.key"
    octets = database.read_bytes()
    if fault == "short":
        database.write_bytes(octets[:-4096])
    elif fault == "flipped":
        database.write_bytes(octets[:-1] + bytes([octets[-1] ^ 1]))
    elif fault == "gone":
        database.unlink()
    elif fault == "foreign key":
        key.write_text("1 " + "ab" * 32 + "\n")
        _sign(backup)
    elif fault == "no manifest":
        (backup / "manifest.json").unlink()
    else:
        (backup / "manifest.json").write_text("[" * 10_000)
    told = machine.run("restore", str(backup), code=None)
    assert told.exit_code in (1, 2)
    assert str(backup) in told.stderr
    assert "Traceback" not in told.stderr
    assert not machine.state.exists()


def test_a_backup_of_a_newer_program(machine: Machine, backup: Path) -> None:
    machine.burn()
    with closing(sqlite3.connect(backup / "smtpproxy.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
    _sign(backup)
    told = machine.run("restore", str(backup), code=2).stderr
    assert "made by a newer smtpproxy" in told
    assert not machine.state.exists()


def _sign(backup: Path) -> None:
    """Make the manifest match the files, so that only other faults remain."""
    from smtpproxy.backup.manifest import digest

    path = backup / "manifest.json"
    manifest = json.loads(path.read_text())
    for kept in manifest["files"]:
        file = backup / kept["name"]
        kept |= {"size": file.stat().st_size, "sha256": digest(file)}
    path.write_text(json.dumps(manifest))


def test_a_rekeying_after_the_backup_is_reported(machine: Machine, backup: Path) -> None:
    machine.run("suppress", "rekey")
    machine.run("suppress", "add", ANNE, "--origin", "unsubscribe", "--scope", "marketing")
    left = machine.burn()
    done = machine.json("restore", str(backup), "--journals", str(left), code=1)
    assert "under the key" in done["missing"][-1]
    assert machine.verdict(EVE) == WAITS


def test_files_named_in_the_configuration_are_restored(machine: Machine, tmp_path: Path) -> None:
    key = tmp_path / "partner.key"
    text = machine.config_path.read_text()
    machine.config_path.write_text(f'{text}\n[[partner]]\nname = "twin"\nkey_file = "{key}"\n')
    machine.run("partner", "key", "twin")
    machine.people([EVE])
    backup, secret = machine.backup(), key.read_bytes()
    key.unlink()
    left = machine.burn()
    told = machine.run("restore", str(backup), "--journals", str(left), *WHOLE)
    assert key.read_bytes() == secret
    assert key.stat().st_mode & 0o777 == 0o600
    assert "any snapshot of twin since the backup is lost: import the newest" in told.stdout


@pytest.mark.parametrize("again", [False, True])
def test_whoever_a_partner_named_since_is_asked_for(machine: Machine, again: bool) -> None:
    """Its snapshots are in no journal."""
    key, snapshot = machine.folder / "twin.key", machine.folder / "snapshot"
    text = machine.config_path.read_text()
    machine.config_path.write_text(f'{text}\n[[partner]]\nname = "twin"\nkey_file = "{key}"\n')
    machine.run("partner", "key", "twin")
    with closing(SnapshotWriter(load_partner_key(key))) as writer, snapshot.open("wb") as file:
        writer.write(file, partner="twin", sender="twin.example", taken_at=datetime.now(UTC))
    machine.run("suppress", "import", "--partner", "twin", str(snapshot))
    backup = machine.backup()
    left = machine.burn()
    machine.run("restore", str(backup), code=1)
    if again:
        machine.run("suppress", "import", "--partner", "twin", str(snapshot))
    told = machine.run("restore", "--journals", str(left), *WHOLE)
    assert ("any snapshot of twin since the backup" in told.stdout) != again


@pytest.mark.parametrize("years_ahead", [0, 10])
async def test_an_old_copy_of_the_audit_log_does_not_bring_an_erased_person_back(
    machine: Machine, backup: Path, years_ahead: int
) -> None:
    """The decisions were copied before the erasure, the journal of changes after it; whatever the
    clock was meanwhile."""
    audit = machine.state / "audit"
    clock = Clock()
    writing = journal(audit, clock)
    await writing.commit(decided(clock, CLEO))
    writing.close()
    if years_ahead:
        ahead = timedelta(days=365 * years_ahead)
        anchors.take(audit, "asked", lambda: datetime.now(UTC) + ahead)
    await asyncio.to_thread(_burn_after_an_erasure, machine, backup)


def _burn_after_an_erasure(machine: Machine, backup: Path) -> None:
    audit = machine.state / "audit"
    shipped = machine.journals(machine.state)
    assert any(CLEO in path.read_text() for path in shipped.glob("0*.ndjson"))
    machine.run("contact", "erase", CLEO)
    (changes,) = audit.glob("changes-*.ndjson")
    shutil.copy(changes, shipped)
    machine.burn()
    machine.run("restore", str(backup), "--journals", str(shipped), *WHOLE)
    kept = list(audit.glob("0*.ndjson"))
    assert kept
    assert not any(CLEO in path.read_text() for path in kept)
    assert "nothing is wrong" in machine.run("audit", "verify").stdout


@pytest.mark.parametrize("kept", [False, True])
async def test_records_kept_by_an_erasure_stay(machine: Machine, backup: Path, kept: bool) -> None:
    """Anchors from after the erasure distinguish them from the erased decisions."""
    writing = journal(machine.state / "audit", Clock())
    await writing.commit(decided(Clock(), CLEO))
    writing.close()
    await asyncio.to_thread(_burn_long_after_an_erasure, machine, backup, kept)


def _burn_long_after_an_erasure(machine: Machine, backup: Path, kept: bool) -> None:
    audit = machine.state / "audit"
    shipped = machine.journals(machine.state)
    machine.run("contact", "erase", CLEO, *(["--keep-record"] if kept else []))
    anchors.take(audit, "asked", lambda: datetime.now(UTC) + timedelta(minutes=2))
    for path in (audit / "anchors.ndjson", *audit.glob("changes-*.ndjson")):
        shutil.copy(path, shipped)
    machine.burn()
    machine.run("restore", str(backup), "--journals", str(shipped), *WHOLE)
    assert any(CLEO in path.read_text() for path in audit.glob("0*.ndjson")) == kept
    assert machine.verdict(CLEO) == "suppressed_erasure"
    assert "nothing is wrong" in machine.run("audit", "verify").stdout


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_with_postgresql_its_own_tools_are_pointed_to(
    machine: Machine, backup: Path, command: str
) -> None:
    text = machine.config_path.read_text()
    url = "postgresql://smtpproxy@127.0.0.1/smtpproxy"
    machine.config_path.write_text(re.sub(r"sqlite://[^\"]+", url, text))
    folder = backup if command == "restore" else machine.folder / "another"
    told = machine.run(command, str(folder), code=1).stderr
    assert "PostgreSQL" in told or "SQLite" in told
    assert "Traceback" not in told
