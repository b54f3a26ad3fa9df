"""Other events after a backup: imports undone, streams paused, mail counted."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from smtpproxy.settings import StoreSettings
from smtpproxy.store import open_mailings
from tests.backup.conftest import WHOLE, Machine
from tests.kit.journal import Clock, decided, journal

ANNE, BEN, DAN, EVE = (f"{name}@people.example" for name in ("anne", "ben", "dan", "eve"))
LOST = ("--journals-lost", "--by", "Ada Martin", "--reason", "ticket 42")


def imports(machine: Machine) -> list[dict[str, str]]:
    return list(machine.json("import", "list"))


@pytest.mark.parametrize("gap", [False, True])
def test_people_from_an_undone_import_do_not_become_mailable(machine: Machine, gap: bool) -> None:
    machine.people([ANNE])
    machine.people([BEN, EVE])
    backup = machine.backup()
    machine.run("import", "undo", imports(machine)[-1]["id"])
    machine.run("suppress", "add", "x@people.example", "--origin", "manual", "--scope", "all")
    left = machine.burn()
    if gap:
        (path,) = (left / "audit").glob("changes-*.ndjson")
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([lines[0], lines[1], lines[1]]))
    asked = ("restore", str(backup), "--journals", str(left), *WHOLE)
    done = machine.json(*asked, code=1 if gap else 0)
    assert done["imports_undone"] == 1
    if gap:
        machine.run("restore", *LOST)
    assert machine.verdict(ANNE) == "allow"
    assert [machine.verdict(each) for each in (BEN, EVE)] == ["no_record"] * 2
    assert [one["state"] for one in imports(machine)] == ["complete", "undone"]


def test_an_import_unknown_to_the_backup_is_left_alone(machine: Machine) -> None:
    machine.people([ANNE])
    backup = machine.backup()
    machine.people([BEN])
    machine.run("import", "undo", imports(machine)[-1]["id"])
    left = machine.burn()
    done = machine.json("restore", str(backup), "--journals", str(left), *WHOLE)
    assert (done["complete"], done["imports_undone"]) == (True, 0)
    assert machine.verdict(ANNE) == "allow"


def test_suppressions_of_an_undone_import_are_lifted_again(machine: Machine) -> None:
    machine.people([ANNE])
    told = json.dumps({"address": ANNE, "scope": "marketing", "origin": "manual", "since": "2026"})
    line = told.replace('"2026"', '"2026-03-02T10:00:00Z"')
    machine.run("suppress", "import", machine.file("stop.ndjson", line + "\n"))
    backup = machine.backup()
    machine.run("import", "undo", imports(machine)[-1]["id"])
    left = machine.burn()
    machine.run("restore", str(backup), "--journals", str(left), *WHOLE)
    assert machine.verdict(ANNE) == "allow"
    assert imports(machine)[-1]["state"] == "undone"


@pytest.mark.parametrize("gap", [False, True])
def test_pauses_are_restored_to_their_last_state(machine: Machine, gap: bool) -> None:
    machine.people([ANNE])
    machine.run("stream", "pause", "appeals", "--reason", "ticket 1")
    backup = machine.backup()
    machine.run("stream", "resume", "appeals", "--reason", "done")
    machine.run("stream", "pause", "offers", "--reason", "ticket 2")
    left = machine.burn()
    if gap:
        (path,) = (left / "audit").glob("changes-*.ndjson")
        text = path.read_text()
        path.write_text(text.replace('"resumed"', '"resumed" '))
    machine.json("restore", str(backup), "--journals", str(left), *WHOLE, code=1 if gap else 0)
    if gap:
        machine.run("restore", *LOST)
    paused = {one["stream"]: bool(one["paused"]) for one in machine.json("stream", "show")}
    assert (paused["offers"], paused["appeals"]) == (True, gap)


def test_a_stream_paused_while_journals_are_awaited_stays_paused(machine: Machine) -> None:
    machine.people([ANNE])
    backup = machine.backup()
    machine.run("stream", "pause", "offers", "--reason", "ticket 1")
    machine.run("stream", "resume", "offers", "--reason", "done")
    left = machine.burn()
    machine.run("restore", str(backup), code=1)
    machine.run("stream", "pause", "offers", "--reason", "ticket 2")
    machine.run("restore", "--journals", str(left), *WHOLE)
    paused = {one["stream"]: bool(one["paused"]) for one in machine.json("stream", "show")}
    assert paused["offers"]


def capped(machine: Machine) -> None:
    text = machine.config_path.read_text()
    name = 'name = "offers"'
    assert text.count(name) == 1
    machine.config_path.write_text(text.replace(name, f'{name}\nfrequency_cap = "1/7d"'))


async def test_mail_sent_after_the_backup_is_counted_again(machine: Machine) -> None:
    """Once, even if the backup has it, and not for anybody refused or erased since."""
    await asyncio.to_thread(machine.people, [ANNE, BEN, EVE])
    await asyncio.to_thread(capped, machine)
    clock = Clock()
    clock.time = datetime.now(UTC) + timedelta(seconds=5)
    before = decided(clock, DAN)
    log = open_mailings(StoreSettings(f"sqlite://{machine.state}/smtpproxy.db"))
    await log.reserve(before.id, before.decision.stream, [DAN], datetime.now(UTC))
    log.close()
    backup = await asyncio.to_thread(machine.backup)
    writing = journal(machine.state / "audit", clock)
    for address in (ANNE, BEN, EVE):
        await writing.commit(replace(decided(clock, address), relayed=address != BEN))
    await writing.commit(before)
    writing.close()
    await asyncio.to_thread(machine.run, "contact", "erase", EVE)
    left = await asyncio.to_thread(machine.burn)
    asked = ("restore", str(backup), "--journals", str(left), *WHOLE)
    done = await asyncio.to_thread(machine.json, *asked)
    assert done["mailed"] == 1
    log = open_mailings(StoreSettings(f"sqlite://{machine.state}/smtpproxy.db"))
    everybody = [ANNE, BEN, DAN, EVE]
    known = await log.known(everybody)
    assert [len(known[each].mailings) for each in everybody] == [1, 0, 1, 0]
    log.close()


def test_a_waiting_stream_says_what_it_waits_for(machine: Machine) -> None:
    machine.people([ANNE])
    backup = machine.backup()
    machine.burn()
    machine.run("restore", str(backup), code=1)
    (offers,) = [one for one in machine.json("stream", "show") if one["stream"] == "offers"]
    assert offers["paused"]["reason"] == "smtpproxy restore says what is missing"
