"""Backups of a working relay, and what a restored one does until it knows everything again."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.backup.conftest import WHOLE
from tests.e2e.test_ways_out import bare, config, tokens
from tests.kit.messages import message
from tests.kit.ports import wait_for
from tests.kit.relay import COMMAND, RelayProcess
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

PEOPLE = [f"reader{number}@people.example" for number in range(120)]
ANNE, STAYS = address("consent"), PEOPLE[-1]


def people() -> list[str]:
    moment = "2026-03-01T10:00:00Z"
    consent = {
        "purpose": "offers",
        "method": "unticked_box",
        "given_at": moment,
        "evidence": {"wording": "form v3"},
    }
    told = {"source": "direct", "collected_at": moment, "informed_at": moment}
    told |= {"optout_offered": True, "consents": [consent]}
    return [json.dumps({"address": each, **told}) for each in PEOPLE]


@pytest.fixture
def relay(mta: FakeUpstream, filled: Callable[..., RelayProcess]) -> Iterator[RelayProcess]:
    started = filled(mta.address, config())
    started.fill(people())
    yield started
    started.kill()


def state(relay: RelayProcess) -> Path:
    return Path(relay.config["server"]["state_dir"])


def links(relay: RelayProcess, mta: FakeUpstream) -> dict[str, str]:
    """The link that each person got in a message."""
    found = {}
    for person in PEOPLE:
        mta.messages.clear()
        assert relay.send(bare(), person)[0] == 250
        found[person] = f"{relay.url}/u/{tokens(mta.messages[0])}"
    return found


def press(link: str) -> int:
    with urllib.request.urlopen(link, b"List-Unsubscribe=One-Click", timeout=20) as answer:
        return int(answer.status)


def backing_up(relay: RelayProcess, target: Path) -> subprocess.Popen[bytes]:
    command = (*COMMAND, "backup", str(target), "--config", str(relay.config_path))
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def kill_one_under_way(relay: RelayProcess, target: Path) -> None:
    """Kill a backup in progress; one that ends too soon is started again."""
    for _ in range(20):
        backup = backing_up(relay, target)
        while backup.poll() is None and not list(target.parent.glob(".backup.*.partial")):
            time.sleep(0.005)
        backup.kill()
        _, told = backup.communicate()
        if not target.exists():
            assert backup.returncode == -signal.SIGKILL, told
            return
        shutil.rmtree(target)
    raise AssertionError("every backup ended before it could be killed")


def test_people_told_that_they_are_unsubscribed_stay_unsubscribed(
    relay: RelayProcess, mta: FakeUpstream, tmp_path: Path
) -> None:
    """People keep pressing the link while one backup is killed and others are taken, until the
    machine ends with kill -9."""
    known = links(relay, mta)
    done: list[str] = []
    under_way, backed_up = threading.Event(), threading.Event()

    def unsubscribe() -> None:
        for number, person in enumerate(PEOPLE[:-1]):
            if number > 100:  # some come after the backup, however slow that is
                backed_up.wait(60)
            time.sleep(0.02)
            if press(known[person]) == 200:
                done.append(person)
            under_way.set()

    with ThreadPoolExecutor() as pool:
        pressing = pool.submit(unsubscribe)
        under_way.wait(20)
        target = tmp_path / "backup"
        kill_one_under_way(relay, target)
        taken = backing_up(relay, target)
        _, told = taken.communicate(timeout=60)
        assert (taken.returncode, told) == (0, b"")
        assert not list(tmp_path.glob(".*.partial")), (
            "leftovers of the killed backup must be gone too"
        )
        before = len(done)
        backed_up.set()
        pressing.result(60)
    assert 0 < before < len(done) == len(PEOPLE) - 1
    relay.kill()
    shutil.copytree(state(relay) / "audit", tmp_path / "journals")
    shutil.rmtree(state(relay))
    journals, collected = tmp_path / "journals", tmp_path / "collected.log"
    collected.write_text("\n".join(json.dumps(line) for line in relay.log))
    asked = ("restore", str(target), "--journals", str(journals), "--anchors", str(collected))
    code, told_of, _ = relay.command(*asked)
    assert code == 1
    assert "this copy of the journals ends" in " ".join(told_of.split())
    again = (*asked[:1], *asked[2:])
    assert "marketing resumes" in relay.must(*again, *WHOLE)
    relay.start()
    refused = [person for person in done if relay.send(bare(), person)[0] == 550]
    assert refused == done
    assert relay.send(bare(), STAYS)[0] == 250
    assert "nothing is wrong" in relay.must("audit", "verify")


def test_marketing_waits_until_the_journal_is_restored(
    relay: RelayProcess, mta: FakeUpstream, tmp_path: Path
) -> None:
    target, left = tmp_path / "backup", tmp_path / "left"
    relay.must("backup", str(target))
    relay.must("suppress", "add", ANNE, "--origin", "complaint", "--scope", "marketing")
    code, _, told = relay.command("restore", str(target))
    assert code == 1
    assert "a relay is running" in told
    relay.terminate()
    state(relay).rename(left)
    assert relay.command("restore", str(target))[0] == 1
    relay.start()
    for person in (ANNE, STAYS):
        code, reply = relay.send(bare(), person)
        assert code == 451
        assert f"<{person}> deferred: restore_pending (stream offers)" in reply
    assert relay.send(message(stream="receipts"), ANNE)[0] == 250
    assert [each for each in relay.log if each["event"] == "marketing deferred"]
    status = json.loads(relay.must("status", "--json"))
    assert status["streams_held_back"]["offers"] == "restore"
    assert "restore" in relay.must("status")
    with urllib.request.urlopen(f"{relay.url}/readyz") as ready:
        assert "offers" in json.load(ready)["streams_paused"]
    paused = {"stream": "offers", "cause": "restore"}
    assert relay.metric("smtpproxy_stream_paused", **paused) == 1
    code, found, _ = relay.command("doctor", "--only", "restore")
    assert code == 1
    assert "marketing is deferred" in found
    assert "restore_pending" in relay.must("check")
    relay.must("restore", "--journals", str(left), *WHOLE)
    assert relay.send(bare(), STAYS)[0] == 250
    assert "suppressed_complaint" in relay.send(bare(), ANNE)[1]
    assert "no restore is waiting" in relay.must("doctor", "--only", "restore")
    (web,) = relay.children("web")
    os.kill(web, signal.SIGKILL)  # whose counts may be half a minute old
    wait_for(
        lambda: relay.ready() and not relay.metric("smtpproxy_stream_paused", **paused),
        "the metric of the pause to end",
    )
