"""`smtpproxy feedback` on files: reports take effect once; unclear ones are left to a person."""

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.mail.return_path import ReturnPaths
from smtpproxy.store.link_keys import ensure_link_keys, load_link_keys
from tests.kit.dkim import KeyFile, signed
from tests.kit.dns import NameServer
from tests.kit.relay import STREAMS, RelayProcess
from tests.kit.reports import bounce, complaint, letter
from tests.kit.soak import LONGEST, times

DOMAIN, ANN, BOB = "bounces.shop.example", "ann@people.example", "bob@people.example"
ID = "01J9ZZZZZZ0123456789ABCDEF"


@pytest.fixture
def relay(tmp_path: Path) -> RelayProcess:
    """A relay that is not running: its commands work all the same."""
    streams = [{**stream, "verp": stream["name"] == "offers"} for stream in STREAMS]
    feedback = {"domain": DOMAIN}
    return RelayProcess(tmp_path, "127.0.0.1:1", {"feedback": feedback, "stream": streams})


@pytest.fixture
def path(relay: RelayProcess) -> Callable[[str], str]:
    state = Path(relay.config["server"]["state_dir"])
    ensure_link_keys(state, date(2026, 1, 1))
    keys = {key.version: key.secret for key in load_link_keys(state).values()}
    paths = ReturnPaths(keys, DOMAIN)
    return lambda recipient: paths.make(ID, "offers", recipient)


