"""Every process of the relay works with the system calls that the service unit allows."""

import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from urllib.request import Request, urlopen

from tests.kit.dkim import KeyFile
from tests.kit.messages import message
from tests.kit.parts import needs
from tests.kit.ports import LOOPBACK, free_port, wait_for
from tests.kit.relay import RelayProcess
from tests.kit.relays import Relays, answer
from tests.kit.store import address
from tests.kit.unit_calls import BEFORE, allowed
from tests.kit.upstream import FakeUpstream

pytestmark = needs("systemd-analyze")


def ended(relay: RelayProcess) -> list[object]:
    return [entry for entry in relay.log if entry["event"] == "child ended"]


def test_the_unit_allows_these_calls() -> None:
    found = allowed()
    assert {"read", "execve", "setpriority"} <= found
    assert found.isdisjoint({"mount", "reboot", "sched_setscheduler", "ptrace"})


def test_every_process_does_its_work(tmp_path: Path, upstream: FakeUpstream) -> None:
    """Including the purge, which is due, an import over the API, and signing."""
    token = {"name": "crm", "sha256": sha256(b"secret").hexdigest(), "may": ["import"]}
    hook = tmp_path / "hook.secret"
    hook.write_text("whsec_" + "QUFB" * 11)
    hook.chmod(0o600)
    more = {
        "web": {},
        "token": [token],
        "dkim": [KeyFile(tmp_path, "r1", "shop.example").table()],
        "feedback": {"domain": "bounces.shop.example", "address": f"{LOOPBACK}:{free_port()}"},
        "webhook": [
            {"name": "crm", "url": f"http://{LOOPBACK}:{free_port()}/", "secret_file": str(hook)}
        ],
    }
    relay = RelayProcess(tmp_path, upstream.address, more)
    relay.before = BEFORE
    last = (datetime.now(UTC) - timedelta(days=2)).isoformat()
    runs = tmp_path / "state" / "purges.ndjson"
    runs.write_text(json.dumps({"began": last, "ended": last, "removed": {}, "total": {}}) + "\n")
    with relay:
        wait_for(lambda: len(runs.read_text().splitlines()) == 2, "the purge")
        asked = Request(
            f"{relay.url}/v1/imports?kind=contacts",
            b"address,source\nanna@people.example,direct\n",
            {"Authorization": "Bearer secret", "Content-Type": "text/csv"},
        )
        with urlopen(asked) as answered:
            assert answered.status == 202
        person = "anna@people.example"
        wait_for(lambda: relay.command("contact", "show", person)[0] == 0, "the import")
        receipt = message(stream="receipts")
        assert relay.send(receipt, person, sender="orders@shop.example")[0] == 250
        assert b"DKIM-Signature:" in upstream.wait_messages(1)[0].data
        assert relay.metric("smtpproxy_purge_failures_total") == 0
        assert ended(relay) == []


@needs("postgresql")
def test_a_relay_with_postgresql_starts(relays: Relays) -> None:
    relay = relays.prepare("one", {"web": {}})
    relay.before = BEFORE
    relay.start()
    assert answer(relay, address("consent")) == 250
    wait_for(lambda: relays.sql("SELECT count(*) FROM decision") == "1", "the index")
    assert ended(relay) == []
