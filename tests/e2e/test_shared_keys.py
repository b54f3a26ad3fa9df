"""Relays on one PostgreSQL share keys: a relay without one refuses, and a new key takes effect
only once all relays have it."""

import json
import re
import threading
import time
import urllib.error
import urllib.request
from base64 import urlsafe_b64decode
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.test_ways_out import bare, config, tokens
from tests.kit.parts import needs
from tests.kit.ports import wait_for
from tests.kit.postgres import PostgresCluster
from tests.kit.relay import RelayProcess
from tests.kit.relays import Relays, answer
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

pytestmark = needs("postgresql")

soon = partial(wait_for, timeout=60.0)
KNOWN, GONE = address("consent"), address("unsubscribed")


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def relays(tmp_path_factory: pytest.TempPathFactory, upstream: FakeUpstream) -> Iterator[Relays]:
    server = PostgresCluster()
    relays = Relays(tmp_path_factory.mktemp("relays"), upstream.address, server)
    relays.start("one", config(), timeout="10s")
    relays.start("two", config(), timeout="10s")
    yield relays
    relays.kill()
    server.stop()


@contextmanager
def load(*relays: RelayProcess) -> Iterator["Counter[tuple[str, int]]"]:
    """Send to both relays all the time; count the replies by recipient."""
    found: Counter[tuple[str, int]] = Counter()
    over = threading.Event()

    def send(relay: RelayProcess) -> None:
        while not over.is_set():
            for person in (KNOWN, GONE):
                found[person, relay.send(bare(), person)[0]] += 1
            time.sleep(0.02)  # leave time to the machine

    threads = [threading.Thread(target=send, args=(relay,)) for relay in relays]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        over.set()
        for thread in threads:
            thread.join()


def holders(relay: RelayProcess, *command: str) -> list[list[str]]:
    """The key versions that each relay reports."""
    told = json.loads(relay.must(*command, "--json"))
    return [sorted(each["keys"]) for each in told["relays"]]


def post(relay: RelayProcess, token: str) -> int:
    request = urllib.request.Request(f"{relay.url}/u/{token}", b"List-Unsubscribe=One-Click")
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def link(relay: RelayProcess, upstream: FakeUpstream) -> str:
    """Send like a client that retries when told to."""
    upstream.messages.clear()
    wait_for(lambda: relay.send(bare(), address("customer"))[0] == 250, "the mail to be accepted")
    return tokens(upstream.messages[0])


def identity(relay: RelayProcess) -> str:
    return (relay.root / "state" / "relay.id").read_text().strip()


def third(relays: Relays) -> RelayProcess:
    """A relay that is not running. Tests of a file may be spread over several xdist processes."""
    return relays.all[2] if len(relays.all) > 2 else relays.prepare("three", config())


def version(token: str) -> int:
    """The version of the key that seals a link."""
    return urlsafe_b64decode(token[:4])[0]


def test_the_suppression_key_is_replaced_under_load(relays: Relays) -> None:
    one, two = relays.all[:2]
    status = ("suppress", "rekey", "--status")
    with load(one, two) as found:
        code, _, error = one.command("suppress", "rekey")
        assert code == 1
        assert "key 2 is in suppression.key on this machine, but not yet on relay." in error
        assert relays.sql("SELECT count(*) FROM suppression_key") == "1"
        soon(lambda: holders(one, *status) in ([["1"], ["1", "2"]], [["1", "2"], ["1"]]), "it")
        relays.copy_key("suppression.key", one, two)
        soon(lambda: holders(two, *status) == [["1", "2"]] * 2, "both to tell")
        assert "moved to key 2" in two.must("suppress", "rekey")
        two.must("suppress", "add", KNOWN.replace("consent", "late"), "--scope", "all",
                 "--origin", "manual")  # fmt: skip
        before = sum(found.values())
        soon(lambda: sum(found.values()) > before + 20, "more mail")
    assert set(found) == {(KNOWN, 250), (GONE, 550)}, found
    assert answer(one, KNOWN.replace("consent", "late")) == 550, "stored under the new key"


def test_a_new_link_key_leaves_no_dead_link(relays: Relays, upstream: FakeUpstream) -> None:
    one, two = relays.all[:2]
    old = [link(one, upstream), link(two, upstream)]
    code, _, error = one.command("unsubscribe", "rekey")
    assert code == 1
    assert "key 2 is in unsubscribe.key on this machine" in error
    assert one.must("reload")
    early = link(one, upstream)
    assert version(early) == 1, "must be sealed under the key that both have"
    relays.copy_key("unsubscribe.key", one, two)
    soon(lambda: holders(two, "unsubscribe", "keys") == [["1", "2"]] * 2, "both to tell")
    assert "key 2" in one.must("unsubscribe", "rekey")
    one.must("reload")
    soon(lambda: version(link(one, upstream)) == 2, "the workers before to take no more mail")
    new = link(one, upstream)
    assert version(link(two, upstream)) == 1, "until it reloads"
    assert [post(two, token) for token in (new, early, old[0])] == [200] * 3
    assert post(one, old[1]) == 200


