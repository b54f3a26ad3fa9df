"""The daily purge of a running relay: no mail waits for it, and the record stays provable."""

import asyncio
import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.config import load
from smtpproxy.process import daily_purge
from smtpproxy.process.daily_purge import purge_daily
from smtpproxy.process.nursery import Nursery
from tests.kit.journal import Clock, decided, journal
from tests.kit.load import SmtpSink
from tests.kit.messages import message
from tests.kit.numbered import NumberedLoad
from tests.kit.parts import needs
from tests.kit.ports import wait_for
from tests.kit.relay import RelayProcess, listener
from tests.kit.store import fill_database

pytestmark = needs("smtp-sink")

AGO = datetime.now(UTC) - timedelta(days=7 * 366)


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[RelayProcess]:
    """Not started yet; it last ran, and purged, two days ago."""
    till = listener("till", "receipts", default="receipts")
    with SmtpSink() as sink:
        process = RelayProcess(tmp_path, sink.address, {"listener": [till], "web": {}})
        fill_database(process.config["store"]["url"], state(process), datetime.now(UTC))
        was_purged(process, datetime.now(UTC) - timedelta(days=2))
        yield process
        process.kill()


def without_web(relay: RelayProcess) -> None:
    """A relay for tests that read no metrics."""
    relay.config.pop("web")
    relay.write_config()


def state(relay: RelayProcess) -> Path:
    return Path(relay.config["server"]["state_dir"])


def was_purged(relay: RelayProcess, at: datetime) -> None:
    run = {"began": at.isoformat(), "ended": at.isoformat(), "removed": {}, "total": {}}
    (state(relay) / "purges.ndjson").write_text(json.dumps(run) + "\n")


def grow_old(relay: RelayProcess, people: int) -> None:
    """Add contacts and suppressions of long ago."""
    day = AGO.strftime("%Y-%m-%dT%H:%M:%SZ")
    names = [f"old{n}@people.example" for n in range(people)]
    contacts = [json.dumps({"address": name, "collected_at": day}) for name in names]
    orders = [f"gone{n}@people.example,all,complaint,{day}," for n in range(people)]
    relay.fill(contacts, orders)
    with sqlite3.connect(state(relay) / "smtpproxy.db", timeout=30) as database:
        database.execute(
            "UPDATE suppression SET renewed_at = since WHERE since < ?",
            (int((AGO + timedelta(days=1)).timestamp() * 1e6),),
        )
    database.close()


async def an_old_journal(relay: RelayProcess) -> None:
    """Write decisions of long ago, in a file before the relay's."""
    clock = Clock()
    clock.time = AGO
    log = journal(state(relay) / "audit", clock, 77)
    for _ in range(5):
        await log.commit(decided(clock))
    log.close()


def runs(relay: RelayProcess) -> list[dict[str, Any]]:
    path = state(relay) / "purges.ndjson"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def purgers(relay: RelayProcess) -> list[int]:
    return relay.children("purge")


async def test_a_missed_run_is_made_up_for_while_mail_goes_on(relay: RelayProcess) -> None:
    grow_old(relay, 3_000)
    await an_old_journal(relay)
    relay.start()
    with NumberedLoad(relay.port("till"), messages=20_000, sessions=4) as load:
        wait_for(lambda: len(runs(relay)) == 2, "the daily run", timeout=60)
        load.wait_accepted(100)
        fates = load.stop()
    assert {fate.code for fate in fates} == {250}
    removed = {kind: what["rows"] for kind, what in runs(relay)[1]["removed"].items()}
    assert removed == {
        "contacts": 3_001,  # and one of the people there from the start
        "suppressions": 3_000,
        "lifted_suppressions": 0,
        "mailings": 0,
        "reports": 0,
        "audit": 6,  # five decisions and the first line of their file
    }
    wait_for(lambda: relay.metric("smtpproxy_purged_total", kind="contacts") == 3_001, "metrics")
    age = datetime.now(UTC).timestamp() - relay.metric(
        "smtpproxy_purge_last_success_timestamp_seconds"
    )
    assert 0 <= age < 120
    assert relay.metric("smtpproxy_purge_failures_total") == 0
    (line,) = [entry for entry in relay.log if entry["event"] == "purged"]
    assert (line["process"], line["contacts"]) == ("purge", 3_001)
    assert "@" not in json.dumps(line)
    code, stdout, stderr = relay.command("audit", "verify")
    assert code == 0, stdout + stderr
    assert relay.terminate() == 0
    relay.start()
    assert relay.send(message(), "paul@people.example", sender="orders@shop.example")[0] == 250
    assert len(runs(relay)) == 2, "it must run once a day"


