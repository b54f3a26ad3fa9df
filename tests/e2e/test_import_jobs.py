"""Imports over the API of a running relay: uploaded, followed, killed, undone."""

import json
import os
import signal
import smtplib
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import get_args

import pytest

from smtpproxy.client import Client, ImportQuery
from smtpproxy.settings.mail import Right
from smtpproxy.store.import_jobs import ImportJobs
from smtpproxy.web.api.imports import ImportShown
from tests.kit.ports import wait_for
from tests.kit.relay import RelayProcess
from tests.kit.soak import only_at_length
from tests.kit.upstream import FakeUpstream

TOKEN = "smtpproxy_of_the_tests"
PEOPLE = 13_000  # more than one batch
HEADER = "address,source,consent_purpose,consent_given_at,consent_method,consent_wording,audience\n"
SAID = ",direct,newsletter,2026-03-01T10:00:00Z,unticked_box,Send it to me.,consumer\n"


@pytest.fixture
def relay(mta: FakeUpstream, filled: Callable[..., RelayProcess]) -> RelayProcess:
    digest = sha256(TOKEN.encode()).hexdigest()
    stream = {"name": "newsletter", "class": "marketing", "purpose": "newsletter"}
    token = {"name": "crm", "sha256": digest, "may": list(get_args(Right)),
             "requests_per_minute": 100_000}  # fmt: skip
    return filled(mta.address, {"web": {}, "stream": [stream], "token": [token]})


def people(path: Path, count: int = PEOPLE) -> Path:
    path.write_text(HEADER + "".join(f"p{n}@people.example{SAID}" for n in range(count)))
    return path


def ended(api: Client, id: str, within: float = 120) -> ImportShown:
    """Wait until an import ends."""
    wait_for(
        lambda: api.get_import(id).state not in ("waiting", "running", "undoing"), f"{id} ends",
        timeout=within,
    )  # fmt: skip
    return api.get_import(id)


def refusal(relay: RelayProcess, address: str) -> str:
    with smtplib.SMTP("127.0.0.1", relay.port()) as client:
        client.ehlo("app.example")
        client.mail("news@shop.example")
        code, text = client.rcpt(address)
        return "" if code == 250 else text.decode()


def test_uploaded_people_may_be_mailed(relay: RelayProcess, tmp_path: Path) -> None:
    file = people(tmp_path / "people.csv")
    with file.open("a") as more:
        more.write(f"nobody{SAID}")
    last = f"p{PEOPLE - 1}@people.example"
    assert "no_record" in refusal(relay, last)
    with Client(relay.url, TOKEN) as api:
        begun = api.start_import(file, ImportQuery("contacts"))
        assert begun.state in ("waiting", "running")
        assert begun.size == file.stat().st_size
        seen = set()
        while (shown := api.get_import(begun.id)).state in ("waiting", "running"):
            seen.add(shown.octets)
            time.sleep(0.05)
        assert len(seen - {0, file.stat().st_size}) >= 1, "no progress was seen"
        done = ended(api, begun.id)
        assert (done.state, done.added, done.rejected) == ("complete", PEOPLE, 1)
        assert refusal(relay, last) == ""
        assert isinstance(done.result, dict)
        streams = {each["stream"]: each for each in done.result["outlook"]["streams"]}
        assert done.result["outlook"]["people"] == PEOPLE
        assert streams["newsletter"]["allowed"] == PEOPLE
        (wrong,) = api.rejected_lines(begun.id)
        assert (wrong.line, wrong.content[:7]) == (PEOPLE + 2, "nobody,")
        record = json.loads(relay.must("import", "show", begun.id, "--json"))
        assert (record["by"], record["sha256"]) == (
            "token crm", sha256(file.read_bytes()).hexdigest(),
        )  # fmt: skip
        left = sorted(path.name for path in (folder(relay) / begun.id).iterdir())
        assert left == ["end.json", "job.json", "upload.rejected"]
        assert api.undo_import(begun.id).state == "undoing"
        assert ended(api, begun.id).state == "undone"
    assert "no_record" in refusal(relay, last)
    undone = json.loads(relay.must("import", "show", begun.id, "--json"))["undone"]
    assert undone["by"] == "token crm"


def folder(relay: RelayProcess) -> Path:
    return relay.root / "state" / "imports"


def test_the_relay_is_killed_in_the_middle(relay: RelayProcess, tmp_path: Path) -> None:
    file = people(tmp_path / "people.csv")
    with Client(relay.url, TOKEN) as api:
        id = api.start_import(file, ImportQuery("contacts")).id
        wait_for(lambda: api.get_import(id).octets, "the import has begun")
    for pid in children_of(relay.pid):
        os.kill(pid, signal.SIGKILL)
    relay.kill()
    relay.start()
    with Client(relay.url, TOKEN) as api:
        done = ended(api, id)
        assert (done.state, done.added) == ("complete", PEOPLE), done
        assert len(api.list_imports().imports) == 1
    assert refusal(relay, f"p{PEOPLE - 1}@people.example") == ""


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(each) for each in text.split()]


def test_the_relay_alone_is_killed(relay: RelayProcess, tmp_path: Path) -> None:
    """The import continues by itself; the next relay waits for it and has its result."""
    with Client(relay.url, TOKEN) as api:
        id = api.start_import(people(tmp_path / "people.csv"), ImportQuery("contacts")).id
        wait_for(lambda: api.get_import(id).octets, "the import has begun")
    relay.kill()
    relay.start()
    with Client(relay.url, TOKEN) as api:
        wait_for(lambda: api.get_import(id).result, "its end is known", timeout=60)
        assert ended(api, id).added == PEOPLE


def test_a_cancelled_import_stops_and_is_undone(relay: RelayProcess, tmp_path: Path) -> None:
    with Client(relay.url, TOKEN) as api:
        file = people(tmp_path / "people.csv", 40_000)
        id = api.start_import(file, ImportQuery("contacts")).id
        wait_for(lambda: api.get_import(id).octets, "the import has begun")
        api.cancel_import(id)
        done = ended(api, id)
        assert done.state == "cancelled"
        assert 0 < done.added < 40_000
        assert not (folder(relay) / id / "upload").exists()
        api.undo_import(id)
        assert ended(api, id).state == "undone"


@only_at_length
@pytest.mark.soak
def test_reloads_do_not_disturb_an_import(relay: RelayProcess, tmp_path: Path) -> None:
    with Client(relay.url, TOKEN) as api:
        file = people(tmp_path / "people.csv")
        ids = [api.start_import(file, ImportQuery("contacts", replace="none")).id for _ in range(2)]
        for _ in range(5):
            relay.must("reload")
        done = [ended(api, id) for id in ids]
    assert [one.state for one in done] == ["complete"] * 2
    assert [one.taken for one in done] == [PEOPLE] * 2
    assert len(ImportJobs(relay.root / "state").waiting()) == 0