def test_a_relay_with_a_missing_or_different_key_is_refused(relays: Relays) -> None:
    two = relays.all[1]
    key = two.root / "state" / "unsubscribe.key"
    good = key.read_bytes()
    key.unlink()
    code, out, error = two.command("reload")
    error += out
    assert code == 1
    assert "key 1 of links" in error
    assert "is missing" in error
    assert "copy unsubscribe.key from relay relay.example" in error
    soon(lambda: any(line["event"] == "key missing" for line in two.log), "it to be said")
    misfits = lambda: two.metric("smtpproxy_store_misfits", kind="key")  # noqa: E731
    soon(lambda: misfits() == 1, "it to be counted")
    key.write_bytes(good.replace(b"1 2", b"3 2", 1))
    key.chmod(0o600)
    code, out, error = two.command("check")
    assert code != 0
    assert "key 1 of links" in out + error
    key.write_bytes(good)
    soon(lambda: "all keys are here" in two.output, "it to be over")
    soon(lambda: misfits() == 0, "it to be counted")
    two.must("reload")
    three = third(relays)
    suppressions = three.root / "state" / "suppression.key"
    suppressions.write_text("1 " + "ab" * 32 + "\n")
    code, _, error = three.command("serve")
    assert code == 2
    assert re.search(r"in suppression\.key: key 1 \([0-9a-f]{8}\).* is missing; copy", error)


def test_keys_can_be_systemd_credentials(
    relays: Relays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, three = relays.all[0], third(relays)
    for name in ("suppression.key", "unsubscribe.key"):
        (tmp_path / name).write_bytes((one.root / "state" / name).read_bytes())
        (tmp_path / name).chmod(0o440)
        (three.root / "state" / name).unlink(missing_ok=True)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    three.start()
    assert (three.send(bare(), KNOWN)[0], three.send(bare(), GONE)[0]) == (250, 550)
    assert len(holders(three, "unsubscribe", "keys")) == 3
    code, _, error = three.command("unsubscribe", "rekey")
    assert code == 1
    assert "a systemd credential is read-only" in error
    assert three.terminate() == 0
    relays.sql(f"DELETE FROM relay WHERE id = '{identity(three)}'")
    assert not (three.root / "state" / "unsubscribe.key").exists()


def test_a_leaked_key_can_be_retired(relays: Relays) -> None:
    one, two = relays.all[:2]
    if holders(one, "unsubscribe", "keys")[0] == ["1"]:
        one.command("unsubscribe", "rekey")
        relays.copy_key("unsubscribe.key", one, two)
        soon(lambda: holders(two, "unsubscribe", "keys") == [["1", "2"]] * 2, "both to tell")
        one.must("unsubscribe", "rekey")
    code, _, error = one.command("unsubscribe", "retire", "2")
    assert code == 1
    assert "key 2 seals new links" in error
    assert "key 1 is removed from" in one.must("unsubscribe", "retire", "1")
    one.must("reload")
    assert holders(one, "unsubscribe", "keys")
    relays.copy_key("unsubscribe.key", one, two)
    two.must("reload")


def test_keys_are_shown_by_fingerprint_only(relays: Relays) -> None:
    stored = relays.sql("SELECT string_agg(state, ' ') FROM relay")
    for name in ("suppression.key", "unsubscribe.key"):
        assert name in stored
        for line in (relays.all[0].root / "state" / name).read_text().splitlines():
            assert line.startswith("#") or line.split()[-1] not in stored


def test_relays_with_a_different_configuration_are_reported(relays: Relays) -> None:
    one, two = relays.all[:2]
    two.config["stream"] = [each for each in two.config["stream"] if each["name"] != "b2b"]
    two.write_config()
    two.must("reload")
    text = 'lacks stream "b2b" of this one'
    soon(lambda: text in one.must("check"), "the relay to have told")
    (finding,) = json.loads(one.must("doctor", "--only", "store", "--json"))["findings"]
    assert (finding["status"], finding["text"]) == ("warn", text)
    other = 'has stream "b2b", but this one lacks it'
    differs = lambda: two.metric("smtpproxy_store_misfits", kind="configuration")  # noqa: E731
    soon(lambda: differs() == 1, "it to be counted")
    soon(lambda: other in two.output.replace("\\", ""), "the log to say it")