def put(folder: Path, **files: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.eml").write_bytes(content)
    return folder


def done(relay: RelayProcess, *arguments: str) -> list[dict[str, Any]]:
    code, said, wrong = relay.command("feedback", *arguments, "--json", timeout=LONGEST)
    assert code == 0, wrong
    return [json.loads(line) for line in said.splitlines()]


def suppressed(relay: RelayProcess, address: str) -> list[tuple[str, str]]:
    _, shown, _ = relay.command("suppress", "show", address, "--json")
    return [(one["scope"], one["origin"]) for one in json.loads(shown)["suppressions"]]


def test_reports_in_a_folder_take_effect_once(
    relay: RelayProcess, tmp_path: Path, path: Callable[[str], str]
) -> None:
    folder = put(
        tmp_path / "in",
        a=bounce(ANN, to=path(ANN)),
        b=complaint(BOB, f"Return-Path: <{path(BOB)}>"),
        c=bounce("forged@people.example"),
        d=letter("Hello", to=f"x@{DOMAIN}", sender=BOB),
    )
    would = done(relay, str(folder), "--dry-run")
    assert [each["events"][0]["action"] for each in would[:3]] == ["suppress", "suppress", "count"]
    assert suppressed(relay, ANN) == []
    first = done(relay, str(folder))
    assert [each["file"] for each in first] == ["a.eml", "b.eml", "c.eml", "d.eml"]
    assert [each["new"] for each in first] == [[True], [True], [True], []]
    assert [bool(each["kept"]) for each in first] == [False, False, False, True]
    assert [each["events"] for each in first] == [each["events"] for each in would]
    assert suppressed(relay, ANN) == [("all", "bounce")]
    assert suppressed(relay, BOB) == [("brand:default", "complaint")]
    assert suppressed(relay, "forged@people.example") == []
    again = done(relay, str(folder))
    assert [each["new"] for each in again] == [[False], [False], [False], []]
    assert [each["kept"] for each in again] == [None] * 4
    assert len(json.loads(relay.must("feedback", "list", "--json"))) == 1
    assert sorted(put(tmp_path / "in").iterdir()), "the files belong to the user"


def test_files_without_a_token_are_authenticated_too(relay: RelayProcess, tmp_path: Path) -> None:
    key = KeyFile(tmp_path, domain="mx.example")
    about_ann = complaint("ann@mx.example")
    folder = put(
        tmp_path / "in",
        a=signed(about_ann, key, ["From", "Subject"]),
        b=complaint("bob@mx.example"),
    )
    with NameServer(key.dns) as dns:
        relay.config["dns"] = {"nameservers": [dns.address]}
        relay.config["feedback"] = {
            "domain": DOMAIN,
            "require_token": False,
            "authenticate": "required",
        }
        relay.write_config()
        would = done(relay, str(folder), "--dry-run")
        first = done(relay, str(folder))
    actions = [each["events"][0]["action"] for each in would]
    assert actions == [each["events"][0]["action"] for each in first] == ["suppress", "count"]
    assert suppressed(relay, "ann@mx.example") == [("marketing", "complaint")]
    assert suppressed(relay, "bob@mx.example") == []


def test_a_person_settles_an_unclear_report(relay: RelayProcess, tmp_path: Path) -> None:
    folder = put(
        tmp_path / "in",
        a=letter("Ann has left us", to=f"x@{DOMAIN}", sender="admin@people.example"),
        b=letter("Take my sister off, please", to=f"x@{DOMAIN}", sender=BOB),
        c=letter("Hello \x1b[31m", to=f"x@{DOMAIN}", sender=BOB),
    )
    relay.must("feedback", str(folder))
    listed = json.loads(relay.must("feedback", "list", "--json"))
    assert {each["kind"] for each in listed} == {"other"}
    shown = {each["id"]: relay.must("feedback", "show", each["id"][:8]) for each in listed}
    assert not any("\x1b" in text for text in shown.values())
    ids = {
        word: next(id for id, text in shown.items() if word in text)
        for word in ("Ann has left", "sister", "Hello")
    }
    relay.must("feedback", "assign", ids["Ann has left"], ANN, "--as", "dead")
    relay.must(
        *("feedback", "assign", ids["sister"], BOB, "--as", "unsubscribe", "--stream", "offers")
    )
    code, _, error = relay.command("feedback", "assign", ids["Hello"], "--as", "complaint")
    assert (code, "needs an address" in error) == (2, True)
    nothing = ("feedback", "assign", ids["Hello"], "--as", "nothing")
    code, _, error = relay.command(*nothing, "--stream", "ofers")
    assert (code, "there is no stream 'ofers'" in error) == (2, True)
    relay.must(*nothing)
    assert suppressed(relay, ANN) == [("all", "bounce")]
    assert suppressed(relay, BOB) == [("purpose:offers", "unsubscribe")]
    assert "no report is waiting" in relay.must("feedback", "list")
    code, _, error = relay.command("feedback", "show", ids["Hello"])
    assert (code, "feedback list" in error) == (1, True)


def test_erasing_a_person_removes_them_from_reports_too(
    relay: RelayProcess, tmp_path: Path, path: Callable[[str], str]
) -> None:
    folder = put(
        tmp_path / "in",
        a=bounce(ANN, to=path(ANN)),
        b=letter("Where is Ann?", to=f"x@{DOMAIN}", sender=BOB, body=f"Write to {ANN.upper()}"),
        c=letter("Where is Bob?", to=f"x@{DOMAIN}", sender="x@people.example"),
    )
    relay.must("feedback", str(folder))
    known = json.loads(relay.must("contact", "export", ANN, "--evidence", "--json"))
    assert sorted(one["kind"] for one in known["reports"]) == ["dsn", "other"]
    document = relay.must("contact", "export", ANN, "--evidence", "--lang", "fr")
    assert "**Messages reçus en retour**" in document
    assert ", avis de non-remise ou de retard" in document
    told = relay.must("contact", "erase", ANN)
    assert "feedback mailbox: 2 reports are removed" in told
    state = Path(relay.config["server"]["state_dir"])
    left = b"".join(each.read_bytes().lower() for each in (state / "feedback/cur").iterdir())
    assert ANN.encode() not in left
    assert b"bob" in left
    assert len(json.loads(relay.must("feedback", "list", "--json"))) == 1


@pytest.mark.soak
@pytest.mark.timeout(1_800)
def test_a_folder_can_have_any_size(
    relay: RelayProcess, tmp_path: Path, path: Callable[[str], str]
) -> None:
    people = [f"person{n}@people.example" for n in range(times(300, 100_000))]
    put(tmp_path / "in", **{f"{n:06}": bounce(who, to=path(who)) for n, who in enumerate(people)})
    told = done(relay, str(tmp_path / "in"))
    assert [each["events"][0]["address"] for each in told] == people
    assert {each["events"][0]["action"] for each in told} == {"suppress"}
    assert {tuple(each["new"]) for each in told} == {(True,)}
    assert suppressed(relay, people[-1]) == [("all", "bounce")]
    state = Path(relay.config["server"]["state_dir"])
    assert len(list((state / "feedback/cur").iterdir())) == len(people), "meant for the app"


def test_without_a_mailbox_only_a_dry_run_works(relay: RelayProcess, tmp_path: Path) -> None:
    relay.config["feedback"] = None
    relay.config["stream"] = STREAMS
    del relay.config["feedback"]
    relay.write_config()
    folder = put(tmp_path / "in", a=bounce(ANN))
    code, _, error = relay.command("feedback", str(folder))
    assert (code, "add [feedback]" in error) == (2, True)
    (would,) = done(relay, str(folder), "--dry-run")
    assert would["events"][0]["action"] == "suppress", "as if require_token were false"
