"""Copies of journals that are too short: nothing resumes by itself after them."""

import json
import shlex
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from smtpproxy.sinks.audit import anchors
from tests.backup.conftest import WHOLE, Machine

ANNE, BEN, EVE = (f"{name}@people.example" for name in ("anne", "ben", "eve"))
LOST = ("--journals-lost", "--by", "Ada Martin", "--reason", "ticket 42")
WAITS = "restore_pending"


def anchored(machine: Machine) -> anchors.Anchor:
    """Anchor the journal, as the relay does every minute."""
    found = anchors.take(machine.state / "audit", "time", lambda: datetime.now(UTC))
    assert found is not None
    return found


def unsubscribed(machine: Machine, address: str) -> None:
    machine.run("suppress", "add", address, "--origin", "unsubscribe", "--scope", "marketing")


@pytest.fixture
def backup(machine: Machine) -> Path:
    machine.people([ANNE, BEN, EVE])
    return machine.backup()


@pytest.fixture
def short(machine: Machine, backup: Path) -> Path:
    """A copy of the journals from before the last unsubscribe, and the later anchor."""
    unsubscribed(machine, ANNE)
    anchored(machine)
    copy = machine.journals(machine.state)
    unsubscribed(machine, BEN)
    return copy


def test_nothing_resumes_until_an_operator_declares_the_copy_complete(
    machine: Machine, backup: Path, short: Path
) -> None:
    machine.burn()
    done = machine.json("restore", str(backup), "--journals", str(short), code=1)
    assert "with which this copy of the journals ends" in done["missing"][0]
    assert [machine.verdict(each) for each in (ANNE, EVE)] == ["suppressed_unsubscribe", WAITS]
    machine.run("restore", code=1)  # now the journals are in state_dir, but still a copy
    assert machine.verdict(EVE) == WAITS
    machine.run("restore", *WHOLE)
    assert machine.verdict(ANNE) == "suppressed_unsubscribe"
    assert machine.verdict(EVE) == "allow"
    last = anchors.newest(machine.state / "audit")
    assert last is not None
    assert isinstance(last.row, anchors.RestoredRow)
    assert (last.row.what, last.row.by, last.row.reason) == ("replayed", WHOLE[2], WHOLE[4])


def test_a_collected_anchor_reveals_missing_entries(
    machine: Machine, backup: Path, short: Path, tmp_path: Path
) -> None:
    taken = anchored(machine).row
    assert isinstance(taken, anchors.AnchorRow)
    assert taken.changes is not None
    line = {"event": "audit anchor", "n": 9, "hash": "0" * 64, "heads": {}}
    line["changes"] = f"{taken.changes.n} {taken.changes.hash}"
    log = tmp_path / "collected.log"
    log.write_text(f"Nov 29 10:00:00 mail smtpproxy: {json.dumps(line)}\n")
    machine.burn()
    asked = ("restore", "--anchors", str(log))
    done = machine.json(*asked, str(backup), "--journals", str(short), *WHOLE, code=1)
    assert f"change {taken.changes.n} is missing" in done["missing"][0]
    assert machine.verdict(EVE) == WAITS
    machine.run("restore", *LOST)
    assert machine.verdict(ANNE) == "suppressed_unsubscribe"
    assert machine.verdict(EVE) == "allow"


def test_the_output_of_audit_anchor_reveals_missing_entries(
    machine: Machine, backup: Path, short: Path, tmp_path: Path
) -> None:
    printed = {"n": 9, "hash": "0" * 64, "heads": {}, "changes": {"n": 3, "hash": "1" * 64}}
    kept = tmp_path / "ticket.json"
    kept.write_text(json.dumps(printed))
    machine.burn()
    asked = ("restore", str(backup), "--journals", str(short), "--anchors", str(kept), *WHOLE)
    assert "change 3 is missing" in machine.json(*asked, code=1)["missing"][0]


def test_anchors_in_the_copy_reveal_missing_entries(machine: Machine, backup: Path) -> None:
    """The anchors were copied after the journal."""
    unsubscribed(machine, ANNE)
    copy = machine.journals(machine.state)
    unsubscribed(machine, BEN)
    anchored(machine)
    shutil.copy(machine.state / "audit" / "anchors.ndjson", copy)
    machine.burn()
    asked = ("restore", str(backup), "--journals", str(copy), *WHOLE)
    assert "change 3 is missing" in machine.json(*asked, code=1)["missing"][0]
    assert machine.verdict(EVE) == WAITS


