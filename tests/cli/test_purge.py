"""`smtpproxy purge`: what it reports, and what it refuses."""

import fcntl
import json
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.cli.stored import Stored

DAY_ONE = "2019-05-04T10:00:00Z"
FAR = f"{datetime.now(UTC).year + 4}-06-01"


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    stored = Stored(tmp_path)
    today = datetime.now(UTC).strftime("%Y-%m-%dT00:00:00Z")
    withdrawn = [{"purpose": "offers", "withdrawn_at": "2020-02-03T10:00:00Z"}]
    contacts = [
        {"address": "old@people.example", "collected_at": DAY_ONE, "consents": withdrawn},
        {"address": "new@people.example", "collected_at": today},
    ]
    people = stored.file("people.ndjson", "".join(f"{json.dumps(one)}\n" for one in contacts))
    stored.run("contact", "import", people)
    orders = "a@b.example,all,complaint,2019-01-05,\nnew@people.example,all,bounce,2019-01-06,\n"
    stored.run("suppress", "import", stored.file("orders.csv", orders))
    return stored


def age(stored: Stored) -> None:
    """Make the suppressions five years old."""
    path = stored.folder / "state" / "smtpproxy.db"
    ago = datetime.now(UTC) - timedelta(days=5 * 366)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE suppression SET renewed_at = ?", (int(ago.timestamp() * 1e6),))
    database.close()


def test_a_dry_run_says_what_would_go_and_how_old_it_is(stored: Stored) -> None:
    out = stored.run("purge", "--dry-run").stdout
    assert out.splitlines()[0].split() == ["kind", "kept", "for", "would", "go", "oldest", "newest"]
    assert out.splitlines()[1].split() == [
        "contacts",
        "3",
        "years",
        "1",
        "2020-02-03",
        "2020-02-03",
    ]
    assert out.splitlines()[2].split() == ["suppressions", "3", "years", "0"]
    assert "1 withdrawal or objection of contacts would become a suppression" in out
    assert stored.json("contact", "show", "old@people.example")
    assert not (stored.folder / "state" / "purges.ndjson").exists()


def test_a_dry_run_can_look_ahead(stored: Stored) -> None:
    found = stored.json("purge", "--dry-run", "--at", FAR)
    assert found["dry_run"] is True
    assert found["at"] == f"{FAR}T00:00:00Z"
    assert found["removed"]["contacts"]["rows"] == 2
    assert (found["removed"]["suppressions"]["rows"], found["suppressions_held"]) == (1, 1)


def test_people_who_objected_go_after_the_rulebooks_period(stored: Stored) -> None:
    since = f"{datetime.now(UTC) - timedelta(40):%Y-%m-%d}"
    stored.run("contact", "object", "new@people.example", "--since", since)
    told = stored.run("purge", "--dry-run").stdout
    assert "1 contact would go because the person objected: the suppression is kept" in told
    stored.run("contact", "show", "new@people.example")
    assert stored.json("purge")["contacts_objected"] == 1
    stored.run("contact", "show", "new@people.example", code=1)
    assert "objection" in stored.run("suppress", "show", "new@people.example").stdout


def test_a_run_removes_old_data_and_is_on_record(stored: Stored) -> None:
    age(stored)
    found = stored.json("purge")
    assert (found["dry_run"], found["orders_kept"]) == (False, 1)
    assert {kind: removed["rows"] for kind, removed in found["removed"].items()} == {
        "contacts": 1, "suppressions": 1, "lifted_suppressions": 0, "mailings": 0,
        "reports": 0,
        "audit": 0
    }  # fmt: skip
    assert found["removed"]["contacts"]["oldest"] == "2020-02-03T10:00:00Z"
    stored.run("contact", "show", "old@people.example", code=1)
    assert "purpose:offers" in stored.run("suppress", "show", "old@people.example").stdout
    assert stored.json("suppress", "show", "new@people.example"), "its contact still exists"
    record = (stored.folder / "state" / "purges.ndjson").read_text()
    assert '"contacts":1' in record
    assert "@" not in record
    out = stored.run("purge").stdout
    assert out.splitlines()[1].split() == ["contacts", "3", "years", "0"]


def test_younger_data_is_not_removed(stored: Stored) -> None:
    result = stored.run("purge", "--at", FAR, code=2)
    assert "--dry-run" in result.stderr
    assert stored.json("contact", "show", "old@people.example")


def test_only_one_purge_runs_at_a_time(stored: Stored) -> None:
    with (stored.folder / "state" / "purge.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "another purge is running" in stored.run("purge", code=1).stderr


def test_the_configuration_sets_the_periods(stored: Stored) -> None:
    text = stored.config_path.read_text()
    stored.config_path.write_text(text + '\n[retention]\nprospects = "90y"\ncustomers = "1y"\n')
    out = stored.run("purge", "--dry-run").stdout
    assert out.splitlines()[1].split() == [
        "contacts",
        "90",
        "years,",
        "1",
        "year",
        "(customers)",
        "0",
    ]


def test_a_doubtful_clock_removes_nothing_unless_confirmed(stored: Stored) -> None:
    age(stored)
    record = stored.folder / "state" / "purges.ndjson"
    for ago in (timedelta(days=5 * 366), timedelta(days=-400)):
        at = (datetime.now(UTC) - ago).isoformat()
        record.write_text(json.dumps({"began": at, "ended": at, "removed": {}, "total": {}}) + "\n")
        told = stored.run("purge", code=1).stderr
        assert "the last purge" in told
        assert "purge --clock-is-right" in told
        assert len(record.read_text().splitlines()) == 1
    assert stored.json("contact", "show", "old@people.example")
    assert stored.json("purge", "--dry-run")["removed"]["contacts"]["rows"] == 1
    assert stored.json("purge", "--clock-is-right")["removed"]["contacts"]["rows"] == 1
    stored.run("purge")  # close to the last purge again
