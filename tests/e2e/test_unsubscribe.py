"""From the header of a message to refused mail: curl and Chromium use the link."""

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from smtpproxy.store.link_keys import LINK_KEY_FILE
from tests.e2e.test_ways_out import bare, config, tokens
from tests.kit.chromium import Chromium
from tests.kit.messages import message
from tests.kit.parts import needs, program
from tests.kit.ports import wait_for
from tests.kit.processes import run
from tests.kit.relay import RelayProcess
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

JEANNE, PAUL, DESK = address("consent"), address("customer"), address("desk")


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def adding(upstream: FakeUpstream, filled: Callable[..., RelayProcess]) -> RelayProcess:
    return filled(upstream.address, config())


def link(relay: RelayProcess, upstream: FakeUpstream, recipient: str) -> str:
    """The link that a recipient gets, at the address behind the TLS proxy."""
    upstream.messages.clear()
    assert relay.send(bare(), recipient)[0] == 250
    return f"{relay.url}/u/{tokens(upstream.messages[0])}"


def curl(*arguments: str) -> tuple[int, str]:
    done = run(program("curl"), "-sS", "--max-time", "20", "-w", "\n%{http_code}", *arguments)
    body, _, code = done.stdout.rpartition("\n")
    return int(code), body


def unsubscribed(relay: RelayProcess) -> float:
    return relay.metric("smtpproxy_feedback_total", kind="unsubscribe", stream="offers")


@needs("curl")
def test_curl_unsubscribes_with_one_click(adding: RelayProcess, upstream: FakeUpstream) -> None:
    before = unsubscribed(adding)
    uri = link(adding, upstream, JEANNE)
    assert curl(uri)[0] == 200, "a scanner only looks"
    assert adding.send(bare(), JEANNE)[0] == 250, "and changes nothing"
    code, body = curl("-F", "List-Unsubscribe=One-Click", uri)
    assert code == 200, body
    code, text = adding.send(bare(), JEANNE)
    assert code == 550
    assert re.match(r"5\.7\.1 <consent@people\.example> refused: suppressed_unsubscribe", text)
    assert adding.send(message(stream="receipts"), JEANNE)[0] == 250, "a receipt must pass"
    assert curl("-d", "List-Unsubscribe=One-Click", uri)[0] == 200, "a second time is the same"
    assert unsubscribed(adding) == before + 1
    (line,) = [each for each in adding.log if each.get("by") and not each["again"]]
    assert (line["event"], line["by"], line["stream"]) == ("unsubscribed", "one_click", "offers")
    assert "people.example" not in json.dumps(
        [each for each in adding.log if "unsubscribe" in each["event"]]
    )
    shown = json.loads(adding.must("suppress", "show", JEANNE, "--json"))
    assert "unsubscribe" in json.dumps(shown)
    assert line["id"] in json.dumps(shown), "the note must name the decision"
    assert curl("-d", "List-Unsubscribe=One-Click", uri[:-1])[0] == 404


@needs("chromium")
def test_the_page_works_in_chromium(
    adding: RelayProcess, upstream: FakeUpstream, tmp_path: Path
) -> None:
    uri = link(adding, upstream, PAUL)
    with Chromium(tmp_path / "profile", "fr") as browser:
        shown = browser.open(uri)
        assert "Se désinscrire" in shown
        border = "getComputedStyle(document.querySelector('button')).borderTopWidth"
        assert browser.run(border) == "2px", "the policy must allow the page's own style"
        assert adding.send(bare(), PAUL)[0] == 250, "looking at the page must change nothing"
        done = browser.press("button")
        assert "Votre désinscription est enregistrée" in done
        assert browser.run("document.cookie") == ""
        assert browser.requested() == [uri, uri], "nothing may come from elsewhere"
    assert adding.send(bare(), PAUL)[0] == 550
    (line,) = [each for each in adding.log if each.get("by") == "page"]
    assert line["stream"] == "offers"


def test_links_work_after_a_restart_and_with_an_older_key(
    adding: RelayProcess, upstream: FakeUpstream
) -> None:
    old = link(adding, upstream, DESK)
    state = Path(adding.config["server"]["state_dir"])
    assert (state / LINK_KEY_FILE).stat().st_mode & 0o777 == 0o600
    told = json.loads(adding.must("unsubscribe", "rekey", "--json"))
    assert told["newest"] == 2
    adding.terminate()
    adding.start()
    new = link(adding, upstream, DESK)
    assert new.rpartition("/")[2][:2] != old.rpartition("/")[2][:2]
    assert curl("-d", "List-Unsubscribe=One-Click", old)[0] == 200
    wait_for(lambda: adding.send(bare(), DESK)[0] == 550, "the refusal")
    assert curl("-d", "List-Unsubscribe=One-Click", new)[0] == 200


@needs("curl")
def test_an_unsubscribe_answered_200_survives_a_kill(
    upstream: FakeUpstream, filled: Callable[..., RelayProcess]
) -> None:
    relay = filled(upstream.address, config())
    uri = link(relay, upstream, JEANNE)
    code, body = curl("-d", "List-Unsubscribe=One-Click", uri)
    relay.kill()
    assert code == 200, body
    relay.start()
    assert relay.send(bare(), JEANNE)[0] == 550
    assert curl("-d", "List-Unsubscribe=One-Click", uri)[0] == 200


@needs("curl")
def test_an_unwritable_store_is_reported(
    upstream: FakeUpstream, filled: Callable[..., RelayProcess]
) -> None:
    relay = filled(upstream.address, config() | {"store": {"timeout": "500ms"}})
    uri = link(relay, upstream, JEANNE)
    database = relay.config["store"]["url"].removeprefix("sqlite://")
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        code, body = curl("-d", "List-Unsubscribe=One-Click", uri)
        assert code == 503
        assert "not unsubscribed yet" in body
        other.execute("ROLLBACK")
    assert relay.send(bare(), JEANNE)[0] == 250
    assert curl("-d", "List-Unsubscribe=One-Click", uri)[0] == 200
    assert relay.send(bare(), JEANNE)[0] == 550
