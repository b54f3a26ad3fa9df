"""Suppressions under a former name: reported by check, doctor and serve, moved by hand."""

import json
from pathlib import Path

import pytest

from tests.kit.relay import STREAMS, RelayProcess
from tests.kit.upstream import FakeUpstream

ANN, BOB = "ann@people.example", "bob@people.example"


def configured(tmp_path: Path, upstream: str, brand: str, purpose: str) -> RelayProcess:
    streams = [{**STREAMS[0], "purpose": purpose}]
    config = {"stream": streams, "brand": [{"name": brand, "from_domains": ["shop.example"]}]}
    return RelayProcess(tmp_path, upstream, config)


@pytest.fixture
def renamed(tmp_path: Path) -> RelayProcess:
    """A configuration whose brand and purpose had other names when people objected."""
    before = configured(tmp_path, "127.0.0.1:9", "boutique", "news")
    for scope in ("brand:boutique", "purpose:news"):
        before.must("suppress", "add", ANN, "--scope", scope, "--origin", "objection")
    wish = {"purpose": "news", "frequency": "weekly", "at": "2026-03-01T10:00:00Z"}
    bob = {"address": BOB, "preferences": [{**wish, "brand": "boutique"}]}
    (tmp_path / "bob.ndjson").write_text(json.dumps(bob))
    before.must("contact", "import", str(tmp_path / "bob.ndjson"))
    return configured(tmp_path, "127.0.0.1:9", "shop", "offers")


def test_check_and_doctor_name_them(renamed: RelayProcess) -> None:
    _, out, _ = renamed.command("check", "--json")
    warned = [each for each in json.loads(out)["warnings"] if each.startswith("store: ")]
    assert warned == [
        "store: brand:boutique: 1 suppression and 1 wish for less mail for a brand that has no"
        " [[brand]]: suppressions stop the marketing of every brand, wishes have no effect; if it"
        ' was renamed: smtpproxy suppress move "brand:boutique" brand:NAME; otherwise leave them',
        "store: purpose:news: 1 suppression for a purpose that no stream has: they stop nothing;"
        ' if it was renamed: smtpproxy suppress move "purpose:news" purpose:NAME;'
        " otherwise leave them",
    ]
    _, out, _ = renamed.command("doctor", "--only", "unsubscribe", "--json", "--timeout", "1")
    told = {one["subject"]: one["status"] for one in json.loads(out)["findings"]}
    assert told["brand:boutique"] == told["purpose:news"] == "warn"


def test_serve_names_them_and_people_who_objected_get_no_mail(
    renamed: RelayProcess, tmp_path: Path
) -> None:
    with FakeUpstream() as mta:
        relay = configured(tmp_path, mta.address, "shop", "offers")
        relay.must("suppress", "add", "bob@people.example", "--scope", "purpose:offers")
        relay.start()
        try:
            told = [one["subject"] for one in relay.log if one["event"] == "does not fit the store"]
            assert told == ["brand:boutique", "purpose:news"]
            code, text = relay.send(b"Subject: x\r\n\r\nx\r\n", ANN)
            assert (code, "suppressed_objection" in text) == (550, True)
        finally:
            relay.kill()


def test_they_can_be_moved(renamed: RelayProcess) -> None:
    dry = renamed.must("suppress", "move", "brand:boutique", "brand:shop", "--dry-run")
    both = "1 suppression and 1 wish for less mail"
    assert dry == f"{both} would be moved from brand:boutique to brand:shop\n"
    assert "brand:boutique" in renamed.must("suppress", "show", ANN)
    renamed.must("suppress", "add", ANN, "--scope", "purpose:offers", "--origin", "objection",
                 "--since", "2020-01-01")  # fmt: skip
    for old, new in (("brand:boutique", "brand:shop"), ("purpose:news", "purpose:offers")):
        told = json.loads(renamed.must("suppress", "move", old, new, "--json"))
        assert told == {"old": old, "new": new, "moved": 1, "wishes": 1, "dry_run": False}
    _, out, _ = renamed.command("suppress", "show", ANN, "--json")
    found = {one["scope"]: one for one in json.loads(out)["suppressions"]}
    assert set(found) == {"brand:shop", "purpose:offers"}
    assert not found["purpose:offers"]["since"].startswith("2020"), "the later one counts"
    (wish,) = json.loads(renamed.must("contact", "show", BOB, "--json"))["preferences"]
    assert (wish["brand"], wish["purpose"], wish["frequency"]) == ("shop", "offers", "weekly")
    assert "store: " not in renamed.command("check")[1]
    metric = json.loads(renamed.must("suppress", "move", "brand:boutique", "brand:shop", "--json"))
    assert metric["moved"] == 0


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("brand:shop", "marketing", "in use"),
        ("all", "marketing", "in use"),
        ("brand:boutique", "brand:mill", "there is no brand 'mill'; known:"),
        ("brand:boutique", "purpose:offers", "narrower"),
        ("boutique", "brand:shop", "scope"),
    ],
)
def test_some_moves_are_refused(renamed: RelayProcess, old: str, new: str, wrong: str) -> None:
    code, _, errors = renamed.command("suppress", "move", old, new)
    assert (code, wrong in errors) == (2, True)