def test_a_journal_that_diverged_is_not_complete(
    machine: Machine, backup: Path, short: Path, tmp_path: Path
) -> None:
    """It has as many entries, but different ones."""
    taken = anchored(machine).row
    assert isinstance(taken, anchors.AnchorRow)
    kept = tmp_path / "kept.json"
    told = {"n": taken.changes.n, "hash": taken.changes.hash} if taken.changes else None
    kept.write_text(json.dumps({"n": 1, "hash": "0" * 64, "heads": {}, "changes": told}))
    machine.burn()
    machine.run("restore", str(backup), "--journals", str(short), code=1)
    unsubscribed(machine, "somebody@else.example")
    done = machine.json("restore", "--anchors", str(kept), *WHOLE, code=1)
    assert "differs from that in an anchor" in done["missing"][0]


def test_the_machines_own_journal_that_lost_its_end(machine: Machine, backup: Path) -> None:
    unsubscribed(machine, ANNE)
    unsubscribed(machine, BEN)
    anchored(machine)
    (path,) = (machine.state / "audit").glob("changes-*.ndjson")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    for left in machine.state.glob("smtpproxy*.db*"):
        left.unlink()
    done = machine.json("restore", str(backup), code=1)
    assert "change 3 is missing" in done["missing"][0]
    assert machine.verdict(EVE) == WAITS


def test_the_printed_command_works_although_the_relay_ran_meanwhile(
    machine: Machine, backup: Path
) -> None:
    """The replay and the relay wrote changes that no copy can have."""
    unsubscribed(machine, ANNE)
    copy = machine.journals(machine.state).rename(machine.folder / "old journals")
    machine.burn()
    done = machine.json("restore", "--journals", str(copy), str(backup), code=1)
    unsubscribed(machine, BEN)
    anchored(machine)
    _, *again = shlex.split(done["missing"][0].partition(", run: ")[2])
    machine.json(*again)
    assert machine.verdict(EVE) == "allow"
    assert [machine.verdict(each) for each in (ANNE, BEN)] == ["suppressed_unsubscribe"] * 2


def test_newer_journals_are_used_although_the_relay_ran_meanwhile(
    machine: Machine, backup: Path, short: Path, tmp_path: Path
) -> None:
    """Anchors of changes made here since the restore prove nothing about them."""
    left = machine.burn()
    machine.json("restore", str(backup), "--journals", str(short), code=1)
    unsubscribed(machine, EVE)
    taken = anchored(machine).row
    assert isinstance(taken, anchors.AnchorRow)
    assert taken.changes is not None
    kept = tmp_path / "kept.json"
    told = {"n": taken.changes.n, "hash": taken.changes.hash}
    kept.write_text(json.dumps({"n": 1, "hash": "0" * 64, "heads": {}, "changes": told}))
    machine.json("restore", "--journals", str(left), "--anchors", str(kept), *WHOLE)
    assert [machine.verdict(each) for each in (ANNE, BEN, EVE)] == ["suppressed_unsubscribe"] * 3


def test_declaring_a_copy_complete_needs_a_name_and_a_reason(
    machine: Machine, backup: Path
) -> None:
    machine.burn()
    for wrong in (WHOLE[:1], WHOLE[:3], (*WHOLE, "--journals-lost"), WHOLE[1:]):
        machine.run("restore", str(backup), *wrong, code=2)
    assert not machine.state.exists()


def test_invented_anchors_do_not_crash_the_command(
    machine: Machine, backup: Path, short: Path, tmp_path: Path
) -> None:
    (path,) = short.rglob("anchors.ndjson")
    head = '{"file":"x","n":9,"hash":"' + "0" * 64 + '"}'
    path.write_text(path.read_text().replace('"heads":{}', f'"heads":{{"x":{head}}}'))
    kept = tmp_path / "kept.log"
    told = {"n": 1, "hash": "0" * 64, "heads": {}, "changes": f"{'9' * 5000} {'0' * 64}"}
    kept.write_text(json.dumps(told))
    machine.burn()
    asked = ("restore", str(backup), "--journals", str(short), "--anchors", str(kept), *WHOLE)
    assert "decisions of worker x end with row 0" in machine.json(*asked)["notes"][0]
