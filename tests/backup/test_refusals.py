"""Refusals after a backup that made no suppression still hold after a restore."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from smtpproxy.policy.model import Frequency
from tests.backup.conftest import WHOLE, Machine
from tests.cli.stored import DAY_ONE

ANNE, BEN, LATE = (f"{name}@people.example" for name in ("anne", "ben", "late"))
AT = "2026-03-02T10:00:00Z"
REFUSED: dict[str, dict[str, object]] = {
    "restricted": {"tags": ["Restricted", "vip"]},
    "wished": {
        "preferences": [{"purpose": "offers", "frequency": "monthly", "at": AT, "brand": "default"}]
    },
    "profiling": {"profiling_objected_at": AT},
}


def refuse(machine: Machine, address: str, what: str) -> None:
    line = json.dumps({"address": address, "collected_at": DAY_ONE, **REFUSED[what]})
    machine.run("contact", "import", machine.file("refused.ndjson", line + "\n"))


@pytest.fixture
def backup(machine: Machine) -> Path:
    machine.people([ANNE, BEN])
    return machine.backup()


def exported(machine: Machine, address: str) -> dict[str, object]:
    lines = map(json.loads, machine.run("contact", "export").stdout.splitlines())
    return next(dict(one) for one in lines if one["address"] == address)


@pytest.mark.parametrize("what", list(REFUSED))
def test_refusals_of_a_contact_are_recorded_again(
    machine: Machine, backup: Path, what: str
) -> None:
    refuse(machine, ANNE, what)
    before = exported(machine, ANNE)
    left = machine.burn()
    done = machine.json("restore", str(backup), "--journals", str(left), *WHOLE)
    assert (done["complete"], done["refused"]) == (True, 1)
    after = exported(machine, ANNE)
    if what == "restricted":
        assert after["tags"] == ["Restricted"], "the journal has no personal profile"
        assert machine.verdict(ANNE) == "contact_restricted"
    else:
        (name,) = REFUSED[what]
        assert after[name] == before[name]
    assert machine.verdict(BEN) == "allow"


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("restricted", "suppressed_manual"),
        ("wished", "suppressed_unsubscribe"),
        ("profiling", "suppressed_objection"),
    ],
)
def test_an_import_does_not_revive_a_person_added_after_the_backup(
    machine: Machine, backup: Path, what: str, reason: str
) -> None:
    machine.people([LATE])
    refuse(machine, LATE, what)
    left = machine.burn()
    machine.run("restore", str(backup), "--journals", str(left), *WHOLE)
    machine.people([LATE])
    assert machine.verdict(LATE) == reason


def test_a_tag_corrected_by_hand_counts_too(machine: Machine, backup: Path) -> None:
    machine.run("contact", "rectify", ANNE, "--add-tag", "restricted", "--reason", "art. 18")
    left = machine.burn()
    machine.run("restore", str(backup), "--journals", str(left), *WHOLE)
    assert machine.verdict(ANNE) == "contact_restricted"


def test_the_newest_wish_counts() -> None:
    from smtpproxy.backup.replay import suppressions_for
    from smtpproxy.store.change_journal import Change

    def wish(day: int, frequency: Frequency) -> Change:
        at = datetime(2026, 3, day, tzinfo=UTC)
        return Change(
            at, "wished", "key", since=at, purpose="offers", brand="x", frequency=frequency
        )

    taken_back = [wish(1, Frequency.MONTHLY), wish(2, Frequency.ALL)]
    assert not list(suppressions_for(taken_back))
    assert [scope for scope, _, _ in suppressions_for(taken_back[:1])] == ["purpose:offers"]


def test_a_withdrawal_from_everything_stops_everything_without_a_contact() -> None:
    from smtpproxy.backup.replay import suppressions_for
    from smtpproxy.store.change_journal import Change

    at = datetime(2026, 3, 1, tzinfo=UTC)
    told = [Change(at, "withdrawn", "key", since=at, purpose="*", brand=one) for one in (None, "x")]
    assert [scope for scope, _, _ in suppressions_for(told)] == ["marketing", "brand:x"]