async def test_it_runs_at_its_time(relay: RelayProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daily_purge, "_LOOK", 0.05)
    was_purged(relay, datetime.now(UTC))
    at = datetime.now().replace(microsecond=0) + timedelta(seconds=2)  # noqa: DTZ005 - local time
    relay.config["retention"] = {"at": at.strftime("%H:%M:%S")}
    relay.write_config()
    failures: list[str] = []
    settings = load(relay.config_path)
    nursery = Nursery(settings)
    nursery.open(lambda _: None)
    daily = asyncio.create_task(purge_daily(settings, nursery, lambda: failures.append("one")))
    await asyncio.to_thread(wait_for, lambda: len(runs(relay)) == 2, "the daily run", timeout=60)
    daily.cancel()
    await asyncio.wait((daily,))
    nursery.close()
    assert datetime.fromisoformat(runs(relay)[1]["began"]) >= at.astimezone()
    assert failures == []


def test_the_very_first_start_begins_the_record_of_runs(relay: RelayProcess) -> None:
    """There is no missed run to make up for."""
    (state(relay) / "purges.ndjson").unlink()
    without_web(relay)
    relay.start()
    wait_for(lambda: len(runs(relay)) == 1, "the record to begin")
    assert runs(relay)[0]["removed"] == {}
    assert purgers(relay) == []


def test_a_failing_run_is_counted_and_mail_goes_on(relay: RelayProcess) -> None:
    (state(relay) / "purge.lock").mkdir()
    relay.start()
    wait_for(lambda: relay.metric("smtpproxy_purge_failures_total") == 1, "the failure", timeout=60)
    assert [entry["level"] for entry in relay.log if entry["event"] == "purge failed"]
    relay.must("reload")
    wait_for(lambda: relay.metric("smtpproxy_purge_failures_total") == 2, "the next", timeout=60)
    assert relay.send(message(), "paul@people.example", sender="orders@shop.example")[0] == 250
    assert len(runs(relay)) == 1


def test_a_clock_years_ahead_removes_nothing_and_mail_goes_on(relay: RelayProcess) -> None:
    """To the relay this looks like a last run years ago."""
    was_purged(relay, datetime.now(UTC) - timedelta(days=4 * 366))
    grow_old(relay, 10)
    relay.start()
    wait_for(lambda: relay.metric("smtpproxy_purge_failures_total") == 1, "the failure", timeout=60)
    (line,) = [entry for entry in relay.log if entry["event"] == "purge failed"]
    assert "1,464 days after the last purge" in line["outcome"]
    assert relay.send(message(), "paul@people.example", sender="orders@shop.example")[0] == 250
    assert relay.metric("smtpproxy_purged_total", kind="contacts") == 0
    assert json.loads(relay.must("purge", "--clock-is-right", "--json"))["removed"]["contacts"][
        "rows"
    ]


def test_after_a_kill_the_next_run_does_the_rest(relay: RelayProcess) -> None:
    grow_old(relay, 5_000)
    relay.start()
    wait_for(lambda: purgers(relay), "the purge to run")
    os.kill(purgers(relay)[0], signal.SIGKILL)
    wait_for(lambda: relay.metric("smtpproxy_purge_failures_total") == 1, "the failure", timeout=60)
    assert len(runs(relay)) == 1
    out = json.loads(relay.must("purge", "--json"))
    assert out["removed"]["contacts"]["rows"] + out["removed"]["suppressions"]["rows"] > 0
    assert (
        json.loads(relay.must("purge", "--dry-run", "--json"))["removed"]["contacts"]["rows"] == 0
    )
    relay.must("audit", "verify")


def test_a_drain_does_not_wait_for_it(relay: RelayProcess) -> None:
    grow_old(relay, 10_000)
    without_web(relay)
    relay.start()
    wait_for(lambda: purgers(relay), "the purge to run")
    assert relay.terminate(timeout=20) == 0
    assert len(runs(relay)) == 1, "it must not have finished"


def test_the_purge_can_be_turned_off(relay: RelayProcess) -> None:
    relay.config["retention"] = {"enabled": False}
    without_web(relay)
    relay.start()
    assert relay.send(message(), "paul@people.example", sender="orders@shop.example")[0] == 250
    assert purgers(relay) == []
    relay.must("purge")
    assert len(runs(relay)) == 2
